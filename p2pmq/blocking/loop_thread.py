"""A background thread with an asyncio loop, and calls into it from any other thread.

A call costs one hop: the caller hands a coroutine function to the loop and
waits on a queue of its own for the answer. That queue is a SimpleQueue, whose
`get` and `put` are atomic even where a signal handler interrupts them, so that
Ctrl-C at any moment leaves no lock held that the loop would wait for.

A fork has a copy of everything but of the thread. What the copy must not do is
to touch what it shares with its parent: the epoll descriptor, the sockets, the
store's file. So every way in asks first whether this is a fork. Nothing is freed
there either: the thread's frame, which a fork keeps, holds on to all of it.

Invariant: nobody waits for a thread that has ended.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from p2pmq.errors import ClosedNodeError, ForkedNodeError, RequestTimeoutError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

log = logging.getLogger("p2pmq")

LOOK_S = 2.0
"""Whoever waits looks so often whether the thread is still there."""
GRACE_S = 30.0
"""How much longer than its own time-out a call may take: only a loop that hangs takes this long."""
STOP_S = 2.0
"""How long calls have to end by themselves once the node has closed."""
EXIT_S = 5.0
"""How long a node that nobody has closed may drain when the interpreter ends."""
EXIT_GRACE_S = 5.0
"""… and how long it may take to close its ports then."""


class Forks:
    """How often this process was forked from another one since it loaded this module."""

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> None:
        """This process is new."""
        self.count += 1


forks = Forks()
os.register_at_fork(after_in_child=forks.add)


class Answer(Generic[T]):
    """What became of a call."""

    __slots__ = ("_error", "_result")

    def __init__(self, result: T | None = None, error: BaseException | None = None) -> None:
        self._result = result
        self._error = error

    def take(self, name: str) -> T:
        """The result, or its error raised; a call that the loop's end cut off found it closed."""
        error = self._error
        if error is None:
            return self._result  # type: ignore[return-value]  # it is a T where there is no error
        try:
            if isinstance(error, asyncio.CancelledError):
                raise ClosedNodeError(name, "closed")
            raise error
        finally:
            del error, self  # or they would hold the traceback, and it them


