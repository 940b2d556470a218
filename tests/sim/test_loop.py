"""The virtual-time loop: order, time, asyncio's own tools on it, its ends and its refusals."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import p2pmq
from p2pmq.errors import P2PMQError
from p2pmq.sim.loop import SimLoop
from p2pmq.sim.refuse import (
    SimulationDeadlineError,
    SimulationDeadlockError,
    SimulationEventLimitError,
    SimulationUsageError,
)


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    loop = SimLoop()
    yield loop
    loop.cancel_all()
    loop.close()


# ---------------------------------------------------------------------------- time and order


def test_an_hour_of_sleep_takes_an_hour_of_virtual_time(loop: SimLoop) -> None:
    loop.run_until_complete(asyncio.sleep(3_600))
    assert loop.time() == 3_600
    assert loop.wall_time() - SimLoop().wall_time() == 3_600


def test_the_clock_stands_still_while_anything_is_ready(loop: SimLoop) -> None:
    times: list[float] = []

    def again(left: int) -> None:
        times.append(loop.time())
        if left:
            loop.call_soon(again, left - 1)

    loop.call_later(1.0, again, 50)
    loop.call_later(1.5, times.append, -1.0)
    loop.run_until(2.0)
    assert times == [1.0] * 51 + [-1.0]


def test_ready_callbacks_run_first_in_first_out(loop: SimLoop) -> None:
    ran: list[int] = []
    for number in range(5):
        loop.call_soon(ran.append, number)
    loop.run_until(0)
    assert ran == [0, 1, 2, 3, 4]


def test_timers_of_one_instant_fire_in_the_order_in_which_they_were_set(loop: SimLoop) -> None:
    ran: list[str] = []
    for name in "abc":
        loop.call_at(2.0, ran.append, name)
    loop.call_later(1.0, loop.call_at, 2.0, ran.append, "d")
    loop.run_until(2.0)
    assert ran == ["a", "b", "c", "d"]


def test_a_timer_for_a_time_that_has_passed_runs_at_once_and_the_clock_does_not_go_back(
    loop: SimLoop,
) -> None:
    loop.advance(5.0)
    ran: list[float] = []
    loop.call_at(1.0, lambda: ran.append(loop.time()))
    loop.call_later(-3.0, lambda: ran.append(loop.time()))
    loop.run_until(5.0)
    assert ran == [5.0, 5.0]


def test_cancelled_timers_neither_run_nor_move_the_clock(loop: SimLoop) -> None:
    handles = [loop.call_later(second, pytest.fail) for second in range(1, 1_000)]
    for handle in handles:
        handle.cancel()
        handle.cancel()
    assert all(handle.cancelled() for handle in handles)
    loop.run_until(math.inf)
    assert loop.time() == 0.0
    assert len(loop._instants) < 100, "cancelled timers must not pile up"


def test_a_timer_at_infinity_never_fires_and_one_at_nan_is_an_error(loop: SimLoop) -> None:
    loop.call_later(math.inf, pytest.fail)
    loop.run_until(math.inf)
    assert loop.time() == 0.0
    with pytest.raises(ValueError, match="NaN"):
        loop.call_later(math.nan, pytest.fail)


_MILLISECONDS = st.integers(min_value=-5, max_value=20)


@given(st.lists(st.tuples(_MILLISECONDS, st.booleans(), _MILLISECONDS), max_size=60))
def test_timers_fire_by_time_then_by_age_whatever_is_set_and_cancelled(
    plan: list[tuple[int, bool, int]],
) -> None:
    """Each entry sets a timer, perhaps cancels it, and on firing sets a second one."""
    loop = SimLoop()
    fired: list[tuple[float, int]] = []
    due: list[tuple[float, int]] = []  # what should fire: (time, age)
    age = 0

    def note(when: float, number: int, then: int | None) -> None:
        assert loop.time() == when
        fired.append((when, number))
        if then is not None:
            schedule(then, None)

    def schedule(delay_ms: int, then: int | None) -> asyncio.TimerHandle:
        nonlocal age
        age += 1
        when = max(loop.time(), loop.time() + delay_ms / 1_000)
        due.append((when, age))
        return loop.call_later(delay_ms / 1_000, note, when, age, then)

    for delay_ms, is_cancelled, then in plan:
        handle = schedule(delay_ms, then)
        if is_cancelled:
            handle.cancel()
            due.pop()
    loop.run_until(math.inf)
    assert fired == sorted(due)


def test_a_program_without_timers_runs_in_the_order_in_which_asyncio_runs_it() -> None:
    async def program(ran: list[str]) -> None:
        queue: asyncio.Queue[int] = asyncio.Queue(2)
        changed = asyncio.Condition()

        async def produce(name: str) -> None:
            for number in range(5):
                await queue.put(number)
                ran.append(f"{name} put {number}")
                async with changed:
                    changed.notify_all()

        async def consume(name: str) -> None:
            for _ in range(5):
                number = await queue.get()
                ran.append(f"{name} got {number}")
                if number % 2:
                    await asyncio.sleep(0)

        await asyncio.gather(*map(produce, "ab"), *map(consume, "cd"))

    real: list[str] = []
    simulated: list[str] = []
    asyncio.run(program(real))
    SimLoop().run_until_complete(program(simulated))
    assert simulated == real


# ---------------------------------------------------------------------------- asyncio's tools


async def _wait_for_ever(timeout: float) -> None:  # noqa: ASYNC109  it is what is tested
    async with asyncio.timeout(timeout):
        await asyncio.Event().wait()


def test_timeouts_expire_in_virtual_time(loop: SimLoop) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await _wait_for_ever(30)
        assert loop.time() == 30
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(100), 12)
        assert loop.time() == 42
        async with asyncio.timeout(10):
            await asyncio.sleep(9)
        assert await asyncio.wait_for(asyncio.sleep(1, "done"), 2) == "done"

    loop.run_until_complete(main())
    assert loop.time() == 52


def test_a_task_group_cancels_its_other_tasks_in_the_order_of_their_creation(
    loop: SimLoop,
) -> None:
    cancelled: list[int] = []

    async def member(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(number)

    async def failing() -> None:
        await asyncio.sleep(1)
        raise ZeroDivisionError

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(member(number))
            group.create_task(failing())

    with pytest.raises(ExceptionGroup) as caught:
        loop.run_until_complete(main())
    assert caught.group_contains(ZeroDivisionError)
    assert cancelled == list(range(40))


def test_gather_wait_and_locks_work(loop: SimLoop) -> None:
    async def main() -> None:
        lock, stopped = asyncio.Lock(), asyncio.Event()

        async def hold(seconds: float) -> float:
            async with lock:
                await asyncio.sleep(seconds)
            return loop.time()

        assert list(await asyncio.gather(hold(1), hold(2), hold(3))) == [1, 3, 6]
        tasks = [asyncio.create_task(hold(seconds)) for seconds in (1, 2)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert (done, pending) == ({tasks[0]}, {tasks[1]})
        loop.call_later(1, stopped.set)
        await stopped.wait()
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]

    loop.run_until_complete(main())


def test_context_variables_follow_tasks_and_callbacks(loop: SimLoop) -> None:
    who = contextvars.ContextVar("who", default="nobody")
    seen: list[str] = []

    async def child() -> None:
        seen.append(who.get())
        who.set("child")

    async def main() -> None:
        who.set("main")
        loop.call_later(1, lambda: seen.append(who.get()))
        own = contextvars.copy_context()
        own.run(who.set, "own")
        loop.call_soon(lambda: seen.append(who.get()), context=own)
        await asyncio.create_task(child())
        await asyncio.sleep(2)
        seen.append(who.get())

    loop.run_until_complete(main())
    assert seen == ["own", "main", "main", "main"]
    assert who.get() == "nobody"


def test_asyncio_runner_can_drive_the_loop() -> None:
    async def main() -> float:
        straggler = asyncio.create_task(asyncio.sleep(1_000))
        await asyncio.sleep(5)
        assert not straggler.done()
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=SimLoop) as runner:
        assert runner.run(main()) == 5


def test_a_task_factory_makes_the_tasks(loop: SimLoop) -> None:
    made: list[str] = []

    def factory(
        _: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: object
    ) -> asyncio.Task[Any]:
        assert options == {}
        made.append(getattr(coro, "__name__", ""))
        return asyncio.Task(coro, loop=loop)

    async def main() -> str:
        return await asyncio.create_task(asyncio.sleep(0, "slept"), name="nap")

    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    assert loop.run_until_complete(main()) == "slept"
    assert made == ["main", "sleep"]


def test_unnamed_tasks_are_numbered_in_each_loop_anew() -> None:
    async def main() -> list[str]:
        tasks = [asyncio.create_task(asyncio.sleep(0), name=name) for name in (None, "own", None)]
        await asyncio.gather(*tasks)
        return [task.get_name() for task in tasks]

    for _ in range(2):
        assert SimLoop().run_until_complete(main()) == ["Task-2", "own", "Task-4"]


# ---------------------------------------------------------------------------- generators


async def _ticks(closed: list[str], name: str) -> AsyncIterator[int]:
    try:
        for number in range(100):
            yield number
            await asyncio.sleep(1)
    finally:
        await asyncio.sleep(1)
        closed.append(name)


def test_an_abandoned_async_generator_is_closed_by_the_loop(loop: SimLoop) -> None:
    closed: list[str] = []

    async def main() -> None:
        async for number in _ticks(closed, "ticks"):
            if number == 2:
                break

    loop.run_until_complete(main())
    loop.advance(2)
    assert closed == ["ticks"]


def test_cancel_all_closes_async_generators_oldest_first(loop: SimLoop) -> None:
    closed: list[str] = []
    kept = [_ticks(closed, name) for name in ("one", "two", "three")]

    async def main() -> None:
        for generator in kept:
            await anext(generator)

    loop.run_until_complete(main())
    assert closed == []
    loop.cancel_all()
    assert closed == ["one", "two", "three"]


# ---------------------------------------------------------------------------- ends of a run


def test_a_deadlock_names_the_tasks_and_where_they_wait(loop: SimLoop) -> None:
    async def consume(queue: asyncio.Queue[int]) -> None:
        await queue.get()

    async def main() -> None:
        await asyncio.sleep(2)
        await asyncio.create_task(consume(asyncio.Queue()), name="consumer")

    with pytest.raises(SimulationDeadlockError) as caught:
        loop.run_until_complete(main())
    message = str(caught.value)
    assert "deadlock at 2.000000 s" in message
    first, second = caught.value.waiters
    assert first.startswith("Task-1: test_loop.py:")
    assert first.endswith(".main, for consumer")
    assert second.startswith("consumer: test_loop.py:")
    assert second.endswith(".consume, in Queue.get")
    assert first in message


def test_a_run_forever_that_nothing_can_stop_is_a_deadlock(loop: SimLoop) -> None:
    loop.call_later(3, int)
    with pytest.raises(SimulationDeadlockError, match=r"deadlock at 3\.0"):
        loop.run_forever()


def test_a_deadline_ends_a_run_that_goes_on_and_on(loop: SimLoop) -> None:
    async def heartbeat() -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(SimulationDeadlineError, match=r"heartbeat, in sleep"):
        loop.run_until_complete(heartbeat(), deadline=10.5)
    assert loop.time() == 10.5


def test_what_is_due_at_the_deadline_still_counts(loop: SimLoop) -> None:
    assert loop.run_until_complete(asyncio.sleep(10, "in time"), deadline=10) == "in time"


def test_a_deadlock_is_called_so_even_if_there_is_a_deadline(loop: SimLoop) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await _wait_for_ever(1)
        await asyncio.Event().wait()

    with pytest.raises(SimulationDeadlockError):
        loop.run_until_complete(main(), deadline=100)


def test_advance_runs_what_is_due_and_leaves_the_rest(loop: SimLoop) -> None:
    ran: list[float] = []
    for when in (0.5, 1.0, 1.5):
        loop.call_at(when, lambda: ran.append(loop.time()))
    loop.advance(1.0)
    assert (ran, loop.time()) == ([0.5, 1.0], 1.0)
    loop.advance(0.25)
    assert (ran, loop.time()) == ([0.5, 1.0], 1.25)
    loop.run_until(99)
    assert (ran, loop.time()) == ([0.5, 1.0, 1.5], 99)


def test_a_spin_without_progress_of_time_is_ended_and_shown() -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.sleep(1)
        await asyncio.create_task(spin(), name="spinner")

    loop = SimLoop(events_per_instant_max=5_000)
    with pytest.raises(SimulationEventLimitError, match="spinner") as caught:
        loop.run_until_complete(main())
    assert caught.value.at_s == 1
    assert "events_per_instant_max=5,000" in str(caught.value)
    loop.events_per_instant_max = 1_000_000
    loop.cancel_all()


def test_a_run_is_ended_at_its_limit_of_events() -> None:
    async def heartbeat() -> None:
        while True:
            await asyncio.sleep(1)

    loop = SimLoop(events_max=3_000)
    with pytest.raises(SimulationEventLimitError, match="events_max=3,000"):
        loop.run_until_complete(heartbeat())
    assert loop.events <= 3_000 + 1_000
    loop.events_max = None
    loop.cancel_all()


def test_stop_ends_the_run_after_what_is_ready(loop: SimLoop) -> None:
    ran: list[str] = []
    loop.call_soon(loop.stop)
    loop.call_soon(ran.append, "same turn")
    loop.call_soon(loop.call_soon, ran.append, "next turn")
    loop.run_forever()
    assert ran == ["same turn"]
    with pytest.raises(RuntimeError, match="stopped before"):
        loop.run_until_complete(_stop_and_wait(loop))


async def _stop_and_wait(loop: SimLoop) -> None:
    loop.stop()
    await asyncio.Event().wait()


def test_cancel_all_cancels_in_the_order_of_creation_and_lets_tasks_finish(loop: SimLoop) -> None:
    ended: list[int] = []

    async def work(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)
            ended.append(number)

    tasks = [loop.create_task(work(number)) for number in range(30)]
    loop.advance(1)
    loop.cancel_all()
    assert ended == list(range(30))
    assert all(task.cancelled() for task in tasks)
    assert loop.tasks() == []


def test_a_task_that_fails_while_it_is_cancelled_is_reported(loop: SimLoop) -> None:
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError

    task = loop.create_task(work(), name="fragile")
    loop.advance(1)
    loop.cancel_all()
    assert isinstance(task.exception(), ZeroDivisionError)
    assert [(u.source, type(u.error)) for u in loop.unhandled] == [("fragile", ZeroDivisionError)]


def test_a_closed_loop_takes_no_more_work() -> None:
    loop = SimLoop()
    loop.call_later(1, pytest.fail)
    loop.close()
    loop.close()
    assert loop.is_closed()
    for use in (loop.call_soon, lambda f: loop.call_later(1, f)):
        with pytest.raises(RuntimeError, match="closed"):
            use(print)
    coroutine = asyncio.sleep(1)
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_until_complete(coroutine)
    with pytest.raises(RuntimeError, match="closed"):
        _ = loop.create_task(coroutine)
    coroutine.close()


def test_the_loop_does_not_run_inside_itself_nor_close_while_it_runs(loop: SimLoop) -> None:
    async def main() -> None:
        assert loop.is_running()
        with pytest.raises(RuntimeError, match="running in this thread"):
            loop.advance(1)
        with pytest.raises(RuntimeError, match="running in this thread"):
            SimLoop().advance(1)
        with pytest.raises(RuntimeError, match="stop it first"):
            loop.close()

    loop.run_until_complete(main())
    assert not loop.is_running()


# ---------------------------------------------------------------------------- errors


def _miss() -> None:
    raise KeyError


def test_errors_that_nobody_awaits_are_collected_and_the_run_goes_on(loop: SimLoop) -> None:
    async def failing() -> None:
        await asyncio.sleep(2)
        raise ZeroDivisionError

    async def main() -> None:
        task = asyncio.create_task(failing(), name="forgotten")
        loop.call_later(1, _miss)
        await asyncio.sleep(3)
        assert task.done()

    loop.run_until_complete(main())
    gc.collect()
    first, second = loop.unhandled
    assert (first.at_s, type(first.error)) == (1, KeyError)
    assert (second.source, type(second.error)) == ("forgotten", ZeroDivisionError)


def test_a_handler_of_the_users_gets_the_errors_instead(loop: SimLoop) -> None:
    got: list[Any] = []
    loop.set_exception_handler(lambda _, context: got.append(context["exception"]))
    assert loop.get_exception_handler() is not None
    loop.call_soon(_miss)
    loop.advance(0)
    assert [type(error) for error in got] == [KeyError]
    assert loop.unhandled == []


def test_a_failing_handler_hides_neither_error(loop: SimLoop) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    loop.set_exception_handler(fail)
    loop.call_soon(_miss)
    loop.advance(0)
    assert [type(u.error) for u in loop.unhandled] == [KeyError, ZeroDivisionError]


def test_a_keyboard_interrupt_passes_through_at_once(loop: SimLoop) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    loop.call_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.advance(1)
    assert not loop.is_running()


def test_the_result_of_the_awaited_coroutine_is_raised_and_not_collected(loop: SimLoop) -> None:
    async def failing() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop.run_until_complete(failing())
    gc.collect()
    assert loop.unhandled == []


def test_finished_tasks_and_run_callbacks_are_not_kept(loop: SimLoop) -> None:
    class Payload:
        pass

    payload = Payload()
    gone = weakref.ref(payload)
    loop.call_soon(id, payload)
    handle = loop.call_later(5, id, payload)
    loop.advance(1)
    handle.cancel()
    del payload
    assert gone() is None


# ---------------------------------------------------------------------------- refusals


async def _noop() -> None: ...


_REFUSED: list[tuple[str, Callable[[SimLoop], object], str]] = [
    ("executor", lambda loop: loop.run_in_executor(None, print), "call the function directly"),
    ("connection", lambda loop: loop.create_connection(asyncio.Protocol, "a", 1), "network"),
    ("server", lambda loop: loop.create_server(asyncio.Protocol, "a", 1), "network"),
    ("datagram", lambda loop: loop.create_datagram_endpoint(asyncio.DatagramProtocol), "network"),
    ("reader", lambda loop: loop.add_reader(0, print), "network"),
    ("address", lambda loop: loop.getaddrinfo("localhost", 1), "network"),
    ("socket", lambda loop: loop.sock_recv(None, 1), "network"),
    ("process", lambda loop: loop.subprocess_shell(asyncio.SubprocessProtocol, "true"), "node"),
    ("signal", lambda loop: loop.add_signal_handler(15, print), "node.close"),
]


@pytest.mark.parametrize(
    ("call", "instead"), [row[1:] for row in _REFUSED], ids=[row[0] for row in _REFUSED]
)
def test_what_reaches_outside_is_refused_with_what_to_use_instead(
    loop: SimLoop, call: Callable[[SimLoop], object], instead: str
) -> None:
    with pytest.raises(SimulationUsageError, match=instead) as caught:
        call(loop)
    assert isinstance(caught.value, P2PMQError)
    assert [u.error for u in loop.unhandled] == [caught.value], "no except may hide it"


def test_to_thread_and_streams_are_refused(loop: SimLoop) -> None:
    async def main() -> None:
        with pytest.raises(SimulationUsageError, match="run_in_executor"):
            await asyncio.to_thread(print)
        with pytest.raises(SimulationUsageError, match="create_connection"):
            await asyncio.open_connection("localhost", 1)
        with pytest.raises(SimulationUsageError, match="subprocess_exec"):
            await asyncio.create_subprocess_exec("true")

    loop.run_until_complete(main())


def test_another_thread_cannot_schedule_but_the_loops_own_can(loop: SimLoop) -> None:
    errors: list[BaseException] = []

    def intrude() -> None:
        try:
            loop.call_soon_threadsafe(print)
        except SimulationUsageError as error:
            errors.append(error)

    async def main() -> None:
        own = asyncio.Event()
        loop.call_soon_threadsafe(own.set)
        await own.wait()
        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()

    loop.run_until_complete(main())
    assert "another thread" in str(errors[0])


# ---------------------------------------------------------------------------- one seed, one trace


def test_every_event_is_shown_to_the_hook_by_a_name_without_addresses(loop: SimLoop) -> None:
    events: list[tuple[float, str]] = []
    loop.on_event = lambda at_s, name: events.append((at_s, name))
    loop.call_later(1, len, "")
    loop.run_until_complete(_noop())
    loop.advance(1)
    assert events[0] == (0.0, "Task-1")
    assert events[-1] == (1.0, "len")
    assert len(events) == loop.events


_PROGRAM = """
import asyncio, hashlib, random, sys
from p2pmq.sim.guards import guards
from p2pmq.sim.loop import SimLoop

