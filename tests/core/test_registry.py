"""The registry: the latest declaration of a queue holds, on every node that hears of it."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from p2pmq.core import registry as module
from p2pmq.core.effects import Done, Effect, Notify, Persist, Refused, Resolve, Send
from p2pmq.core.events import DeclareDurable, DeclareRequested
from p2pmq.core.packets.registering import (
    RECORDS_MAX,
    QueueBuckets,
    QueueDigest,
    QueueRecord,
    QueueRecords,
    QueueSettings,
)
from p2pmq.core.records import QueueSaved
from p2pmq.core.registry import ASK_AGAIN_MS, LEVEL_WITHIN_MS, Registry
from p2pmq.core.shared import COMPARE_MS, EXCHANGE_MS, STAMP_MAX

if TYPE_CHECKING:
    import pytest

    from p2pmq.core.packets.registry import Packet

A, B, C = (bytes([n]) * 8 for n in (1, 2, 3))
THREE = QueueSettings(3, 2)
FIVE = QueueSettings(5, 0)


def made(own_id: bytes = A, *peers: bytes) -> Registry:
    registry = Registry(own_id, lambda: peers, Random(1))
    registry.recover((), 0)
    return registry


def declare(registry: Registry, queue: str, settings: QueueSettings, wall_ms: int) -> list[Effect]:
    """Declare, and let the write become durable."""
    effects: list[Effect] = []
    for effect in registry.on_declare(DeclareRequested(queue, settings, 7), wall_ms):
        if isinstance(effect, Persist) and isinstance(effect.then, DeclareDurable):
            effects += registry.on_durable(effect.then)
        else:
            effects.append(effect)
    return effects


def exchange(
    one: Registry, one_id: bytes, other: Registry, other_id: bytes, now: int = 10_000
) -> list[Packet]:
    """Let the two compare until nothing is on its way; the packets that took."""
    ends = {one_id: one, other_id: other}
    on_way = [(one_id, e) for e in one.on_peer_connected(other_id, now)]
    on_way += [(other_id, e) for e in other.on_peer_connected(one_id, now)]
    sent: list[Packet] = []
    while on_way:
        sender, effect = on_way.pop(0)
        if not isinstance(effect, Send):
            continue
        assert len(sent) < 1_000
        receiver = ends[effect.peer]
        sent.append(effect.packet)
        match effect.packet:
            case QueueDigest():
                answers = receiver.on_digest(sender, effect.packet, now)
            case QueueBuckets():
                answers = receiver.on_buckets(sender, effect.packet)
            case QueueRecords():
                answers = receiver.on_records(effect.packet)
            case _:
                raise AssertionError(effect.packet)
        on_way += [(effect.peer, answer) for answer in answers]
    return sent


records = st.builds(
    QueueRecord,
    queue=st.sampled_from(["a", "b", "ü"]),
    stamp=st.integers(1, 9),
    author=st.sampled_from([A, B, C]),
    settings=st.just(THREE),
)


def settings_by(record: QueueRecord) -> QueueRecord:
    """One author stamps no two declarations alike: settings follow from stamp and author."""
    chosen = QueueSettings(1 + record.stamp % 9, record.author[0])
    return QueueRecord(record.queue, record.stamp, record.author, chosen)


@given(st.lists(records.map(settings_by), max_size=12), st.randoms(use_true_random=False))
def test_maps_are_equal_in_whatever_order_and_however_often_records_come(
    found: list[QueueRecord], chance: Random
) -> None:
    one, other = made(A), made(B)
    for record in found:
        one.on_records(QueueRecords((record,)))
    again = found + chance.choices(found, k=5) if found else []
    chance.shuffle(again)
    for record in again:
        other.on_records(QueueRecords((record,)))
    assert one.records() == other.records()
    assert one.digest() == other.digest()
    latest: dict[str, QueueRecord] = {}
    for record in found:
        known = latest.get(record.queue)
        if known is None or (record.stamp, record.author) > (known.stamp, known.author):
            latest[record.queue] = record
    assert {record.queue: record for record in one.records()} == latest


@given(
    st.lists(records.map(settings_by), max_size=12), st.lists(records.map(settings_by), max_size=12)
)
def test_two_that_meet_have_the_same_map_afterwards(
    here: list[QueueRecord], there: list[QueueRecord]
) -> None:
    one, other = made(A), made(B)
    for record in here:
        one.on_records(QueueRecords((record,)))
    for record in there:
        other.on_records(QueueRecords((record,)))
    exchange(one, A, other, B)
    assert one.records() == other.records()
    again = exchange(one, A, other, B, 20_000)
    assert {type(packet) for packet in again} <= {QueueDigest}, "equal maps cost a digest each way"


def test_maps_of_many_pages_are_exchanged_wholly() -> None:
    one, other = made(A), made(B)
    for number in range(3 * RECORDS_MAX + 7):
        record = QueueRecord(f"q{number:05}", 1, A, THREE)
        (one if number % 3 else other).on_records(QueueRecords((record,)))
    exchange(one, A, other, B)
    assert len(one.records()) == 3 * RECORDS_MAX + 7
    assert one.records() == other.records()


def test_of_two_maps_that_differ_in_one_record_little_is_sent() -> None:
    one, other = made(A), made(B)
    for number in range(2_560):
        for registry in (one, other):
            registry.on_records(QueueRecords((QueueRecord(f"q{number}", 1, A, THREE),)))
    one.on_records(QueueRecords((QueueRecord("q7", 2, A, FIVE),)))
    sent = exchange(one, A, other, B)
    assert other.settings_of("q7") == FIVE
    assert one.digest() == other.digest()
    records = sum(len(packet.records) for packet in sent if isinstance(packet, QueueRecords))
    assert records < 200, "a bucket of ten, from both sides, for each who began"


def test_a_newcomer_fetches_the_map_from_one_member_at_a_time() -> None:
    newcomer, other = made(A, B, C), made(B)
    declare(other, "q", THREE, 1_000)
    digest = QueueDigest(other.digest())
    (asked,) = newcomer.on_digest(B, digest, 50_000)
    assert isinstance(asked, Send)
    assert newcomer.on_digest(C, digest, 50_001) == []
    assert newcomer.next_deadline() is not None
    assert newcomer.on_digest(C, digest, 50_000 + EXCHANGE_MS) != []


def test_maps_are_compared_once_more_soon_after_a_link_is_new_since_what_was_said_may_be_lost() -> (
    None
):
    newcomer = made(A, B)
    newcomer.on_timeout(50_000)
    newcomer.on_peer_connected(B, 50_000)
    due = newcomer.next_deadline()
    assert due == 50_000 + EXCHANGE_MS
    (asked,) = newcomer.on_timeout(due)
    assert asked == Send(B, QueueDigest(newcomer.digest()))


def buckets(effects: list[Effect]) -> list[QueueBuckets]:
    packets = [effect.packet for effect in effects if isinstance(effect, Send)]
    return [packet for packet in packets if isinstance(packet, QueueBuckets)]


def test_a_new_node_is_level_when_it_has_the_map_of_the_first_that_it_meets() -> None:
    newcomer, other = made(A, B), made(B, A)
    newcomer.begin_new()
    assert newcomer.is_level, "alone it has nobody to ask"
    declare(other, "q", THREE, 1_000)
    (asked,) = buckets(newcomer.on_peer_connected(B, 50_000))
    assert not newcomer.is_level
    _, told = other.on_buckets(A, asked)
    assert isinstance(told, Send)
    assert isinstance(told.packet, QueueRecords)
    newcomer.on_records(told.packet)
    assert not newcomer.is_level, "that may not be all"
    (again,) = buckets(newcomer.on_timeout(50_001))
    (answer,) = buckets(other.on_buckets(A, again))
    version = newcomer.version
    newcomer.on_buckets(B, answer)
    assert newcomer.is_level
    assert newcomer.version > version, "whoever waited for it is told"
    assert newcomer.settings_of("q") == THREE
    assert buckets(newcomer.on_peer_connected(B, 60_000)) == [], "it is not new any more"


def test_a_new_node_in_a_mesh_without_declarations_is_level_at_the_first_answer() -> None:
    newcomer, other = made(A, B), made(B, A)
    newcomer.begin_new()
    (asked,) = buckets(newcomer.on_peer_connected(B, 50_000))
    (answer,) = buckets(other.on_buckets(A, asked))
    newcomer.on_buckets(B, answer)
    assert newcomer.is_level


def test_a_new_node_asks_again_and_goes_on_without_an_answer_in_the_end() -> None:
    newcomer = made(A, B)
    newcomer.begin_new()
    newcomer.on_peer_connected(B, 50_000)
    asked, due = 0, 0
    while not newcomer.is_level:
        due = newcomer.next_deadline() or 0
        asked += len(buckets(newcomer.on_timeout(due)))
    assert due == 50_000 + LEVEL_WITHIN_MS
    assert asked == LEVEL_WITHIN_MS // ASK_AGAIN_MS - 1


def test_a_record_is_told_of_unless_its_hash_is_known() -> None:
    one, other = made(A), made(B)
    assert one.unlike("q", other.hash_of("q")) == ()
    declare(one, "q", THREE, 1_000)
    (record,) = one.unlike("q", other.hash_of("q"))
    assert record.settings == THREE
    other.on_records(QueueRecords((record,)))
    assert one.unlike("q", other.hash_of("q")) == ()
    declare(one, "q", FIVE, 2_000)
    assert one.unlike("q", other.hash_of("q")) == tuple(one.records())


def test_a_declaration_is_told_to_every_member_once_it_is_durable() -> None:
    registry = made(A, B, C)
    (persist,) = registry.on_declare(DeclareRequested("q", THREE, 7), 1_000)
    assert isinstance(persist, Persist)
    assert isinstance(persist.then, DeclareDurable)
    resolved, *sent = registry.on_durable(persist.then)
    assert resolved == Resolve(7, Done())
    assert [effect.peer for effect in sent if isinstance(effect, Send)] == [B, C]
    assert registry.settings_of("q") == THREE


def test_declaring_the_same_again_changes_and_tells_nothing() -> None:
    registry = made(A, B)
    declare(registry, "q", THREE, 1_000)
    before = registry.digest(), registry.version
    assert declare(registry, "q", THREE, 9_000) == [Resolve(7, Done())]
    assert (registry.digest(), registry.version) == before


def test_declaring_the_same_again_waits_until_it_is_durable_as_well() -> None:
    """The first one's write, or that of what a member told, may still be on its way."""
    registry = made(A, B)
    registry.on_declare(DeclareRequested("q", THREE, 7), 1_000)
    (persist,) = registry.on_declare(DeclareRequested("q", THREE, 8), 1_000)
    assert isinstance(persist, Persist)


