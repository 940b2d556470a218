"""A consumer: each message once a delivery, settles in batches, and an end in order."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from p2pmq import ClosedNodeError, Message, MessageBatch, StaleReceiptError
from p2pmq.core.events import (
    DrainRequested,
    Event,
    GivenBack,
    SettleRequested,
    UnsubscribeRequested,
)
from p2pmq.core.ids import PartitionKey, Run
from p2pmq.core.packets.delivering import Segment
from p2pmq.core.packets.publishing import Batch
from p2pmq.node.consumer import Consumer
from p2pmq.wire.bodies import PackedBodies

KEY = PartitionKey("q", 0)
S = b"session!"


def segment(first: int, count: int, attempt: int = 1, session: bytes = S) -> Segment:
    bodies = PackedBodies.from_bodies([b"%d" % n for n in range(first, first + count)])
    return Segment(Batch(session, first, count, count, bodies, stamp=7 << 16), attempt)


class Stand:
    """A consumer whose core is the test."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.consumer = Consumer(b"consumer", KEY, self.events.append, asyncio.get_running_loop())

    def deliver(self, *segments: Segment) -> None:
        self.consumer.on_deliver(segments)

    async def take(self, count: int) -> list[Message]:
        self.messages = self.consumer.messages()  # kept: an iterator let go of ends its consumer
        return [await anext(self.messages) for _ in range(count)]

    async def settled(self) -> SettleRequested:
        """The settle that leaves at the end of this round."""
        await asyncio.sleep(0)
        event = self.events.pop(0)
        assert isinstance(event, SettleRequested)
        return event


@pytest.fixture
async def stand() -> Stand:
    return Stand()


async def test_messages_come_in_order_with_their_attempts(stand: Stand) -> None:
    stand.deliver(segment(1, 2), segment(3, 1, attempt=4))
    messages = await stand.take(3)
    assert [message.body for message in messages] == [b"1", b"2", b"3"]
    assert [message.attempt for message in messages] == [1, 1, 4]
    assert [message.redelivered for message in messages] == [False, False, True]


async def test_acks_of_one_round_leave_as_one_settle_with_runs(stand: Stand) -> None:
    other = b"session2"
    stand.deliver(segment(1, 5), segment(1, 1, session=other))
    messages = await stand.take(6)
    for at in (0, 1, 2, 4, 5):
        messages[at].ack()
    messages[3].nack(delay=1.5)
    settle = await stand.settled()
    assert settle.acks == (Run(S, 1, 3), Run(S, 5, 5), Run(other, 1, 1))
    assert settle.nacks == (GivenBack(Run(S, 4, 4), 1_500),)
    await asyncio.sleep(0)
    assert stand.events == []


async def test_an_extension_does_not_settle(stand: Stand) -> None:
    stand.deliver(segment(1, 1))
    (message,) = await stand.take(1)
    message.extend(0.25)
    assert (await stand.settled()).extends == ((Run(S, 1, 1), 250),)
    message.ack()
    assert (await stand.settled()).acks == (Run(S, 1, 1),)
    message.extend(1)
    await asyncio.sleep(0)
    assert stand.events == [], "there is nothing to extend any more"


async def test_a_message_is_settled_once(stand: Stand) -> None:
    stand.deliver(segment(1, 1))
    (message,) = await stand.take(1)
    message.ack()
    message.nack()
    message.ack()
    settle = await stand.settled()
    assert (len(settle.acks), settle.nacks) == (1, ())


async def test_a_batch_is_settled_as_one_run(stand: Stand) -> None:
    stand.deliver(segment(1, 100), segment(101, 50))
    batches = stand.consumer.batches()
    first, second = await anext(batches), await anext(batches)
    assert isinstance(first, MessageBatch)
    first.ack()
    first.nack()
    second.nack(delay=1)
    settle = await stand.settled()
    assert settle.acks == (Run(S, 1, 100),)
    assert settle.nacks == (GivenBack(Run(S, 101, 150), 1_000),)


