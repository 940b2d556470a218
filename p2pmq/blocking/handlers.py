"""Handlers in threads: plain functions that a blocking node calls with each message of a queue.

`concurrency` threads share one iterator over the queue's messages. What they are
at is kept hidden from others by a task of the node's loop. When the node closes
the iterator ends, so that each thread finishes what it is at, and ends.

Invariant: at most `concurrency` messages of a handler are at work at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from p2pmq.core.retries import bounded
from p2pmq.errors import StaleReceiptError
from p2pmq.node.handlers import EXTENSIONS_PER_TIMEOUT
from p2pmq.node.message import keep_hidden

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from p2pmq.blocking.taking import Messages
    from p2pmq.node.message import Message

log = logging.getLogger("p2pmq")


class ThreadedHandler:
    """A function, and what it was registered with. `take` begins to consume; times in seconds."""

    def __init__(
        self,
        queue: str,
        function: Callable[[Message], Any],
        concurrency: int,
        take: Callable[[], Messages],
        timeout: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._function = function
        self._concurrency = concurrency
        self._take = take
        self._timeout = timeout
        self._at_work: dict[Message, None] = {}

    def begin(self) -> None:
        """Take messages, in threads of its own; raises as `consume`."""
        messages = self._take()
        for number in range(1, self._concurrency + 1):
            name = f"p2pmq-{self._queue}-{number}"
            threading.Thread(target=self._run, args=(messages,), name=name, daemon=True).start()

    def _run(self, messages: Messages) -> None:
        try:
            for message in messages:
                self._handle(message)
        except Exception:
            log.exception("a handler of queue %r has stopped", self._queue)

    def _handle(self, message: Message) -> None:
        self._at_work[message] = None
        try:
            self._function(message)
        except BaseException as error:
            log.warning(
                "the handler of queue %r failed with message %s, attempt %d: %r",
                self._queue,
                message.message_id,
                message.attempt,
                error,
                exc_info=error,
            )
            message.nack(error=bounded(f"{type(error).__qualname__}: {error}"))
        else:
            try:
                message.ack()
            except StaleReceiptError:
                log.warning(
                    "message %s of queue %r was handled, but its node closed first: it comes again",
                    message.message_id,
                    self._queue,
                )
        finally:
            del self._at_work[message]

    async def keep_hidden(self) -> None:
        """Keep what is at work hidden from other consumers; in the loop, until that ends."""
        while True:
            timeout = self._timeout()
            await asyncio.sleep(timeout / EXTENSIONS_PER_TIMEOUT)
            with suppress(StaleReceiptError):  # the node closes
                keep_hidden(list(self._at_work), timeout)
