"""Nodes that come back on an empty disk under their old name.

Goal: such a node stands where its namesake stood, is filled again by itself, and counts for
nothing before; and nobody's messages are lost because a name was given twice.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from p2pmq.config import Config, Replication
from p2pmq.core.ids import PartitionKey
from p2pmq.core.intact import Intactness
from p2pmq.core.membership import MemberState
from p2pmq.errors import NotCommittedError, RequestTimeoutError
from p2pmq.sim import SimulationCheckError, simulate
from p2pmq.sim.mesh import Mesh, seeds

if TYPE_CHECKING:
    from p2pmq.node.node import Node

ONE_COPY = Config(replication=Replication(replicas=1))
CONFIG = Config(replication=Replication(replicas=3))
QUEUE = "orders"
KEY = PartitionKey(QUEUE, 0)


def homes(mesh: Mesh, at: str) -> list[str]:
    """The hosts of the queue's homes, as one node sees them."""
    machine = mesh.host(at).machine
    assert machine is not None
    names = {mesh.host(name).disk.contents.node_id: name for name in mesh.names}
    return [names.get(node_id, "?") for node_id in machine.homes_of(KEY)[0]]


async def started(mesh: Mesh, *names: str) -> list[str]:
    """The queue's homes: its owner is the first."""
    await mesh.start(*names, config=CONFIG)
    return homes(mesh, names[0])


async def fill(node: Node, count: int = 20, name: str = "body") -> list[bytes]:
    bodies = [f"{name} {number}".encode() for number in range(count)]
    for body in bodies:
        await node.publish(QUEUE, body, timeout=10)
    return bodies


async def drained(node: Node) -> list[bytes]:
    return [bytes(message.body) async for message in node.drain(QUEUE)]


def held(mesh: Mesh, name: str) -> int:
    """How many messages of the queue lie on a disk."""
    return sum(run.length for _, key, run in mesh.host(name).disk.alive() if key == KEY)


async def wiped(mesh: Mesh, name: str) -> Node:
    """The node comes back on an empty disk; it waits until its old self is held dead."""
    mesh.crash(name)
    mesh.wipe(name)
    return await mesh.restart(name)


@seeds(5)
async def test_a_wiped_node_stands_where_it_stood_and_nobody_has_to_forget_it(mesh: Mesh) -> None:
    names = ("a", "b", "c", "d", "e")
    before = await started(mesh, *names)
    await fill(mesh.node("a"))
    old = mesh.host(before[1]).disk.contents.node_id
    await wiped(mesh, before[1])
    await mesh.run_for(seconds=20)
    for name in names:
        assert homes(mesh, name) == before
        assert [m.name for m in mesh.node(name).members()] == sorted(names)
        saved = mesh.host(name).disk.contents.members.get(old)
        assert saved is None or saved.state == MemberState.FORGOTTEN
    assert held(mesh, before[1]) == 20
    mesh.check()


@seeds(5)
async def test_one_that_was_only_cut_off_hands_over_what_it_holds_though_its_name_is_taken(
    mesh: Mesh,
) -> None:
    owner, second, third = await started(mesh, "a", "b", "c")
    bodies = await fill(mesh.node(owner))
    mesh.partition({owner})
    await mesh.run_for(seconds=20)
    heir = f"{owner}2"
    await mesh.start(heir, config=CONFIG, named={heir: owner})
    await mesh.run_for(seconds=40)
    assert held(mesh, heir) == len(bodies)
    again = await drained(mesh.node(second))
    mesh.heal()
    await mesh.run_for(minutes=2)
    for name in (owner, second, third, heir):
        assert homes(mesh, name) == [heir, second, third]
    assert held(mesh, owner) == 0
    assert mesh.node(owner).counters["name_lost"] == 1
    assert sorted(again + await drained(mesh.node(owner))) == sorted(bodies), "it can still consume"
    await fill(mesh.node(owner), name="new")
    mesh.check()