async def test_the_end_settles_what_was_settled_and_gives_the_rest_back(stand: Stand) -> None:
    stand.deliver(segment(1, 3))
    messages = stand.consumer.messages()
    first = await anext(messages)
    first.ack()
    await messages.aclose()  # type: ignore[attr-defined]  # it is an async generator
    settle, end = stand.events
    assert isinstance(settle, SettleRequested)
    assert settle.acks == (Run(S, 1, 1),)
    assert end == UnsubscribeRequested(b"consumer", unread=(Run(S, 2, 3),))
    stand.consumer.close()
    assert len(stand.events) == 2


async def test_after_the_end_an_ack_is_too_late_and_a_nack_is_what_happened(stand: Stand) -> None:
    stand.deliver(segment(1, 3))
    messages = stand.consumer.messages()
    held = [await anext(messages) for _ in range(2)]
    await messages.aclose()  # type: ignore[attr-defined]  # as above
    with pytest.raises(StaleReceiptError):
        held[0].ack()
    with pytest.raises(StaleReceiptError):
        held[0].extend(1)
    held[0].nack()
    with pytest.raises(LookupError):
        await leave_with(LookupError(), held[1])


async def leave_with(error: Exception, message: Message) -> None:
    """The user's own error is not covered up by one about the nack."""
    async with message:
        raise error


async def test_a_node_that_fails_ends_the_iteration_with_its_error(stand: Stand) -> None:
    stand.deliver(segment(1, 3))
    messages = stand.consumer.messages()
    first = await anext(messages)
    error = ClosedNodeError("n", "stopped")
    stand.consumer.fail(error)
    with pytest.raises(ClosedNodeError):
        first.ack()
    with pytest.raises(ClosedNodeError):
        await anext(messages)


async def test_a_node_that_closes_ends_the_iteration_even_amid_a_delivery(stand: Stand) -> None:
    stand.deliver(segment(1, 3))
    messages = stand.consumer.messages()
    await anext(messages)
    stand.consumer.close()
    stand.consumer.end()
    stand.consumer.fail(ClosedNodeError("n", "closed"))
    assert [message async for message in messages] == []


async def test_a_drain_gives_back_what_nobody_saw_and_waits_for_what_is_in_hand(
    stand: Stand,
) -> None:
    stand.deliver(segment(1, 3), segment(4, 5))
    may_finish = asyncio.Event()
    seen: list[bytes] = []

    async def handle() -> None:
        async for message in stand.consumer.messages():
            async with message:
                seen.append(message.body)
                await may_finish.wait()

    handling = asyncio.ensure_future(handle())
    await asyncio.sleep(0)
    done = stand.consumer.drain(asyncio.current_task())
    assert stand.events == [DrainRequested(b"consumer", (Run(S, 2, 3), Run(S, 4, 8)))]
    assert done is not None
    assert not done.done()
    may_finish.set()
    await done
    await handling
    assert seen == [b"1"], "the iteration is over, and nothing of what was given back came"
    assert stand.consumer.drain(None) is None


async def test_a_drain_waits_for_handlers_that_run_beside_the_loop(stand: Stand) -> None:
    stand.deliver(segment(1, 2))
    handlers: list[Message] = []

    async def hand_out() -> None:
        async for message in stand.consumer.messages():
            handlers.append(message)  # noqa: PERF401  it goes on without waiting for them

    task = asyncio.ensure_future(hand_out())
    await asyncio.sleep(0)
    done = stand.consumer.drain(None)
    assert done is not None
    await asyncio.sleep(0)
    assert not task.done(), "its end would give back what is in hand"
    assert len(handlers) == 2
    for message in handlers:
        assert not done.done()
        message.ack()
    await task
    assert done.done()


async def test_a_drain_does_not_wait_for_whoever_closes_or_has_gone(stand: Stand) -> None:
    stand.deliver(segment(1, 3))
    await stand.take(1)
    assert stand.consumer.drain(asyncio.current_task()) is None
    gone = Stand()
    gone.deliver(segment(1, 3))
    await asyncio.ensure_future(gone.take(1))
    assert gone.consumer.drain(None) is None


