"""Handlers: functions of the user's that the node calls with each message of a queue.

One task takes messages as long as there is room among `concurrency`, and each
message is handled in a task of its own. What is at work is kept hidden from
others for as long as it takes: its visibility timeout is extended in time. The
message is acked when the handler returns, and nacked when it raises.

Invariant: at most `concurrency` messages of a handler are at work at once.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from p2pmq.node.message import keep_hidden

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from p2pmq.node.message import Message

log = logging.getLogger("p2pmq")

EXTENSIONS_PER_TIMEOUT = 3
"""An extension may be lost, and its repeat still come in time."""


@dataclass
class Handler:
    """A function, and what it was registered with. `take` begins to consume; times in seconds."""

    queue: str
    function: Callable[[Message], Awaitable[Any]]
    concurrency: int
    take: Callable[[], AsyncIterator[Message]]
    timeout: Callable[[], float]
    at_work: dict[Message, None] = field(default_factory=dict)

    async def run(self, loop: asyncio.AbstractEventLoop) -> None:
        """Handle messages until there are no more; a node that closes lets it finish."""
        room = asyncio.Semaphore(self.concurrency)
        tasks: set[asyncio.Task[None]] = set()
        extending = loop.create_task(self._extend())

        def done(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            room.release()

        try:
            await room.acquire()
            async for message in self.take():
                task = loop.create_task(self._handle(message))
                tasks.add(task)
                task.add_done_callback(done)
                await room.acquire()
        finally:
            extending.cancel()
            for task in tasks:  # the node has stopped: what they ack now comes to nothing
                task.cancel()
            await asyncio.gather(extending, *tasks, return_exceptions=True)

    async def _handle(self, message: Message) -> None:
        self.at_work[message] = None
        try:
            async with message:
                await self.function(message)
        except Exception as error:
            log.warning(
                "the handler of queue %r failed with message %s, attempt %d: %r",
                self.queue,
                message.message_id,
                message.attempt,
                error,
                exc_info=error,
            )
        finally:
            del self.at_work[message]

    async def _extend(self) -> None:
        """Keep what is at work hidden from other consumers."""
        while True:
            timeout = self.timeout()
            await asyncio.sleep(timeout / EXTENSIONS_PER_TIMEOUT)
            keep_hidden(self.at_work, timeout)


async def guarded(handler: Handler, loop: asyncio.AbstractEventLoop) -> None:
    """Run a handler; the log says if it ends other than with its node."""
    try:
        await handler.run(loop)
    except Exception:
        log.exception("the handlers of queue %r have stopped", handler.queue)