@seeds(3)
async def test_what_only_the_cut_off_one_had_is_not_lost(mesh: Mesh) -> None:
    owner, *_ = await started(mesh, "a", "b", "c")
    mesh.partition({owner})
    await mesh.run_for(seconds=20)
    publisher = mesh.node(owner)
    await publisher.publish(QUEUE, b"in its outbox", confirm="stored")
    heir = f"{owner}2"
    await mesh.start(heir, config=CONFIG, named={heir: owner})
    mesh.crash(owner)
    await mesh.run_for(seconds=5)
    mesh.heal()
    await mesh.restart(owner)
    await mesh.run_for(minutes=1)
    assert await drained(mesh.node(heir)) == [b"in its outbox"]
    mesh.check(stuck_max=0)


@seeds(5)
async def test_with_one_copy_the_cut_off_ones_messages_come_from_its_old_disk(mesh: Mesh) -> None:
    names = ("a", "b", "c")
    await mesh.start(*names, config=ONE_COPY)
    (owner,) = homes(mesh, "a")
    bodies = await fill(mesh.node(owner))
    mesh.crash(owner)
    await mesh.run_for(seconds=20)
    heir = f"{owner}2"
    await mesh.start(heir, config=ONE_COPY, named={heir: owner})
    assert homes(mesh, heir) == [heir]
    other = next(name for name in names if name != owner)
    new = await fill(mesh.node(other), name="new")
    await mesh.restart(owner)
    await mesh.run_for(seconds=30)
    assert held(mesh, owner) == 0
    assert sorted(await drained(mesh.node(other))) == sorted(bodies + new)
    mesh.check(stuck_max=0)


async def behind(mesh: Mesh) -> tuple[str, str, str]:
    """Everything is acked, and settled on the first two homes; the third has not heard of it.

    Then the first comes back on an empty disk, and reaches only the third.
    """
    first, second, third = await started(mesh, "a", "b", "c")
    bodies = await fill(mesh.node(first))
    mesh.partition({third})
    await mesh.run_for(seconds=20)
    assert sorted(await drained(mesh.node(first))) == sorted(bodies)
    await mesh.run_for(seconds=2)
    mesh.crash(first)
    mesh.wipe(first)
    mesh.partition({second})
    await mesh.restart(first)
    return first, second, third


async def nothing_comes(node: Node) -> None:
    """The queue holds something, and gives out nothing (the checker sees to that)."""
    with pytest.raises(RequestTimeoutError, match="nothing came"):
        await drained(node)


async def nothing_comes_back(mesh: Mesh) -> None:
    """Two of three homes are in reach all the time; what they do not know the third does."""
    first, second, third = await behind(mesh)
    await mesh.run_for(minutes=2)
    assert homes(mesh, third) == [first, second, third]
    await nothing_comes(mesh.node(first))
    mesh.heal()
    await mesh.run_for(minutes=1)
    assert await drained(mesh.node(first)) == []
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(6)
async def test_what_a_lost_disk_knew_as_acked_does_not_come_back(mesh: Mesh) -> None:
    await nothing_comes_back(mesh)


@seeds(3)
async def test_until_the_home_is_there_that_knows_publishers_wait(mesh: Mesh) -> None:
    first, _, third = await behind(mesh)
    await mesh.run_for(seconds=20)
    with pytest.raises(NotCommittedError):
        await mesh.node(third).publish(QUEUE, b"new", timeout=3)
    mesh.heal()
    await mesh.run_for(minutes=1)
    assert await drained(mesh.node(first)) == [b"new"]
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(8)
async def test_a_wiped_home_is_filled_under_load_and_then_any_other_may_die(mesh: Mesh) -> None:
    names = ("a", "b", "c", "d")
    order = await started(mesh, *names)
    publisher = next(name for name in names if name not in order)
    sent: list[int] = []
    got: list[int] = []
    ended = False

    async def publish(node: Node) -> None:
        while not ended:
            await node.publish(QUEUE, len(sent), confirm="stored")
            sent.append(len(sent))
            await asyncio.sleep(0.02)

    async def consume(node: Node) -> None:
        async for message in node.consume(QUEUE, prefetch=20):
            await asyncio.sleep(0.03)
            got.append(message.body)
            message.ack()

    mesh.serve(publisher, publish)
    mesh.serve(publisher, consume)
    await mesh.run_for(seconds=3)
    wiped_one = order[mesh.random.randrange(3)]
    mesh.crash(wiped_one)
    mesh.wipe(wiped_one)
    await mesh.restart(wiped_one)
    await mesh.run_for(seconds=40)
    assert not mesh.host(wiped_one).disk.contents.refilling
    assert mesh.node(wiped_one).counters["refill_ended"] == 1
    for name in order:
        if name == wiped_one:
            continue
        before = len(got)
        mesh.crash(name)
        await mesh.run_for(seconds=20)
        assert len(got) > before, "two homes of three go on"
        await mesh.restart(name)
        await mesh.run_for(seconds=10)
    ended = True
    await mesh.settle()
    assert set(got) == set(sent)
    mesh.check(stuck_max=0)


