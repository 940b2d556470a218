"""What a scenario may say and yet cannot mean: names of nobody, times after the end.

Invariant: each problem names where it is, in the terms of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from p2pmq.core.names import check_queue_name
from p2pmq.core.packets.registry import PROTOCOL_VERSION_MIN
from p2pmq.errors import QueueNameError
from p2pmq.node.cron import next_tick
from p2pmq.sim.later import LATEST
from p2pmq.sim.loop import WALL_EPOCH_S
from p2pmq.sim.scenario import FaultSpec, Nodes, Scenario
from p2pmq.sim.units import nearest, written_duration

RIGHT_VERSIONS = f"write [least, most], of {PROTOCOL_VERSION_MIN} to {LATEST}"
Problem = tuple[tuple[str | int, ...], str]
SELECTORS = re.compile(r"all|others|any( \d+)?|zone .+|owner of .+")
"""Words for hosts that are looked up when the fault happens."""
RING_MIN = 5


def problems(scenario: Scenario) -> Iterator[Problem]:
    """Everything that is wrong, in the order of the file's sections."""
    yield from _nodes(scenario.nodes)
    yield from _hosts(scenario)
    yield from _queues(scenario)
    yield from _declared(scenario)
    yield from _times(scenario)
    yield from _faults(scenario)


def _nodes(nodes: Nodes) -> Iterator[Problem]:
    if bool(nodes.names) == bool(nodes.count):
        yield ("nodes",), "[nodes] needs either `names` or a `count`"
    if len(set(nodes.names)) != len(nodes.names):
        yield ("nodes", "names"), "names has a name twice"
    if not nodes.first:
        yield ("nodes", "late"), "late names every node: one at least must be there at the start"
    tables = {"late": nodes.late, "leaves": nodes.leaves}
    tables |= {f"zones.{zone}": names for zone, names in nodes.zones}
    tables |= {"weights": tuple(name for name, _ in nodes.weights)}
    tables |= {"versions": tuple(name for name, _ in nodes.versions)}
    for key, names in tables.items():
        for name in names:
            if name not in nodes.all:
                at = ("nodes", *key.split("."))
                yield at, f"{key} names {name!r}, which is no node{nearest(name, nodes.all)}"
    if set(nodes.first) <= set(nodes.leaves):
        yield ("nodes", "leaves"), "leaves names every node: one at least must own the queues"
    for name, versions in nodes.versions:
        if not _are_versions(versions):
            yield ("nodes", "versions"), f"{name} = {list(versions)}: {RIGHT_VERSIONS}"


def _are_versions(versions: tuple[int, ...]) -> bool:
    """Whether it is a least and a most of what can be simulated."""
    if len(versions) != 2:  # noqa: PLR2004  the least and the most
        return False
    return PROTOCOL_VERSION_MIN <= versions[0] <= versions[1] <= LATEST


def _hosts(scenario: Scenario) -> Iterator[Problem]:
    """Names in the sections that name hosts."""
    nodes = scenario.nodes
    for section in ("links", "publishers", "consumers", "chaos"):
        for number, table in enumerate(getattr(scenario, section)):
            for key in ("on", "hosts", "from_", "to"):
                for name in getattr(table, key, ()):
                    yield from _known(name, nodes, (section, number, key.rstrip("_")))
    if scenario.liveness is not None:
        for name in scenario.liveness.core:
            if name not in nodes.all:
                text = f"core names {name!r}, which is no node{nearest(name, nodes.all)}"
                yield ("liveness", "core"), text
        if set(scenario.liveness.core) <= set(nodes.leaves):
            yield ("liveness", "core"), "core has only leaves: one at least must own the queues"


def _known(name: str, nodes: Nodes, at: tuple[str | int, ...]) -> Iterator[Problem]:
    if name in nodes.all:
        return
    zones = [f"zone {zone}" for zone, _ in nodes.zones]
    if name.startswith("zone ") and name not in zones:
        yield at, f"{name!r} is no zone{nearest(name, zones)}"
    elif not SELECTORS.fullmatch(name):
        yield at, f"{name!r} is no node{nearest(name, nodes.all)}"


