"""One partition on one disk; `test_delivery` has its state machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2pmq.core.batch_times import STALE_MAX
from p2pmq.core.effects import Persist
from p2pmq.core.events import BatchDurable
from p2pmq.core.hlc import HybridClock
from p2pmq.core.ids import Run
from p2pmq.core.partition import Partition
from p2pmq.core.records import (
    BatchRemoved,
    BatchStored,
    BatchTrimmed,
    SeenChanged,
    Space,
    StoredBodies,
)
from tests.core.kit import KEY, S1, S2, A, Disk, batch_of, dots_of


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def partition() -> Partition:
    return Partition(KEY, HybridClock())


def store(partition: Partition, disk: Disk, first: int, count: int, session: bytes = S1) -> None:
    for effect in partition.append(batch_of(session, first, count), 1_000, A)[0]:
        assert isinstance(effect, Persist)
        assert isinstance(effect.then, BatchDurable)
        disk.apply(effect.records)
        partition.on_durable(effect.then.number)


def recovered(disk: Disk) -> Partition:
    partition = Partition(KEY, HybridClock())
    partition.recover(disk.of_space(Space.PARTITION), disk.recovered().seen)
    return partition


def test_a_dot_is_seen_only_once_its_body_is_durable(partition: Partition) -> None:
    (effect,), ((written,),) = partition.append(batch_of(S1, 1, 3), 1_000, A)
    assert written.stamp
    assert not partition.seen
    assert partition.received(S1, 2)
    assert partition.is_appending([Run(S1, 3, 9)])
    assert isinstance(effect, Persist)
    assert isinstance(effect.then, BatchDurable)
    partition.on_durable(effect.then.number)
    assert partition.seen.covers(Run(S1, 1, 3))
    assert not partition.appending
    assert partition.size == 30


def test_a_batch_that_could_not_be_written_never_came(partition: Partition) -> None:
    partition.append(batch_of(S1, 1, 3), 1_000, A)
    partition.on_write_refused(1)
    assert not partition.received(S1, 1)
    assert not partition.batches
    assert len(partition.append(batch_of(S1, 1, 3), 1_000, A)[0]) == 1


def test_of_a_batch_that_came_in_part_only_the_rest_is_new(
    partition: Partition, disk: Disk
) -> None:
    store(partition, disk, 3, 2)
    parts = partition.new_parts(batch_of(S1, 1, 6))
    assert [(part.first, part.count) for part in parts] == [(1, 2), (5, 2)]
    assert [part.bodies for part in parts] == [
        batch_of(S1, 1, 2).bodies,
        batch_of(S1, 5, 2).bodies,
    ]


def test_stamps_rise_in_the_order_of_arrival_whatever_the_clock_does(
    partition: Partition,
) -> None:
    partition.append(batch_of(S1, 1, 1), 5_000, A)
    partition.append(batch_of(S2, 1, 1), 1_000, A)
    first, second = partition.batches.values()
    assert first.stamp < second.stamp


def test_an_ack_of_part_of_a_batch_trims_it_and_of_all_removes_it(
    partition: Partition, disk: Disk
) -> None:
    store(partition, disk, 1, 4)
    removed, records = partition.remove([Run(S1, 2, 3)])
    assert removed == [Run(S1, 2, 3)]
    assert records == [BatchTrimmed(Space.PARTITION, KEY, 1, ((1, 1), (4, 4)))]
    removed, records = partition.remove([Run(S1, 1, 4)])
    assert removed == [Run(S1, 1, 1), Run(S1, 4, 4)]
    assert records == [
        BatchRemoved(Space.PARTITION, KEY, 1),
        SeenChanged(KEY, S1, ((1, 4),), partition.touched[S1]),
    ]
    assert (partition.size, partition.pending.count) == (0, 0)


def test_an_ack_of_what_never_came_is_remembered_on_disk(partition: Partition, disk: Disk) -> None:
    _, records = partition.remove([Run(S1, 7, 8)])
    disk.apply(records)
    again = recovered(disk)
    assert not again.new_parts(batch_of(S1, 7, 2))
    assert not again.pending


def test_a_second_ack_changes_nothing(partition: Partition, disk: Disk) -> None:
    store(partition, disk, 1, 2)
    partition.remove([Run(S1, 1, 2)])
    assert partition.remove([Run(S1, 1, 2)]) == ([], [])


def test_a_restart_finds_what_was_pending_and_what_was_acked(
    partition: Partition, disk: Disk
) -> None:
    store(partition, disk, 1, 4)
    store(partition, disk, 5, 2)
    for run in (Run(S1, 2, 2), Run(S1, 5, 6)):
        disk.apply(partition.remove([run])[1])
    again = recovered(disk)
    assert dots_of(again.pending.runs()) == {(S1, 1), (S1, 3), (S1, 4)}
    assert again.seen == partition.seen
    assert again.size == partition.size
    assert again.acked() == partition.acked()


def test_after_a_restart_numbers_and_stamps_go_on(partition: Partition, disk: Disk) -> None:
    store(partition, disk, 1, 1)
    again = recovered(disk)
    again.append(batch_of(S2, 1, 1), 0, A)
    old, new = again.batches.values()
    assert new.number == old.number + 1
    assert new.stamp > old.stamp


def test_a_batch_is_given_out_by_reference_to_where_it_lies(
    partition: Partition, disk: Disk
) -> None:
    store(partition, disk, 11, 4)
    batch = partition.batch(Run(S1, 12, 13), 1)
    assert batch.bodies == StoredBodies(Space.PARTITION, KEY, 1, 1, 3)
    assert disk.read(batch).bodies == batch_of(S1, 12, 2).bodies
    assert batch.size == 20


def test_only_the_record_of_the_batch_itself_is_written_when_it_comes(
    partition: Partition,
) -> None:
    (effect,), ((written,),) = partition.append(batch_of(S1, 1, 3), 1_000, A)
    assert written.stamp
    assert isinstance(effect, Persist)
    (record,) = effect.records
    assert isinstance(record, BatchStored)


def test_a_damaged_message_is_as_if_it_had_never_come_on_disk_as_well(
    partition: Partition, disk: Disk
) -> None:
    """Seen and not here, it would be taken for acked by the next merge."""
    store(partition, disk, 1, 5)
    disk.apply(partition.remove([Run(S1, 1, 1)])[1])
    lost, records = partition.unsee(Run(S1, 3, 3))
    disk.apply(records)
    assert lost == [Run(S1, 3, 3)]
    for found in (partition, recovered(disk)):
        assert not found.seen.has(S1, 3)
        assert dots_of(found.acked().runs()) == {(S1, 1)}
        assert dots_of(found.pending.runs()) == {(S1, 2), (S1, 4), (S1, 5)}
    assert [part.first for part in recovered(disk).new_parts(batch_of(S1, 1, 5))] == [3]


def test_it_stays_so_while_the_rest_of_its_batch_is_acked(partition: Partition, disk: Disk) -> None:
    store(partition, disk, 1, 5)
    disk.apply(partition.unsee(Run(S1, 3, 3))[1])
    for run in (Run(S1, 1, 2), Run(S1, 4, 5)):
        disk.apply(partition.remove([run])[1])
        assert not recovered(disk).seen.has(S1, 3)
    assert not disk.batches


def test_a_damaged_message_that_came_again_is_acked_for_good(
    partition: Partition, disk: Disk
) -> None:
    store(partition, disk, 1, 3)
    disk.apply(partition.unsee(Run(S1, 2, 2))[1])
    store(partition, disk, 2, 1)
    disk.apply(partition.remove([Run(S1, 2, 2)])[1])
    again = recovered(disk)
    assert dots_of(again.acked().runs()) == {(S1, 2)}
    assert dots_of(again.pending.runs()) == {(S1, 1), (S1, 3)}


def test_what_is_not_pending_cannot_be_unseen(partition: Partition, disk: Disk) -> None:
    store(partition, disk, 1, 2)
    partition.remove([Run(S1, 1, 1)])
    assert partition.unsee(Run(S1, 1, 1)) == ([], [])
    assert partition.unsee(Run(S1, 9, 9)) == ([], [])


def test_what_was_acked_long_before_its_time_to_live_ends_is_not_kept_in_mind(
    partition: Partition, disk: Disk
) -> None:
    store(partition, disk, 1, 1)
    for seq in range(2, 4 * STALE_MAX):
        _, record = partition.stage(replace(batch_of(S1, seq, 1), ttl_ms=7 * 86_400_000), 1_000)
        partition.on_durable(record.number)
        partition.remove([Run(S1, seq, seq)])
        assert len(partition.expiring) <= STALE_MAX + 4
    assert partition.expired(7 * 86_400_000 - 1) == []
