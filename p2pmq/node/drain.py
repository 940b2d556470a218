"""Drain a queue: consume until its owner counts nothing more, ready, held or resting.

What its publisher wants delivered later, and is not due, is not waited for.
A message is acked when the next one is asked for, so that one whose processing
fails is given back. That the queue is empty is the owner's word, asked for
only while nothing comes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from p2pmq.errors import RequestTimeoutError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2pmq.node.message import Message, MessageBatch
    from p2pmq.node.node import Node

QUIET_S = 0.1
"""Nothing came for so long: ask whether anything is left."""


async def drained(
    node: Node, queue: str, prefetch: int, patience_s: float
) -> AsyncIterator[Message]:
    """The messages of `queue` until it is empty: see `Node.drain`."""
    batches = node.consume_batches(queue, prefetch=prefetch)
    coming: asyncio.Future[MessageBatch] | None = None
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + patience_s
    try:
        while True:
            if coming is None:
                coming = asyncio.ensure_future(anext(batches))
            await asyncio.wait((coming,), timeout=QUIET_S)
            if coming.done():
                try:
                    batch, coming = coming.result(), None
                except StopAsyncIteration:
                    return  # the node has closed
                for message in batch:
                    yield message
                    message.ack()
                give_up_at = loop.time() + patience_s
            elif await _is_empty(node, queue):
                return
            elif loop.time() >= give_up_at:
                raise not_drained(queue, patience_s)
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.wait((coming,))
        await batches.aclose()  # type: ignore[attr-defined]  # an async generator, as Node makes it


def not_drained(queue: str, patience_s: float) -> RequestTimeoutError:
    """The error for whoever has waited long enough."""
    return RequestTimeoutError(
        f"queue {queue!r} was not drained: for {patience_s:g} s nothing came, and it was not known "
        "to be empty; its owner is away, or somebody holds messages"
    )


async def _is_empty(node: Node, queue: str) -> bool:
    try:
        depth = await node.depth(queue)
    except RequestTimeoutError:
        return False
    return depth.total == depth.scheduled
