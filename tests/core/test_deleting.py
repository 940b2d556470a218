"""Deletions: how far they reach, what goes on every node, and what may not come back."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from p2pmq.core.deleting import (
    ASK_AGAIN_MS,
    BATCHES_AT_ONCE,
    CLOCK_ABSURD,
    COPIES_DELETED,
    DELETED,
    LOOK_AGAIN_MS,
    NO_ANSWER,
    NO_OWNER,
    Deletions,
    without_deleted,
)
from p2pmq.core.effects import Discarded, Done, Effect, Notify, Refused, Resolve
from p2pmq.core.events import BatchDurable, DeclareDurable, DeletionRequested
from p2pmq.core.hlc import AHEAD_MS_MAX, COUNTER_BITS
from p2pmq.core.ids import PartitionKey, Run
from p2pmq.core.packets.deleting import (
    DELETION_REFUSALS,
    DELETION_REFUSED_MOVED,
    DeletionReach,
    DeletionRequest,
)
from p2pmq.core.packets.delivering import Attach
from p2pmq.core.packets.publishing import Publish, RunField
from p2pmq.core.packets.replicating import Replicate
from p2pmq.core.registry import Registry
from tests.core.kit import KEY, S1, S2, A, B, View, batch_of, packets, rooms_of, writes

ME = b"node-own"
FAR = PartitionKey(KEY.queue, 1)
TIMEOUT_MS = 30_000


class Rig:
    """The deletions of a node that owns one partition, or holds it for another."""

    def __init__(self, owner: bytes | None = ME) -> None:
        self.view = View(owner)
        self.rooms = rooms_of(ME, 1, self.view)
        self.owner = self.rooms.owner
        self.registry = Registry(ME, lambda: (), Random(1))
        self.deletions = Deletions(
            self.owner,
            self.rooms.replication,
            self.registry,
            self.owner.clock,
            self.view.owner_of,
        )
        self.owner.deleted_until = self.deletions.reach_of

    def publish(self, first: int, count: int = 1) -> list[Effect]:
        packet = Publish(*KEY, first - 1, batch_of(S1, first, count))
        return self.owner.on_publish(A, packet, 0)

    def write(self, effects: list[Effect]) -> list[Effect]:
        """Let everything become durable; what comes of it."""
        found: list[Effect] = []
        for write in writes(effects):
            match write.then:
                case BatchDurable():
                    found += self.owner.on_batch_durable(write.then, 0)
                case DeclareDurable():
                    found += self.registry.on_durable(write.then)
        return found

    def delete_up_to(self, stamp: int) -> list[Effect]:
        """The deletion is heard of."""
        self.write(self.registry.on_delete(KEY.queue, stamp, 1, 1_000))
        return self.deletions.on_deleted(self.registry.take_deleted(), 0)

    @property
    def stamp(self) -> int:
        return self.owner.clock.last


def told(effects: list[Effect]) -> list[tuple[str, int]]:
    return [
        (effect.notice.reason, sum(run.length for run in effect.notice.runs))
        for effect in effects
        if isinstance(effect, Notify) and isinstance(effect.notice, Discarded)
    ]


def outcomes(effects: list[Effect]) -> list[object]:
    return [effect.outcome for effect in effects if isinstance(effect, Resolve)]


def test_what_is_here_goes_held_or_not_and_what_comes_later_stays() -> None:
    rig = Rig()
    rig.write(rig.publish(1, 5))
    rig.owner.on_attach(B, Attach(*KEY, b"consumer", 1, 2, 60_000, ()), 0)
    assert rig.owner.deliveries[KEY].leases.count == 2
    effects = rig.delete_up_to(rig.stamp)
    assert told(effects) == [(DELETED, 5)]
    assert not rig.owner.deliveries[KEY].leases
    rig.write(rig.publish(6, 3))
    assert rig.stamp > rig.registry.incarnation_of(KEY.queue)
    rig.deletions.on_timeout(LOOK_AGAIN_MS)
    assert rig.owner.partition(KEY).pending.count == 3
    assert rig.deletions.next_deadline() is None


def test_another_home_removes_its_copies_too_and_says_that_they_were_copies() -> None:
    rig = Rig()
    rig.write(rig.publish(1, 5))
    rig.view.owner = B
    assert told(rig.delete_up_to(rig.stamp)) == [(COPIES_DELETED, 5)]
    assert not rig.owner.partition(KEY).pending
    assert rig.owner.partition(KEY).seen.covers(Run(S1, 1, 5))


def test_what_was_just_being_written_goes_when_it_is_on_disk() -> None:
    rig = Rig()
    appended = rig.publish(1)
    assert told(rig.delete_up_to(rig.stamp)) == []
    rig.write(appended)
    assert told(rig.deletions.on_timeout(LOOK_AGAIN_MS)) == [(DELETED, 1)]
    rig.deletions.on_timeout(2 * LOOK_AGAIN_MS)
    assert rig.deletions.next_deadline() is None


def test_many_batches_go_a_piece_at_a_time() -> None:
    rig = Rig()
    count = 2 * BATCHES_AT_ONCE + 1
    for seq in range(1, count + 1):
        rig.write(rig.publish(seq))
    effects = rig.delete_up_to(rig.stamp)
    assert told(effects) == [(DELETED, BATCHES_AT_ONCE)]
    assert rig.deletions.next_deadline() == 0
    assert told(rig.deletions.on_timeout(0)) == [(DELETED, BATCHES_AT_ONCE)]
    assert told(rig.deletions.on_timeout(0)) == [(DELETED, 1)]


def test_what_another_node_brings_of_before_counts_as_acked_and_is_not_stored() -> None:
    rig = Rig(B)
    rig.delete_up_to(1_000 << COUNTER_BITS)
    old = replace(batch_of(S1, 1, 3), stamp=1_000 << COUNTER_BITS)
    new = replace(batch_of(S2, 1, 2), stamp=old.stamp + 1)
    effects = rig.rooms.replication.replica.on_replicate(B, Replicate(*KEY, 5, (), (old, new)), 0)
    (write,) = writes(effects)
    partition = rig.owner.partition(KEY)
    assert [stored.run for stored in partition.batches.values()] == [new.run]
    assert partition.seen.covers(old.run)
    assert not partition.pending
    assert write.records


def test_a_packet_with_nothing_old_stays_as_it_is() -> None:
    packet = Replicate(*KEY, 5, (), (replace(batch_of(S1, 1, 3), stamp=9),))
    assert without_deleted(packet, 0) is packet
    assert without_deleted(packet, 8) is packet
    assert without_deleted(packet, 9) == replace(packet, acked=(RunField(S1, 1, 3),), batches=())


def test_the_owner_tells_a_stamp_later_than_all_that_it_has() -> None:
    rig = Rig()
    rig.write(rig.publish(1))
    before = rig.stamp
    request = DeletionRequest(*KEY, 7)
    (answer,) = packets(rig.deletions.on_request(B, request, 0))
    assert isinstance(answer, DeletionReach)
    assert answer.reach > before
    assert not answer.refused
    rig.view.owner = B
    moved = DeletionReach(7, KEY.number, 0, DELETION_REFUSED_MOVED)
    assert packets(rig.deletions.on_request(B, request, 0)) == [moved]


def test_the_deletion_reaches_as_far_as_the_latest_of_all_partitions_owners() -> None:
    rig = Rig(B)
    event = DeletionRequested(KEY.queue, (KEY, FAR), TIMEOUT_MS, 9)
    asked = packets(rig.deletions.on_requested(event, 0))
    assert asked == [DeletionRequest(*KEY, 1), DeletionRequest(*FAR, 1)]
    assert rig.deletions.on_reach(B, DeletionReach(1, 1, 70), 0) == []
    assert rig.deletions.on_reach(B, DeletionReach(1, 1, 90), 0) == []  # a repeat, of later
    assert rig.deletions.on_reach(B, DeletionReach(2, 0, 90), 0) == []  # of another deletion
    assert rig.deletions.on_reach(A, DeletionReach(1, 0, 99), 0) == []  # not its owner's
    made = rig.deletions.on_reach(B, DeletionReach(1, 0, 60), 0)
    assert outcomes(rig.write(made)) == [Done()]
    assert rig.registry.incarnation_of(KEY.queue) == 70
    assert rig.deletions.next_deadline() is None


def test_who_does_not_answer_is_asked_again_until_the_patience_ends() -> None:
    rig = Rig(B)
    rig.deletions.on_requested(DeletionRequested(KEY.queue, (KEY,), TIMEOUT_MS, 9), 0)
    assert rig.deletions.next_deadline() == ASK_AGAIN_MS
    asked = rig.deletions.on_timeout(ASK_AGAIN_MS)
    assert packets(asked) == [DeletionRequest(*KEY, 1)]
    assert outcomes(rig.deletions.on_timeout(TIMEOUT_MS)) == [Refused(NO_ANSWER)]
    assert rig.deletions.next_deadline() is None
    assert rig.deletions.on_reach(B, DeletionReach(1, 0, 60), 0) == []


def test_the_error_says_what_was_in_the_way() -> None:
    rig = Rig(None)
    rig.deletions.on_requested(DeletionRequested(KEY.queue, (KEY,), TIMEOUT_MS, 9), 0)
    assert outcomes(rig.deletions.on_timeout(TIMEOUT_MS)) == [Refused(NO_OWNER)]
    rig = Rig(B)
    rig.deletions.on_requested(DeletionRequested(KEY.queue, (KEY,), TIMEOUT_MS, 9), 0)
    rig.deletions.on_reach(B, DeletionReach(1, 0, 0, DELETION_REFUSED_MOVED), 0)
    why = DELETION_REFUSALS[DELETION_REFUSED_MOVED]
    assert outcomes(rig.deletions.on_timeout(TIMEOUT_MS)) == [Refused(why)]


def test_a_reach_that_no_clock_could_mean_is_not_taken() -> None:
    rig = Rig(B)
    rig.deletions.on_requested(DeletionRequested(KEY.queue, (KEY,), TIMEOUT_MS, 9), 0)
    absurd = (AHEAD_MS_MAX + 1_000) << COUNTER_BITS
    ended = rig.deletions.on_reach(B, DeletionReach(1, 0, absurd), 0)
    assert outcomes(ended) == [Refused(CLOCK_ABSURD)]
    assert rig.delete_up_to(absurd) == []  # nor if another node's record says so
