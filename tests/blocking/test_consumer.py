"""The threaded consumer: every position is claimed once, whoever claims it."""

import asyncio
import threading
from collections import Counter

from p2pmq.blocking.consumer import ThreadedConsumer
from p2pmq.blocking.loop_thread import LoopThread
from p2pmq.core.events import DrainRequested, Event, SettleRequested, UnsubscribeRequested
from p2pmq.core.ids import PartitionKey, Run
from p2pmq.core.packets.delivering import Segment
from p2pmq.core.packets.publishing import Batch
from p2pmq.node.message import Message
from p2pmq.wire.bodies import PackedBodies
from tests.blocking.kit import Working

S = b"session!"


def segment(first: int, count: int) -> Segment:
    bodies = PackedBodies.from_bodies([b"%d" % n for n in range(first, first + count)])
    return Segment(Batch(S, first, count, count, bodies, stamp=7 << 16), 1)


class Stand:
    """A consumer in a thread of its own, whose core is the test."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.thread = LoopThread("stand", self._close)
        self.thread.start()
        self.consumer = ThreadedConsumer(
            self.thread, b"consumer", PartitionKey("q", 0), self.events.append, self.thread._loop
        )

    async def _close(self, timeout_s: float) -> None:
        self.consumer.close()

    def end(self) -> None:
        self.thread.stop(30)

    def settled(self) -> list[int]:
        self.thread.ask(lambda: None)
        found = [event for event in self.events if isinstance(event, SettleRequested)]
        return [seq for event in found for run in event.acks for seq in range(run[1], run[2] + 1)]


def test_what_threads_claim_and_what_the_loop_takes_back_is_all_and_nothing_twice() -> None:
    stand = Stand()
    try:
        for _ in range(20):
            consumer = stand.consumer = ThreadedConsumer(
                stand.thread,
                b"consumer",
                PartitionKey("q", 0),
                stand.events.append,
                stand.thread._loop,
            )
            stand.events.clear()
            together = threading.Barrier(4)
            claimed: list[Message] = []

            def work(of: ThreadedConsumer = consumer) -> None:
                together.wait(30)  # noqa: B023  of this round
                while not of.is_over():
                    if (message := of.take_message()) is not None:
                        claimed.append(message)  # noqa: B023  of this round

            workers = [Working(work) for _ in range(3)]
            segments = tuple(segment(1 + 100 * n, 100) for n in range(10))
            stand.thread.ask(lambda of=consumer, told=segments: of.on_deliver(told))  # type: ignore[misc]  # bound now
            together.wait(30)
            stand.thread.ask(consumer.close)
            for worker in workers:
                worker.result()
            (end,) = stand.events
            assert isinstance(end, UnsubscribeRequested)
            back = [seq for run in end.unread for seq in range(run.first, run.last + 1)]
            given = [int(message.body) for message in claimed]
            assert Counter(given + back) == Counter(range(1, 1_001))
    finally:
        stand.end()


def test_acks_of_many_threads_leave_together_and_none_is_forgotten() -> None:
    stand = Stand()
    try:
        stand.thread.ask(lambda: stand.consumer.on_deliver((segment(1, 3_000),)))

        def work() -> None:
            while (message := stand.consumer.take_message()) is not None:
                message.ack()

        for worker in [Working(work) for _ in range(3)]:
            worker.result()
        assert sorted(stand.settled()) == list(range(1, 3_001))
        assert len(stand.events) < 3_000, "not an event for each"
    finally:
        stand.end()


def test_a_drain_gives_back_what_no_thread_saw_and_waits_for_what_one_has() -> None:
    stand = Stand()
    try:
        may_settle = threading.Event()

        def work() -> None:
            message = stand.consumer.take_message()
            assert message is not None
            taken.set()
            assert may_settle.wait(30)
            message.ack()

        taken = threading.Event()
        stand.thread.ask(lambda: stand.consumer.on_deliver((segment(1, 3),)))
        worker = Working(work)
        assert taken.wait(30)
        done = stand.thread.ask(lambda: stand.consumer.drain(None))
        assert done is not None
        (drained,) = stand.events
        assert drained == DrainRequested(b"consumer", (Run(S, 2, 3),))
        assert stand.consumer.take_message() is None
        assert not done.done()
        may_settle.set()
        stand.thread.call(lambda: asyncio.wait_for(done, 30), 60)
        worker.result()
    finally:
        stand.end()


def test_a_drain_waits_neither_for_the_thread_that_closes_nor_for_one_that_is_gone() -> None:
    for closes in (True, False):
        stand = Stand()
        try:
            stand.thread.ask(lambda of=stand: of.consumer.on_deliver((segment(1, 1),)))  # type: ignore[misc]  # bound now
            if closes:
                assert stand.consumer.take_message() is not None
                stand.thread.closer = threading.current_thread()
            else:
                assert Working(stand.consumer.take_message).result() is not None
            assert stand.thread.ask(lambda of=stand: of.consumer.drain(None)) is None  # type: ignore[misc]  # bound now
        finally:
            stand.end()


def test_parts_are_claimed_through_their_head_and_what_waits_is_hidden_on_where_it_came() -> None:
    stand = Stand()
    try:
        head = stand.consumer
        part = ThreadedConsumer(
            stand.thread, b"part", PartitionKey("q", 1), stand.events.append, stand.thread._loop
        )
        stand.thread.ask(lambda: part.join(head))
        stand.thread.ask(lambda: part.on_deliver((segment(1, 3),)))
        stand.thread.ask(lambda: head.on_deliver((segment(8, 1),)))
        message = head.take_message()
        assert message is not None
        assert message.message_id.endswith(".1-1")
        stand.thread.ask(lambda: head.extend_waiting(7))
        stand.thread.ask(lambda: None)
        told = [event for event in stand.events if isinstance(event, SettleRequested)]
        assert [(event.consumer, *event.extends) for event in told] == [
            (b"part", (Run(message._segment.batch.session, 2, 3), 7_000)),
            (b"consumer", (Run(message._segment.batch.session, 8, 8), 7_000)),
        ]
        message.ack()
        stand.thread.ask(head.close)
        ends = [event for event in stand.events if isinstance(event, UnsubscribeRequested)]
        assert [(end.consumer, [run[1:] for run in end.unread]) for end in ends] == [
            (b"consumer", [(8, 8)]),
            (b"part", [(2, 3)]),
        ]
        assert stand.settled() == [1]
    finally:
        stand.end()
