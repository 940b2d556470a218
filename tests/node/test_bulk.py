"""Bulk publishing into several partitions: a batch fills for each, and memory is bounded."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from p2pmq.core.events import Confirmation, PublishRequested
from p2pmq.core.ids import PartitionKey
from p2pmq.node import bulk
from p2pmq.node.batches import BULK_MESSAGES, Terms
from p2pmq.node.bulk import Turns
from p2pmq.node.ordering import ordering_key
from p2pmq.wire.bodies import PackedBodies
from tests.node.test_publisher import Desk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

Q = PartitionKey("q", 0)
FOUR = Terms(Confirmation.COMMITTED, 5_000, partitions=4)
NONE = Terms(Confirmation.NONE, 5_000, partitions=4)


@pytest.fixture
async def desk() -> Desk:
    return Desk()


def by_partition(requests: list[PublishRequested]) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = defaultdict(list)
    for request in requests:
        assert isinstance(request.bodies, PackedBodies)
        found[request.key.number] += request.bodies.bodies
    return found


async def test_single_messages_go_round_batch_by_batch(desk: Desk) -> None:
    for number in range(8):
        for copy in range(3):
            await desk.publisher.publish(Q, b"%d %d" % (number, copy), NONE)
        desk.publisher.flush()
    assert [request.count for request in desk.requests] == [3] * 8
    numbers = [request.key.number for request in desk.requests]
    assert set(numbers[:4]) == {0, 1, 2, 3}
    assert numbers[:4] == numbers[4:]


async def test_a_queue_has_turns_of_its_own_and_publishers_begin_in_different_places(
    desk: Desk,
) -> None:
    for _ in range(4):
        for queue in ("q", "r"):
            await desk.publisher.publish(PartitionKey(queue, 0), b"x", NONE)
            desk.publisher.flush()
    for queue in ("q", "r"):
        found = {r.key.number for r in desk.requests if r.key.queue == queue}
        assert found == {0, 1, 2, 3}
    assert Turns(0).next("q", 4) != Turns(1).next("q", 4)


async def test_a_key_and_an_id_have_their_place_and_the_key_counts_first(desk: Desk) -> None:
    key = ordering_key("ann")
    for _ in range(5):
        await desk.publisher.publish(Q, b"key", NONE, b"", key)
        await desk.publisher.publish(Q, b"id", NONE, bytes(15) + b"\3")
        await desk.publisher.publish(Q, b"both", NONE, bytes(15) + b"\2", key)
        desk.publisher.flush()
    places = by_partition(desk.requests)
    assert places[3].count(b"id") == 5
    of_key = next(number for number, bodies in places.items() if b"key" in bodies)
    assert places[of_key].count(b"key") == places[of_key].count(b"both") == 5


async def test_bulk_without_keys_goes_a_whole_batch_to_each_partition_in_turn(desk: Desk) -> None:
    await desk.publisher.publish_many(Q, [b"%d" % n for n in range(4 * BULK_MESSAGES)], NONE)
    assert [request.count for request in desk.requests] == [BULK_MESSAGES] * 4
    assert {request.key.number for request in desk.requests} == {0, 1, 2, 3}


async def test_bulk_with_keys_fills_a_batch_for_each_and_keeps_their_order(desk: Desk) -> None:
    keys = [ordering_key(str(number)) for number in range(50)]
    bodies = [b"%d" % number for number in range(3_000)]
    receipt = asyncio.ensure_future(
        desk.publisher.publish_many(Q, bodies, FOUR, None, lambda body: keys[int(body) % 50])  # type: ignore[call-overload]  # bytes
    )
    while not receipt.done():
        await asyncio.sleep(0)
        while desk.unanswered:
            desk.answer()
    assert (await receipt).committed == 3_000
    places = by_partition(desk.requests)
    assert sorted(body for found in places.values() for body in found) == sorted(bodies)
    place_of: dict[int, int] = {}
    for number, found in places.items():
        for key in range(50):
            of_key = [int(body) for body in found if int(body) % 50 == key]
            assert of_key == sorted(of_key)
            if of_key:
                assert place_of.setdefault(key, number) == number
    assert len(desk.requests) <= 12, "some hundreds of messages in each"


async def test_an_async_iterable_is_spread_as_well(desk: Desk) -> None:
    async def bodies() -> AsyncIterator[dict[str, str]]:
        for number in range(20):
            yield {"id": f"{number}"}

    await desk.publisher.publish_many(Q, bodies(), NONE, lambda body: body["id"])
    assert sum(request.count for request in desk.requests) == 20
    assert len({request.key.number for request in desk.requests}) > 1


async def test_batches_that_fill_at_once_are_bounded_together(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "SPREAD_BYTES_MAX", 10_000)
    terms = NONE._replace(partitions=256)
    most = 0
    taken = 0

    def bodies() -> Iterator[bytes]:
        nonlocal most, taken
        for number in range(300):
            most = max(most, taken - sum(request.size for request in desk.requests))
            taken += 1_000
            yield number.to_bytes(1_000)

    await desk.publisher.publish_many(
        Q,
        bodies(),
        terms,
        None,
        lambda body: ordering_key(str(int.from_bytes(body))),  # type: ignore[arg-type]  # bytes
    )
    assert sum(request.count for request in desk.requests) == 300
    assert most < 20_000
