"""Schedules in whole simulated meshes: each tick is one message, whoever owns the queue then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from p2pmq import Config, Replication, UsageError
from p2pmq.core.firing import MISSED_S
from p2pmq.sim import seeds

if TYPE_CHECKING:
    from p2pmq.node.node import Node
    from p2pmq.sim.mesh import Mesh

NAMES = ("a", "b", "c")
THREE = Config(replication=Replication(replicas=3))
SKEWS = (-120, 0, 150)
MINUTELY = "* * * * *"


class Collecting:
    """What the consumers of a queue on every node got, and when."""

    def __init__(self, mesh: Mesh, *names: str) -> None:
        self._mesh = mesh
        self.at_s: list[float] = []
        self.ids: list[str] = []
        for name in names:
            mesh.serve(name, self._consume)

    async def _consume(self, node: Node) -> None:
        async for message in node.consume("jobs"):
            assert message.body == {"do": "it"}
            self.at_s.append(self._mesh.now)
            self.ids.append(message.message_id)
            message.ack()


def minutes_between(mesh: Mesh, name: str, from_s: float, to_s: float) -> int:
    """How many minutes began between these moments, by the clock of a host."""
    offset_s = mesh.host(name).clock.read() - mesh.now
    return int((to_s + offset_s) // 60) - int((from_s + offset_s) // 60)


@seeds(5)
async def test_every_tick_is_one_message_and_none_comes_after_the_removal(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    jobs = Collecting(mesh, *NAMES)
    began = mesh.now
    for node in nodes:  # as services do at their start
        await node.schedule("nightly", MINUTELY, "jobs", {"do": "it"})
    await mesh.run_for(minutes=10)
    assert len(jobs.at_s) == minutes_between(mesh, "a", began, mesh.now)
    assert [info.name for info in nodes[2].schedules()] == ["nightly"]
    await nodes[1].unschedule("nightly")
    await mesh.run_for(seconds=1)
    fired = len(jobs.at_s)
    await mesh.run_for(minutes=5)
    assert len(jobs.at_s) == fired
    assert all(node.schedules() == [] for node in nodes)
    await mesh.settle()
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(5)
async def test_no_tick_is_doubled_or_skipped_when_owners_fail_whose_clocks_differ_by_minutes(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    for name, skew in zip(NAMES, SKEWS, strict=True):
        mesh.clock_skew(name, skew)
    await mesh.run_for(minutes=10)  # by now it is the same day everywhere
    jobs = Collecting(mesh, *NAMES)
    await nodes[0].schedule("nightly", MINUTELY, "jobs", {"do": "it"})
    for _ in range(6):
        owner = next(node for node in mesh.nodes).owner_of("jobs")
        assert owner is not None
        await mesh.run_for(seconds=130)
        mesh.crash(owner)
        await mesh.run_for(seconds=40)
        await mesh.restart(owner)
        await mesh.run_for(seconds=40)
    await mesh.settle()
    await mesh.run_for(minutes=6)  # longer than the clocks differ: the slowest has come so far
    seconds = sorted(_second(tick_id) for tick_id in jobs.ids)
    assert len(seconds) == len(set(seconds)), "one message a tick"
    first, last = seconds[0], seconds[-1]
    assert seconds == list(range(first, last + 1, 60)), "and none left out"
    mesh.check(duplicates_max=0, stuck_max=0)


def _second(message_id: str) -> int:
    """The second since 1970 that a tick is for: its seq says that of the day."""
    return int(message_id.split("-")[1]) - 1


@seeds(5)
async def test_in_a_partition_one_side_fires_and_after_it_nothing_is_fired_again(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    jobs = Collecting(mesh, *NAMES)
    began = mesh.now
    await nodes[0].schedule("nightly", MINUTELY, "jobs", {"do": "it"})
    await mesh.run_for(seconds=100)
    owner = nodes[0].owner_of("jobs")
    assert owner is not None
    mesh.isolate(owner)
    await mesh.run_for(minutes=8)
    mesh.heal()
    await mesh.settle()
    await mesh.run_for(minutes=3)
    assert len(jobs.ids) == len(set(jobs.ids)) == minutes_between(mesh, "a", began, mesh.now)
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(5)
async def test_both_sides_that_may_fire_make_one_message_of_a_tick_in_the_end(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    await nodes[0].declare("jobs", replicas=3, min_copies=1)
    began = mesh.now
    await nodes[0].schedule("nightly", MINUTELY, "jobs", {"do": "it"})
    await mesh.run_for(seconds=70)
    owner = nodes[0].owner_of("jobs")
    assert owner is not None
    mesh.isolate(owner)
    await mesh.run_for(minutes=5)
    mesh.heal()
    await mesh.settle()
    expected = minutes_between(mesh, "a", began, mesh.now)
    assert (await nodes[0].depth("jobs")).total == expected
    assert sum(node.counters["schedule_ticks"] for node in nodes) > expected
    mesh.check(duplicates_max=0)


@seeds(5)
async def test_after_the_restart_of_all_the_ticks_of_the_last_minutes_are_made_up_for(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    jobs = Collecting(mesh, *NAMES)
    began = mesh.now
    await nodes[0].schedule("nightly", MINUTELY, "jobs", {"do": "it"})
    await mesh.run_for(seconds=100)
    for name in NAMES:
        mesh.power_cut(name)
    await mesh.run_for(seconds=150)
    for name in NAMES:
        await mesh.restart(name)
    await mesh.run_for(minutes=2)
    assert len(set(jobs.ids)) == minutes_between(mesh, "a", began, mesh.now)
    for name in NAMES:
        mesh.power_cut(name)
    away_s = mesh.now
    await mesh.run_for(hours=1)
    for name in NAMES:
        await mesh.restart(name)
    back_s = mesh.now
    before = len(set(jobs.ids))
    await mesh.run_for(minutes=2)
    made = len(set(jobs.ids)) - before
    assert made < minutes_between(mesh, "a", away_s, mesh.now)
    least = minutes_between(mesh, "a", back_s - MISSED_S, mesh.now)
    assert least - 1 <= made <= least + 1
    await mesh.settle()
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(5)
async def test_a_member_that_was_away_does_not_bring_a_removed_schedule_back(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    await nodes[0].schedule("nightly", MINUTELY, "jobs", {"do": "it"})
    await mesh.run_for(seconds=5)
    mesh.crash("c")
    await mesh.run_for(seconds=30)
    await nodes[0].unschedule("nightly")
    await mesh.restart("c")
    await mesh.settle()
    await mesh.run_for(minutes=3)
    assert all(node.schedules() == [] for node in mesh.nodes)
    left = [message.body async for message in nodes[0].drain("jobs")]
    assert len(left) <= 1
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(5)
async def test_a_clock_that_jumps_ahead_and_back_doubles_nothing(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    jobs = Collecting(mesh, *NAMES)
    began = mesh.now
    await nodes[0].schedule("nightly", MINUTELY, "jobs", {"do": "it"})
    await mesh.run_for(seconds=130)
    owner = nodes[0].owner_of("jobs")
    assert owner is not None
    mesh.clock_jump(owner, 240)
    await mesh.run_for(seconds=20)
    mesh.clock_jump(owner, -240)
    await mesh.run_for(minutes=8)
    assert len(jobs.ids) == len(set(jobs.ids)) == minutes_between(mesh, "a", began, mesh.now)
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(1)
async def test_what_never_ticks_is_refused_and_a_new_schedule_of_the_name_replaces_the_old(
    mesh: Mesh,
) -> None:
    (node,) = await mesh.start("a")
    for cron in ("", "* * * *", "* * * * * *", "61 * * * *", "0 0 30 2 *", "often"):
        with pytest.raises(UsageError):
            await node.schedule("nightly", cron, "jobs")
    assert (await node.schedule("nightly", "@hourly", "jobs", 1)).cron == "@hourly"
    await node.schedule("nightly", "30 4 1 1 *", "jobs", b"raw", ttl=60, priority=3)
    (info,) = node.schedules()
    assert (info.cron, info.body, info.ttl, info.priority) == ("30 4 1 1 *", b"raw", 60.0, 3)
    assert info.next_at is not None
    assert (info.next_at.month, info.next_at.day, info.next_at.hour) == (1, 1, 4)