async def test_a_drain_ends_when_the_node_fails(stand: Stand) -> None:
    stand.deliver(segment(1, 3))
    batches = stand.consumer.batches()
    task = asyncio.ensure_future(hold(batches))
    await asyncio.sleep(0)
    done = stand.consumer.drain(None)
    assert done is not None
    stand.consumer.fail(ClosedNodeError("n", "stopped"))
    assert done.done()
    task.cancel()


async def hold(batches: AsyncIterator[MessageBatch]) -> None:
    """A handler that never settles."""
    await anext(batches)
    await asyncio.Event().wait()


async def test_whoever_waits_is_woken_by_a_delivery_and_by_the_end(stand: Stand) -> None:
    messages = stand.consumer.messages()
    waiting = asyncio.ensure_future(anext(messages))
    await asyncio.sleep(0)
    stand.deliver(segment(1, 1))
    assert (await waiting).body == b"1"
    ending = asyncio.ensure_future(anext(messages, None))
    await asyncio.sleep(0)
    stand.consumer.end()
    assert await ending is None


# -- several partitions --


async def test_parts_are_given_out_by_their_head_and_settle_where_they_came_from(
    stand: Stand,
) -> None:
    head = stand.consumer
    part = Consumer(b"part", PartitionKey("q", 2), stand.events.append, asyncio.get_running_loop())
    part.join(head)
    assert head.parts == [head, part]
    assert part.parts == []
    stand.deliver(segment(1, 2))
    part.on_deliver((segment(1, 2),))
    messages = await stand.take(4)
    assert [message.message_id for message in messages] == [
        f"{S.hex()}-1",
        f"{S.hex()}-2",
        f"{S.hex()}.2-1",
        f"{S.hex()}.2-2",
    ]
    for message in messages[1:]:
        message.ack()
    settles = [await stand.settled(), await stand.settled()]
    assert [(settle.consumer, settle.key.number, settle.acks) for settle in settles] == [
        (b"consumer", 0, (Run(S, 2, 2),)),
        (b"part", 2, (Run(S, 1, 2),)),
    ]


@pytest.mark.parametrize("by_part", [False, True])
async def test_the_end_of_one_is_the_end_of_all_and_each_gives_back_its_own(
    stand: Stand, *, by_part: bool
) -> None:
    head = stand.consumer
    part = Consumer(b"part", PartitionKey("q", 1), stand.events.append, asyncio.get_running_loop())
    part.join(head)
    part.on_deliver((segment(1, 3),))
    stand.deliver(segment(7, 2))
    (message,) = await stand.take(1)
    message.ack()
    (part if by_part else head).close()
    settle = stand.events.pop(0)
    assert isinstance(settle, SettleRequested)
    assert (settle.consumer, settle.acks) == (b"part", (Run(S, 1, 1),))
    assert stand.events == [
        UnsubscribeRequested(b"consumer", (Run(S, 7, 8),)),
        UnsubscribeRequested(b"part", (Run(S, 2, 3),)),
    ]
    assert head.closed
    assert part.closed


async def test_a_drain_waits_for_what_any_part_has_in_hand(stand: Stand) -> None:
    head = stand.consumer
    part = Consumer(b"part", PartitionKey("q", 1), stand.events.append, asyncio.get_running_loop())
    part.join(head)
    part.on_deliver((segment(1, 2),))
    begun = asyncio.Event()

    async def handle() -> None:
        async for message in head.messages():
            begun.set()
            await asyncio.sleep(0)
            message.ack()

    handler = asyncio.ensure_future(handle())
    await begun.wait()
    done = head.drain(asyncio.current_task())
    assert part.drain(asyncio.current_task()) is None
    assert stand.events == [
        DrainRequested(b"consumer", ()),
        DrainRequested(b"part", (Run(S, 2, 2),)),
    ]
    assert done is not None
    await done
    await handler