def test_a_node_whose_clock_runs_a_year_ahead_does_not_win_for_ever() -> None:
    fast, right = made(A), made(B)
    declare(fast, "q", FIVE, 365 * 86_400_000)
    exchange(fast, A, right, B)
    assert right.settings_of("q") == FIVE
    declare(right, "q", THREE, 1_000)
    exchange(fast, A, right, B, 20_000)
    assert fast.settings_of("q") == right.settings_of("q") == THREE


def test_a_clock_that_is_thousands_of_years_ahead_does_not_win_for_ever_either() -> None:
    fast, right = made(A), made(B)
    declare(fast, "q", FIVE, 2**60)
    exchange(fast, A, right, B)
    assert right.settings_of("q") == FIVE
    declare(right, "q", THREE, 1_000)
    exchange(fast, A, right, B, 20_000)
    assert fast.settings_of("q") == right.settings_of("q") == THREE


def test_a_stamp_that_nothing_could_follow_is_not_taken() -> None:
    registry = made()
    assert registry.on_records(QueueRecords((QueueRecord("q", STAMP_MAX, B, FIVE),))) == []
    assert registry.settings_of("q") is None


def test_the_map_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUES_MAX", 2)
    registry = made()
    for queue in ("a", "b"):
        declare(registry, queue, THREE, 1_000)
    (resolved,) = declare(registry, "c", THREE, 1_000)
    assert isinstance(resolved, Resolve)
    assert isinstance(resolved.outcome, Refused)
    told = (QueueRecord("d", 5, B, FIVE), QueueRecord("b", 2**50, B, FIVE))
    persist, notice = registry.on_records(QueueRecords(told))
    assert persist == Persist((QueueSaved(told[1]),)), "what is known already is kept up to date"
    assert isinstance(notice, Notify)
    assert [record.queue for record in registry.records()] == ["a", "b"]
    declare(registry, "a", FIVE, 2_000)
    assert registry.settings_of("a") == FIVE


