"""Each fault of a timetable does what it says, at its time, and ends when it should."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from p2pmq.core.records import Space
from p2pmq.errors import StoreCorruptError
from p2pmq.sim.chaos import KINDS, chaos_faults, drawn_fault
from p2pmq.sim.history import Fault
from p2pmq.sim.host import HostState
from p2pmq.sim.mesh import Mesh
from p2pmq.sim.scenario import FAULTS, Chaos, FaultSpec, Links, Nodes, Scenario
from p2pmq.sim.timetable import SYNC_MS, Timetable, options_of
from p2pmq.sim.workload import Workload

NODES = Nodes(
    names=("a", "b", "c", "d", "e", "new"),
    late=("new",),
    zones=(("east", ("a", "b")), ("west", ("c", "d", "e"))),
)


async def begun(mesh: Mesh, links: tuple[Links, ...] = ()) -> Timetable:
    scenario = Scenario(NODES, links=links)
    timetable = Timetable(mesh, scenario, Workload(mesh, scenario))
    timetable.lay_links()
    await mesh.start(*NODES.first, **options_of(NODES))
    return timetable


def cuts(mesh: Mesh) -> set[tuple[str, str]]:
    names = mesh.names
    return {(a, b) for a in names for b in names if a != b and mesh.network.conditions(a, b).cut}


def kinds(faults: Sequence[Fault]) -> list[str]:
    return [fault.kind for fault in faults]


async def test_faults_of_the_network_end_one_by_one(mesh: Mesh) -> None:
    timetable = await begun(mesh)
    faults = [
        FaultSpec(1_000, "one_way", 4_000, from_=("a",), to=("zone west",)),
        FaultSpec(2_000, "loss", 1_000, share=0.5),
        FaultSpec(2_200, "cut", 4_500, from_=("a",), to=("b",)),
    ]
    seen: dict[int, tuple[set[tuple[str, str]], float]] = {}

    async def look() -> None:
        for second in range(9):
            seen[second] = (cuts(mesh), mesh.network.conditions("c", "d").loss)
            await mesh.run_for(seconds=1)

    looking = mesh.run("e", look())
    await mesh.run_for(seconds=0.5)
    await timetable.play(faults, 10)
    await looking
    one_way = {("a", "c"), ("a", "d"), ("a", "e")}
    both = {("a", "b"), ("b", "a")}
    assert seen[1][0] == set()
    assert seen[2] == (one_way, 0.0)
    assert seen[3] == (one_way | both, 0.5)
    assert seen[4] == (one_way | both, 0.0)
    assert seen[6] == (both, 0.0)
    assert seen[8] == (set(), 0.0)


async def test_the_scenarios_own_links_outlive_a_heal(mesh: Mesh) -> None:
    links = (
        Links(latency_ms=(5, 9), loss=0.01),
        Links(from_=("a",), to=("zone west",), rate_bytes=1_000, both=False),
    )
    timetable = await begun(mesh, links)
    timetable.happen(FaultSpec(0, "loss", share=0.9))
    assert mesh.network.conditions("d", "e").loss == 0.9
    timetable.happen(FaultSpec(0, "heal"))
    assert mesh.network.conditions("d", "e").loss == 0.01
    assert mesh.network.conditions("d", "e").latency_ms == (5, 9)
    assert mesh.network.conditions("a", "c").bytes_per_s == 1_000
    assert mesh.network.conditions("c", "a").bytes_per_s is None
    assert all(fault.until_s is not None for fault in mesh.history.faults)


@pytest.mark.parametrize(
    ("fault", "parted"),
    [
        (FaultSpec(0, "partition", groups=(("a", "b"), ("others",))), ("a", "c")),
        (FaultSpec(0, "isolate", hosts=("a",)), ("b", "a")),
        (FaultSpec(0, "bridge", from_=("zone east",), middle=("c",), to=("others",)), ("b", "d")),
        (FaultSpec(0, "ring_of_majorities"), ("a", "c")),
        (FaultSpec(0, "flap", from_=("a",), to=("b",), every_ms=60_000), ("a", "b")),
    ],
)
async def test_paths_are_cut_and_mended(
    mesh: Mesh, fault: FaultSpec, parted: tuple[str, str]
) -> None:
    timetable = await begun(mesh)
    undo = timetable.happen(fault)
    await mesh.run_for(seconds=0.1)
    assert parted in cuts(mesh)
    assert undo is not None
    undo()
    assert cuts(mesh) == set()


async def test_packets_are_treated_as_said(mesh: Mesh) -> None:
    timetable = await begun(mesh)
    timetable.happen(FaultSpec(0, "latency", latency_ms=(7, 8), from_=("a",), to=("b",)))
    timetable.happen(FaultSpec(0, "duplicate", share=0.1))
    timetable.happen(FaultSpec(0, "reorder", share=0.2, late_ms=70))
    timetable.happen(FaultSpec(0, "corrupt", share=0.3))
    timetable.happen(FaultSpec(0, "rate", rate_bytes=5_000))
    found = mesh.network.conditions("a", "b")
    assert (found.duplicate, found.reorder, found.corrupt) == (0.1, 0.2, 0.3)
    assert (found.latency_ms, found.reorder_ms, found.bytes_per_s) == ((7, 8), 70, 5_000)
    assert mesh.network.conditions("b", "a").latency_ms != (7, 8)


@pytest.mark.parametrize("what", ["crash", "power_cut", "stop", "wipe", "roll_back"])
async def test_a_host_goes_down_and_comes_back(mesh: Mesh, what: str) -> None:
    timetable = await begun(mesh)
    before = mesh.host("b").disk.contents.node_id
    timetable.happen(FaultSpec(0, "snapshot", hosts=("b",)))
    undo = timetable.happen(FaultSpec(0, what, hosts=("b",)))
    await timetable.finish()
    assert mesh.host("b").state is HostState.DOWN
    assert undo is not None
    undo()
    await timetable.finish()
    assert mesh.is_up("b")
    assert (mesh.host("b").disk.contents.node_id == before) is (what != "wipe")
    assert timetable.errors == []


async def test_a_paused_host_is_resumed(mesh: Mesh) -> None:
    timetable = await begun(mesh)
    await timetable.play([FaultSpec(0, "pause", 1_000, hosts=("b", "b"))], 3)
    assert mesh.is_up("b")
    timetable.happen(FaultSpec(0, "pause", hosts=("c",)))
    assert mesh.host("c").state is HostState.PAUSED
    timetable.happen(FaultSpec(0, "resume", hosts=("all",)))
    assert mesh.is_up("c")


async def test_disks_and_clocks_are_broken_as_said(mesh: Mesh) -> None:
    timetable = await begun(mesh)
    timetable.happen(FaultSpec(0, "slow_disk", hosts=("a",), sync_ms=(50, 60)))
    timetable.happen(FaultSpec(0, "full_disk", hosts=("b",)))
    timetable.happen(FaultSpec(0, "failing_disk", hosts=("c",)))
    timetable.happen(FaultSpec(0, "clock_jump", hosts=("d",), by_ms=-60_000))
    timetable.happen(FaultSpec(0, "clock_drift", hosts=("e",), drift=0.5))
    assert mesh.host("a").disk.sync_ms == (50, 60)
    assert mesh.host("b").disk.full
    assert mesh.host("c").disk.failing
    assert mesh.host("d").clock.skew_s == -60
    assert mesh.host("e").clock.drift == 0.5
    await timetable.mend()
    assert mesh.host("a").disk.sync_ms == SYNC_MS
    assert not mesh.host("b").disk.full
    assert not mesh.host("c").disk.failing
    assert mesh.is_up("c")


async def test_hosts_join_leave_churn_and_roll(mesh: Mesh) -> None:
    timetable = await begun(mesh)
    faults = [
        FaultSpec(0, "join", hosts=("new",)),
        FaultSpec(2_000, "leave", hosts=("b",)),
        FaultSpec(5_000, "churn", hosts=("all",), every_ms=2_000, down_ms=500, times=3),
        FaultSpec(12_000, "rolling_restart", hosts=("c", "d"), every_ms=3_000),
    ]
    await timetable.play(faults, 20)
    await timetable.mend()
    assert timetable.present == ["a", "c", "d", "e", "new"]
    assert all(mesh.is_up(name) for name in timetable.present)
    assert mesh.host("b").state is HostState.DOWN
    assert mesh.host("c").disk.contents.boot > 1
    assert mesh.host("d").disk.contents.boot > 1
    assert kinds(mesh.history.faults).count("down") == 5
    assert timetable.errors == []


async def test_an_upgrade_restarts_hosts_as_other_versions(mesh: Mesh) -> None:
    timetable = await begun(mesh)
    upgrade = FaultSpec(0, "upgrade", hosts=("b", "c"), versions=(1, 2), every_ms=1_000)
    await timetable.play([upgrade], 5)
    await timetable.finish()
    found = {name: mesh.host(name).options.versions for name in "abc"}
    assert found == {"a": (1, 1), "b": (1, 2), "c": (1, 2)}
    assert mesh.host("b").disk.contents.boot == 2
    assert timetable.errors == []


async def test_a_torn_tail_is_gone_and_what_came_before_is_not(mesh: Mesh) -> None:
    timetable = await begun(mesh)
    node = mesh.node("b")
    await node.publish("q", b"old")
    await mesh.run_for(seconds=1)
    before = sorted(mesh.host("b").disk.contents.seen)
    timetable.happen(FaultSpec(0, "torn_tail", hosts=("b",), late_ms=300))
    boot = mesh.host("b").disk.contents.boot
    mesh.isolate("b")
    await node.publish("q", b"new", confirm="stored")
    assert mesh.host("b").disk.contents.batches
    await mesh.run_for(seconds=1)
    assert mesh.host("b").state is HostState.DOWN
    disk = mesh.host("b").disk.contents
    assert not [name for name in disk.batches if name.space is Space.OUTBOX]
    assert sorted(disk.seen) == before
    assert disk.boot == boot
    await timetable.mend()
    mesh.check()


async def test_a_store_that_was_cut_short_cannot_be_opened_until_it_is_replaced(
    mesh: Mesh,
) -> None:
    timetable = await begun(mesh)
    before = mesh.host("b").disk.contents.node_id
    undo = timetable.happen(FaultSpec(0, "truncate", hosts=("b",)))
    with pytest.raises(StoreCorruptError, match=r"move the directory away"):
        await mesh.restart("b")
    assert undo is not None
    undo()
    await timetable.finish()
    assert mesh.is_up("b")
    assert mesh.host("b").disk.contents.node_id not in (b"", before)
    timetable.happen(FaultSpec(0, "truncate", hosts=("c",)))
    await timetable.mend()
    assert mesh.is_up("c")


async def test_a_tripwire_hits_whoever_is_amid_it_once_and_its_host_comes_back(
    mesh: Mesh,
) -> None:
    timetable = await begun(mesh)
    wire = FaultSpec(0, "crash_during", 1_000, hosts=("all",), during="handover")
    for queue in range(20):
        await mesh.node("a").publish(f"q{queue}", b"body")
    await timetable.play([wire, FaultSpec(100, "join", hosts=("new",))], 20)
    await timetable.finish()
    downs = [fault for fault in mesh.history.faults if fault.kind == "down"]
    assert len(downs) == 1
    assert all(mesh.is_up(name) for name in mesh.names)
    assert not any(mesh.host(name).tripwires for name in mesh.names)
    assert timetable.errors == []


async def test_a_tripwire_that_hits_nobody_is_said_at_the_end(mesh: Mesh) -> None:
    timetable = await begun(mesh)
    await timetable.play([FaultSpec(0, "crash_during", hosts=("all",), during="recovery")], 3)
    (error,) = timetable.errors
    assert "hit nobody" in str(error)
    assert not any(mesh.host(name).tripwires for name in mesh.names)


async def test_only_a_part_is_mended_when_asked_for(mesh: Mesh) -> None:
    timetable = await begun(mesh)
    timetable.happen(FaultSpec(0, "crash", hosts=("a", "d")))
    timetable.happen(FaultSpec(0, "isolate", hosts=("all",)))
    await timetable.mend(["a", "b", "c"])
    assert mesh.is_up("a")
    assert mesh.host("d").state is HostState.DOWN
    assert not any(mesh.network.is_cut(x, y) for x in "abc" for y in "abc" if x != y)
    assert all(mesh.network.is_cut(x, y) for x in "abc" for y in "de")


async def test_every_random_fault_can_be_carried_out_and_mended(mesh: Mesh) -> None:
    timetable = await begun(mesh)
    names = ("a", "b", "c", "d", "e")
    for what in dict.fromkeys((*KINDS, "flip_bit", "leave")):
        fault = drawn_fault(mesh.random, names, 0, what)
        assert fault is not None
        timetable.happen(fault)
        await mesh.run_for(seconds=1)
    await timetable.mend()
    assert all(mesh.is_up(name) for name in timetable.present)
    assert cuts(mesh) == set()
    assert timetable.errors == []


def test_random_faults_keep_to_their_times_hosts_and_kinds() -> None:
    chaos = Chaos(
        what=("crash", "pause"),
        every_ms=(100, 900),
        hosts=("a", "b"),
        start_ms=5_000,
        stop_ms=9_000,
    )
    scenario = Scenario(NODES, chaos=(chaos,))
    faults = [fault for seed in range(9) for fault in chaos_faults(scenario, random.Random(seed))]
    assert len(faults) > 9
    assert {fault.what for fault in faults} == {"crash", "pause"}
    assert {name for fault in faults for name in fault.hosts} == {"a", "b"}
    assert all(5_000 <= fault.at_ms < 9_000 for fault in faults)


async def test_every_fault_that_can_be_written_is_known(mesh: Mesh) -> None:
    timetable = await begun(mesh)
    for what in FAULTS:
        timetable.happen(FaultSpec(0, what, latency_ms=(1, 1), rate_bytes=1_000_000))
    await timetable.finish()
    assert timetable.errors == []
