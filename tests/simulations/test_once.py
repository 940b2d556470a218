"""Consuming once: what was acked on a node does not run there again, whatever became of the ack."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from p2pmq.core.packets.delivering import Settle
from p2pmq.sim import seeds

if TYPE_CHECKING:
    from p2pmq.core.packets.registry import Packet
    from p2pmq.node.node import Node
    from p2pmq.sim.mesh import Mesh

MESSAGES = 40


class Worker:
    """A service on one host; what it did outlives the host's processes."""

    def __init__(self, mesh: Mesh, host: str, *, once: bool) -> None:
        self.done: Counter[object] = Counter()
        self._once = once
        mesh.serve(host, self._run)

    async def _run(self, node: Node) -> None:
        messages = node.consume("q", prefetch=5, visibility_timeout=5, once=self._once)
        async for message in messages:
            self.done[message.body] += 1
            message.ack()


async def acks_lost_and_worker_killed(mesh: Mesh, *, once: bool) -> Worker:
    """The worker's acks are lost from a random one on; then it is killed, and comes back."""
    a, *_ = await mesh.start("a", "b", "c")
    await mesh.join("worker", leaf=True)
    worker = Worker(mesh, "worker", once=once)
    left = mesh.random.randint(1, 6)

    def cut_off(packet: Packet) -> None:
        nonlocal left
        if isinstance(packet, Settle) and packet.acks:
            left -= 1
            if not left:
                mesh.isolate("worker")

    mesh.host("worker").tripwires.append(cut_off)
    for number in range(MESSAGES):
        await a.publish("q", number)
        await mesh.run_for(seconds=0.02)
    await mesh.run_for(seconds=1)
    mesh.power_cut("worker")
    mesh.heal()
    await mesh.run_for(seconds=5)
    await mesh.restart("worker")
    await mesh.settle(timeout=120)
    assert (await a.depth("q")).total == 0
    mesh.check(stuck_max=0)
    return worker


@seeds(10)
async def test_a_redelivery_after_a_lost_ack_and_a_kill_does_not_run_the_handler_again(
    mesh: Mesh,
) -> None:
    worker = await acks_lost_and_worker_killed(mesh, once=True)
    assert worker.done == dict.fromkeys(range(MESSAGES), 1)
    assert mesh.node("worker").counters["once_skipped"] > 0


@seeds(3)
async def test_without_it_the_handler_runs_again(mesh: Mesh) -> None:
    worker = await acks_lost_and_worker_killed(mesh, once=False)
    assert max(worker.done.values()) > 1


@seeds(5)
async def test_it_is_remembered_by_each_node_for_itself(mesh: Mesh) -> None:
    a, b, _ = await mesh.start("a", "b", "c")
    await mesh.join("worker", leaf=True)
    worker = Worker(mesh, "worker", once=True)

    def cut_off(packet: Packet) -> None:
        if isinstance(packet, Settle) and packet.acks:
            mesh.isolate("worker")

    mesh.host("worker").tripwires.append(cut_off)
    await a.publish("q", "seen by both")
    await mesh.run_for(seconds=10)
    assert worker.done == {"seen by both": 1}
    messages = b.consume("q", once=True)
    assert (await anext(messages)).body == "seen by both"
    mesh.heal()


@seeds(5)
async def test_acks_wait_while_the_disk_is_full_and_leave_when_there_is_room(mesh: Mesh) -> None:
    a, *_ = await mesh.start("a", "b", "c")
    await mesh.join("worker", leaf=True)
    worker = Worker(mesh, "worker", once=True)
    mesh.disk_full("worker")
    for number in range(5):
        await a.publish("q", number)
    await mesh.run_for(seconds=30)
    mesh.disk_full("worker", full=False)
    await mesh.settle(timeout=60)
    assert worker.done == dict.fromkeys(range(5), 1)
    assert (await a.depth("q")).total == 0
