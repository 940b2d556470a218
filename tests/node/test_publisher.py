"""The publisher: calls become batches, waits are bounded, and nobody waits for ever."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from p2pmq import ClosedNodeError, NotCommittedError, OutboxFullError, Receipt
from p2pmq.config import Limits
from p2pmq.core.effects import Published
from p2pmq.core.events import Confirmation, Event, PublishRequested
from p2pmq.core.ids import PartitionKey
from p2pmq.core.quota import MESSAGE_OVERHEAD_BYTES
from p2pmq.node.batches import BULK_BYTES, BULK_MESSAGES, KnownTerms, Terms
from p2pmq.node.bulk import BULK_IN_FLIGHT_BYTES
from p2pmq.node.publisher import Publisher
from p2pmq.wire.bodies import PackedBodies
from tests.node.kit import PATIENCE_S

Q, R = PartitionKey("q", 0), PartitionKey("r", 0)
COMMITTED, STORED, NONE = Confirmation.COMMITTED, Confirmation.STORED, Confirmation.NONE
OWNER = b"owner-id"


class Desk:
    """A publisher whose core is the test."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.requests: list[PublishRequested] = []
        self.unanswered: list[PublishRequested] = []
        self.answers_at_once = False
        self._seq = 1
        self.publisher = Publisher(
            self._feed,
            asyncio.get_running_loop(),
            limits or Limits(),
            lambda node_id: "bank" if node_id == OWNER else None,
            lambda _key: 1,
        )

    def _feed(self, event: Event) -> None:
        assert isinstance(event, PublishRequested)
        self.requests.append(event)
        if event.wanted is not NONE:
            self.unanswered.append(event)
            if self.answers_at_once:
                self.answer()

    def answer(self, *, timed_out: bool = False, reason: str = "") -> None:
        """Resolve the oldest request."""
        request = self.unanswered.pop(0)
        copies = 0 if timed_out else 1
        outcome = Published(
            self._seq, request.count, b"session!", copies, timed_out, OWNER, timed_out, reason
        )
        self._seq += request.count
        self.publisher.on_resolve(request.token, outcome)

    def publish(
        self, body: object, key: PartitionKey = Q, wanted: Confirmation = COMMITTED
    ) -> "asyncio.Task[Receipt]":
        return asyncio.ensure_future(self.publisher.publish(key, body, Terms(wanted, 5_000)))

    def bodies(self) -> list[list[bytes]]:
        packed = [request.bodies for request in self.requests]
        return [p.bodies for p in packed if isinstance(p, PackedBodies)]


@pytest.fixture
async def desk() -> Desk:
    return Desk()


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# -- batches --


async def test_calls_of_one_round_leave_as_one_batch_for_each_queue(desk: Desk) -> None:
    tasks = [desk.publish(b"%d" % n, Q if n % 2 else R) for n in range(6)]
    await turns()
    assert desk.bodies() == [[b"0", b"2", b"4"], [b"1", b"3", b"5"]]
    desk.answer()
    desk.answer()
    receipts = await asyncio.gather(*tasks)
    assert [receipt.seq for receipt in receipts] == [1, 4, 2, 5, 3, 6]
    assert {(r.committed, r.copies, r.owner) for r in receipts} == {(True, 1, "bank")}


async def test_another_kind_of_confirm_begins_another_batch_and_order_is_kept(desk: Desk) -> None:
    for number, wanted in enumerate((COMMITTED, COMMITTED, NONE, STORED)):
        desk.publish(b"%d" % number, wanted=wanted).add_done_callback(lambda _task: None)
    await turns()
    assert desk.bodies() == [[b"0", b"1"], [b"2"], [b"3"]]
    desk.publisher.fail(ClosedNodeError("n", "closed"))
    await turns()


async def test_other_terms_begin_another_batch_which_carries_them(desk: Desk) -> None:
    for number, terms in enumerate((Terms(NONE, 10), Terms(NONE, 10, ttl_ms=7, priority=9))):
        task = asyncio.ensure_future(desk.publisher.publish(Q, b"%d" % number, terms))
        task.add_done_callback(lambda _task: None)
    await turns()
    assert desk.bodies() == [[b"0"], [b"1"]]
    assert [(r.ttl_ms, r.priority) for r in desk.requests] == [(0, 0), (7, 9)]