class Call(Generic[T]):
    """One call into the loop; its answer, one, goes into a queue."""

    __slots__ = ("_answers", "_begin", "_closes", "_task", "_thread")

    def __init__(
        self,
        thread: LoopThread,
        begin: Callable[[], Coroutine[Any, Any, T]],
        answers: SimpleQueue[Any],
        *,
        closes: bool = False,
    ) -> None:
        self._thread = thread
        self._closes = closes
        self._begin = begin
        self._task: asyncio.Task[T] | None = None
        self._answers = answers

    def begin(self) -> None:
        """Start it; in the loop."""
        task = self._thread.begin_task(self._begin, closes=self._closes)
        if task is None:
            self._answers.put(Answer[T](error=asyncio.CancelledError()))
        else:
            self._task = task
            task.add_done_callback(self._end)

    def cancel(self) -> None:
        """Nobody waits any more; in the loop."""
        if self._task is not None:
            self._task.cancel()

    def _end(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self._answers.put(Answer[T](error=asyncio.CancelledError()))
        elif (error := task.exception()) is not None:
            self._answers.put(Answer[T](error=error))
        else:
            self._answers.put(Answer(task.result()))


class LoopThread:
    """The thread of one node. `closing` closes the node within so many seconds."""

    def __init__(self, name: str, closing: Callable[[float], Coroutine[Any, Any, None]]) -> None:
        self.name = name
        self._closing = closing
        self._forks = forks.count
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._is_to_stop = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closings: set[asyncio.Task[Any]] = set()
        """Those of the tasks that close the node."""
        self._thread = threading.Thread(target=self._run, name=f"p2pmq-{name}", daemon=True)
        self.closer: threading.Thread | None = None
        """Who closes the node: nobody waits for what that thread has in hand."""
        self.at_exit = False
        """Whether the interpreter ends."""

    # -- life --

    def start(self) -> None:
        """Run the loop; calls may be made even before it does."""
        try:
            self._thread.start()
        except RuntimeError:  # no thread more is to be had
            self._loop.close()
            raise
        running.add(self)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except RuntimeError:
            # From 3.12 on no thread can be started once the interpreter ends, not even the one
            # that would wait for the loop's idle helpers. By then all that matters is closed.
            if not self.at_exit:
                raise
        finally:
            running.discard(self)

    async def _serve(self) -> None:
        await self._stopping.wait()
        while self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S)
            # The node has closed, and answered all. What is left waits for a caller who is gone.
            for task in self._tasks - self._closings:
                task.cancel()

    def begin_task(
        self, begin: Callable[[], Coroutine[Any, Any, T]], *, closes: bool
    ) -> asyncio.Task[T] | None:
        """A task of this loop, which does not end before it; None if the end has begun."""
        if self._stopping.is_set():
            return None
        task = self._loop.create_task(begin())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if closes:
            self._closings.add(task)
            task.add_done_callback(self._after_closing)
        return task

    def stop(self, limit_s: float) -> None:
        """Close the node if it is not closed, and end the thread; wait so long for that."""
        self.close_soon(0.0, self.closer)
        with suppress(RuntimeError):  # an interrupt came before it was started
            self._thread.join(limit_s)
        if self._thread.is_alive():
            log.error("the thread of node %s did not end within %g s", self.name, limit_s)

    def close_soon(self, timeout_s: float, closer: threading.Thread | None) -> None:
        """Close the node, then end the thread, without waiting for either."""
        self.closer = closer
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._begin_to_close, timeout_s)

    def _begin_to_close(self, timeout_s: float) -> None:
        self._is_to_stop = True
        task = self.begin_task(lambda: self._closing(timeout_s), closes=True)
        if task is not None:
            task.add_done_callback(self._tell_of_closing)

    def _after_closing(self, task: asyncio.Task[Any]) -> None:
        """The last one that closes is waited for: others find that somebody does, and return."""
        self._closings.discard(task)
        if self._is_to_stop and not self._closings:
            self._stopping.set()

    def _tell_of_closing(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("node %s did not close well: %s", self.name, error, exc_info=error)

    def join(self, limit_s: float) -> None:
        """Wait so long for its end."""
        self._thread.join(limit_s)

    # -- who may call --

    @property
    def is_forked(self) -> bool:
        """Whether this is another process than the one in which the thread runs."""
        return self._forks != forks.count

    @property
    def is_own(self) -> bool:
        """Whether the caller is this very thread."""
        return threading.get_ident() == self._thread.ident

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._thread.is_alive()

    def check_here(self) -> None:
        """Raise ForkedNodeError in a fork."""
        if self._forks != forks.count:
            raise ForkedNodeError(self.name, self._pid, os.getpid())

    def check_may_wait(self) -> None:
        """Raise ForkedNodeError in a fork, UsageError in the thread itself: it would never end."""
        self.check_here()
        if self.is_own:
            raise UsageError(
                f"a blocking call of node {self.name!r} was made in the node's own thread, where "
                "on_overflow runs: it would wait for itself; hand the work to another thread"
            )

    # -- calls --

    def post(self, function: Callable[[], object]) -> None:
        """Have `function` run in the loop; raises ClosedNodeError when there is none any more."""
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            raise ClosedNodeError(self.name, "closed") from None

    def call(
        self,
        begin: Callable[[], Coroutine[Any, Any, T]],
        limit_s: float | None,
        *,
        closes: bool = False,
    ) -> T:
        """Run a coroutine in the loop and wait for it; an interrupt of the wait cancels it.

        Raises what it raises; RequestTimeoutError after `limit_s`; ClosedNodeError.
        """
        self.check_may_wait()
        answers: SimpleQueue[Answer[T]] = SimpleQueue()
        call = Call(self, begin, answers, closes=closes)
        try:
            self.post(call.begin)
            answer = self.wait(answers, limit_s)
        except BaseException:
            self.give_up(call)
            raise
        return answer.take(self.name)

    def ask(self, function: Callable[[], T], limit_s: float = GRACE_S) -> T:
        """Run a plain function in the loop, and wait for what it returns or raises."""
        self.check_may_wait()
        answers: SimpleQueue[Answer[T]] = SimpleQueue()

        def run() -> None:
            try:
                answers.put(Answer(function()))
            except Exception as error:  # noqa: BLE001  it is raised where it was asked for
                answers.put(Answer(error=error))

        self.post(run)
        return self.wait(answers, limit_s).take(self.name)

    def give_up(self, call: Call[Any]) -> None:
        """Cancel a call that nobody waits for."""
        with suppress(ClosedNodeError):
            self.post(call.cancel)

    def wait(self, answers: SimpleQueue[T], limit_s: float | None) -> T:
        """The next item of a queue that the loop fills (None: without limit).

        Raises ClosedNodeError if the thread has ended, RequestTimeoutError after `limit_s`.
        """
        deadline = None if limit_s is None else time.monotonic() + limit_s
        while True:
            patience_s = LOOK_S
            if deadline is not None:
                patience_s = max(0.0, min(LOOK_S, deadline - time.monotonic()))
            with suppress(Empty):
                return answers.get(timeout=patience_s)
            if not self.is_alive:
                with suppress(Empty):  # its last words
                    return answers.get_nowait()
                raise ClosedNodeError(self.name, "closed")
            if deadline is not None and time.monotonic() >= deadline:
                raise RequestTimeoutError(
                    f"the thread of node {self.name!r} did not answer within {limit_s:g} s: "
                    "something holds it up (a slow on_overflow?), or this machine is overloaded; "
                    "what was asked for was cancelled, or will be"
                )


running: set[LoopThread] = set()
"""Every thread that has not ended, for the end of the interpreter."""


def close_all() -> None:
    """Close the nodes that nobody has closed, all at once, within a bounded time."""
    here = [thread for thread in list(running) if not thread.is_forked]
    for thread in here:
        log.warning("node %s was not closed; it is closed at the end of the process", thread.name)
        thread.at_exit = True
        thread.close_soon(EXIT_S, threading.current_thread())
    deadline = time.monotonic() + EXIT_S + EXIT_GRACE_S
    for thread in here:
        thread.join(max(0.0, deadline - time.monotonic()))


atexit.register(close_all)