def test_a_full_disk_refuses_a_declaration_and_it_does_not_hold() -> None:
    registry = made()
    (persist,) = registry.on_declare(DeclareRequested("q", THREE, 7), 1_000)
    assert isinstance(persist, Persist)
    assert isinstance(persist.then, DeclareDurable)
    (resolved,) = registry.on_write_refused(persist.then)
    assert isinstance(resolved, Resolve)
    assert isinstance(resolved.outcome, Refused)
    assert registry.settings_of("q") is None


def test_a_full_disk_leaves_what_held_before() -> None:
    registry = made()
    declare(registry, "q", THREE, 1_000)
    before = registry.digest()
    (persist,) = registry.on_declare(DeclareRequested("q", FIVE, 7), 2_000)
    assert isinstance(persist, Persist)
    assert isinstance(persist.then, DeclareDurable)
    registry.on_write_refused(persist.then)
    assert registry.settings_of("q") == THREE
    assert registry.digest() == before


def test_a_full_disk_takes_nothing_back_that_a_member_told_meanwhile() -> None:
    registry = made()
    (persist,) = registry.on_declare(DeclareRequested("q", FIVE, 7), 2_000)
    assert isinstance(persist, Persist)
    assert isinstance(persist.then, DeclareDurable)
    registry.on_records(QueueRecords((QueueRecord("q", 2**50, B, THREE),)))
    registry.on_write_refused(persist.then)
    assert registry.settings_of("q") == THREE


