"""The loop's thread: calls into it, and nobody who waits for one that has ended."""

import asyncio
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from p2pmq import ClosedNodeError, RequestTimeoutError, UsageError
from p2pmq.blocking.loop_thread import EXIT_S, LoopThread, close_all, running
from tests.blocking.kit import Working, until


class Sample:
    """A thread, and what was done to its node."""

    def __init__(self) -> None:
        self.closed: list[float] = []
        self.thread = LoopThread("sample", self._close)

    async def _close(self, timeout_s: float) -> None:
        self.closed.append(timeout_s)


@pytest.fixture
def sample() -> Iterator[Sample]:
    made = Sample()
    made.thread.start()
    yield made
    made.thread.stop(30)
    assert not made.thread.is_alive


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_call_returns_or_raises_what_its_coroutine_does(sample: Sample) -> None:
    async def add() -> int:
        await asyncio.sleep(0)
        return 2

    async def fail() -> int:
        raise LookupError("a reason")

    assert sample.thread.call(add, 30) == 2
    assert sample.thread.ask(lambda: 3) == 3
    with pytest.raises(LookupError, match="a reason"):
        sample.thread.call(fail, 30)
    with pytest.raises(ZeroDivisionError):
        sample.thread.ask(lambda: 1 // 0)


def test_a_call_that_takes_too_long_is_given_up_and_cancelled(sample: Sample) -> None:
    ended = threading.Event()

    async def wait() -> None:
        try:
            await forever()
        finally:
            ended.set()

    with pytest.raises(RequestTimeoutError, match=r"did not answer within 0\.05 s"):
        sample.thread.call(wait, 0.05)
    assert ended.wait(30)


def test_a_plain_question_to_a_loop_that_hangs_has_its_limit_too(sample: Sample) -> None:
    may_go_on = threading.Event()
    sample.thread.post(lambda: may_go_on.wait(30))
    with pytest.raises(RequestTimeoutError):
        sample.thread.ask(lambda: None, 0.05)
    may_go_on.set()


def test_the_thread_itself_may_not_wait(sample: Sample) -> None:
    with pytest.raises(UsageError, match="own thread"):
        sample.thread.ask(lambda: sample.thread.ask(lambda: None))


def test_a_stop_waits_for_calls_under_way_and_refuses_later_ones(sample: Sample) -> None:
    may_end = asyncio.Event()
    calling = Working(lambda: sample.thread.call(may_end.wait, 30))
    until(lambda: sample.thread._tasks)
    stopping = Working(lambda: sample.thread.stop(30))
    until(sample.thread._stopping.is_set)
    with pytest.raises(ClosedNodeError):
        sample.thread.call(forever, 30)
    sample.thread.post(may_end.set)
    assert calling.result() is True
    stopping.result()
    for late in (lambda: sample.thread.call(forever, 30), lambda: sample.thread.ask(int)):
        with pytest.raises(ClosedNodeError):
            late()


def test_a_stop_cancels_what_waits_for_a_caller_who_is_gone(sample: Sample) -> None:
    async def begin() -> None:
        sample.thread.begin_task(forever, closes=False)

    sample.thread.call(begin, 30)
    sample.thread.stop(30)
    assert not sample.thread.is_alive


def test_a_second_who_stops_it_does_not_cut_short_the_first(sample: Sample) -> None:
    may_close = asyncio.Event()
    closing = Working(lambda: sample.thread.call(may_close.wait, 30, closes=True))
    until(lambda: sample.thread._closings)
    stopping = Working(lambda: sample.thread.stop(30))
    until(lambda: sample.closed == [0.0])
    assert sample.thread.ask(lambda: 1) == 1, "calls are still taken"
    assert sample.thread.call(lambda: asyncio.sleep(0, 2), 30) == 2
    sample.thread.post(may_close.set)
    assert closing.result() is True
    stopping.result()


def test_whoever_waits_for_a_thread_that_ends_is_told(sample: Sample) -> None:
    waiting = Working(lambda: sample.thread.wait(SimpleQueue(), None))
    sample.thread.stop(30)
    with pytest.raises(ClosedNodeError):
        waiting.result()


def test_a_call_that_is_cancelled_within_has_found_the_node_closed(sample: Sample) -> None:
    async def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    with pytest.raises(ClosedNodeError):
        sample.thread.call(cancel, 30)


def test_all_that_run_are_closed_at_the_end_and_those_that_have_ended_are_not() -> None:
    first, second = Sample(), Sample()
    first.thread.start()
    second.thread.start()
    second.thread.stop(30)
    assert first.thread in running
    assert second.thread not in running
    close_all()
    assert not first.thread.is_alive
    assert (first.closed, second.closed) == ([EXIT_S], [0.0])


def test_a_node_that_does_not_close_well_is_said_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(timeout_s: float) -> None:
        raise OSError("the disk is gone")

    thread = LoopThread("bad", fail)
    thread.start()
    thread.close_soon(1.0, None)
    thread.join(30)
    assert not thread.is_alive
    assert "node bad did not close well: the disk is gone" in caplog.messages
