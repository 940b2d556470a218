"""Bodies that lie in the store are put into packets and records as these leave the core."""

import pytest

from p2pmq.core.ids import PartitionKey
from p2pmq.core.packets.delivering import Delivery, Handover, Segment
from p2pmq.core.packets.publishing import Batch, Publish
from p2pmq.core.packets.registry import Packet
from p2pmq.core.records import BatchStored, IncarnationSaved, Record, Space, StoredBodies
from p2pmq.runtime.resolve import batches_of, resolved_packet, resolved_records
from p2pmq.store.memory import MemoryStore
from p2pmq.wire.bodies import PackedBodies
from p2pmq.wire.codec import decode, encode
from tests.runtime.kit import control

KEY = PartitionKey("q", 0)
PACKED = PackedBodies.from_bodies([b"a", b"b", b"c"])


def batch(start: int = 0, stop: int = 3) -> Batch:
    where = StoredBodies(Space.PARTITION, KEY, 1, start, stop)
    return Batch(b"session!", start + 1, stop - start, stop - start, where, stamp=5)


async def store_with_a_batch() -> MemoryStore:
    store = MemoryStore()
    await store.open()
    stored = Batch(b"session!", 1, 3, 3, PACKED, stamp=5)
    store.write([BatchStored(Space.PARTITION, KEY, 1, stored)], lambda _error: None)
    return store


@pytest.mark.parametrize(
    "packet",
    [
        Publish("q", 0, 0, batch()),
        Publish("q", 0, 0, batch(1, 2)),
        Delivery("q", 0, b"consumer", 1, 1, (Segment(batch(), 1), Segment(batch(2, 3), 4))),
        Handover("q", 0, 1, batches=(batch(0, 1), batch(1, 3))),
    ],
    ids=["whole", "part", "delivery", "handover"],
)
async def test_a_packet_leaves_with_its_bodies(packet: Packet) -> None:
    store = await store_with_a_batch()
    (decoded,) = [decode(encode(resolved_packet(packet, store)))]
    for before, after in zip(batches_of(packet), batches_of(decoded), strict=True):
        assert isinstance(after.bodies, PackedBodies)
        assert after.bodies.bodies == PACKED.bodies[before.first - 1 : before.last]
        assert (after.run, after.stamp) == (before.run, before.stamp)
    await store.close()


async def test_a_packet_without_bodies_is_passed_on_as_it_is() -> None:
    store = await store_with_a_batch()
    packet = control()
    assert resolved_packet(packet, store) is packet
    assert batches_of(packet) == ()
    at_hand = Publish("q", 0, 0, Batch(b"session!", 1, 3, 3, PACKED))
    assert resolved_packet(at_hand, store) is at_hand
    await store.close()


async def test_records_are_copied_only_where_bodies_are_to_be_read() -> None:
    store = await store_with_a_batch()
    plain: tuple[Record, ...] = (IncarnationSaved(1),)
    assert resolved_records(plain, store) is plain
    saved, written = resolved_records(
        (IncarnationSaved(1), BatchStored(Space.PARTITION, KEY, 2, batch())), store
    )
    assert saved == IncarnationSaved(1)
    assert isinstance(written, BatchStored)
    assert written.batch.bodies == PACKED
    await store.close()


async def test_what_is_not_there_is_a_key_error() -> None:
    store = MemoryStore()
    await store.open()
    with pytest.raises(KeyError):
        resolved_packet(Publish("q", 0, 0, batch()), store)
    await store.close()
