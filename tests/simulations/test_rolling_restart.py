"""Five nodes that all publish and consume, 1,000 messages a second, are restarted one by one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pmq.config import Config, Replication
from p2pmq.errors import ClosedNodeError, StaleReceiptError
from p2pmq.sim.mesh import Mesh, seeds

if TYPE_CHECKING:
    from p2pmq.node.node import Node

NAMES = ("a", "b", "c", "d", "e")
CONFIG = Config(replication=Replication(replicas=3))
BATCH = 20
EVERY_S = 0.1
RATE = len(NAMES) * BATCH / EVERY_S
"""Messages a second."""
HANDLER_S = 0.001
DOWN_S = 1.0
BETWEEN_S = 1.5
"""From a node's start to the stop of the next."""


@dataclass
class Traffic:
    """What was published, when each message came to a handler, and what went wrong."""

    sent: dict[int, float] = field(default_factory=dict)
    came: dict[int, list[float]] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    """Their publisher was told that its node closes."""
    cut_off: int = 0
    """Handlers that could not ack what they had done."""
    ended: bool = False

    def serve(self, mesh: Mesh, name: str) -> None:
        async def publish(node: Node) -> None:
            while not self.ended:
                numbers = range(len(self.sent), len(self.sent) + BATCH)
                self.sent |= dict.fromkeys(numbers, mesh.now)
                try:
                    await node.publish_many("orders", numbers, confirm="none")
                except ClosedNodeError:
                    self.refused |= set(numbers)
                    return
                await asyncio.sleep(EVERY_S)

        async def consume(node: Node) -> None:
            async for message in node.consume("orders", prefetch=50):
                self.came.setdefault(message.body, []).append(mesh.now)
                await asyncio.sleep(HANDLER_S)
                try:
                    message.ack()
                except StaleReceiptError:
                    self.cut_off += 1

        mesh.serve(name, publish)
        mesh.serve(name, consume)

    def latencies(self) -> list[float]:
        return sorted(times[0] - self.sent[number] for number, times in self.came.items())


async def play(mesh: Mesh) -> Traffic:
    """A restart of each node under load, and what became of every message."""
    traffic = Traffic()
    await mesh.start(*NAMES, config=CONFIG)
    for name in NAMES:
        traffic.serve(mesh, name)
    await mesh.run_for(seconds=BETWEEN_S)
    for name in NAMES:
        await mesh.stop(name)
        await mesh.run_for(seconds=DOWN_S)
        await mesh.restart(name)
        await mesh.run_for(seconds=BETWEEN_S)
    traffic.ended = True
    await mesh.settle()
    return traffic


@seeds(2)
async def test_nothing_is_lost_nothing_comes_twice_and_nobody_waits_for_a_second(
    mesh: Mesh,
) -> None:
    traffic = await play(mesh)
    latencies = traffic.latencies()
    assert len(traffic.sent) >= RATE * BETWEEN_S * len(NAMES)
    assert set(traffic.sent) - set(traffic.came) <= traffic.refused
    assert max(map(len, traffic.came.values())) == 1
    assert traffic.cut_off == 0
    assert latencies[len(latencies) * 99 // 100] < 1.0
    mesh.check(duplicates_max=0, stuck_max=0)
