"""A time to live in whole simulated meshes: it runs on the owner's clock, over every move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from p2pmq import Config, NotCommittedError, Replication
from p2pmq.sim import seeds

if TYPE_CHECKING:
    from p2pmq.node.node import Node
    from p2pmq.sim.mesh import Mesh

NAMES = ("a", "b", "c")
THREE = Config(replication=Replication(replicas=3))


async def total(node: Node, queue: str = "q") -> int:
    return (await node.depth(queue)).total


def pending(mesh: Mesh) -> int:
    """Messages on all disks together."""
    return sum(run.length for name in NAMES for _, _, run in mesh.host(name).disk.alive())


@seeds(5)
async def test_when_its_time_is_over_a_message_is_on_no_disk_and_is_not_called_lost(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    await nodes[0].publish_many("q", range(10), ttl=60)
    await nodes[0].publish("q", "for ever")
    await mesh.run_for(seconds=50)
    assert await total(nodes[1]) == 11
    await mesh.run_for(seconds=11)
    assert await total(nodes[1]) == 1
    assert sum(node.counters["expired"] for node in nodes) == 10
    await mesh.settle()
    assert pending(mesh) == 3
    assert [message.body async for message in nodes[2].drain("q")] == ["for ever"]
    mesh.check()


@seeds(5)
async def test_wrong_wall_clocks_expire_nothing_early_and_keep_nothing_longer(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    for name, seconds in zip(NAMES, (-288, 288, 3_600), strict=True):
        mesh.clock_jump(name, seconds)
    await nodes[0].publish("q", 1, ttl=60)
    for name, seconds in zip(NAMES, (3_600, -288, 288), strict=True):
        mesh.clock_jump(name, seconds)
    await mesh.run_for(seconds=50)
    assert await total(nodes[1]) == 1
    await mesh.run_for(seconds=15)
    assert await total(nodes[1]) == 0
    mesh.check()


@seeds(5)
async def test_what_is_left_of_it_is_known_to_the_heir_and_after_a_restart(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    await nodes[0].publish("q", 1, ttl=120)
    await mesh.run_for(seconds=30)
    owner = nodes[0].owner_of("q")
    assert owner is not None
    mesh.crash(owner)
    await mesh.run_for(seconds=30)
    other = next(node for node in nodes if node.settings.name != owner)
    assert await total(other) == 1
    for name in NAMES:
        if name != owner:
            mesh.crash(name)
    nodes = [await mesh.restart(name) for name in NAMES]
    await mesh.run_for(seconds=20)
    assert await total(nodes[0]) == 1
    await mesh.run_for(seconds=45)
    assert await total(nodes[0]) == 0
    mesh.check()


@seeds(5)
async def test_what_a_consumer_holds_may_be_acked_after_its_time(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    await nodes[0].publish("q", 1, ttl=5)
    messages = nodes[1].consume("q", prefetch=1)
    message = await anext(messages)
    await mesh.run_for(seconds=20)
    assert await total(nodes[0]) == 1
    message.ack()
    await mesh.settle()
    assert await total(nodes[0]) == 0
    assert sum(node.counters["expired"] for node in nodes) == 0
    mesh.check()


@seeds(5)
async def test_what_a_dead_consumer_held_goes_when_its_time_is_over(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    owner = nodes[0].owner_of("q")
    holder = next(node for node in nodes if node.settings.name != owner)
    await nodes[0].publish("q", 1, ttl=5)
    messages = holder.consume("q", prefetch=1)
    assert (await anext(messages)).body == 1
    mesh.crash(holder.settings.name)
    await mesh.run_for(seconds=60)
    here = next(node for node in nodes if node is not holder)
    assert await total(here) == 0
    await mesh.restart(holder.settings.name)
    await mesh.settle()
    mesh.check()


@seeds(5)
async def test_what_waits_in_an_outbox_ends_there_and_its_publisher_hears_why(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    mesh.isolate("a")
    await mesh.run_for(seconds=30)
    await nodes[0].publish("q", "short", ttl=60, confirm="stored")
    await nodes[0].publish("q", "long", ttl=3_600, confirm="stored")
    with pytest.raises(NotCommittedError, match="time to live is over"):
        await nodes[0].publish("q", "waited for", ttl=2, timeout=10)
    await mesh.run_for(seconds=1)  # its removal is on the disk
    mesh.crash("a")
    await mesh.run_for(seconds=40)
    here = await mesh.restart("a")
    await mesh.run_for(seconds=40)
    assert here.counters["expired"] == 1
    mesh.heal()
    await mesh.settle()
    assert [message.body async for message in nodes[1].drain("q")] == ["long"]
    mesh.check()


@seeds(5)
async def test_the_time_in_the_outbox_counts(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    mesh.isolate("a")
    await mesh.run_for(seconds=30)
    await nodes[0].publish("q", 1, ttl=60, confirm="stored")
    await mesh.run_for(seconds=40)
    mesh.heal()
    await mesh.settle()
    assert await total(nodes[1]) == 1
    await mesh.run_for(seconds=25)
    assert await total(nodes[1]) == 0
    mesh.check()
