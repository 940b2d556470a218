"""Shrinking: a failing scenario is made smaller while it still fails the same check.

Parts are taken away by halves, quarters and so on, as delta debugging does
(Zeller, Hildebrandt: *Simplifying and isolating failure-inducing input*, 2002):
the second phase, faults, publishers, consumers, nodes; then what is left is
made plainer. The seed stays; whatever a smaller scenario draws otherwise, it
counts only if the same check fails again.

Invariant: the result fails the check that was asked for, and is a sound scenario.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from p2pmq.sim.scenario import FAULTS, Consumers, FaultSpec, Nodes, Publishers, Scenario
from p2pmq.sim.scenario_sense import problems

_T = TypeVar("_T")

Fails = Callable[[Scenario], bool]
RUNS_MAX = 400
LEAST_MS = 1_000
NODES_PLAINER = ("zones", "weights", "leaves", "late", "min_copies", "replicas", "max_deliveries")


@dataclass
class _Shrinking:
    """What is left so far, and how often it may still be tried."""

    scenario: Scenario
    fails: Fails
    runs_left: int

    def accept(self, candidate: Scenario) -> bool:
        """Whether a candidate takes the place of what is left."""
        if candidate == self.scenario or self.runs_left <= 0 or any(problems(candidate)):
            return False
        self.runs_left -= 1
        if not self.fails(candidate):
            return False
        self.scenario = candidate
        return True


def shrunk(scenario: Scenario, fails: Fails, runs_max: int = RUNS_MAX) -> Scenario:
    """The smallest scenario found that fails as well; `fails` plays one and tells."""
    state = _Shrinking(_named(scenario), fails, runs_max)
    before = None
    while state.scenario != before and state.runs_left > 0:
        before = state.scenario
        state.accept(replace(state.scenario, liveness=None))
        _thin_out(state, "faults")
        _thin_out_liveness(state)
        _thin_out(state, "declared")
        _thin_out(state, "publishers")
        _thin_out(state, "consumers")
        for name in reversed(state.scenario.nodes.all):
            state.accept(_without_node(state.scenario, name))
        _shorten(state)
        _make_plainer(state)
    return state.scenario


def _with(data: _T, field: str, value: object) -> _T:
    """The dataclass with one field changed."""
    changes: dict[str, Any] = {field: value}
    return replace(data, **changes)  # type: ignore[type-var]  # only dataclasses are given


def _named(scenario: Scenario) -> Scenario:
    """With the nodes' names instead of their count, so that one can be taken away."""
    nodes = replace(scenario.nodes, names=scenario.nodes.all, count=0)
    return replace(scenario, nodes=nodes)


# ------------------------------------------------------------------------------------ fewer parts


def _thin_out(state: _Shrinking, part: str) -> None:
    """Take away as many items of a list as can be missed, largest chunks first."""

    def with_items(items: Sequence[Any]) -> Scenario:
        return _with(state.scenario, part, tuple(items))

    _thin(lambda: getattr(state.scenario, part), lambda items: state.accept(with_items(items)))


def _thin_out_liveness(state: _Shrinking) -> None:
    def faults() -> tuple[FaultSpec, ...]:
        return state.scenario.liveness.faults if state.scenario.liveness is not None else ()

    def accept(items: Sequence[FaultSpec]) -> bool:
        liveness = state.scenario.liveness
        assert liveness is not None
        fewer = replace(liveness, faults=tuple(items))
        return state.accept(replace(state.scenario, liveness=fewer))

    _thin(faults, accept)


def _thin(items: Callable[[], Sequence[_T]], accept: Callable[[Sequence[_T]], bool]) -> None:
    size = len(items())
    while size >= 1:
        start = 0
        while start < len(items()):
            left = [*items()[:start], *items()[start + size :]]
            if not accept(left):
                start += size
        size //= 2


def _without_node(scenario: Scenario, name: str) -> Scenario:
    """The scenario without a node, and without whatever makes no sense without it."""
    nodes, liveness = scenario.nodes, scenario.liveness
    if liveness is not None:
        core = _without(liveness.core, name)
        faults = tuple(_faults_without(liveness.faults, name))
        liveness = replace(liveness, core=core, faults=faults) if core else None
    return replace(
        scenario,
        nodes=replace(
            nodes,
            names=_without(nodes.names, name),
            late=_without(nodes.late, name),
            leaves=_without(nodes.leaves, name),
            zones=tuple(
                (zone, left) for zone, members in nodes.zones if (left := _without(members, name))
            ),
            weights=tuple((n, weight) for n, weight in nodes.weights if n != name),
            versions=tuple((n, versions) for n, versions in nodes.versions if n != name),
        ),
        links=tuple(
            links for links in scenario.links if links.from_ != (name,) and links.to != (name,)
        ),
        publishers=tuple(_placed_elsewhere(scenario.publishers, name)),
        consumers=tuple(_placed_elsewhere(scenario.consumers, name)),
        faults=tuple(_faults_without(scenario.faults, name)),
        liveness=liveness,
    )


