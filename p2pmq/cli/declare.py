"""`p2pmq declare`: settings of a queue, said to every node of the mesh."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

from p2pmq.cli.output import put_json, say
from p2pmq.cli.session import FAREWELL_S, steady_members, visiting

if TYPE_CHECKING:
    from p2pmq.cli.options import MeshOptions, VisitOptions
    from p2pmq.node.settings import QueueInfo, Settings


async def declare_queue(
    queue: str,
    settings: Settings,
    mesh: MeshOptions,
    visit: VisitOptions,
    *,
    as_json: bool,
) -> int:
    """Declare it, and stay until the others were told: this node's memory ends with it."""
    async with visiting(mesh, visit, "declare") as node:
        await steady_members(node, visit.wait)
        info = await node.declare(queue, **settings)
        await asyncio.sleep(FAREWELL_S)
    if as_json:
        put_json(asdict(info))
    else:
        say(
            f"p2pmq: {queue}: kept on {info.replicas} disks, "
            f"committed when it is on {info.min_copies}; a dead letter after "
            f"{info.max_deliveries} failures, with pauses of {info.backoff:g} to "
            f"{info.backoff_max:g} s; visibility timeout {info.visibility_timeout:g} s, "
            f"time to live {'none' if info.ttl is None else f'{info.ttl:g} s'}"
            + (f"; a level of priority is worth {info.ageing:g} s" if info.ageing else "")
            + (f"; spread over {info.partitions} partitions" if info.partitions > 1 else "")
            + _limits(info)
        )
    return 0


def _limits(info: QueueInfo) -> str:
    """What it holds at most, and what happens then; nothing where it has no limit."""
    limits = [] if info.max_messages is None else [f"{info.max_messages:,} messages"]
    limits += [] if info.max_bytes is None else [f"{info.max_bytes:,} bytes"]
    return f"; holds at most {' and '.join(limits)}, then {info.overflow}" if limits else ""
