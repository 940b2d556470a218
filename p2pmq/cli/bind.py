"""`p2pmq bind`, `p2pmq unbind` and `p2pmq bindings`: topics that are copied into queues."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

from p2pmq.cli.output import put_rows, say
from p2pmq.cli.session import FAREWELL_S, steady_members, visiting

if TYPE_CHECKING:
    from p2pmq.cli.options import MeshOptions, VisitOptions

COLUMNS = {"pattern": "PATTERN", "queue": "QUEUE"}


async def bind_topic(
    pattern: str, queue: str, mesh: MeshOptions, visit: VisitOptions, *, bound: bool
) -> int:
    """Bind or part the two, and stay until the others were told: this node's memory ends with it.

    What it is to hold against has been heard by then: members tell what they know when they meet.
    """
    async with visiting(mesh, visit, "bind" if bound else "unbind") as node:
        await steady_members(node, visit.wait)
        await asyncio.sleep(FAREWELL_S)
        if bound:
            await node.bind(pattern, queue=queue)
        else:
            await node.unbind(pattern, queue=queue)
        await asyncio.sleep(FAREWELL_S)
    if bound:
        say(f"p2pmq: events of {pattern} are copied into {queue}")
    else:
        say(f"p2pmq: events of {pattern} are not copied into {queue} any more")
    return 0


async def show_bindings(mesh: MeshOptions, visit: VisitOptions, *, as_json: bool) -> int:
    """List what this passing node has heard from the members that it met."""
    async with visiting(mesh, visit, "bindings") as node:
        await steady_members(node, visit.wait)
        await asyncio.sleep(FAREWELL_S)
        rows = [asdict(binding) for binding in node.bindings()]
    put_rows(rows, COLUMNS, as_json=as_json)
    return 0
