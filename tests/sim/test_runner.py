"""A scenario is played as it says, the same every time, and its verdicts are told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from p2pmq.sim.outcome import Outcome
from p2pmq.sim.runner import Label, play
from p2pmq.sim.scenario_file import parsed

SMALL = """\
duration = "10s"
[nodes]
names = ["shop", "bank", "depot"]
[publishers]
on = "shop"
every = ["50ms", "200ms"]
confirm = ["committed", "stored"]
[consumers]
on = "bank"
handler = ["0ms", "10ms"]
"""
SPLIT = """
[[faults]]
at = "2s"
what = "partition"
groups = [["shop"], ["others"]]
for = "5s"
"""
CODE = (
    "import sys; from p2pmq.sim.runner import play; from p2pmq.sim.scenario_file import parsed; "
    "print(play(parsed(sys.argv[1]), 7, observes=False).trace_hash)"
)


def played(text: str, seed: int = 7, *, observes: bool = True) -> Outcome:
    return play(parsed(text), seed, Label("test", "replay me"), observes=observes)


def broken(outcome: Outcome) -> list[str]:
    return [verdict.name for verdict in outcome.verdicts if not verdict.ok]


def test_a_scenario_runs_to_its_end_and_holds() -> None:
    outcome = played(SMALL + SPLIT)
    assert outcome.ok, (outcome.error, broken(outcome))
    assert outcome.totals.attempted == outcome.totals.delivered > 20
    assert outcome.virtual_s > 10
    assert (outcome.scenario, outcome.replay, outcome.seed) == ("test", "replay me", 7)
    assert outcome.as_json()["ok"] is True


@pytest.mark.parametrize("overflow", ["block", "reject", "drop-oldest"])
def test_a_queue_with_a_limit_comes_to_rest_with_nobody_to_consume(overflow: str) -> None:
    limited = f'[declared]\nmax_messages = 4\noverflow = "{overflow}"\n'
    publishers = '[publishers]\non = "shop"\nconfirm = ["committed", "none"]\ntimeout = "1s"\n'
    rest = "[liveness]\ncore = ['shop', 'bank']\nduration = '10s'\n"
    nodes = "[nodes]\nnames = ['shop', 'bank', 'depot']\nreplicas = 3\n"
    outcome = played(f"duration = '10s'\n{nodes}{limited}{publishers}{rest}")
    assert outcome.ok, (outcome.error, broken(outcome))
    totals = outcome.totals
    if overflow == "block":
        assert totals.delivered == totals.attempted > 8
    else:
        assert 8 <= totals.delivered < totals.attempted


def test_a_seed_gives_one_trace_with_the_observer_and_without_and_in_another_process() -> None:
    text = SMALL + SPLIT
    seen, unseen = played(text), played(text, observes=False)
    assert seen.trace_hash == unseen.trace_hash
    assert played(text, seed=8).trace_hash != seen.trace_hash
    elsewhere = subprocess.run(
        [sys.executable, "-c", CODE, text],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={"PYTHONHASHSEED": "12345"},
    )
    assert elsewhere.stdout.strip() == seen.trace_hash


def test_what_is_seen_from_outside_is_in_the_outcome() -> None:
    crash = '[[faults]]\nat = "1s"\nwhat = "crash"\nhosts = "owner of orders"\nfor = "8s"\n'
    outcome = played(SMALL + crash)
    (band,) = outcome.bands
    assert band.what == "down"
    assert band.to_s - band.from_s == pytest.approx(8, abs=0.5)
    (victim,) = band.who
    states = [p.state for p in outcome.presence if p.node == victim]
    assert states == ["up", "down", "up"]
    assert {owned.node for owned in outcome.ownership if owned.queue == "orders"} == {victim}
    assert len(outcome.latencies.detection) == 1
    assert outcome.latencies.delivery
    assert outcome.latencies.convergence
    assert outcome.convergence_s
    assert {sample.node for sample in outcome.traffic} == set(outcome.nodes)


@pytest.mark.parametrize(
    ("expectation", "verdict"),
    [
        ("committed_min = 100_000", "committed >= 100000"),
        ("delivered_min = 100_000", "delivered >= 100000"),
        ('heal_within = "1ms"', "heal within 1ms"),
        ('converge_within = "1ms"', "convergence within 1ms"),
    ],
)
def test_an_expectation_that_is_not_met_fails(expectation: str, verdict: str) -> None:
    outcome = played(f"{SMALL}{SPLIT}[expect]\n{expectation}\n")
    assert broken(outcome) == [verdict]
    assert not outcome.ok


def test_without_mending_what_is_broken_stays_so() -> None:
    text = "mend = false\n" + SMALL + SPLIT.replace('for = "5s"\n', "")
    outcome = played(text)
    assert outcome.bands[0].to_s == outcome.virtual_s
    assert outcome.totals.attempted > outcome.totals.delivered


def test_what_is_left_under_way_is_told() -> None:
    outcome = played(SMALL + '[links]\nlatency = "900ms"\n[expect]\nsettle_within = "1s"\n')
    assert "safety: settled within 1s" in broken(outcome)
    told = next(v.violations for v in outcome.verdicts if "settled" in v.name)
    assert told


def test_a_core_that_is_healed_converges_while_the_rest_stays_broken() -> None:
    for rest in ("isolated", "crashed", "paused"):
        liveness = f"""
[liveness]
core = ["bank", "depot"]
rest = "{rest}"
duration = "5s"
[[liveness.faults]]
at = "1s"
what = "crash"
hosts = "bank"
[[liveness.faults]]
at = "2s"
what = "isolate"
hosts = "all"
"""
        outcome = played(SMALL + SPLIT + liveness)
        assert outcome.ok, (rest, outcome.error, broken(outcome))
        last = [p for p in outcome.presence if p.node == "shop"][-1]
        assert last.state == {"isolated": "up", "crashed": "down", "paused": "paused"}[rest]
        settled = [verdict.name for verdict in outcome.verdicts if "settled" in verdict.name]
        assert settled == ["safety: settled within 3m", "liveness: settled within 3m"]


def test_the_trace_is_kept_when_asked_for() -> None:
    lines: list[str] = []
    outcome = play(parsed(SMALL), 7, keep=lines)
    assert outcome.trace_hash == played(SMALL).trace_hash
    assert any(" packet " in line for line in lines)


def test_an_error_in_the_run_is_its_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise KeyError("oh")

    monkeypatch.setattr("p2pmq.sim.timetable.Timetable.play", fail)
    outcome = played(SMALL)
    assert outcome.error == "KeyError: 'oh'"
    assert not outcome.ok
