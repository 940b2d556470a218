"""The whole benchmark, small: it measures, loses nothing and leaves nothing behind."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from p2pmq.bench.main import app
from p2pmq.bench.plan import disk_directory
from p2pmq.errors import UsageError

HAS_REDIS = shutil.which("redis-server") and importlib.util.find_spec("redis")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    try:
        return disk_directory(str(tmp_path))
    except UsageError:
        pytest.skip("the tests' temporary directory is in memory")


def measured(directory: Path, *options: object) -> Any:  # noqa: ANN401  JSON
    fixed = ("--json", "--repeat", "1", "--size", "64", "--dir", directory)
    result = CliRunner().invoke(app, [str(argument) for argument in (*fixed, *options)])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_every_mode_is_measured_and_nothing_is_left_behind(directory: Path) -> None:
    data = measured(directory, "--messages", "3000", "--seconds", "0.3", "--no-redis")
    assert [series["mode"] for series in data["series"]] == ["batch", "single", "latency"]
    for series in data["series"]:
        (run,) = series["runs"]
        assert run["messages_per_s"] > 0
        assert run["server_cpu_us"] > 0
    latency = data["series"][-1]["median"]
    assert 0 < latency["p50_us"] <= latency["p99_us"] <= latency["max_us"]
    assert list(directory.iterdir()) == []


def test_with_two_copies_a_second_process_works_as_well(directory: Path) -> None:
    fields = ("--mode", "batch", "--mode", "single", "--messages", "2000", "--no-redis")
    data = measured(directory, *fields, "--replicas", "2")
    assert data["copies"] == {"replicas": 2, "min_copies": 2}
    for series in data["series"]:
        (run,) = series["runs"]
        assert run["replicas_cpu_us"] > 0
        assert run["duplicates"] == 0
    assert list(directory.iterdir()) == []


def test_a_profile_of_each_process_is_written(
    directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    profiles = tmp_path_factory.mktemp("profiles") / "new"
    measured(
        directory, *("--mode", "batch", "--messages", "1000", "--no-redis"), "--profile", profiles
    )
    assert sorted(p.name for p in profiles.iterdir()) == [
        "consumer.prof",
        "owner.prof",
        "publisher.prof",
    ]


@pytest.mark.skipif(not HAS_REDIS, reason="redis-server or redis-py is not installed")
def test_redis_is_measured_in_the_same_run(directory: Path) -> None:
    data = measured(
        directory, *("--mode", "batch", "--mode", "latency", "--messages", "400"), "--seconds", 0.2
    )
    kinds = [(series["system"], series["mode"]) for series in data["series"]]
    assert kinds == [
        ("p2pmq", "batch"),
        ("p2pmq", "latency"),
        ("redis", "batch"),
        ("redis", "latency"),
    ]


def test_without_redis_the_report_says_so(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _program: None)
    data = measured(directory, "--mode", "batch", "--messages", "100")
    assert data["remarks"] == ["not compared with Redis: redis-server is not installed"]


def test_a_body_without_room_for_its_number_is_refused() -> None:
    assert CliRunner().invoke(app, ["--size", "8"]).exit_code == 2