@seeds(5)
async def test_when_all_disks_are_lost_the_queue_begins_anew(mesh: Mesh) -> None:
    names = await started(mesh, "a", "b", "c")
    await fill(mesh.node("a"))
    for name in names:
        mesh.crash(name)
        mesh.wipe(name)
    await asyncio.gather(*(mesh.restart(name) for name in names))
    await mesh.run_for(seconds=5)
    bodies = await fill(mesh.node("b"), name="new")
    assert sorted(await drained(mesh.node("c"))) == sorted(bodies)
    mesh.check(stuck_max=0)


@seeds(5)
async def test_with_two_of_three_disks_lost_the_third_fills_both(mesh: Mesh) -> None:
    first, second, third = await started(mesh, "a", "b", "c")
    bodies = await fill(mesh.node(first))
    await mesh.run_for(seconds=2)
    for name in (first, second):
        mesh.crash(name)
        mesh.wipe(name)
    await asyncio.gather(mesh.restart(first), mesh.restart(second))
    await mesh.run_for(minutes=1)
    mesh.crash(third)
    await mesh.run_for(seconds=20)
    assert sorted(await drained(mesh.node(second))) == sorted(bodies)
    mesh.check(stuck_max=0)


@seeds(5)
async def test_in_a_mesh_of_two_the_other_fills_the_lost_disk(mesh: Mesh) -> None:
    first, second = await started(mesh, "a", "b")
    bodies = await fill(mesh.node(first))
    await wiped(mesh, first)
    await mesh.run_for(seconds=30)
    assert sorted(await drained(mesh.node(second))) == sorted(bodies)
    assert await fill(mesh.node(first), name="new")
    mesh.check(duplicates_max=0)


@seeds(5)
async def test_a_queue_that_is_new_while_a_home_is_refilling_works_at_once(mesh: Mesh) -> None:
    names = await started(mesh, "a", "b", "c")
    await fill(mesh.node("a"))
    await wiped(mesh, names[1])
    await mesh.node("a").publish("brand new", b"1", timeout=10)
    assert [bytes(m.body) async for m in mesh.node("b").drain("brand new")] == [b"1"]
    mesh.check(duplicates_max=0)


@seeds(5)
async def test_once_filled_a_node_counts_for_new_queues_like_any_other(mesh: Mesh) -> None:
    first, second, third = await started(mesh, "a", "b", "c")
    await fill(mesh.node(first))
    await wiped(mesh, second)
    await mesh.run_for(minutes=1)
    mesh.crash(third)
    await mesh.run_for(seconds=20)
    for number in range(5):
        await mesh.node(first).publish(f"brand new {number}", b"1", timeout=10)
    mesh.check()


@seeds(5)
async def test_a_crash_while_refilling_does_not_make_a_disk_count(mesh: Mesh) -> None:
    first, _, third = await behind(mesh)
    await mesh.run_for(seconds=20)
    mesh.crash(first)
    await mesh.restart(first)
    await mesh.run_for(minutes=1)
    assert mesh.host(first).disk.contents.refilling
    await nothing_comes(mesh.node(third))
    mesh.heal()
    await mesh.run_for(minutes=1)
    assert not mesh.host(first).disk.contents.refilling
    mesh.check(duplicates_max=0, stuck_max=0)


def test_without_the_rule_a_lost_disk_brings_acked_messages_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rule switched off: the checker sees it, and with the rule it passes (above)."""
    monkeypatch.setattr(Intactness, "holds", lambda *_: True)

    async def story(mesh: Mesh) -> None:
        first, _, _ = await behind(mesh)
        await mesh.run_for(minutes=2)
        await drained(mesh.node(first))
        mesh.check(duplicates_max=0)

    with simulate(0) as sim, pytest.raises(SimulationCheckError, match="acked_stays_acked"):
        sim.run(story)