trace = hashlib.sha256()
loop = SimLoop()
loop.on_event = lambda at_s, name: trace.update(f"{at_s!r} {name}\\n".encode())
chance = random.Random(7)
ballast = [[bytearray(number * 37)] for number in range(int(sys.argv[1]))]

class Dropped:  # in a cycle, so that only the collector frees it
    def __init__(self):
        self.itself = self
    def __del__(self):
        trace.update(b"dropped\\n")
        if loop.is_running():
            loop.call_soon(len, "")

async def member(number):
    try:
        while True:
            await asyncio.sleep(chance.random())
            Dropped()
    finally:
        trace.update(b"cancelled %d\\n" % number)

async def failing():
    await asyncio.sleep(300)
    raise ValueError

async def main():
    for _ in range(3):
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(50):
                    group.create_task(member(number))
                group.create_task(failing())
        except* ValueError:
            pass
        tasks = [asyncio.create_task(asyncio.sleep(chance.random())) for _ in range(30)]
        done, pending = await asyncio.wait(tasks, timeout=0.5)
        for task in pending:
            task.cancel()
        trace.update(" ".join(task.get_name() for task in done).encode())

with guards(loop):
    loop.run_until_complete(main())
    loop.cancel_all()
    loop.close()
print(loop.events, trace.hexdigest())
"""


def test_one_program_makes_one_trace_in_any_process() -> None:
    root = str(Path(p2pmq.__file__).parents[1])
    traces = []
    for hash_seed, ballast in (("0", "0"), ("1", "30"), ("4711", "2000")):
        environment = os.environ | {
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": root,
            "BALLAST": "x" * int(ballast),
        }
        command = [sys.executable, "-c", _PROGRAM, ballast]
        traces.append(subprocess.check_output(command, env=environment, text=True))
    assert len(set(traces)) == 1, traces
    assert int(traces[0].split()[0]) > 100_000
