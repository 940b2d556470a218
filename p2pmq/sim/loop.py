"""A virtual-time asyncio loop: a run is decided by the program and its seed alone.

The clock stands still while anything is ready, and jumps to the next timer
when nothing is, so an hour of heartbeats costs what its callbacks cost.
Ready callbacks run first in, first out; timers by deadline, then by the
order in which they were set. asyncio's own Task, Future, timeouts, queues
and locks run on it unchanged.

asyncio has two more sources of chance. It keeps tasks in sets, which iterate
by address (a TaskGroup cancels its children in that order), so a task here
hashes to its number. And the garbage collector runs finalizers whenever it
counts enough allocations in the whole process; `guards` turns it off, and
the loop then collects at fixed numbers of events.

Invariant: `time()` never goes back, and moves only while nothing is ready.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import heapq
import logging
import math
import sys
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar, TypeVarTuple, Unpack, cast

from p2pmq.sim.refuse import (
    RefusingLoop,
    SimulationDeadlineError,
    SimulationDeadlockError,
    SimulationEventLimitError,
    Unhandled,
)
from p2pmq.sim.waiting import label_of, waits_of

__all__ = ["WALL_EPOCH_S", "SimHandle", "SimLoop", "SimTask"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")
_Context: TypeAlias = dict[str, Any]
_ExceptionHandler: TypeAlias = Callable[[asyncio.AbstractEventLoop, _Context], object]
_CoroutineLike: TypeAlias = Generator[Any, None, _T] | Coroutine[Any, Any, _T]

WALL_EPOCH_S = 1_767_225_600  # 2026-01-01T00:00:00Z: what a calendar shows when time() is 0
_LOG = logging.getLogger("p2pmq.sim")
_NO_DEADLINE = sys.float_info.max  # only a timer at infinity lies beyond: it never fires
_CHECK_EVERY_EVENTS = 1_000  # limits are looked at this often, not at each event
_CANCELLED_TIMERS_MIN = 64  # fewer than this are not worth rebuilding the heap for
_COLLECT_EVENTS_MAX = 1_000_000
_SHUTDOWN_S = 3_600.0  # virtual time that cancelled tasks get to end


class SimHandle(asyncio.TimerHandle):
    """A callback to run, soon or at a time; cancelled when it has no callback any more."""

    __slots__ = ("args", "callback", "context", "due_s", "loop")

    args: tuple[Any, ...]
    callback: Callable[..., object] | None
    context: contextvars.Context
    due_s: float
    loop: SimLoop

    def cancel(self) -> None:
        """Do not run the callback; of no effect once it ran."""
        if self.callback is None:
            return
        self.callback = None
        self.args = ()
        # A timer that is not due yet is still in the heap; every other one has left it.
        if self.due_s > self.loop.now_s:
            self.loop.on_timer_cancelled()

    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self.callback is None

    def when(self) -> float:
        """The virtual time, in seconds, at which it runs."""
        return self.due_s

    def get_context(self) -> contextvars.Context:
        """The context that the callback runs in."""
        return self.context

    def __repr__(self) -> str:
        what = "cancelled" if self.callback is None else label_of(self.callback)
        return f"<SimHandle {what} at {self.due_s:.6f} s>"

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class SimTask(asyncio.Task[_T]):
    """A task whose place in a set follows from its number, not from its address."""

    def __init__(self, coro: _CoroutineLike[_T], number: int, **options: Any) -> None:  # noqa: ANN401  those of asyncio.Task, which differ between versions of Python
        self.number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.number

    __eq__ = object.__eq__


class SimLoop(RefusingLoop):
    """The loop. It belongs to the thread that runs it, and one process may run many in turn.

    `events_max` bounds the callbacks of the whole run, `events_per_instant_max` those without
    the clock moving; over either, the run ends in SimulationEventLimitError (checked every 1,000).
    """

    def __init__(
        self, *, events_max: int | None = None, events_per_instant_max: int = 1_000_000
    ) -> None:
        self.events = 0
        """How many callbacks were taken up so far."""
        self.events_max = events_max
        self.events_per_instant_max = events_per_instant_max
        self.collect_every_events: int | None = None
        """Collect garbage after so many events; None leaves it to Python. `guards` sets it."""
        self.unhandled: list[Unhandled] = []
        """Errors that nobody awaited, and refusals; a run is good only if it is empty."""
        self.on_event: Callable[[float, str], object] | None = None
        """Called before each callback with the virtual time and a name that holds no address."""
        self.now_s = 0.0
        """What `time()` returns; only the loop sets it."""
        self._ready: deque[SimHandle] = deque()
        # Timers by their time, in the order set, and a heap of these times: what a heap of
        # timers does, without comparing timers, and equal times (common: protocols count in
        # milliseconds) cost a list's append. A third faster from 1,000 timers on.
        self._due: dict[float, list[SimHandle]] = {}
        self._instants: list[float] = []
        self._timers_set = 0
        self._timers_cancelled = 0
        self._tasks_made = 0
        self._check_at = 0
        self._collect_at = 0
        self._instant_began = 0
        self._stopping = False
        self._closed = False
        self._debug = False
        self._thread_id: int | None = None
        self._task_factory: Any = None
        self._exception_handler: _ExceptionHandler | None = None
        # Weakly held, by number: a WeakSet would iterate by address.
        self._asyncgens: weakref.WeakValueDictionary[int, AsyncGenerator[Any, Any]]
        self._asyncgens = weakref.WeakValueDictionary()
        self._asyncgens_seen = 0

    # ---------------------------------------------------------------- time and callbacks

    def time(self) -> float:
        """Virtual seconds since the start of the run."""
        return self.now_s

    def wall_time(self) -> float:
        """Virtual seconds since 1970, for calendars and log records."""
        return WALL_EPOCH_S + self.now_s

    def call_soon(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> SimHandle:
        """Run `callback` at this instant, after all that is ready now."""
        if self._closed:
            raise _closed_error()
        # Made without a call of __init__, here and in call_at: a third faster, and every step
        # of every task makes one.
        handle = _new_handle(SimHandle)
        handle.callback = callback
        handle.args = args
        handle.context = _copy_context() if context is None else context
        handle.loop = self
        handle.due_s = self.now_s
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> SimHandle:
        """Run `callback` after `delay` virtual seconds."""
        return self._set_timer(self.now_s + delay, callback, args, context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> SimHandle:
        """Run `callback` at the virtual time `when`; soon, if that has passed."""
        return self._set_timer(when, callback, args, context)

    def _set_timer(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> SimHandle:
        if self._closed:
            raise _closed_error()
        handle = _new_handle(SimHandle)
        handle.callback = callback
        handle.args = args
        handle.context = _copy_context() if context is None else context
        handle.loop = self
        handle.due_s = when
        if when > self.now_s:
            self._timers_set += 1
            due = self._due.get(when)
            if due is None:
                self._due[when] = [handle]
                _heappush(self._instants, when)
            else:
                due.append(handle)
        elif math.isnan(when):
            raise ValueError("a timer cannot be set for NaN: give it seconds")
        else:
            self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> SimHandle:
        """As `call_soon`, from the loop's own thread; refused from any other."""
        if self._thread_id not in (None, threading.get_ident()):
            raise self.refusal(
                "loop.call_soon_threadsafe() from another thread",
                "do the work in a task of this loop, without a thread",
            )
        return self.call_soon(callback, *args, context=context)

    def on_timer_cancelled(self) -> None:
        """Count a cancelled timer, and forget such timers once they are half of all."""
        self._timers_cancelled = cancelled = self._timers_cancelled + 1
        if cancelled >= _CANCELLED_TIMERS_MIN and cancelled * 2 >= self._timers_set:
            self._forget_cancelled()

    def _forget_cancelled(self) -> None:
        due: dict[float, list[SimHandle]] = {}
        for when, handles in self._due.items():
            if live := [handle for handle in handles if not handle.cancelled()]:
                due[when] = live
        self._due = due
        self._instants[:] = due
        heapq.heapify(self._instants)
        self._timers_set = sum(map(len, due.values()))
        self._timers_cancelled = 0

    # ---------------------------------------------------------------- running

    def run_forever(self) -> None:
        """Run until `stop` is called.

        Raises SimulationDeadlockError when nothing is left that could call it.
        """
        if not self._run(_NO_DEADLINE):
            raise SimulationDeadlockError(self.now_s, self.waiters())

    def run_until_complete(
        self, future: Generator[Any, None, _T] | Awaitable[_T], *, deadline: float | None = None
    ) -> _T:
        """Run until `future` is done, and return its result.

        Raises SimulationDeadlockError if nothing is left that could complete it, and
        SimulationDeadlineError if that takes until after the virtual time `deadline`.
        """
        self._check_runnable()
        is_new = not asyncio.isfuture(future)
        awaited: asyncio.Future[_T] = asyncio.ensure_future(
            cast("Awaitable[_T]", future), loop=self
        )
        if is_new:
            # Whoever sees the error raised here needs no message that its task was pending.
            cast("Any", awaited)._log_destroy_pending = False  # noqa: SLF001  as asyncio does itself
        awaited.add_done_callback(self._stop_for)
        try:
            stopped = self._run(_NO_DEADLINE if deadline is None else deadline)
        except BaseException:
            if is_new and awaited.done() and not awaited.cancelled():
                awaited.exception()  # retrieved: it is the one on its way to the caller
            raise
        finally:
            awaited.remove_done_callback(self._stop_for)
        if awaited.done():
            return awaited.result()
        if stopped:
            raise RuntimeError("the loop was stopped before the awaited result came")
        self._forget_cancelled()
        if deadline is not None and self._instants and self._instants[0] <= _NO_DEADLINE:
            self.now_s = max(self.now_s, deadline)
            raise SimulationDeadlineError(deadline, self.waiters())
        raise SimulationDeadlockError(self.now_s, self.waiters())

    def run_until(self, when: float) -> None:
        """Run all that is due by the virtual time `when`, then set the clock to it.

        With math.inf it runs until nothing is left to run.
        """
        if not self._run(min(when, _NO_DEADLINE)) and when <= _NO_DEADLINE:
            self.now_s = max(self.now_s, when)

    def advance(self, seconds: float) -> None:
        """Run for so many virtual seconds."""
        self.run_until(self.now_s + seconds)

    def stop(self) -> None:
        """End the run after the callbacks that are ready now."""
        self._stopping = True

    def _run(self, deadline: float) -> bool:
        """Run until `stop` (true), or until nothing is due by `deadline` (false)."""
        ready = self._ready
        next_ready = ready.popleft
        with self._running():
            if self._stopping and not ready:
                return True
            while ready or self._jump(deadline):
                batch = len(ready)
                self.events += batch
                if self.events >= self._check_at:
                    self._check()
                for _ in range(batch):
                    handle = next_ready()
                    callback = handle.callback
                    if callback is None:
                        continue
                    if self.on_event is not None:
                        self.on_event(self.now_s, label_of(callback))
                    try:
                        handle.context.run(callback, *handle.args)
                    except (SystemExit, KeyboardInterrupt):
                        raise
                    except BaseException as error:  # noqa: BLE001  one callback's fault stops no other
                        self._on_callback_error(handle, error)
                if self._stopping:
                    return True
        return False

    def _jump(self, deadline: float) -> bool:
        """Move the clock to the next timer that is due by `deadline`; false if there is none."""
        ready, instants = self._ready, self._instants
        while instants and instants[0] <= deadline:
            when = _heappop(instants)
            handles = self._due.pop(when)
            self._timers_set -= len(handles)
            for handle in handles:
                if handle.callback is not None:
                    ready.append(handle)
            if ready:  # an instant of cancelled timers does not move the clock
                self.now_s = when
                self._instant_began = self.events
                return True
        return False

    def _check(self) -> None:
        """Hold the run to its limits, and collect garbage if it is time."""
        if self.events_max is not None and self.events > self.events_max:
            raise self._limit_error(f"events_max={self.events_max:,}")
        if self.events - self._instant_began > self.events_per_instant_max:
            raise self._limit_error(f"events_per_instant_max={self.events_per_instant_max:,}")
        if self.collect_every_events is not None and self.events >= self._collect_at:
            # A collection costs in proportion to what lives: the longer a run, the fewer.
            self._collect_at = self.events + min(
                _COLLECT_EVENTS_MAX, max(self.collect_every_events, self.events // 2)
            )
            gc.collect()
        self._check_at = self.events + _CHECK_EVERY_EVENTS

    def _limit_error(self, setting: str) -> SimulationEventLimitError:
        next_up = [repr(handle) for handle in self._ready]
        return SimulationEventLimitError(self.events, self.now_s, setting, next_up)

    @contextmanager
    def _running(self) -> Iterator[None]:
        self._check_runnable()
        hooks = sys.get_asyncgen_hooks()
        self._thread_id = threading.get_ident()
        asyncio._set_running_loop(self)  # noqa: SLF001  the documented way for a loop's author
        sys.set_asyncgen_hooks(self._on_asyncgen_begun, self._on_asyncgen_dropped)
        try:
            yield
        finally:
            self._stopping = False
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(None)  # noqa: SLF001  (as above)
            self._thread_id = None

    def _check_runnable(self) -> None:
        if self._closed:
            raise _closed_error()
        if self._thread_id is not None or asyncio._get_running_loop() is not None:  # noqa: SLF001  (as in _running)
            raise RuntimeError(
                "a loop is running in this thread: start the simulation from a plain function, "
                "not from a coroutine"
            )

    def _stop_for(self, awaited: asyncio.Future[Any]) -> None:
        if not awaited.cancelled() and isinstance(
            awaited.exception(), (SystemExit, KeyboardInterrupt)
        ):
            return  # it ends the run by itself
        self._stopping = True

    def is_running(self) -> bool:
        """Whether the loop runs now."""
        return self._thread_id is not None

    def is_closed(self) -> bool:
        """Whether the loop was closed."""
        return self._closed

    def close(self) -> None:
        """Drop all that is still to run. Call `cancel_all` first to let the tasks end."""
        if self._thread_id is not None:
            raise RuntimeError("a running loop cannot be closed: stop it first")
        self._closed = True
        self._ready.clear()
        self._due.clear()
        self._instants.clear()

    # ---------------------------------------------------------------- futures and tasks

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: _CoroutineLike[_T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        **options: Any,  # noqa: ANN401  newer versions of asyncio have more options
    ) -> asyncio.Task[_T]:
        """Start `coro` as a task; tasks without a name are numbered from 1 in each loop."""
        if self._closed:
            raise _closed_error()
        self._tasks_made = number = self._tasks_made + 1
        name = f"Task-{number}" if name is None else name
        if self._task_factory is None:
            return SimTask(coro, number, loop=self, name=name, context=context, **options)
        if context is not None:
            options["context"] = context
        task = cast("asyncio.Task[_T]", self._task_factory(self, coro, **options))
        task.set_name(name)
        return task

    def set_task_factory(self, factory: Any) -> None:  # noqa: ANN401  its type differs between versions
        """Let `factory(loop, coro)` make the tasks; None for the loop's own."""
        self._task_factory = factory

    def get_task_factory(self) -> Any:  # noqa: ANN401  (as above)
        """The task factory, or None."""
        return self._task_factory

    def tasks(self) -> list[asyncio.Task[Any]]:
        """The tasks that are not done, in the order of their creation."""
        tasks = asyncio.all_tasks(self)
        return sorted(tasks, key=lambda task: getattr(task, "number", sys.maxsize))

    def waiters(self) -> list[str]:
        """For each task that is not done, a line that says where it waits and for what."""
        return [waits_of(task) for task in self.tasks()]

    def cancel_all(self) -> None:
        """Cancel the tasks in the order of their creation, run until they end, close generators.

        Errors that tasks raise on this way are entered in `unhandled`. Raises
        SimulationDeadlineError for a task that goes on for an hour of virtual time.
        """
        deadline = self.now_s + _SHUTDOWN_S
        while tasks := self.tasks():
            for task in tasks:
                task.cancel()
            ended = asyncio.gather(*tasks, return_exceptions=True)
            for task, outcome in zip(
                tasks, self.run_until_complete(ended, deadline=deadline), strict=True
            ):
                if isinstance(outcome, Exception):
                    message = "a task failed while it was being cancelled"
                    self.call_exception_handler(
                        {"message": message, "exception": outcome, "task": task}
                    )
        self.run_until_complete(self.shutdown_asyncgens(), deadline=deadline)

    # ---------------------------------------------------------------- asynchronous generators

    def _on_asyncgen_begun(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._asyncgens_seen += 1
        self._asyncgens[self._asyncgens_seen] = generator

    def _on_asyncgen_dropped(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._closed:
            self.call_soon(self.create_task, generator.aclose())

    async def shutdown_asyncgens(self) -> None:
        """Close the asynchronous generators that were begun and not finished, oldest first."""
        generators = [generator for _, generator in sorted(self._asyncgens.items())]
        self._asyncgens.clear()
        closing = (generator.aclose() for generator in generators)
        for outcome in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(outcome, Exception):
                message = "an asynchronous generator failed while it was being closed"
                self.call_exception_handler({"message": message, "exception": outcome})

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  asyncio's signature
        """Nothing to do: there are no threads. asyncio.Runner calls it."""

    # ---------------------------------------------------------------- errors

    def _on_callback_error(self, handle: SimHandle, error: BaseException) -> None:
        self.call_exception_handler(
            {"message": "a callback failed", "exception": error, "handle": handle}
        )

    def set_exception_handler(self, handler: _ExceptionHandler | None) -> None:
        """Let `handler(loop, context)` have the errors that nobody awaits; None to collect them."""
        self._exception_handler = handler

    def get_exception_handler(self) -> _ExceptionHandler | None:
        """The exception handler, or None."""
        return self._exception_handler

    def default_exception_handler(self, context: _Context) -> None:
        """Enter the error in `unhandled`, and log it."""
        error: BaseException | None = context.get("exception")
        source = _source_of(context)
        message = str(context.get("message") or "an error that nobody awaited")
        self.unhandled.append(Unhandled(self.now_s, message, error, source))
        _LOG.error("at %.6f s, in %s: %s", self.now_s, source, message, exc_info=error)

    def call_exception_handler(self, context: _Context) -> None:
        """Hand an error that nobody awaits to the handler; if that fails, collect both."""
        if self._exception_handler is None:
            self.default_exception_handler(context)
            return
        try:
            self._exception_handler(self, context)
        except Exception as error:  # noqa: BLE001  the handler is the user's
            self.default_exception_handler(context)
            message = "the exception handler failed"
            self.default_exception_handler({"message": message, "exception": error})

    def get_debug(self) -> bool:
        """Whether futures and tasks note where they were made."""
        return self._debug

    def set_debug(self, enabled: bool) -> None:  # noqa: FBT001  asyncio's signature
        """Let futures and tasks note where they were made."""
        self._debug = enabled


def _closed_error() -> RuntimeError:
    return RuntimeError("the loop is closed: make a new one for a new run")


def _source_of(context: _Context) -> str:
    task = context.get("task") or context.get("future")
    if isinstance(task, asyncio.Task):
        return task.get_name()
    handle = context.get("handle")
    return repr(handle) if handle is not None else "the loop"


# Looked up once: these run for every event.
_new_handle = SimHandle.__new__
_copy_context = contextvars.copy_context
_heappush = heapq.heappush
_heappop = heapq.heappop
