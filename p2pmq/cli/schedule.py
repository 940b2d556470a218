"""`p2pmq schedule add|list|remove`: what is published again and again."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Annotated

import typer

from p2pmq.cli.options import MeshOptions, VisitOptions, flattened
from p2pmq.cli.output import put_rows, say
from p2pmq.cli.session import FAREWELL_S, run_async, steady_members, visiting
from p2pmq.core.packets.publishing import PRIORITY_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS: Mapping[str, str] = {
    "name": "NAME",
    "cron": "CRON (UTC)",
    "queue": "QUEUE",
    "next_at": "NEXT",
    "body": "BODY",
}
BODY_SHOWN_MAX = 40

app = typer.Typer(no_args_is_help=True, help="Publish again and again, by a cron expression.")

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]


@app.command("add")
@flattened
def add(
    schedule: Name,
    cron: Annotated[str, typer.Argument(metavar="CRON", show_default=False)],
    queue: Annotated[str, typer.Argument(metavar="QUEUE", show_default=False)],
    mesh: MeshOptions,
    visit: VisitOptions,
    *,
    body: Annotated[str, typer.Argument(metavar="[BODY]", show_default=False)] = "",
    ttl: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="SECONDS", help="Drop what nobody has acked by then."),
    ] = None,
    priority: Annotated[
        int, typer.Option(min=0, max=PRIORITY_MAX, help="The higher, the sooner it is delivered.")
    ] = 0,
) -> None:
    """Publish BODY into QUEUE whenever CRON says: five fields, in UTC, as in "30 4 * * *".

    One message for each tick in the whole mesh. The latest schedule of a NAME holds.
    """

    async def go() -> int:
        async with visiting(mesh, visit, "schedule") as node:
            await steady_members(node, visit.wait)
            await asyncio.sleep(FAREWELL_S)  # what it is to hold against has been heard by then
            data = os.fsencode(body)
            info = await node.schedule(schedule, cron, queue, data, ttl=ttl, priority=priority)
            await asyncio.sleep(FAREWELL_S)
        say(f"p2pmq: {schedule}: into {queue} at {info.cron} UTC, next at {info.next_at:%F %T} UTC")
        return 0

    run_async(go(), debug=mesh.debug)


@app.command("remove")
@flattened
def remove(schedule: Name, mesh: MeshOptions, visit: VisitOptions) -> None:
    """Publish no more of the schedule NAME; what is in its queue stays."""

    async def go() -> int:
        async with visiting(mesh, visit, "schedule") as node:
            await steady_members(node, visit.wait)
            await asyncio.sleep(FAREWELL_S)
            known = any(info.name == schedule for info in node.schedules())
            await node.unschedule(schedule)
            await asyncio.sleep(FAREWELL_S)
        also = "" if known else " (no member in reach knew it; it will not come back)"
        say(f"p2pmq: {schedule} is published no more{also}")
        return 0

    run_async(go(), debug=mesh.debug)


@app.command("list")
@flattened
def list_schedules(
    mesh: MeshOptions,
    visit: VisitOptions,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """List the schedules, with the next tick of each by this host's clock."""

    async def go() -> int:
        async with visiting(mesh, visit, "schedule") as node:
            await steady_members(node, visit.wait)
            await asyncio.sleep(FAREWELL_S)
            infos = node.schedules()
        rows = [
            {
                "name": info.name,
                "cron": info.cron,
                "queue": info.queue,
                "next_at": f"{info.next_at:%FT%TZ}" if info.next_at is not None else None,
                "body": _shown(info.body),
            }
            for info in infos
        ]
        put_rows(rows, COLUMNS, as_json=as_json)
        return 0

    run_async(go(), debug=mesh.debug)


def _shown(body: object) -> str:
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else repr(body)
    return text if len(text) <= BODY_SHOWN_MAX else text[: BODY_SHOWN_MAX - 1] + "…"
