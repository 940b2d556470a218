"""A failing scenario becomes as small as it can be, and goes on to fail."""

from __future__ import annotations

from dataclasses import replace

from p2pmq.sim.draw import drawn_scenario
from p2pmq.sim.scenario import Declared, FaultSpec, Nodes, Publishers, Scenario
from p2pmq.sim.scenario_sense import problems
from p2pmq.sim.shrink import shrunk


def large() -> Scenario:
    faults = tuple(
        FaultSpec(at_ms=1_000 * number, what="crash", for_ms=500, hosts=(f"n{1 + number % 6}",))
        for number in range(1, 25)
    )
    partition = FaultSpec(at_ms=7_000, what="partition", groups=(("n1", "n2"), ("n3", "n4")))
    return replace(
        drawn_scenario(3),
        nodes=Nodes(count=6),
        duration_ms=30_000,
        publishers=(Publishers(on=("n1", "n2")), Publishers(on=("n6",), batch=(5, 50))),
        consumers=(),
        links=(),
        faults=(*faults, partition),
    )


def test_what_the_failure_does_not_need_is_taken_away() -> None:
    def fails(scenario: Scenario) -> bool:
        crashed = any(f.what == "crash" and f.hosts == ("n3",) for f in scenario.faults)
        cut = any(f.what == "partition" and len(f.groups) > 1 for f in scenario.faults)
        return crashed and cut

    small = shrunk(large(), fails)
    assert fails(small)
    assert sorted(fault.what for fault in small.faults) == ["crash", "partition"]
    assert len(small.nodes.all) == 2
    assert small.liveness is None
    assert small.publishers == ()
    assert small.duration_ms < 30_000
    assert not any(problems(small))


def test_a_publisher_that_is_needed_becomes_plain() -> None:
    def fails(scenario: Scenario) -> bool:
        return any(spec.on == ("n6",) for spec in scenario.publishers)

    small = shrunk(large(), fails)
    assert small.publishers == (Publishers(on=("n6",), count=1),)
    assert small.faults == ()


def test_what_was_asked_for_goes_as_far_as_the_failure_does_not_need_it() -> None:
    asking = Publishers(on=("n6",), emits=0.5, groups=True, delay_ms=(0, 9_000), keys=5, ttl_ms=9)
    nodes = Nodes(count=6, replicas=3, min_copies=1)
    limited = Declared(queues=("q1",), max_messages=3)
    full = replace(large(), publishers=(asking,), nodes=nodes, declared=(limited,))

    def fails(scenario: Scenario) -> bool:
        return any(spec.delay_ms[1] for spec in scenario.publishers)

    small = shrunk(full, fails)
    assert small.publishers == (Publishers(on=("n6",), count=1, delay_ms=(0, 9_000)),)
    assert (small.nodes.replicas, small.nodes.min_copies) == (1, 0)
    assert small.declared == ()


def test_it_ends_when_it_has_tried_often_enough() -> None:
    tried: list[Scenario] = []

    def fails(scenario: Scenario) -> bool:
        tried.append(scenario)
        return False

    assert shrunk(large(), fails, runs_max=7).faults == large().faults
    assert len(tried) == 7


def test_only_sound_scenarios_are_tried() -> None:
    def fails(scenario: Scenario) -> bool:
        assert not any(problems(scenario))
        return len(scenario.faults) > 3

    for seed in range(30):
        shrunk(drawn_scenario(seed), fails, runs_max=60)
