"""Replay: what a queue retains, read again in order; nothing of it is consumed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from heapq import heapify, heappop, heapreplace
from typing import TYPE_CHECKING, Any

from p2pmq.core.events import ReplayRequested
from p2pmq.core.hlc import COUNTER_BITS, wall_ms_of
from p2pmq.core.packets.replaying import CursorField
from p2pmq.core.spreading import message_name
from p2pmq.core.traces import copied
from p2pmq.errors import RequestTimeoutError, UsageError
from p2pmq.wire.bodies import PackedBodies, unpack_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from p2pmq.core.effects import Page
    from p2pmq.core.events import Event
    from p2pmq.core.ids import PartitionKey
    from p2pmq.core.packets.publishing import Batch

    Ask = Callable[[Callable[[int], Event]], Awaitable[Page]]

PAGE_WAIT_MS = 200
"""How long to wait where a page has nothing, and more is on its way to enough disks."""


@dataclass(frozen=True, slots=True)
class Retained:
    """A message as it was published; it may have been acked long ago.

    `message_id` is the one that its consumers saw; `enqueued_at` is when the owner took it, in
    seconds since 1970 by the owner's clock; `body` as `Message.body`.

    >>> import asyncio, p2pmq
    >>> async def main():
    ...     async with p2pmq.Node("doc", mdns=False, store="memory") as node:
    ...         await node.declare("orders", retain=3_600)
    ...         await node.publish_many("orders", range(3))
    ...         async for message in node.drain("orders"):
    ...             pass  # acked, and gone from the queue
    ...         return [retained.body async for retained in node.replay("orders")]
    >>> asyncio.run(main())
    [0, 1, 2]
    """

    queue: str
    message_id: str
    enqueued_at: float
    body: Any


def cursor_of(since: float | datetime | None) -> CursorField:
    """Where to begin: seconds since 1970, a datetime with its zone, or None for the oldest."""
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise UsageError(f"since={since!r} has no time zone: say which, or give seconds")
        since = since.timestamp()
    if since is not None and not since >= 0:
        raise UsageError(f"since={since!r} cannot be: give seconds since 1970")
    wall_ms = 0 if since is None else min(round(since * 1000), 2**46)
    return CursorField(wall_ms << COUNTER_BITS)


async def replayed(
    ask: Ask,
    pause: Callable[[float], Awaitable[object]],
    key: PartitionKey,
    cursor: CursorField,
    timeout_ms: int,
) -> AsyncIterator[Retained]:
    """The retained messages after `cursor`, page by page, until there are no more."""
    while True:
        page = await ask(partial(ReplayRequested, key, cursor, timeout_ms))
        if not page.in_time:
            raise RequestTimeoutError(
                f"the owner of queue {key.queue!r} did not answer in {timeout_ms / 1000:g} s: it "
                "is away, or too few copies are in reach; ask again, from where you were"
            )
        for batch in page.batches:
            cursor = CursorField(batch.stamp, batch.session, batch.first)
            for message in _messages_of(key, batch):
                yield message
        if not page.more:
            return
        if not page.batches:
            await pause(PAGE_WAIT_MS / 1000)


async def replayed_all(
    ask: Ask,
    pause: Callable[[float], Awaitable[object]],
    keys: list[PartitionKey],
    cursor: CursorField,
    timeout_ms: int,
) -> AsyncIterator[Retained]:
    """The retained messages of all partitions, merged by when their owners took them.

    A page of each is held at a time.
    """
    streams = [replayed(ask, pause, key, cursor, timeout_ms) for key in keys]
    heads: list[tuple[float, int, Retained]] = []
    for number, stream in enumerate(streams):
        first = await anext(stream, None)
        if first is not None:
            heads.append((first.enqueued_at, number, first))
    heapify(heads)
    while heads:
        _, number, message = heads[0]
        yield message
        following = await anext(streams[number], None)
        if following is None:
            heappop(heads)
        else:
            heapreplace(heads, (following.enqueued_at, number, following))


def _messages_of(key: PartitionKey, batch: Batch) -> list[Retained]:
    packed = batch.bodies
    assert isinstance(packed, PackedBodies)
    session, at = copied(batch.session), wall_ms_of(batch.stamp) / 1000
    formats = packed.formats or bytes(batch.count)
    return [
        Retained(
            key.queue,
            message_name(session, batch.first + position, key.number),
            at,
            unpack_body(data, kind),
        )
        for position, (data, kind) in enumerate(zip(packed.bodies, formats, strict=True))
    ]
