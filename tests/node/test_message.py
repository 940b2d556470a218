"""A message as its handler sees it."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from p2pmq.core.events import Event, GivenBack, SettleRequested
from p2pmq.core.ids import PartitionKey, Run
from p2pmq.core.packets.delivering import Segment
from p2pmq.core.packets.publishing import Batch, Death
from p2pmq.node.consumer import Consumer
from p2pmq.node.message import DeadLetter, Message, MessageBatch
from p2pmq.wire.bodies import FORMAT_MSGPACK, FORMAT_RAW, PackedBodies, pack_body

S = b"\x01" * 8
BODIES: list[Any] = [b"raw", {"id": 1}, None]


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
async def segment() -> Segment:
    packed = [b"raw", *(pack_body(body)[0] for body in BODIES[1:])]
    formats = bytes([FORMAT_RAW, FORMAT_MSGPACK, FORMAT_MSGPACK])
    bodies = PackedBodies.from_bodies(packed, formats)
    return Segment(Batch(S, 41, 3, 20, bodies, stamp=1_767_225_600_123 << 16), 2)


@pytest.fixture
async def consumer(events: list[Event]) -> Consumer:
    loop = asyncio.get_running_loop()
    return Consumer(b"consumer", PartitionKey("q", 0), events.append, loop)


async def test_a_message_tells_what_it_is(consumer: Consumer, segment: Segment) -> None:
    message = Message(consumer, segment, 1)
    assert message.body == {"id": 1}
    assert message.queue == "q"
    assert message.message_id == "0101010101010101-42"
    assert (message.attempt, message.redelivered) == (2, True)
    assert message.enqueued_at == pytest.approx(1_767_225_600.123)
    assert repr(message) == "<Message 0101010101010101-42 of 'q', attempt 2>"


async def test_a_dead_letter_says_why_it_is_one_and_from_where(
    consumer: Consumer, segment: Segment
) -> None:
    assert Message(consumer, segment, 0).dead_letter is None
    batch = replace(segment.batch, dead=(Death("stale-replica", "orders", "gone", 2),))
    letter = Message(consumer, replace(segment, batch=batch), 2)
    assert letter.dead_letter == DeadLetter("stale-replica", "orders", "gone", 2)


async def test_bodies_of_a_batch_are_those_of_its_messages(
    consumer: Consumer, segment: Segment
) -> None:
    batch = MessageBatch(consumer, segment)
    assert batch.bodies == BODIES
    assert [message.body for message in batch] == BODIES
    assert (len(batch), batch.attempt, batch.redelivered) == (3, 2, True)


async def test_a_batch_of_raw_bytes_is_given_without_a_copy(consumer: Consumer) -> None:
    bodies = [b"a", b"b"]
    segment = Segment(Batch(S, 1, 2, 2, PackedBodies.from_bodies(bodies)), 1)
    assert MessageBatch(consumer, segment).bodies is bodies


@pytest.mark.parametrize("kind", [Message, MessageBatch])
async def test_leaving_in_good_order_acks_and_an_exception_nacks(
    consumer: Consumer, segment: Segment, events: list[Event], kind: type
) -> None:
    made = [Message(consumer, segment, n) for n in range(2)]
    good, bad = made if kind is Message else [MessageBatch(consumer, segment) for _ in range(2)]
    async with good:
        pass
    with pytest.raises(LookupError):
        await fail_within(bad)
    await asyncio.sleep(0)
    (settle,) = events
    assert isinstance(settle, SettleRequested)
    whole = Run(S, 41, 43)
    assert settle.acks == ((Run(S, 41, 41),) if kind is Message else (whole,))
    failed = Run(S, 42, 42) if kind is Message else whole
    assert settle.nacks == (GivenBack(failed, None, "LookupError: "),)


async def fail_within(settled: Message | MessageBatch) -> None:
    async with settled:
        raise LookupError


async def test_a_message_settled_by_hand_is_not_settled_again_at_the_end(
    consumer: Consumer, segment: Segment, events: list[Event]
) -> None:
    async with Message(consumer, segment, 0) as message:
        message.nack(delay=2)
    await asyncio.sleep(0)
    (settle,) = events
    assert isinstance(settle, SettleRequested)
    assert settle.acks == ()
    assert settle.nacks == (GivenBack(Run(S, 41, 41), 2_000),)


async def test_a_handler_that_is_cancelled_gives_back_at_once_and_has_not_failed(
    consumer: Consumer, segment: Segment, events: list[Event]
) -> None:
    with pytest.raises(asyncio.CancelledError):
        async with Message(consumer, segment, 0):
            raise asyncio.CancelledError
    await asyncio.sleep(0)
    (settle,) = events
    assert isinstance(settle, SettleRequested)
    assert settle.nacks == (GivenBack(Run(S, 41, 41), 0, failed=False),)
