"""What several simulations look at: what a queue holds, and what lies on all disks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pmq.node.node import Node
    from p2pmq.sim.mesh import Mesh


async def bodies_of(node: Node, queue: str = "q") -> list[object]:
    """Take and ack all that can be had of a queue."""
    return [message.body async for message in node.drain(queue)]


def on_disks(mesh: Mesh) -> int:
    """Messages on all disks together."""
    return sum(run.length for name in mesh.names for _, _, run in mesh.host(name).disk.alive())
