"""The asyncio node within a blocking one: what it needs beside the public calls."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from p2pmq.blocking.consumer import ThreadedConsumer
from p2pmq.blocking.subscription import Inbox
from p2pmq.node.arguments import mailbox_key, reading_key_of
from p2pmq.node.node import Node

if TYPE_CHECKING:
    import asyncio

    from p2pmq.blocking.handlers import ThreadedHandler
    from p2pmq.blocking.loop_thread import LoopThread
    from p2pmq.node.subscription import OnSlow


class InnerNode(Node):
    """A node whose consumers are other threads. Only its loop's thread calls it."""

    def __init__(self, name: str, **settings: Any) -> None:  # noqa: ANN401  Node's own
        super().__init__(name, **settings)
        self._extending: set[asyncio.Task[None]] = set()

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
        *,
        once: bool = False,
    ) -> ThreadedConsumer:
        """Begin to consume a queue, or this node's mailbox (None)."""
        key = mailbox_key(self.settings.name) if queue is None else reading_key_of(queue)
        kind = partial(ThreadedConsumer, thread)
        return self._subscribe(key, prefetch, visibility_timeout, kind, once=once)

    def hidden_s(self, queue: str, visibility_timeout: float | None) -> float:
        """For how long a delivery hides its message, in seconds."""
        return self._visibility_ms(queue, visibility_timeout) / 1000

    def keep_hidden(self, handler: ThreadedHandler) -> None:
        """Extend what a handler's threads are at, until the loop ends."""
        task = self._loop.create_task(handler.keep_hidden())
        self._extending.add(task)
        task.add_done_callback(self._extending.discard)

    def listen(self, patterns: tuple[str, ...], buffer: int, on_slow: OnSlow) -> Inbox:
        """A subscription whose reader is another thread."""
        return self._subscription(Inbox, patterns, buffer, on_slow)

    def drop(self, consumer: ThreadedConsumer) -> None:
        """End it."""
        self._drop(consumer)
