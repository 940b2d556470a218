"""Blocking reads and writes beside the event loop: a slow pipe must not stop a node.

A node whose loop waits for a terminal would answer no probe and be taken for
dead. The thread is a daemon and works on bare file descriptors: a process that
ends need not wait for a pipe that nobody reads, and no lock is left held.

Invariant: calls of one OffLoop run one after another, in order.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
Call = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class OffLoop:
    """One thread for calls that block."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Call] = SimpleQueue()
        threading.Thread(target=self._serve, name="p2pmq-files", daemon=True).start()

    async def call(self, function: Callable[[], T]) -> T:
        """Run `function` in the thread. If the caller is cancelled, it runs to its end."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._calls.put((function, loop, future))
        return await future

    def _serve(self) -> None:
        while True:
            function, loop, future = self._calls.get()
            result: Any = None
            failure: BaseException | None = None
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001  it is raised where it was asked for
                failure = error
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, future, result, failure)


def _settle(future: asyncio.Future[Any], result: object, failure: BaseException | None) -> None:
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(result)


def write_whole(descriptor: int, data: bytes) -> None:
    """Write all of `data`; into a file of a disk, durably."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.fsync(descriptor)
