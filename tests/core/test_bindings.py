"""Bindings: which topics are copied into which queues, the same on every node that hears of it."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from p2pmq.core import bindings as module
from p2pmq.core.bindings import Bindings
from p2pmq.core.effects import Counted, Done, Notify, Persist, Refused, Resolve, Send
from p2pmq.core.events import BindDurable, BindRequested
from p2pmq.core.packets.binding import (
    BindingBuckets,
    BindingDigest,
    BindingRecord,
    BindingRecords,
)
from p2pmq.core.shared import COMPARE_MS

if TYPE_CHECKING:
    import pytest

    from p2pmq.core.effects import Effect

A, B, C = (bytes([n]) * 8 for n in (1, 2, 3))


def made(own_id: bytes = A, *peers: bytes, records: tuple[BindingRecord, ...] = ()) -> Bindings:
    bindings = Bindings(own_id, lambda: peers, Random(1))
    bindings.recover(records, 0)
    return bindings


def bind(
    bindings: Bindings, pattern: str, queue: str, wall_ms: int, *, bound: bool = True
) -> list[Effect]:
    """Bind or part, and let the write become durable."""
    (persist,) = bindings.on_bind(BindRequested(pattern, queue, bound, 7), wall_ms)
    assert isinstance(persist, Persist)
    assert isinstance(persist.then, BindDurable)
    return bindings.on_durable(persist.then)


def meet(one: Bindings, one_id: bytes, other: Bindings, other_id: bytes, now: int = 10_000) -> None:
    """Let the two compare until nothing is on its way."""
    ends = {one_id: one, other_id: other}
    on_way = [(one_id, e) for e in one.on_peer_connected(other_id, now)]
    on_way += [(other_id, e) for e in other.on_peer_connected(one_id, now)]
    for _ in range(100):
        if not on_way:
            return
        sender, effect = on_way.pop(0)
        if not isinstance(effect, Send):
            continue
        receiver = ends[effect.peer]
        match effect.packet:
            case BindingDigest():
                answers = receiver.on_digest(sender, effect.packet, now)
            case BindingBuckets():
                answers = receiver.on_buckets(sender, effect.packet)
            case BindingRecords():
                answers = receiver.on_records(effect.packet)
            case _:
                raise AssertionError(effect.packet)
        on_way += [(effect.peer, answer) for answer in answers]
    raise AssertionError("they do not come to an end")


def test_a_queue_is_found_once_however_many_of_its_patterns_match() -> None:
    bindings = made()
    bind(bindings, "site.>", "all", 1)
    bind(bindings, "site.*.temp", "all", 1)
    bind(bindings, "site.*.temp", "temps", 1)
    assert bindings.match("site.7.temp") == ("all", "temps")
    assert bindings.match("site.7.door") == ("all",)
    assert bindings.match("shop") == ()
    bind(bindings, "site.>", "all", 2, bound=False)
    assert bindings.match("site.7.door") == (), "what was remembered is forgotten"
    assert [(r.pattern, r.queue) for r in bindings.bound()] == [
        ("site.*.temp", "all"),
        ("site.*.temp", "temps"),
    ]


def test_it_is_told_to_all_when_it_is_durable_and_saying_it_again_changes_nothing() -> None:
    bindings = made(A, B, C)
    done, *told = bind(bindings, "a.>", "q", 1)
    assert done == Resolve(7, Done())
    assert [effect.peer for effect in told if isinstance(effect, Send)] == [B, C]
    before = bindings.digest()
    assert bind(bindings, "a.>", "q", 99) == [Resolve(7, Done())]
    assert bindings.digest() == before


def test_a_pair_that_was_parted_does_not_come_back_with_who_was_away() -> None:
    here, away = made(A), made(B)
    bind(here, "a.>", "q", 5)
    meet(here, A, away, B)
    assert away.match("a.b") == ("q",)
    bind(here, "a.>", "q", 6, bound=False)
    meet(here, A, away, B, now=20_000)
    assert here.match("a.b") == away.match("a.b") == ()
    bind(away, "a.>", "q", 1)
    meet(here, A, away, B, now=30_000)
    assert here.match("a.b") == ("q",), "bound anew, by a node whose clock is behind"


def test_what_this_node_does_not_know_of_is_parted_as_well() -> None:
    here, away = made(A), made(B)
    bind(away, "a.>", "q", 5)
    bind(here, "a.>", "q", 9, bound=False)
    meet(here, A, away, B)
    assert away.match("a.b") == ()


records = st.builds(
    BindingRecord,
    pattern=st.sampled_from(["a.*", "a.>", "b"]),
    queue=st.sampled_from(["q", "ü"]),
    stamp=st.integers(1, 9),
    author=st.sampled_from([A, B, C]),
)


def said_by(record: BindingRecord) -> BindingRecord:
    """One author stamps no two records alike."""
    return BindingRecord(
        record.pattern, record.queue, record.stamp, record.author, record.stamp % 3 > 0
    )


@given(st.lists(records.map(said_by), max_size=12), st.lists(records.map(said_by), max_size=12))
def test_two_that_meet_copy_the_same_events_into_the_same_queues(
    here: list[BindingRecord], there: list[BindingRecord]
) -> None:
    one, other = made(A), made(B)
    one.on_records(BindingRecords(tuple(here)))
    other.on_records(BindingRecords(tuple(there)))
    meet(one, A, other, B)
    again = made(C, records=tuple(one.records()))
    assert one.records() == other.records() == again.records()
    for topic in ("a.x", "a.x.y", "b"):
        expected = {r.queue for r in one.bound() if r.pattern in _matching(topic)}
        assert set(one.match(topic)) == set(other.match(topic)) == expected
        assert again.match(topic) == one.match(topic)


def _matching(topic: str) -> set[str]:
    return {"a.x": {"a.*", "a.>"}, "a.x.y": {"a.>"}, "b": {"b"}}[topic]


def test_an_empty_map_asks_for_no_time_and_one_that_is_not_compares_now_and_then() -> None:
    bindings = made(A, B)
    assert bindings.next_deadline() is None
    bind(bindings, "a", "q", 1)
    at = bindings.next_deadline()
    assert at is not None
    assert at <= COMPARE_MS
    (send,) = bindings.on_timeout(at)
    assert isinstance(send, Send)
    assert send.packet == BindingDigest(bindings.digest())
    assert bindings.next_deadline() == at + COMPARE_MS


def test_what_is_no_pattern_is_counted_and_left_out() -> None:
    bindings = made()
    bad = BindingRecord("a..b", "q", 1, B)
    good = BindingRecord("a.b", "q", 1, B)
    counted, persist = bindings.on_records(BindingRecords((bad, good)))
    assert counted == Notify(Counted("bindings_malformed", 1))
    assert isinstance(persist, Persist)
    assert bindings.records() == [good]


def test_the_number_of_pairs_is_bounded_and_parted_ones_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BINDINGS_MAX", 1)
    bindings = made()
    bind(bindings, "a", "q", 1)
    bind(bindings, "a", "q", 2, bound=False)
    (refused,) = bindings.on_bind(BindRequested("b", "q", bound=True, token=8), 3)
    assert refused == Resolve(8, Refused(module.FULL))
    (counted,) = bindings.on_records(BindingRecords((BindingRecord("b", "q", 1, B),)))
    assert isinstance(counted, Notify)
    bind(bindings, "a", "q", 4)
    assert bindings.match("a") == ("q",)


def test_on_a_full_disk_what_held_before_holds_on() -> None:
    bindings = made()
    (persist,) = bindings.on_bind(BindRequested("a", "q", bound=True, token=8), 3)
    assert isinstance(persist, Persist)
    assert isinstance(persist.then, BindDurable)
    refused = bindings.on_write_refused(persist.then)
    assert refused == [Resolve(8, Refused(module.DISK_FULL))]
    assert (bindings.match("a"), bindings.records()) == ((), [])