async def test_a_batch_stays_under_the_size_of_a_frame(desk: Desk) -> None:
    tasks = [desk.publish(bytes(100_000)) for _ in range(5)]
    tasks.append(desk.publish(bytes(3 * BULK_BYTES)))
    tasks.append(desk.publish(b"x"))
    await turns()
    sizes = [request.size for request in desk.requests]
    assert sizes == [200_000, 200_000, 100_000, 3 * BULK_BYTES, 1]
    while desk.unanswered:
        desk.answer()
    await asyncio.gather(*tasks)


async def test_a_batch_of_raw_bytes_has_no_column_of_formats(desk: Desk) -> None:
    tasks = [desk.publish(b"raw"), desk.publish("text", R)]
    await turns()
    raw, text = (request.bodies for request in desk.requests)
    assert isinstance(raw, PackedBodies)
    assert isinstance(text, PackedBodies)
    assert raw.formats is None
    assert text.formats == b"\1"
    desk.answer()
    desk.answer()
    await asyncio.gather(*tasks)


# -- waits --


async def test_time_that_is_up_is_an_error_with_the_receipt(desk: Desk) -> None:
    task = desk.publish(b"x")
    await turns()
    desk.answer(timed_out=True, reason="the owner's disk is full")
    with pytest.raises(NotCommittedError, match="disk is full") as caught:
        await task
    assert caught.value.receipt.stored
    assert caught.value.receipt.message_id == b"session!".hex() + "-1"


async def test_a_cancelled_publisher_is_passed_over(desk: Desk) -> None:
    tasks = [desk.publish(b"%d" % n) for n in range(3)]
    await turns()
    tasks[1].cancel()
    await turns()
    desk.answer()
    first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(second, asyncio.CancelledError)
    assert isinstance(first, Receipt)
    assert isinstance(third, Receipt)
    assert (first.seq, third.seq) == (1, 3)


async def test_confirm_none_waits_for_nothing(desk: Desk) -> None:
    receipt = await desk.publisher.publish(Q, b"x", Terms(NONE, 5_000))
    assert (receipt.committed, receipt.stored, receipt.message_id) == (False, False, "")
    await turns()
    assert desk.bodies() == [[b"x"]]


async def test_at_the_outbox_s_limit_publishers_wait_until_there_is_room(desk: Desk) -> None:
    limit = Limits().outbox_bytes_max
    desk.publisher.on_outbox_changed(limit + 1)
    tasks = [desk.publish(b"x") for _ in range(5)]
    await turns()
    assert desk.requests == []
    desk.publisher.on_outbox_changed(limit)
    await turns()
    assert sum(request.count for request in desk.requests) == 5
    while desk.unanswered:
        desk.answer()
    await asyncio.gather(*tasks)


async def test_an_outbox_that_stays_full_is_an_error(desk: Desk) -> None:
    limit = Limits().outbox_bytes_max
    desk.publisher.on_outbox_changed(limit + 1)
    for wanted in (COMMITTED, STORED, NONE):
        with pytest.raises(OutboxFullError, match="did not drain"):
            await desk.publisher.publish(Q, b"x", Terms(wanted, 10))
        with pytest.raises(OutboxFullError):
            await desk.publisher.publish_many(Q, [b"x"], Terms(NONE, 10))
    assert desk.requests == []


# -- the end --


async def test_everybody_who_waits_gets_the_error_when_the_node_stops(desk: Desk) -> None:
    error = ClosedNodeError("n", "closed")
    sent = desk.publish(b"sent")
    await turns()
    bulk = asyncio.ensure_future(desk.publisher.publish_many(R, [b"x"], Terms(COMMITTED, 5_000)))
    await turns()
    desk.publisher.on_outbox_changed(Limits().outbox_bytes_max + 1)
    for_room = desk.publish(b"waits for room")
    await turns()
    desk.publisher.on_outbox_changed(0)
    gathered = asyncio.ensure_future(
        desk.publisher.publish(Q, b"in an open batch", Terms(COMMITTED, 1))
    )
    await asyncio.sleep(0)
    desk.publisher.fail(error)
    for task in (sent, bulk, for_room, gathered):
        with pytest.raises(ClosedNodeError):
            await asyncio.wait_for(task, PATIENCE_S)


async def test_whoever_waits_for_room_as_the_node_stops_is_told(desk: Desk) -> None:
    desk.publisher.on_outbox_changed(Limits().outbox_bytes_max + 1)
    tasks = [desk.publish(b"x") for _ in range(3)]
    await turns()
    desk.publisher.fail(ClosedNodeError("n", "closed"))
    for task in tasks:
        with pytest.raises(ClosedNodeError):
            await asyncio.wait_for(task, PATIENCE_S)


