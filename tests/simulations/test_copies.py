"""Three copies of each queue: what crashes, damage and planned moves leave of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pmq.config import Config, Replication
from p2pmq.core.ids import PartitionKey
from p2pmq.errors import ClosedNodeError, StaleReceiptError
from p2pmq.sim.mesh import Mesh, seeds

if TYPE_CHECKING:
    from p2pmq.node.node import Node

CONFIG = Config(replication=Replication(replicas=3))
KEY = PartitionKey("orders", 0)
FAILOVER_MS = 500
"""From the verdict that the owner is dead to the next delivery."""


@dataclass
class Tally:
    """What was published, and who was given what, when."""

    sent: list[bytes] = field(default_factory=list)
    given: dict[bytes, list[tuple[float, str]]] = field(default_factory=dict)
    cut_off: set[bytes] = field(default_factory=set)
    """Given to a consumer whose node stopped before it had acked."""
    ended: bool = False

    def serve(self, mesh: Mesh, name: str) -> None:
        async def consume(node: Node) -> None:
            async for message in node.consume("orders", prefetch=20):
                body = bytes(message.body)
                try:
                    async with message:
                        self.given.setdefault(body, []).append((mesh.now, name))
                        await asyncio.sleep(0.02)
                except StaleReceiptError:
                    self.cut_off.add(body)

        mesh.serve(name, consume)

    def publish(self, mesh: Mesh, name: str, every: float) -> None:
        async def publish(node: Node) -> None:
            while not self.ended:
                body = f"{name} {len(self.sent)}".encode()
                try:
                    await node.publish("orders", body, confirm="none")
                except ClosedNodeError:
                    return
                self.sent.append(body)
                await asyncio.sleep(every)

        mesh.serve(name, publish)

    def duplicates(self) -> set[bytes]:
        return {body for body, times in self.given.items() if len(times) > 1}

    def lost(self) -> set[bytes]:
        return set(self.sent) - set(self.given)


async def started(mesh: Mesh, *names: str) -> tuple[str, list[str]]:
    """The owner of the queue, and the others."""
    await mesh.start(*names, config=CONFIG)
    owner = mesh.node(names[0]).owner_of("orders")
    assert owner is not None
    return owner, [name for name in names if name != owner]


async def fill(node: Node, count: int = 20) -> list[bytes]:
    bodies = [b"body %d" % number for number in range(count)]
    for body in bodies:
        await node.publish("orders", body, timeout=10)
    return bodies


async def drained(node: Node) -> list[bytes]:
    return [bytes(message.body) async for message in node.drain("orders")]


def held(mesh: Mesh, name: str) -> int:
    """How many messages of the queue lie on a disk."""
    return sum(run.length for _, key, run in mesh.host(name).disk.alive() if key == KEY)


def counted(mesh: Mesh, name: str, what: str) -> int:
    return mesh.node(name).counters[what]


@seeds(5)
async def test_a_bit_flipped_at_the_owner_costs_nothing(mesh: Mesh) -> None:
    owner, _ = await started(mesh, "a", "b", "c")
    bodies = await fill(mesh.node(owner))
    assert mesh.flip_bit(owner)
    await mesh.restart(owner)
    assert sorted(await drained(mesh.node(owner))) == sorted(bodies)


@seeds(5)
async def test_a_bit_flipped_at_a_replica_costs_nothing_when_it_takes_over(mesh: Mesh) -> None:
    owner, others = await started(mesh, "a", "b", "c")
    bodies = await fill(mesh.node(owner))
    for other in others:
        assert mesh.flip_bit(other)
    mesh.crash(owner)
    await mesh.run_for(seconds=30)
    await mesh.restart(owner)
    await mesh.run_for(seconds=5)
    assert sorted(await drained(mesh.node(others[0]))) == sorted(bodies)


@seeds(5)
async def test_a_wiped_home_is_filled_again(mesh: Mesh) -> None:
    owner, (wiped, other) = await started(mesh, "a", "b", "c")
    bodies = await fill(mesh.node(owner))
    await mesh.run_for(seconds=2)
    mesh.crash(wiped)
    mesh.wipe(wiped)
    await mesh.restart(wiped)
    await mesh.run_for(minutes=1)
    assert held(mesh, wiped) == len(bodies)
    mesh.crash(owner)
    await mesh.run_for(seconds=30)
    assert sorted(await drained(mesh.node(other))) == sorted(bodies)


@seeds(5)
async def test_a_rolled_back_disk_brings_nothing_acked_back_and_uses_no_dot_twice(
    mesh: Mesh,
) -> None:
    owner, (replica, _) = await started(mesh, "a", "b", "c")
    bodies = await fill(mesh.node(replica))
    await mesh.run_for(seconds=1)
    mesh.snapshot(replica)
    mesh.snapshot(owner)
    assert sorted(await drained(mesh.node(replica))) == sorted(bodies)
    await mesh.run_for(seconds=2)
    for name in (replica, owner):
        mesh.crash(name)
        mesh.roll_back(name)
        await mesh.restart(name)
        await mesh.run_for(seconds=30)
        assert await drained(mesh.node(replica)) == []
    again = [b"new %d" % number for number in range(20)]
    for body in again:
        await mesh.node(replica).publish("orders", body, timeout=10)
    assert await drained(mesh.node(replica)) == again


async def test_what_both_sides_delivered_is_counted_after_the_heal(mesh: Mesh) -> None:
    owner, (other, _) = await started(mesh, "a", "b", "c")
    await fill(mesh.node(owner), 5)

    async def hold(node: Node) -> None:
        _ = [message async for message in node.consume("orders", prefetch=5)]

    mesh.serve(owner, hold)
    await mesh.run_for(seconds=1)
    mesh.partition({owner})
    await mesh.run_for(seconds=20)
    assert len(await drained(mesh.node(other))) == 5
    mesh.heal()
    await mesh.run_for(minutes=1)
    assert counted(mesh, owner, "duplicates_after_heal") == 5


@seeds(6)
async def test_after_the_owners_death_the_next_delivery_comes_soon_and_nothing_twice(
    mesh: Mesh,
) -> None:
    names = ("a", "b", "c", "d", "e")
    owner, living = await started(mesh, *names)
    tally = Tally()
    for name in names:
        tally.serve(mesh, name)
    tally.publish(mesh, living[0], every=0.01)
    await mesh.run_for(seconds=3)
    mesh.crash(owner)
    while not (heirs := [n for n in living if mesh.node(n).owner_of("orders") == n]):
        await asyncio.sleep(0.001)
    verdict = mesh.now
    await mesh.run_for(seconds=3)
    tally.ended = True
    await mesh.settle()
    times = [at for given in tally.given.values() for at, _ in given if at > verdict]
    assert len(heirs) == 1
    assert (min(times) - verdict) * 1000 <= FAILOVER_MS
    assert not tally.lost()
    twice = [given for given in tally.given.values() if len(given) > 1]
    assert all(owner in [name for _, name in given] for given in twice), "only what it held"
    mesh.check()
