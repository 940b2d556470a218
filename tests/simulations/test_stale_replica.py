"""Nodes that were away for longer than anybody remembers what was acked.

Goal: what such a node still holds is not delivered from its queue again, nor lost: it is a dead
letter, with its reason. And what everybody knows is forgotten, so that memory stays bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.config import Config, Replication
from p2pmq.core.ids import PartitionKey
from p2pmq.core.partition import Partition
from p2pmq.sim.mesh import Mesh, seeds

if TYPE_CHECKING:
    from p2pmq.node.message import DeadLetter
    from p2pmq.node.node import Node

HOUR_MS = 3_600_000
CONFIG = Config(replication=Replication(replicas=3, context_retention_ms=HOUR_MS))
QUEUE = "orders"
KEY = PartitionKey(QUEUE, 0)
LETTERS = f"{QUEUE}.dlq"


async def started(mesh: Mesh, *names: str) -> list[str]:
    """The queue's homes: its owner is the first."""
    await mesh.start(*names, config=CONFIG)
    machine = mesh.host(names[0]).machine
    assert machine is not None
    hosts = {mesh.host(name).disk.contents.node_id: name for name in names}
    return [hosts[node_id] for node_id in machine.homes_of(KEY)[0]]


async def fill(node: Node, count: int = 20, name: str = "body") -> list[bytes]:
    bodies = [f"{name} {number}".encode() for number in range(count)]
    for body in bodies:
        await node.publish(QUEUE, body, timeout=10)
    return bodies


async def drained(node: Node, queue: str = QUEUE) -> list[bytes]:
    return [bytes(message.body) async for message in node.drain(queue)]


async def letters(node: Node) -> tuple[list[bytes], list[DeadLetter | None]]:
    """The bodies in the dead-letter queue, and why they are there."""
    found = [(bytes(m.body), m.dead_letter) async for m in node.drain(LETTERS)]
    return [body for body, _ in found], [letter for _, letter in found]


def partition(mesh: Mesh, name: str) -> Partition:
    machine = mesh.host(name).machine
    assert machine is not None
    return machine.owner.partition(KEY)


def counted(mesh: Mesh, what: str) -> int:
    return sum(node.counters[what] for node in mesh.nodes)


async def acked_without(mesh: Mesh, away: str, *, by: str) -> list[bytes]:
    """All homes hold the messages; one goes away, and the others see them acked."""
    bodies = await fill(mesh.node(by))
    await mesh.run_for(seconds=2)
    mesh.crash(away)
    await mesh.run_for(seconds=20)
    assert sorted(await drained(mesh.node(by))) == sorted(bodies)
    return bodies


@seeds(5)
async def test_what_a_returning_home_still_holds_becomes_dead_letters(mesh: Mesh) -> None:
    first, second, third = await started(mesh, "a", "b", "c")
    bodies = await acked_without(mesh, third, by=first)
    await mesh.run_for(hours=3)
    for name in (first, second):
        assert not partition(mesh, name).seen
        assert partition(mesh, name).horizon
    await mesh.restart(third)
    await mesh.run_for(minutes=1)
    assert await drained(mesh.node(second)) == []
    found, why = await letters(mesh.node(second))
    assert sorted(found) == sorted(bodies)
    assert {(one.reason, one.queue) for one in why if one} == {("stale-replica", QUEUE)}
    assert None not in why
    assert counted(mesh, "stale_replica") == len(bodies)
    assert not partition(mesh, third).pending
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(5)
async def test_so_it_is_where_the_returning_node_is_the_owner_at_once(mesh: Mesh) -> None:
    first, second, third = await started(mesh, "a", "b", "c")
    bodies = await acked_without(mesh, first, by=second)
    await mesh.run_for(hours=3)
    assert not partition(mesh, second).seen
    await mesh.restart(first)
    await mesh.run_for(minutes=1)
    machine = mesh.host(first).machine
    assert machine is not None
    assert machine.owner.owns(KEY)
    assert await drained(mesh.node(third)) == []
    found, _ = await letters(mesh.node(third))
    assert sorted(found) == sorted(bodies)
    assert counted(mesh, "stale_replica") == len(bodies)
    mesh.check(duplicates_max=0, stuck_max=0)
