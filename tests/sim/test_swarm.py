"""The swarm: fixed seeds hold, a failing one is found and made smaller, on every engine."""

from __future__ import annotations

from concurrent.futures import Executor, Future

import pytest

from p2pmq.sim import swarm
from p2pmq.sim.draw import drawn_scenario
from p2pmq.sim.outcome import Outcome, Verdict
from p2pmq.sim.scenario import Scenario
from p2pmq.sim.scenario_file import parsed
from p2pmq.sim.swarm import (
    Failure,
    SchedulerError,
    SeedResult,
    dask_engine,
    jobs_here,
    local_engine,
    results,
    run_seed,
    shrink_seed,
)

FIXED_SEEDS = range(100)


class Inline(Executor):
    """Plays where it stands, and counts how much was handed out at a time."""

    def __init__(self) -> None:
        self.submitted = 0

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002, ANN003, ANN201  Executor's signature
        self.submitted += 1
        future: Future[object] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_fixed_seeds_hold() -> None:
    with local_engine(jobs_here()) as engine:
        found = list(results(engine, FIXED_SEEDS, jobs_here()))
    assert sorted(result.seed for result in found) == list(FIXED_SEEDS)
    assert {result.seed: result.failures for result in found if not result.ok} == {}


def test_every_engine_gives_the_same_results() -> None:
    pytest.importorskip("distributed")
    from distributed import LocalCluster  # noqa: PLC0415  an extra

    seeds = [5, 6, 25, 27, 30]  # quick ones
    with local_engine(2) as engine:
        by_pool = {result.seed: result.trace_hash for result in results(engine, seeds, 2)}
    with (
        LocalCluster(  # type: ignore[no-untyped-call]  # distributed ships no types for it
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            dashboard_address=None,
            protocol="tcp",
            host="127.0.0.1",
        ) as cluster,
        dask_engine(cluster.scheduler_address) as engine,
    ):
        by_dask = {result.seed: result.trace_hash for result in results(engine, seeds, 2)}
    here = {seed: run_seed(seed).trace_hash for seed in seeds}
    assert by_pool == by_dask == here


def test_a_scheduler_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(swarm, "CONNECT_S", 0.2)
    with (
        pytest.raises(SchedulerError, match="dask scheduler"),
        dask_engine("tcp://127.0.0.1:1"),
    ):
        pass


def test_a_seed_draws_the_same_scenario_always_and_others_differ() -> None:
    assert drawn_scenario(7) == drawn_scenario(7)
    assert len({drawn_scenario(seed) for seed in range(50)}) == 50


def test_the_seeds_draw_every_size_of_mesh_and_both_phases() -> None:
    drawn = [drawn_scenario(seed) for seed in range(200)]
    assert {len(scenario.nodes.all) for scenario in drawn} == set(range(1, 8))
    assert any(scenario.nodes.leaves for scenario in drawn)
    assert any(scenario.nodes.zones for scenario in drawn)
    assert any(scenario.nodes.late for scenario in drawn)
    assert any(scenario.liveness for scenario in drawn)
    assert any(fault.what == "leave" for scenario in drawn for fault in scenario.faults)


def test_the_seeds_draw_what_a_publish_may_ask_for() -> None:
    drawn = [drawn_scenario(seed) for seed in range(200)]
    publishers = [publisher for scenario in drawn for publisher in scenario.publishers]
    for asked in ("priority", "keys", "ttl_ms", "ids", "emits", "delay_ms", "purges"):
        assert len({getattr(publisher, asked) for publisher in publishers}) > 1, asked
    declared = [one for scenario in drawn for one in scenario.declared]
    assert {one.overflow for one in declared} == {"block", "reject", "drop-oldest"}
    assert {bool(one.schedule) for one in declared} == {False, True}
    assert {bool(one.retain_ms) for one in declared} == {False, True}
    grouped = [
        (scenario, publisher)
        for scenario in drawn
        for publisher in scenario.publishers
        if publisher.groups
    ]
    assert grouped
    for scenario, publisher in grouped:
        assert any(set(publisher.queues) <= set(one.queues) for one in scenario.consumers)


def outcome_of(scenario: Scenario, seed: int, *_: object, **__: object) -> Outcome:
    """A run that fails if a crash of n1 is in it."""
    crashed = any(f.what == "crash" and "n1" in f.hosts for f in scenario.faults)
    verdicts = (Verdict("no_crash", not crashed, ("n1 crashed",) if crashed else ()),)
    return Outcome("x", seed, "", "", 1, 1.0, 0.0, scenario.nodes.all, verdicts=verdicts)


def test_a_failing_seed_becomes_a_small_scenario_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm, "play", outcome_of)
    failing = next(seed for seed in range(500) if not outcome_of(drawn_scenario(seed), seed).ok)
    assert run_seed(failing).failures == (Failure("no_crash", ("n1 crashed",)),)
    text = shrink_seed(failing, "no_crash", 300)
    assert text.startswith(f"# Seed {failing} fails no_crash:\n# n1 crashed\n")
    small = parsed(text)
    assert [(fault.what, fault.hosts) for fault in small.faults] == [("crash", ("n1",))]
    assert small.nodes.all == ("n1",)


def test_a_run_that_ends_in_an_error_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Scenario, seed: int, *__: object, **___: object) -> Outcome:
        return Outcome("x", seed, "", "", 1, 1.0, 0.0, (), error="KeyError: 3")

    monkeypatch.setattr(swarm, "play", broken)
    assert run_seed(1).failures == (Failure(swarm.ERROR, ("KeyError: 3",)),)


def test_work_is_handed_out_only_a_little_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(seeds: range) -> list[SeedResult]:
        return [SeedResult(seed, "", 0, 0.0, 0.0) for seed in seeds]

    monkeypatch.setattr(swarm, "run_seeds", quick)
    engine = Inline()
    first = next(results(engine, range(1_000), workers=2))
    assert first.ok
    assert engine.submitted <= 2 * swarm.AHEAD
