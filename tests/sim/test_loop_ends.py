"""The virtual-time loop: how a run ends, what it reports and refuses, and that it repeats."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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


# ---------------------------------------------------------------------------- ends of a run


async def _wait_for_ever(timeout: float) -> None:  # noqa: ASYNC109  it is what is tested
    async with asyncio.timeout(timeout):
        await asyncio.Event().wait()


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
    assert first.startswith("Task-1: test_loop_ends.py:")
    assert first.endswith(".main, for consumer")
    assert second.startswith("consumer: test_loop_ends.py:")
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
