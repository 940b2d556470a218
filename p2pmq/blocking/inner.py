"""The asyncio node within a blocking one: what it needs beside the public calls."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from p2pmq.blocking.consumer import ThreadedConsumer
from p2pmq.node.arguments import mailbox_key, reading_key_of
from p2pmq.node.node import Node

if TYPE_CHECKING:
    from p2pmq.blocking.loop_thread import LoopThread


class InnerNode(Node):
    """A node whose consumers are other threads. Only its loop's thread calls it."""

    @property
    def state(self) -> str:
        """What it does, as errors tell it."""
        return self._state

    def begin_consuming(
        self,
        thread: LoopThread,
        queue: str | None,
        prefetch: int,
        visibility_timeout: float | None,
    ) -> ThreadedConsumer:
        """Begin to consume a queue, or this node's mailbox (None)."""
        key = mailbox_key(self.settings.name) if queue is None else reading_key_of(queue)
        kind = partial(ThreadedConsumer, thread)
        return self._subscribe(key, prefetch, visibility_timeout, kind)

    def drop(self, consumer: ThreadedConsumer) -> None:
        """End it."""
        self._drop(consumer)