def test_a_member_at_random_is_compared_with_now_and_then() -> None:
    registry = made(A, B, C)
    due = registry.next_deadline()
    assert due is not None
    (asked,) = registry.on_timeout(due)  # with an empty map, too: it may have missed everything
    assert isinstance(asked, Send)
    declare(registry, "q", THREE, 1_000)
    told = {
        effect.peer
        for turn in range(2, 40)
        for effect in registry.on_timeout(turn * COMPARE_MS)
        if isinstance(effect, Send)
    }
    assert told == {B, C}


def with_partitions(record: QueueRecord, partitions: int) -> QueueRecord:
    return replace(record, settings=replace(record.settings, partitions=partitions))


@given(
    st.lists(
        st.tuples(records.map(settings_by), st.integers(0, 5), st.integers(0, 3)), max_size=12
    ),
    st.randoms(use_true_random=False),
)
def test_partitions_and_incarnations_never_fall_in_whatever_order_records_come(
    drawn: list[tuple[QueueRecord, int, int]], chance: Random
) -> None:
    found = [
        replace(with_partitions(record, partitions), incarnation=incarnation)
        for record, partitions, incarnation in drawn
    ]
    one, other = made(A), made(B)
    for record in found:
        one.on_records(QueueRecords((record,)))
    again = found + chance.choices(found, k=5) if found else []
    chance.shuffle(again)
    for record in again:
        other.on_records(QueueRecords((record,)))
    assert one.records() == other.records()
    assert one.digest() == other.digest()
    for record in one.records():
        same = [each for each in found if each.queue == record.queue]
        assert record.settings.partitions == max(each.settings.partitions for each in same)
        assert record.incarnation == max(each.incarnation for each in same)
        assert (record.stamp, record.author) == max((each.stamp, each.author) for each in same)
    exchange(one, A, third := made(C), C)
    assert third.records() == one.records()


def test_a_declaration_with_fewer_partitions_is_refused_and_one_without_keeps_them() -> None:
    registry = made()
    declare(registry, "q", QueueSettings(partitions=4), 1_000)
    assert registry.take_raised() == ["q"]
    (refused,) = declare(registry, "q", QueueSettings(partitions=3), 2_000)
    assert isinstance(refused, Resolve)
    assert isinstance(refused.outcome, Refused)
    assert "4 partitions" in refused.outcome.reason
    declare(registry, "q", THREE, 3_000)
    assert registry.settings_of("q") == replace(THREE, partitions=4)
    assert registry.take_raised() == []


