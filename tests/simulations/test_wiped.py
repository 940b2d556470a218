"""Nodes that come back on an empty disk under their old name.

Goal: such a node stands where its namesake stood, is filled again by itself, and counts for
nothing before; and nobody's messages are lost because a name was given twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.config import Config, Replication
from p2pmq.core.ids import PartitionKey
from p2pmq.core.membership import MemberState
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
