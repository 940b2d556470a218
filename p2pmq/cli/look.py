"""`p2pmq peers`, `queues`, `purge`, `delete`, `forget`: who is there, what waits, who is gone."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

from p2pmq.cli.output import put_json, put_rows, say
from p2pmq.cli.session import FAREWELL_S, steady_members, visiting

if TYPE_CHECKING:
    from p2pmq.cli.options import MeshOptions, VisitOptions

PEER_COLUMNS = {
    "name": "NAME",
    "state": "STATE",
    "leaf": "LEAF",
    "zone": "ZONE",
    "addresses": "ADDRESSES",
    "node_id": "NODE ID",
}
QUEUE_COLUMNS = {
    "queue": "QUEUE",
    "ready": "READY",
    "in_flight": "IN FLIGHT",
    "delayed": "DELAYED",
    "size_bytes": "BYTES",
    "consumers": "CONSUMERS",
    "owners": "OWNER",
    "replicas": "REPLICAS",
    "min_copies": "MIN COPIES",
    "partitions": "PARTITIONS",
}


async def show_peers(mesh: MeshOptions, visit: VisitOptions, *, as_json: bool) -> int:
    """List every member but this passing node."""
    async with visiting(mesh, visit, "peers") as node:
        members = await steady_members(node, visit.wait)
    rows = [
        {key: value for key, value in asdict(member).items() if key != "is_self"}
        for member in members
    ]
    put_rows(rows, PEER_COLUMNS, as_json=as_json)
    return 0


async def show_queues(mesh: MeshOptions, visit: VisitOptions, *, as_json: bool) -> int:
    """List what every living owner holds; say whose queues are out of reach."""
    async with visiting(mesh, visit, "queues") as node:
        members = await steady_members(node, visit.wait)
        depths = await node.queues()
    rows = [
        {
            "queue": depth.queue,
            "ready": depth.ready,
            "in_flight": depth.in_flight,
            "delayed": depth.delayed,
            "size_bytes": depth.size,
            "consumers": depth.consumers,
            "owner": depth.owner,
            "owners": depth.owners,
            "replicas": depth.replicas,
            "min_copies": depth.min_copies,
            "partitions": depth.partitions,
        }
        for depth in depths
    ]
    put_rows(rows, QUEUE_COLUMNS, as_json=as_json)
    away = [m.name for m in members if m.state in ("dead", "unmet") and not m.leaf]
    if away:
        say(f"p2pmq: away: {', '.join(away)}; what is on no other node's disk is not listed")
    return 0


async def purge_queue(queue: str, mesh: MeshOptions, visit: VisitOptions, *, as_json: bool) -> int:
    """Remove what waits in a queue."""
    async with visiting(mesh, visit, "purge") as node:
        await steady_members(node, visit.wait)
        count = await node.purge(queue)
    if as_json:
        put_json({"queue": queue, "purged": count})
    else:
        say(f"p2pmq: {queue}: {count:,} messages are gone")
    return 0


async def delete_queue(queue: str, mesh: MeshOptions, visit: VisitOptions) -> int:
    """Delete a queue, and stay until the others were told."""
    async with visiting(mesh, visit, "delete") as node:
        await steady_members(node, visit.wait)
        await node.delete(queue)
        await asyncio.sleep(FAREWELL_S)
    say(f"p2pmq: {queue} is deleted: its messages, settings, bindings and schedules are gone")
    return 0


async def forget_member(name: str, mesh: MeshOptions, visit: VisitOptions) -> int:
    """Take a dead member off the roster, and stay until the others were told."""
    async with visiting(mesh, visit, "forget") as node:
        await steady_members(node, visit.wait)
        await node.forget(name)
        await asyncio.sleep(FAREWELL_S)
    say(f"p2pmq: {name} is forgotten: its queues get new owners, and its name is free")
    return 0
