"""`p2pmq dlq`: what is in dead-letter queues, why, and back to where it came from."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from p2pmq.cli.output import put_json, put_rows, say
from p2pmq.cli.session import steady_members, visiting
from p2pmq.cli.sub import as_line, as_record
from p2pmq.node.redriving import letters_of, source_of

if TYPE_CHECKING:
    from p2pmq.cli.options import MeshOptions, VisitOptions
    from p2pmq.node.message import Message

BODY_SHOWN = 60
"""Characters of a body in a table: with `--json` there are all."""
LIST_COLUMNS = {
    "queue": "QUEUE",
    "source": "SOURCE",
    "letters": "LETTERS",
    "in_flight": "IN FLIGHT",
    "size_bytes": "BYTES",
    "owner": "OWNER",
}
LETTER_COLUMNS = {
    "message_id": "ID",
    "reason": "REASON",
    "failures": "FAILURES",
    "error": "ERROR",
    "source": "SOURCE",
    "enqueued_at": "ENQUEUED AT",
    "body": "BODY",
}


async def list_letters(mesh: MeshOptions, visit: VisitOptions, *, as_json: bool) -> int:
    """List the dead-letter queues of living owners that hold something."""
    async with visiting(mesh, visit, "dlq") as node:
        members = await steady_members(node, visit.wait)
        depths = await node.dead_letter_queues()
    rows = [
        {
            "queue": depth.queue,
            "source": source_of(depth.queue),
            "letters": depth.total,
            "in_flight": depth.in_flight,
            "size_bytes": depth.size,
            "owner": depth.owner,
        }
        for depth in depths
    ]
    if rows or as_json:
        put_rows(rows, LIST_COLUMNS, as_json=as_json)
    else:
        say("p2pmq: no dead letters")
    away = [m.name for m in members if m.state in ("dead", "unmet") and not m.leaf]
    if away:
        say(f"p2pmq: away: {', '.join(away)}; what is on no other node's disk is not listed")
    return 0


async def show_letters(
    queue: str, limit: int, mesh: MeshOptions, visit: VisitOptions, *, as_json: bool
) -> int:
    """Show the first letters of a dead-letter queue, and leave them in it."""
    letters = letters_of(queue)
    async with visiting(mesh, visit, "dlq") as node:
        await steady_members(node, visit.wait)
        found = await node.dead_letters(letters, limit=limit)
        depth = await node.depth(letters)
    rows = [_row_of(message, as_json=as_json) for message in found]
    if rows or as_json:
        put_rows(rows, LETTER_COLUMNS, as_json=as_json)
    else:
        say(f"p2pmq: {letters}: no dead letters that nobody holds")
    if depth.total > len(found):
        say(f"p2pmq: {letters}: {len(found):,} of {depth.total:,}; --limit N shows more")
    return 0


async def redrive_letters(
    queue: str,
    rate: float | None,
    limit: int | None,
    mesh: MeshOptions,
    visit: VisitOptions,
    *,
    as_json: bool,
) -> int:
    """Give letters back to their queue; what an interrupt leaves stays where it is."""
    letters = letters_of(queue)
    async with visiting(mesh, visit, "dlq") as node:
        await steady_members(node, visit.wait)
        try:
            report = await node.redrive(letters, rate=rate, limit=limit)
        except asyncio.CancelledError:
            say(
                f"p2pmq: interrupted: what is not in {source_of(letters)} again stays in "
                f"{letters}; redrive again to go on (nothing comes twice by that)"
            )
            raise
    if as_json:
        put_json(
            {
                "queue": report.queue,
                "source": report.source,
                "redriven": report.redriven,
                "left": report.left,
            }
        )
    else:
        say(
            f"p2pmq: {report.redriven:,} dead letters of {report.queue} are in {report.source} "
            f"again, {report.left:,} are left"
        )
    return 0


def _row_of(message: Message, *, as_json: bool) -> dict[str, Any]:
    death = message.dead_letter
    row: dict[str, Any] = {
        "reason": death.reason if death else "",
        "failures": death.failures if death else 0,
        "error": death.error if death else "",
        "source": death.queue if death else "",
    }
    if as_json:
        return {**as_record(message), **row}
    at = datetime.fromtimestamp(message.enqueued_at, UTC)
    return {
        **row,
        "message_id": message.message_id,
        "error": _short(row["error"]),
        "enqueued_at": f"{at:%Y-%m-%d %H:%M:%S}Z",
        "body": _short(as_line(message.body).decode("utf-8", "backslashreplace")),
    }


def _short(text: str) -> str:
    """One line of it, with nothing that a terminal would act upon."""
    line = "".join(c if c.isprintable() else " " for c in text[: BODY_SHOWN + 1])
    return line if len(line) <= BODY_SHOWN else line[: BODY_SHOWN - 1] + "…"
