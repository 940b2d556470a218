"""Drain a queue: `node.drain` for a caller that waits. The same steps, the same error."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from p2pmq.errors import ClosedNodeError, RequestTimeoutError
from p2pmq.node.drain import QUIET_S, not_drained

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pmq.blocking.node import Node
    from p2pmq.node.message import Message


def drained(node: Node, queue: str, prefetch: int, patience_s: float) -> Iterator[Message]:
    """The messages of `queue` until it is empty: see `Node.drain`."""
    with node.consume(queue, prefetch=prefetch) as messages:
        give_up_at = time.monotonic() + patience_s
        while True:
            try:
                message = messages.get(QUIET_S)
            except ClosedNodeError:
                return  # as the asyncio node's drain ends then
            if message is not None:
                yield message
                message.ack()
                give_up_at = time.monotonic() + patience_s
            elif _is_empty(node, queue):
                return
            elif time.monotonic() >= give_up_at:
                raise not_drained(queue, patience_s)


def _is_empty(node: Node, queue: str) -> bool:
    try:
        depth = node.depth(queue)
    except RequestTimeoutError:
        return False
    return depth.total == depth.scheduled
