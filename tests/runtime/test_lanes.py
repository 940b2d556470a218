"""Lanes: emits never take another packet's place, and neither bulk lane starves the other."""

from __future__ import annotations

from p2pmq.core.packets.emitting import Emit
from p2pmq.core.packets.publishing import Batch
from p2pmq.runtime.lanes import (
    BULK_QUEUE_MAX,
    CONTROL_QUEUE_MAX,
    EMIT_QUEUE_BYTES_MAX,
    EMIT_QUEUE_MAX,
    Lanes,
)
from p2pmq.wire.bodies import PackedBodies
from tests.runtime.kit import bulk, control


def emit(number: int, count: int = 1, size: int = 10) -> Emit:
    bodies = PackedBodies.from_bodies([b"x"] * count)
    return Emit(("t",) * count, Batch(b"session1", number, count, size, bodies))


def drained(lanes: Lanes) -> list[str]:
    """All bulk in the order in which it leaves."""
    kinds: list[str] = []
    while (packet := lanes.next_bulk()) is not None:
        kinds.append(type(packet).__name__)
        lanes.taken(packet)
    return kinds


def test_bulk_and_emits_take_turns_and_either_goes_on_alone() -> None:
    lanes = Lanes()
    for number in range(1, 5):
        lanes.put(bulk(number, 10))
    for number in range(1, 3):
        lanes.put(emit(number))
    assert drained(lanes) == ["Publish", "Emit", "Publish", "Emit", "Publish", "Publish"]
    lanes.put(emit(3))
    assert drained(lanes) == ["Emit"]


def test_too_many_emits_drop_the_oldest_of_them_and_count_events() -> None:
    lanes = Lanes()
    lanes.put(bulk(1, 10))
    for number in range(EMIT_QUEUE_MAX):
        assert lanes.put(emit(number + 1, count=3)) == {}
    assert lanes.put(emit(999)) == {"emits_dropped": 3}
    assert lanes.emits[0].batch.first == 2
    assert len(lanes.bulk) == 1


def test_too_many_bytes_of_emits_drop_the_oldest_but_a_single_one_may_be_large() -> None:
    lanes = Lanes()
    assert lanes.put(emit(1, size=10 * EMIT_QUEUE_BYTES_MAX)) == {}
    assert lanes.put(emit(2)) == {"emits_dropped": 1}
    assert [packet.batch.first for packet in lanes.emits] == [2]
    lanes.taken(lanes.emits[0])
    assert lanes.put(emit(3, size=EMIT_QUEUE_BYTES_MAX)) == {}


def test_bulk_and_control_are_bounded_by_packets_and_emits_do_not_count() -> None:
    lanes = Lanes()
    for number in range(EMIT_QUEUE_MAX):
        lanes.put(emit(number + 1))
    for number in range(BULK_QUEUE_MAX):
        assert lanes.put(bulk(number + 1, 1)) == {}
    assert lanes.put(bulk(9_999, 1)) == {"packet_dropped_queue_full": 1}
    for number in range(CONTROL_QUEUE_MAX):
        assert lanes.put(control(number)) == {}
    assert lanes.put(control(0)) == {"packet_dropped_queue_full": 1}


def test_what_a_lost_link_takes_with_it_is_counted_where_nobody_sends_it_again() -> None:
    lanes = Lanes()
    lanes.put(bulk(1, 1))
    lanes.put(emit(1, count=2))
    lanes.put(control(1))
    assert lanes.clear_bulk() == {"emits_dropped": 2}
    assert len(lanes.control) == 1
    lanes.put(bulk(1, 1))
    lanes.put(emit(3))
    assert lanes.clear() == {"emits_dropped": 1, "packet_dropped_unreachable": 2}
    assert lanes.clear() == {}
