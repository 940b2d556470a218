"""`p2pmq simulate` tells the story of a run, and ends with a code that a script can use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from p2pmq.cli import simulate
from p2pmq.cli.app import app
from p2pmq.sim.swarm import Failure, SeedResult

SCENARIO = """\
about = "a short story"
duration = "3s"
[nodes]
names = ["shop", "bank"]
[publishers]
on = "shop"
confirm = "stored"
[consumers]
on = "bank"
[[faults]]
at = "1s"
what = "isolate"
hosts = "shop"
for = "1s"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "short.toml"
    path.write_text(SCENARIO, encoding="utf-8")
    return path


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["simulate", *map(str, args)])


def test_a_run_is_told_with_its_verdicts_and_how_to_replay_it(file: Path) -> None:
    result = run(file, "--seed", 7, "--set", "duration=4s")
    assert result.exit_code == 0, result.output
    assert "short: a short story" in result.output
    assert "partition shop for 1.0 s" in result.output
    assert "committed_is_kept" in result.output
    assert f"replay it with: p2pmq simulate {file} --seed 7 --set duration=4s" in result.output


def test_a_broken_expectation_ends_with_1(file: Path) -> None:
    file.write_text(SCENARIO + "[expect]\ndelivered_min = 1_000_000\n", encoding="utf-8")
    result = run(file)
    assert result.exit_code == 1
    assert "BROKEN" in result.output
    assert "FAILED with seed 0" in result.output


def test_a_file_that_cannot_be_played_ends_with_2_and_says_where(file: Path) -> None:
    file.write_text(SCENARIO.replace("confirm", "confrim"), encoding="utf-8")
    result = run(file)
    assert result.exit_code == 2
    assert f"{file}:7: unknown key 'confrim'" in result.output
    assert "did you mean 'confirm'?" in result.output


def test_several_seeds_are_json_lines_with_trace_hashes(file: Path) -> None:
    first, again = run(file, "--seeds", 2, "--json"), run(file, "--seeds", 2, "--json")
    records = [json.loads(line) for line in first.output.splitlines()]
    assert [record["seed"] for record in records] == [0, 1]
    assert all(record["ok"] for record in records)
    hashes = [record["trace_hash"] for record in records]
    assert hashes == [json.loads(line)["trace_hash"] for line in again.output.splitlines()]
    assert len(set(hashes)) == 2


def test_a_report_and_a_trace_are_written(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    result = run(file, "--report", tmp_path / "r.html", "--trace", tmp_path / "trace.txt")
    assert result.exit_code == 0, result.output
    assert "a short story" in (tmp_path / "r.html").read_text(encoding="utf-8") or "short" in (
        tmp_path / "r.html"
    ).read_text(encoding="utf-8")
    assert " packet " in (tmp_path / "trace.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "args",
    [[], ["--swarm", "FILE"], ["FILE", "FILE", "--report", "x.html"], ["--swarm", "--jobs", "0"]],
)
def test_options_that_do_not_fit_are_refused(file: Path, args: list[str]) -> None:
    assert run(*(file if arg == "FILE" else arg for arg in args)).exit_code == 2


def test_the_swarm_plays_seeds_on_processes() -> None:
    result = run("--swarm", "--seeds", 3, "--first-seed", 25, "--jobs", 1, "--json")
    assert result.exit_code == 0, result.output
    (record,) = [json.loads(line) for line in result.output.splitlines()]
    assert (record["kind"], record["seeds"], record["failed"]) == ("sum", 3, 0)


def test_a_failing_seed_is_told_made_small_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def results(_: object, seeds: range, __: int) -> Iterator[SeedResult]:
        for seed in seeds:
            failures = (Failure("lost <= 0", ("7 lost",)),) if seed == 3 else ()
            yield SeedResult(seed, "hash", 1, 3600.0, 0.1, failures)

    monkeypatch.setattr(simulate, "results", results)
    monkeypatch.setattr(simulate, "shrink_seed", small_file)
    result = run("--swarm", "--seeds", 5, "--jobs", 1, "--found", tmp_path / "found")
    assert result.exit_code == 1
    assert "seed 3 fails lost <= 0: 7 lost" in result.output
    written = tmp_path / "found" / "seed-3.toml"
    assert written.read_text(encoding="utf-8") == small_file(3, "lost <= 0", 1)
    assert f"p2pmq simulate {written} --seed 3" in result.output
    assert "5 seeds, 5.0 hours of virtual time; 1 failed: 3" in result.output


def small_file(seed: int, check: str, _: int) -> str:
    return f"# Seed {seed} fails {check}\n"


def test_an_interrupted_swarm_tells_what_was_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    def results(*_: object) -> Iterator[SeedResult]:
        yield SeedResult(0, "hash", 1, 3600.0, 0.1)
        raise KeyboardInterrupt

    monkeypatch.setattr(simulate, "results", results)
    result = run("--swarm", "--seeds", 5, "--jobs", 1)
    assert result.exit_code == 130
    assert "stopped after 1 of 5 seeds" in result.output
    assert "1 seeds, 1.0 hours" in result.output