def _placed_elsewhere(specs: Sequence[_T], name: str) -> Iterator[_T]:
    for spec in specs:
        left = _without(spec.on, name)  # type: ignore[attr-defined]  # Publishers or Consumers
        if left:
            yield replace(spec, on=left)  # type: ignore[type-var]  # as above


def _faults_without(faults: Sequence[FaultSpec], name: str) -> Iterator[FaultSpec]:
    for fault in faults:
        groups = tuple(left for group in fault.groups if (left := _without(group, name)))
        fewer = replace(
            fault,
            hosts=_without(fault.hosts, name),
            groups=groups,
            from_=_without(fault.from_, name),
            middle=_without(fault.middle, name),
            to=_without(fault.to, name),
        )
        needs = [key if key != "from" else "from_" for key in FAULTS[fault.what][0]]
        named = [key for key in needs if key in ("hosts", "groups", "from_", "middle", "to")]
        if all(getattr(fewer, key) for key in named):
            yield fewer


def _without(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(other for other in names if other != name)


# -------------------------------------------------------------------------------- plainer parts


def _shorten(state: _Shrinking) -> None:
    """End sooner, and let faults happen sooner."""
    while True:
        scenario = state.scenario
        last_ms = max((fault.at_ms for fault in scenario.faults), default=0)
        shorter_ms = max(LEAST_MS, last_ms, scenario.duration_ms // 2)
        if not state.accept(_cut_to(scenario, shorter_ms)):
            break
    state.accept(_cut_to(state.scenario, max(LEAST_MS, state.scenario.duration_ms * 3 // 4)))


def _cut_to(scenario: Scenario, duration_ms: int) -> Scenario:
    return replace(
        scenario,
        duration_ms=duration_ms,
        faults=tuple(f for f in scenario.faults if f.at_ms <= duration_ms),
    )


def _make_plainer(state: _Shrinking) -> None:
    """One thing after the other has its default, or a smaller value."""
    for part, plainer in (("publishers", _plainer_publishers), ("consumers", _plainer_consumers)):
        for number in range(len(getattr(state.scenario, part))):
            spec = getattr(state.scenario, part)[number]
            for changes in plainer(spec):
                specs = list(getattr(state.scenario, part))
                specs[number] = replace(specs[number], **changes)
                state.accept(_with(state.scenario, part, tuple(specs)))
    for number in range(len(state.scenario.faults)):
        fault = state.scenario.faults[number]
        if fault.for_ms is not None:
            faults = list(state.scenario.faults)
            faults[number] = replace(fault, for_ms=None)
            state.accept(replace(state.scenario, faults=tuple(faults)))
    state.accept(replace(state.scenario, links=()))
    for changes in _defaults(Nodes, state.scenario.nodes, NODES_PLAINER):
        state.accept(replace(state.scenario, nodes=replace(state.scenario.nodes, **changes)))


def _plainer_publishers(spec: Publishers) -> Iterator[dict[str, Any]]:
    for name in spec.on if len(spec.on) > 1 else ():
        yield {"on": (name,)}
    for queue in spec.queues if len(spec.queues) > 1 else ():
        yield {"queues": (queue,)}
    for confirm in spec.confirm if len(spec.confirm) > 1 else ():
        yield {"confirm": (confirm,)}
    for count in (1, 2, 5, 20):
        if spec.count is None or spec.count > count:
            yield {"count": count}
    yield {"batch": (1, 1)}
    if spec.groups:
        yield {"groups": False, "emits": 0.0}
    names = ("size_bytes", "timeout_ms", "every_ms", "priority", "keys", "ttl_ms", "ids", "emits")
    yield from _defaults(Publishers, spec, (*names, "groups", "delay_ms", "purges", "partitions"))


def _plainer_consumers(spec: Consumers) -> Iterator[dict[str, Any]]:
    for name in spec.on if len(spec.on) > 1 else ():
        yield {"on": (name,)}
    for queue in spec.queues if len(spec.queues) > 1 else ():
        yield {"queues": (queue,)}
    names = ("nack", "late", "resubscribe", "handler_ms", "visibility_ms", "nack_delay_ms")
    yield from _defaults(Consumers, spec, (*names, "prefetch", "once", "outputs"))


def _defaults(kind: type, spec: object, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for field in fields(kind):
        if field.name in names and getattr(spec, field.name) != field.default:
            yield {field.name: field.default}
