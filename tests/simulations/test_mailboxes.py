"""Mailboxes in whole simulated meshes: a message reaches exactly the node of that name."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from p2pmq import Config, Replication
from p2pmq.sim import seeds

if TYPE_CHECKING:
    from p2pmq.node.node import Node
    from p2pmq.sim.mesh import Mesh

NAMES = ("a", "b", "c")
THREE = Config(replication=Replication(replicas=3))


async def mail(node: Node, count: int) -> list[object]:
    """So many messages of the node's inbox, acked."""
    found: list[object] = []
    async for message in node.inbox():
        message.ack()
        found.append(message.body)
        if len(found) == count:
            break
    return found


@seeds(5)
async def test_mail_waits_for_who_is_away_and_outlives_its_sender(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, "depot", config=THREE)
    mesh.crash("depot")
    await mesh.run_for(seconds=30)
    for number in range(3):
        await nodes[0].send("depot", number)
    mesh.crash("a")
    await mesh.run_for(minutes=20)
    depot = await mesh.restart("depot")
    assert await mail(depot, 3) == [0, 1, 2]
    await mesh.restart("a")
    await mesh.settle()
    assert (await depot.depth("@depot")).total == 0
    mesh.check()


@seeds(5)
async def test_mail_to_a_name_that_nobody_has_yet_waits_for_it(mesh: Mesh) -> None:
    (sender, *_) = await mesh.start(*NAMES, config=THREE)
    await sender.send("newcomer", "welcome")
    await mesh.run_for(minutes=5)
    (newcomer,) = await mesh.start("newcomer", config=THREE)
    assert await mail(newcomer, 1) == ["welcome"]
    await mesh.settle()
    mesh.check()


@seeds(5)
async def test_mail_is_given_to_nobody_else(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    inboxes = [node.inbox() for node in nodes]
    waiting = [asyncio.ensure_future(anext(inbox)) for inbox in inboxes]
    await mesh.run_for(seconds=5)
    await nodes[0].send("b", "for b alone")
    await mesh.run_for(seconds=5)
    assert [task.done() for task in waiting] == [False, True, False]
    assert waiting[1].result().body == "for b alone"
    waiting[1].result().ack()
    for task in waiting:
        task.cancel()
    await mesh.settle()
    mesh.check()


@seeds(3)
async def test_a_node_that_asks_for_anothers_mail_gets_none(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    await nodes[0].send("b", "secret")
    thief = nodes[2]
    thief.settings = nodes[1].settings  # so that its own check of the name is passed
    asked = asyncio.ensure_future(anext(thief.inbox()))
    await mesh.run_for(minutes=2)
    assert not asked.done()
    asked.cancel()
    assert sum(node.counters["attach_to_mailbox_refused"] for node in nodes) > 0
    assert await mail(nodes[1], 1) == ["secret"]
    await mesh.settle()


@seeds(3)
async def test_mail_whose_time_is_over_is_not_delivered(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, "depot", config=THREE)
    mesh.crash("depot")
    await mesh.run_for(seconds=30)
    await nodes[0].send("depot", "stale", ttl=60)
    await nodes[0].send("depot", "fresh")
    await mesh.run_for(minutes=5)
    depot = await mesh.restart("depot")
    assert await mail(depot, 1) == ["fresh"]
    await mesh.settle()
    assert sum(node.counters["expired"] for node in nodes[:3]) == 1
    mesh.check()


@seeds(3)
async def test_a_reader_whose_disk_was_replaced_gets_its_mail_under_its_name(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, "depot", config=THREE)
    mesh.crash("depot")
    await mesh.run_for(seconds=30)
    await nodes[0].send("depot", "still yours")
    mesh.wipe("depot")
    await mesh.run_for(minutes=1)
    depot = await mesh.restart("depot")
    assert await mail(depot, 1) == ["still yours"]
    await mesh.settle()
    mesh.check()
