"""Bodies from a caller's iterable, for a loop that must not run it.

The iterable may read a file or ask a database: its caller's thread runs it, and
hands what it gives to the loop by chunks, a hop for each. A few chunks ahead at
the most: beyond them the caller waits until the loop has taken one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from p2pmq.blocking.loop_thread import Answer, Call

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Coroutine,
        Iterable,
        Iterator,
    )

    from p2pmq.blocking.loop_thread import LoopThread

T = TypeVar("T")

CHUNK_MESSAGES = 512
CHUNK_BYTES = 256 * 1024
"""About what `publish_many` puts into one batch."""
CHUNKS_AHEAD = 4


class Room:
    """There is room for one chunk more."""


def chunks_of(bodies: Iterable[object]) -> Iterator[list[object]]:
    """The bodies in lists, bounded in number and, where a body tells its length, in bytes."""
    chunk: list[object] = []
    size = 0
    for body in bodies:
        chunk.append(body)
        if isinstance(body, bytes | str):
            size += len(body)
        if len(chunk) >= CHUNK_MESSAGES or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class Feed:
    """One bulk call, and the chunks on their way to it."""

    def __init__(self, thread: LoopThread) -> None:
        self._thread = thread
        self._answers: SimpleQueue[Room | Answer[Any]] = SimpleQueue()
        self._chunks: deque[list[object]] = deque()
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    # -- in the caller's thread --

    def run(
        self,
        publish: Callable[[AsyncIterator[object]], Coroutine[Any, Any, T]],
        bodies: Iterable[object],
    ) -> T:
        """What `publish` makes of the bodies.

        No limit: the iterable takes its own time, and each batch has its time-out.
        """
        thread = self._thread
        thread.check_may_wait()
        for _ in range(CHUNKS_AHEAD):
            self._answers.put(Room())
        call = Call(thread, partial(self._publish, publish), self._answers)
        try:
            thread.post(call.begin)
            for chunk in chunks_of(bodies):
                found = thread.wait(self._answers, None)
                if isinstance(found, Answer):  # it has failed: the rest is not asked for
                    return found.take(thread.name)  # type: ignore[no-any-return]  # publish's T
                thread.post(partial(self._add, chunk))
            thread.post(self._end)
            while isinstance(answer := thread.wait(self._answers, None), Room):
                pass
        except BaseException:
            thread.give_up(call)
            raise
        return answer.take(thread.name)  # type: ignore[no-any-return]  # as above

    # -- in the loop --

    async def _publish(
        self, publish: Callable[[AsyncIterator[object]], Coroutine[Any, Any, T]]
    ) -> T:
        async with aclosing(self._bodies()) as bodies:
            return await publish(bodies)

    async def _bodies(self) -> AsyncGenerator[object, None]:
        while True:
            while self._chunks:
                chunk = self._chunks.popleft()
                self._answers.put(Room())
                for body in chunk:
                    yield body
            if self._ended:
                return
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _add(self, chunk: list[object]) -> None:
        self._chunks.append(chunk)
        self._wake()

    def _end(self) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
