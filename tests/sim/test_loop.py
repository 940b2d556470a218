"""The virtual-time loop: order, time, and asyncio's own tools on it."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmq.sim.loop import SimLoop


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