def test_a_merge_that_raises_partitions_is_kept_and_told_as_merged() -> None:
    one, other = made(A), made(B)
    declare(one, "q", QueueSettings(partitions=6), 1_000)
    declare(other, "q", QueueSettings(3, partitions=2), 2_000)
    exchange(one, A, other, B)
    merged = QueueSettings(3, partitions=6)
    assert one.settings_of("q") == other.settings_of("q") == merged
    (record,) = one.records()
    (kept,) = made().on_records(QueueRecords((record,)))
    assert kept == Persist((QueueSaved(record),))
    assert one.digest() == other.digest()


def test_more_partitions_are_in_force_when_they_are_on_disk_and_not_before() -> None:
    registry = made()
    event = DeclareRequested("q", QueueSettings(partitions=4), 7)
    (persist,) = registry.on_declare(event, 1_000)
    assert isinstance(persist, Persist)
    assert isinstance(persist.then, DeclareDurable)
    assert registry.settings_of("q") is None
    assert registry.on_write_refused(persist.then) == [Resolve(7, Refused(module.DISK_FULL))]
    assert registry.settings_of("q") is None
    (persist,) = registry.on_declare(event, 2_000)
    assert isinstance(persist, Persist)
    assert isinstance(persist.then, DeclareDurable)
    rival = QueueRecord("q", 1, B, THREE)  # older, and on its way to the disk after ours
    registry.on_records(QueueRecords((rival,)))
    (again,) = registry.on_durable(persist.then)
    assert isinstance(again, Persist)
    assert again.records == (QueueSaved(persist.then.record),)
    assert isinstance(again.then, DeclareDurable)
    assert registry.on_durable(again.then) == [Resolve(7, Done())]
    assert registry.settings_of("q") == QueueSettings(partitions=4)


def delete(registry: Registry, queue: str, incarnation: int, wall_ms: int) -> list[Effect]:
    """Delete, and let the write become durable."""
    (effect,) = registry.on_delete(queue, incarnation, 7, wall_ms)
    assert isinstance(effect, Persist)
    assert isinstance(effect.then, DeclareDurable)
    assert registry.take_deleted() == []
    return registry.on_durable(effect.then)


def test_a_deletion_takes_settings_back_and_keeps_partitions_once_it_is_on_disk() -> None:
    registry = made(A, B)
    declare(registry, "q", with_partitions_of(THREE, 4), 1_000)
    version = registry.version
    effects = delete(registry, "q", 77, 2_000)
    assert registry.settings_of("q") == QueueSettings(partitions=4)
    assert registry.incarnation_of("q") == 77
    assert registry.take_deleted() == ["q"]
    assert registry.take_deleted() == []
    assert registry.version > version
    assert any(isinstance(effect, Resolve) for effect in effects)
    assert [effect.peer for effect in effects if isinstance(effect, Send)] == [B]


def with_partitions_of(settings: QueueSettings, partitions: int) -> QueueSettings:
    return replace(settings, partitions=partitions)


def test_a_later_declaration_carries_the_deletion_on() -> None:
    registry = made()
    delete(registry, "q", 77, 1_000)
    declare(registry, "q", THREE, 2_000)
    assert registry.settings_of("q") == THREE
    assert registry.incarnation_of("q") == 77


def test_a_deletion_that_a_full_disk_refuses_removes_nothing() -> None:
    registry = made()
    declare(registry, "q", THREE, 1_000)
    (effect,) = registry.on_delete("q", 77, 7, 2_000)
    assert isinstance(effect, Persist)
    assert isinstance(effect.then, DeclareDurable)
    (told,) = registry.on_write_refused(effect.then)
    assert isinstance(told, Resolve)
    assert isinstance(told.outcome, Refused)
    assert registry.settings_of("q") == THREE
    assert registry.take_deleted() == []


def test_deletions_are_known_again_after_a_restart() -> None:
    before = made()
    delete(before, "q", 77, 1_000)
    again = Registry(A, lambda: (), Random(1))
    again.recover(before.records(), 0)
    assert again.incarnation_of("q") == 77
    assert again.take_deleted() == ["q"]