def _queues(scenario: Scenario) -> Iterator[Problem]:
    for section in ("declared", "publishers", "consumers"):
        for number, table in enumerate(getattr(scenario, section)):
            for queue in table.queues:
                try:
                    check_queue_name(queue)
                except QueueNameError as error:
                    yield (section, number, "queues"), str(error)
    for number, spec in enumerate(scenario.publishers):
        if spec.groups and not spec.emits:
            yield ("publishers", number, "groups"), "groups = true needs a share that `emits`"


def _declared(scenario: Scenario) -> Iterator[Problem]:
    listed = [queue for one in scenario.declared for queue in one.queues]
    for number, one in enumerate(scenario.declared):
        if one.schedule and next_tick(one.schedule, WALL_EPOCH_S) is None:
            yield ("declared", number, "schedule"), f"schedule = {one.schedule!r} never ticks"
        if one.schedule and one.max_messages:
            text = "a queue with a limit may be too full for ticks: give the schedule another"
            yield ("declared", number, "schedule"), text
        for queue in one.queues:
            if listed.count(queue) > 1:
                yield ("declared", number, "queues"), f"{queue!r} is declared twice"


def _times(scenario: Scenario) -> Iterator[Problem]:
    if not scenario.duration_ms:
        yield ("duration",), "duration = nothing: publishers need some time"
    for section in ("publishers", "consumers", "chaos"):
        for number, table in enumerate(getattr(scenario, section)):
            for key in ("start", "stop"):
                at_ms = getattr(table, f"{key}_ms", None)
                if at_ms is not None and at_ms > scenario.duration_ms:
                    yield (section, number, key), _too_late(key, at_ms, scenario.duration_ms)


def _too_late(key: str, at_ms: int, duration_ms: int) -> str:
    return (
        f"{key} = {written_duration(at_ms)!r} is after the scenario's duration of "
        f"{written_duration(duration_ms)}"
    )


def _faults(scenario: Scenario) -> Iterator[Problem]:
    for number, fault in enumerate(scenario.faults):
        yield from _fault(fault, scenario, ("faults", number), scenario.duration_ms)
    if scenario.liveness is not None:
        for number, fault in enumerate(scenario.liveness.faults):
            at = ("liveness", "faults", number)
            yield from _fault(fault, scenario, at, scenario.liveness.duration_ms)


def _fault(
    fault: FaultSpec, scenario: Scenario, at: tuple[str | int, ...], duration_ms: int
) -> Iterator[Problem]:
    nodes = scenario.nodes
    if fault.at_ms > duration_ms:
        yield (*at, "at"), _too_late("at", fault.at_ms, duration_ms)
    named = [("hosts", n) for n in fault.hosts] + [("from", n) for n in fault.from_]
    named += [("to", n) for n in fault.to] + [("middle", n) for n in fault.middle]
    named += [("groups", name) for group in fault.groups for name in group]
    for key, name in named:
        yield from _known(name, nodes, (*at, key))
        queue = name.removeprefix("owner of ")
        if queue != name and queue not in scenario.queues:
            text = f"{name!r}: nobody uses this queue{nearest(queue, scenario.queues)}"
            yield (*at, key), text
    listed = [name for group in fault.groups for name in group if name in nodes.all]
    if len(set(listed)) != len(listed):
        yield (*at, "groups"), "groups has a node twice"
    if fault.what == "ring_of_majorities" and len(nodes.first) < RING_MIN:
        yield (*at, "what"), f"a ring of majorities needs {RING_MIN} nodes or more"
    if fault.what == "join":
        for name in fault.hosts:
            if name in nodes.all and name not in nodes.late:
                yield (*at, "hosts"), f"{name!r} cannot join: name it in [nodes] late"
    yield from _values(fault, at)


def _values(fault: FaultSpec, at: tuple[str | int, ...]) -> Iterator[Problem]:
    if fault.what == "upgrade" and not _are_versions(fault.versions):
        yield (*at, "versions"), f"versions = {list(fault.versions)}: {RIGHT_VERSIONS}"
    if fault.what == "latency" and fault.latency_ms is None:
        yield (*at, "latency"), "latency needs a value"