async def test_whoever_comes_after_the_end_is_told_at_once(desk: Desk) -> None:
    desk.publisher.fail(ClosedNodeError("n", "closed"))
    with pytest.raises(ClosedNodeError):
        await desk.publisher.publish(Q, b"x", Terms(COMMITTED, 5_000))
    for wanted in (COMMITTED, NONE):
        with pytest.raises(ClosedNodeError):
            await desk.publisher.publish_many(Q, [b"x"], Terms(wanted, 5_000))
    assert desk.requests == []


# -- many messages --


async def test_publish_many_cuts_batches_and_waits_once(desk: Desk) -> None:
    desk.answers_at_once = True
    bodies = (b"%d" % n for n in range(2 * BULK_MESSAGES + 1))
    receipt = await desk.publisher.publish_many(Q, bodies, Terms(COMMITTED, 5_000))
    assert [request.count for request in desk.requests] == [BULK_MESSAGES, BULK_MESSAGES, 1]
    assert (receipt.published, receipt.committed) == (2 * BULK_MESSAGES + 1,) * 2
    assert receipt.owners == ("bank",)


@pytest.mark.parametrize("size", [0, 1, 1_024, 300_000])
async def test_an_iterable_is_not_consumed_far_ahead_of_the_confirms(size: int) -> None:
    desk = Desk()
    taken = 0

    def bodies() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(size)

    task = asyncio.ensure_future(desk.publisher.publish_many(Q, bodies(), Terms(COMMITTED, 5_000)))
    await turns(10)
    most = BULK_IN_FLIGHT_BYTES + 2 * BULK_BYTES + 2 * BULK_MESSAGES * MESSAGE_OVERHEAD_BYTES
    assert taken * (size + MESSAGE_OVERHEAD_BYTES) <= most + 2 * size
    before = taken
    desk.answer()
    await turns(10)
    assert before < taken <= before + 2 * BULK_MESSAGES
    task.cancel()
    await asyncio.wait((task,))


async def test_an_async_iterable_is_not_consumed_far_ahead_either(desk: Desk) -> None:
    taken = 0

    async def bodies() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(100_000)

    task = asyncio.ensure_future(desk.publisher.publish_many(Q, bodies(), Terms(COMMITTED, 5_000)))
    await turns(10)
    assert taken * 100_000 <= BULK_IN_FLIGHT_BYTES + 3 * BULK_BYTES
    task.cancel()
    await asyncio.wait((task,))


async def test_an_error_of_the_iterable_comes_out_and_what_was_sent_stays_sent(
    desk: Desk,
) -> None:
    def bodies() -> Iterator[bytes]:
        yield from [b"x"] * (BULK_MESSAGES + 5)
        raise LookupError("of the user")

    with pytest.raises(LookupError, match="of the user"):
        await desk.publisher.publish_many(Q, bodies(), Terms(COMMITTED, 5_000))
    assert [request.count for request in desk.requests] == [BULK_MESSAGES]
    desk.answer()  # nobody waits for it any more: no harm


async def test_one_batch_that_is_not_confirmed_fails_the_whole_call(desk: Desk) -> None:
    bodies = [b"x"] * (2 * BULK_MESSAGES)
    task = asyncio.ensure_future(desk.publisher.publish_many(Q, bodies, Terms(COMMITTED, 5_000)))
    await turns()
    desk.answer()
    desk.answer(timed_out=True)
    with pytest.raises(NotCommittedError):
        await task


async def test_publish_many_comes_after_what_was_published_before_it(desk: Desk) -> None:
    desk.answers_at_once = True
    task = desk.publish(b"first")
    await asyncio.sleep(0)
    await desk.publisher.publish_many(Q, [b"second"], Terms(COMMITTED, 5_000))
    await task
    assert desk.bodies() == [[b"first"], [b"second"]]


def test_terms_that_are_asked_for_again_are_made_once_until_settings_change() -> None:
    known = KnownTerms()
    made: list[int] = []

    def make() -> Terms:
        made.append(1)
        return Terms(Confirmation.COMMITTED, len(made))

    assert known.find(1, "asked", make) is known.find(1, "asked", make)
    assert known.find(1, "otherwise", make).timeout_ms == 2
    assert known.find(2, "asked", make).timeout_ms == 3
