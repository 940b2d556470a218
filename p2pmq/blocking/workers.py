"""Threads for a responder's handlers: as many as its concurrency, begun when they are needed.

They are daemons, and look now and then whether the node's thread is still there:
so neither a program's end nor a node that was forgotten waits for them.

Invariant: at most `count` jobs run at once.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from p2pmq.blocking.loop_thread import LOOK_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2pmq.blocking.loop_thread import LoopThread
    from p2pmq.node.requests import Request

Job = tuple["Future[Any]", "Callable[[], Any]"]


class Workers:
    """The threads of one responder. Jobs are handed in by the node's loop alone."""

    def __init__(self, name: str, count: int, thread_of: Callable[[], LoopThread | None]) -> None:
        self._name = name
        self._count = count
        self._thread_of = thread_of
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._begun = 0
        self.closed = False
        """Whether the threads are to end."""

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Have a thread do it."""
        future: Future[Any] = Future()
        self._jobs.put((future, work))
        if not self._idle.acquire(blocking=False) and self._begun < self._count:
            self._begun += 1
            name = f"p2pmq-{self._name}-{self._begun}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            try:
                future, work = self._jobs.get(timeout=LOOK_S)
            except Empty:
                thread = self._thread_of()
                if self.closed or thread is None or not thread.is_alive:
                    return
                continue
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001  it is raised where the result is awaited
                future.set_exception(error)
            del future, work
            self._idle.release()


async def in_a_thread(
    workers: Workers, handler: Callable[[Request], object], request: Request
) -> object:
    """Let a plain function handle a request.

    A thread cannot be cancelled: the place is taken until the function has ended.
    """
    future = asyncio.wrap_future(workers.submit(partial(handler, request)))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait((future,))
        if not future.cancelled():
            future.exception()  # nobody waits for it
        raise


def handling_in(
    workers: Workers, handler: Callable[[Request], object]
) -> Callable[[Request], Awaitable[object]]:
    """The asynchronous handler that hands requests to a plain one in a thread."""

    async def handle(request: Request) -> object:
        return await in_a_thread(workers, handler, request)

    return handle
