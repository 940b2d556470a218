"""The owner's part: partitions of which this node is the first, with their consumers.

It takes batches in each publisher's order, confirms them once they are
durable, pushes them to consumers, and settles. A partition that is here but
owned elsewhere lies still: `handover` brings it to its owner.

Invariant: nothing is confirmed or delivered before it is durable, and nothing
is delivered from a partition that this node does not own.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from p2pmq.config import Retry
from p2pmq.core.deadletters import MAX_DELIVERIES, REJECTED
from p2pmq.core.dedup import WINDOW_MS, repeats
from p2pmq.core.delivery import Bearer, PartitionDelivery
from p2pmq.core.early import EarlyBatches
from p2pmq.core.effects import Counted, Notify, Persist, Send
from p2pmq.core.events import SettleDurable
from p2pmq.core.expiry import expire
from p2pmq.core.ids import SEQ_MAX, PartitionKey, Run, key_of, total
from p2pmq.core.letgo import LetGo
from p2pmq.core.limits import QueueLimits
from p2pmq.core.names import is_mailbox_of_another
from p2pmq.core.packets.delivering import Attached, Settled
from p2pmq.core.packets.publishing import (
    REFUSED_ALONE,
    REFUSED_DISK_FULL,
    Confirm,
    Death,
    Gap,
    Moved,
    PublishRefused,
    RunField,
)
from p2pmq.core.partition import Partition
from p2pmq.core.retries import Retries
from p2pmq.core.scheduled import release
from p2pmq.core.timers import Timers
from p2pmq.core.traces import Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from p2pmq.core.delivery import Consumer
    from p2pmq.core.effects import Effect
    from p2pmq.core.events import BatchDurable
    from p2pmq.core.hlc import HybridClock
    from p2pmq.core.ids import NodeId, Session
    from p2pmq.core.packets.delivering import Attach, Detach, LeaseField, Settle
    from p2pmq.core.packets.publishing import Publish
    from p2pmq.core.partition import Stored
    from p2pmq.core.records import Record, Recovered, RecoveredBatch, SeenChanged
    from p2pmq.core.replication import Replication

NOBODY = b"\0" * 8
DISK_FULL = "no room on this node's disk: new messages are refused, old ones are served"
TAKEOVER_GRACE_MS = 400
"""A new owner lets consumers say what they hold before it delivers what it took over.

Their nodes hear of the former owner's death within one round of gossip or two (200 ms
each; 274 ms at most in 15 simulated failovers of five nodes); 500 ms is what a
failover may cost beyond its detection.
"""
HANDED_BACK_MS = 5_000
"""Whoever owned so recently knows who holds what: in that time its successor has asked it."""
REATTACH_GRACE_MS = 1_000
"""After a restart consumers first say what they hold of the old messages; then those go out."""


def _attached(key: PartitionKey, consumer: Consumer) -> Effect:
    """Tell a consumer that its attachment stands, and how far it is."""
    bearer, attachment = consumer.bearer, consumer.attachment
    packet = Attached(key.queue, key.number, bearer.consumer, attachment, consumer.number)
    return Send(bearer.node_id, packet)


class Owner:
    """Every partition on this node's disk, and the delivery state of those it owns."""

    def __init__(
        self,
        own_id: NodeId,
        clock: HybridClock,
        owner_of: Callable[[PartitionKey], NodeId | None],
    ) -> None:
        self._own_id = own_id
        self.clock = clock
        self._owner_of = owner_of
        self.name_of: Callable[[NodeId], str | None] = lambda _node_id: None
        """The name of a member: a mailbox is read by its own node only."""
        self.is_member: Callable[[NodeId], bool] = lambda _node_id: True
        """Whether a node is on the roster: nobody would say when another's consumers are gone."""
        self.copies_of: Callable[[str], tuple[int, int]] = lambda _queue: (0, 0)
        """R and W of a queue, for its statistics."""
        self.partitions: dict[PartitionKey, Partition] = {}
        self.deliveries: dict[PartitionKey, PartitionDelivery] = {}
        self._timers: Timers[PartitionKey] = Timers()
        self._quiet_until = 0
        self._owed: dict[PartitionKey, list[Record]] = {}
        self._next_numbers: dict[PartitionKey, int] = {}
        self._takeovers: dict[PartitionKey, int] = {}
        self.early = EarlyBatches()
        self._former: dict[PartitionKey, PartitionDelivery] = {}
        """Who held what when this node owned the partition: its successor asks for that …"""
        self._handed_back_at: dict[PartitionKey, int] = {}
        """… and when it ceased to."""
        self.retry_of: Callable[[str], Retry] = lambda _queue: Retry()
        """What becomes of a queue's messages that fail; the pauses are drawn from `rng`."""
        self.rng: Random | None = None
        self.kept_of: Callable[[str], Kept] = lambda _queue: Kept(WINDOW_MS)
        """For how long the traces of a queue's messages are kept."""
        self.ageing_of: Callable[[str], int] = lambda _queue: 0
        """How priorities age, in ms per level."""
        self.deleted_until: Callable[[str], int] = lambda _queue: 0
        """The stamp up to which the queue's messages were deleted."""
        self.knows_settings: Callable[[], bool] = lambda: True
        """Whether this node has heard how queues are declared."""
        self.is_stopping = False
        """The node has said goodbye, and others own what it did."""
        self._let_go = LetGo()
        self.limits = QueueLimits()
        self._copies: Replication

    def use(self, replication: Replication) -> None:
        """Take the room that looks after copies; the two need each other."""
        self._copies = replication

    def recover(self, recovered: Recovered, batches: list[RecoveredBatch], now: int) -> None:
        """Take up the partitions that the store holds; consumers have a moment to re-attach."""
        self._quiet_until = now + REATTACH_GRACE_MS
        of_key: dict[PartitionKey, tuple[list[RecoveredBatch], list[SeenChanged]]] = {}
        for found in batches:
            of_key.setdefault(found.key, ([], []))[0].append(found)
        for record in recovered.seen:
            of_key.setdefault(record.key, ([], []))[1].append(record)
        for moved in recovered.horizons:
            self.partition(moved.key).recover_horizon(moved.horizon)
        for key, (stored, seen) in of_key.items():
            self.partition(key).recover(stored, seen)

    def partition(self, key: PartitionKey) -> Partition:
        """The partition, made if it is new here."""
        partition = self.partitions.get(key)
        if partition is None:
            first_number = self._next_numbers.pop(key, 1)
            partition = self.partitions[key] = Partition(key, self.clock, first_number)
        return partition

    def owns(self, key: PartitionKey) -> bool:
        """Whether this node owns the partition, as far as it knows."""
        return self._owner_of(key) == self._own_id

    # -- packets --

    def on_publish(self, peer: NodeId, packet: Publish, now: int) -> list[Effect]:
        """Append a batch, or say why not."""
        key = key_of(packet)
        if not self.owns(key):
            return [self._moved(peer, key)]
        partition = self.partition(key)
        self._delivery(key)
        if packet.batch.stamp:
            packet = replace(packet, batch=replace(packet.batch, stamp=0))
        batch = packet.batch
        if partition.is_appending([batch.run]):
            return []  # a repeat: the first one's confirm is on its way
        if partition.seen.covers(batch.run):
            return self._confirm_again(peer, key, batch.run)
        return self._take(peer, key, packet, now)

    def _take(self, peer: NodeId, key: PartitionKey, packet: Publish, now: int) -> list[Effect]:
        """Append a new batch; or say why that cannot be, or let it wait."""
        partition, batch = self.partition(key), packet.batch
        _, begun = self._copies.copies(key, now)
        if self._copies.is_alone(key):
            refused = PublishRefused(
                key.queue, key.number, batch.session, batch.first, REFUSED_ALONE
            )
            return [*begun, Send(peer, refused)]
        if not self._copies.is_active(key) or not self.knows_settings():
            return [*begun, *self.early.hold(key, peer, packet, now)]
        if not self._follows(partition, packet, now):
            return [*begun, Send(peer, Gap(key.queue, key.number, batch.session))]
        no_room = self.limits.refuse(partition, peer, batch, now)
        if no_room is not None:
            return [*begun, *no_room]
        again = repeats(self, self._copies, peer, packet, now) if batch.ids else []
        if again is None:
            return begun  # its publisher says it again, when that is known
        begun += again
        wall_ms, kept = now + self.clock.wall_offset_ms, self.kept_of(key.queue)
        effects, written = partition.append(batch, wall_ms, peer, kept)
        return [*begun, *effects, *self._copies.on_appended(key, written, now)]

    def _follows(self, partition: Partition, packet: Publish, now: int) -> bool:
        """Whether what its publisher sent before is here, or was refused for good."""
        session, previous = packet.batch.session, packet.previous
        return (
            not previous
            or partition.received(session, previous)
            or self.limits.has_rejected(partition.key, session, previous, now)
        )

    def _confirm_again(self, peer: NodeId, key: PartitionKey, run: Run) -> list[Effect]:
        """A repeat of what is here: confirm it, now or once it is on enough disks."""
        unproven = self._copies.unproven(key, run)
        if not unproven:
            return [self._confirm(peer, key, run, self._copies.wanted(key))]
        partition = self.partition(key)
        for part in unproven:
            for _, number in partition.pending.overlap(part):
                partition.batches[number].publisher = peer
        return []

    def on_attach(self, peer: NodeId, packet: Attach, now: int) -> list[Effect]:
        """Push to this consumer from now on."""
        key = key_of(packet)
        if not self.owns(key):
            return [self._moved(peer, key)]
        if is_mailbox_of_another(key.queue, self.name_of(peer)):
            text = f"{self.name_of(peer)!r} asked for mail that is not its own: {key.queue!r}"
            return [Notify(Counted("attach_to_mailbox_refused", text=text, alarming=True))]
        if not self.is_member(peer):  # it has left, or is not known yet: then it asks again
            return [Notify(Counted("attach_by_stranger"))]
        delivery = self._delivery(key)
        bearer = Bearer(peer, packet.consumer)
        attached = delivery.is_attached(bearer, packet.attachment)
        ended = packet.renewal or self._let_go.covers(key, bearer, packet.attachment)
        if ended and not attached:
            return [self._moved(peer, key)]
        if not delivery.attach(peer, packet, now):
            return []
        return [_attached(key, delivery.consumers[bearer]), *self._pump(key, now)]

    def on_detach(self, peer: NodeId, packet: Detach, now: int) -> list[Effect]:
        """Push to this consumer no more."""
        key = key_of(packet)
        delivery = self.deliveries.get(key)
        if delivery is None:
            return []
        delivery.detach(Bearer(peer, packet.consumer), packet.attachment)
        return self._pump(key, now)

    def on_settle(self, peer: NodeId, packet: Settle, now: int) -> list[Effect]:
        """Take acks, nacks and extensions; say so once the acks are durable."""
        key = key_of(packet)
        if not self.owns(key):
            return [self._moved(peer, key)]
        partition = self.partition(key)
        delivery = self._delivery(key)
        runs = [Run(ack.session, ack.first, ack.last) for ack in packet.acks]
        if partition.is_appending(runs):
            return []  # just being handed over: the repeat comes after that is durable
        bearer = Bearer(peer, packet.consumer)
        delivery.raise_limit(bearer, packet.attachment, packet.limit)
        for nack in packet.nacks:
            delivery.nack(bearer, nack, now)
        given_up = self._give_up(key, delivery, now)
        for extend in packet.extends:
            delivery.extend(bearer, extend, now)
        removed, records = partition.remove(runs)
        self.forget(key, removed)
        records = self.take_owed(key) + records
        durable = SettleDurable(key, peer, packet.consumer, packet.number)
        if records or runs:  # acks that change nothing may be a repeat that overtook the write
            effects: list[Effect] = [Persist(tuple(records), then=durable, patient=True)]
            effects += self._copies.on_settle(key, runs, durable, now)
        else:
            effects = self.settled(durable)
        return [*effects, *given_up, *self._pump(key, now)]

    # -- writes --

    def on_batch_durable(self, event: BatchDurable, now: int) -> list[Effect]:
        """A batch is on disk here; if that is enough, deliver it and confirm it."""
        partition = self.partitions.get(event.key)
        if partition is None:
            return []
        taken_back = partition.take_back(event.number, event.traces)
        if taken_back is not None:
            for refused in taken_back[0]:
                self._copies.on_refused(event.key, refused)
                self.forget(event.key, [refused.run])
            return [Persist(taken_back[1])]
        effects: list[Effect] = []
        for number in (*event.traces, event.number):
            stored = partition.on_durable(number)
            if stored is not None:
                effects += self._copies.on_durable(event.key, stored, now)
        return effects

    def on_proven(self, key: PartitionKey, proven: list[tuple[Run, int]], now: int) -> list[Effect]:
        """Messages are on enough disks now: deliver and confirm them."""
        if not proven:
            return []
        partition = self.partition(key)
        confirms: list[Effect] = []
        delivery = self._delivery(key)
        firsts: dict[Session, int] = {}
        for run, copies in proven:
            firsts[run.session] = min(run.first, firsts.get(run.session, run.first))
            for part, number in partition.pending.overlap(run):
                publisher = partition.batches[number].publisher
                if publisher is not None:
                    confirms.append(self._confirm(publisher, key, part, copies))
        for session, first in firsts.items():  # once: from each run on, it would be n² of them
            self._add_onwards(delivery, partition, Run(session, first, first))
        # Deliveries first: a consumer waits longer than a publisher.
        return [*self._pump(key, now), *confirms]

    def on_no_longer_awaited(self, key: PartitionKey, run: Run) -> None:
        """Messages that were not on enough disks are gone: what waited for them goes out."""
        if key in self.deliveries:
            self._add_onwards(self.deliveries[key], self.partition(key), run)
            self._timers.set_if_earlier(key, 0)

    def _add_onwards(self, delivery: PartitionDelivery, partition: Partition, run: Run) -> None:
        """Make ready what is deliverable of the run, and of what its publisher sent after it."""
        onwards = Run(run.session, run.first, SEQ_MAX)
        for free in self._copies.deliverable(partition.key, onwards):
            for part, number in partition.pending.overlap(free):
                delivery.add(part, number)

    def on_active(self, key: PartitionKey, now: int) -> list[Effect]:
        """Perhaps the partition may deliver now."""
        return self._pump(key, now) if key in self.deliveries or key in self.early else []

    def on_stored(self, key: PartitionKey, numbers: tuple[int, ...]) -> list[Stored]:
        """Batches from another home are on disk here."""
        partition = self.partition(key)
        return [stored for n in numbers if (stored := partition.on_durable(n)) is not None]

    def on_replica_stored(
        self, key: PartitionKey, numbers: tuple[int, ...], now: int
    ) -> list[Effect]:
        """What another node that takes itself for the owner sent is on disk here."""
        stored = self.on_stored(key, numbers)
        if not stored or not self.owns(key):
            return []
        batches = [one for one in stored if one.number in self.partition(key).batches]
        return self._copies.on_found(key, batches, now)

    def expect(self, key: PartitionKey, leases: Iterable[LeaseField], now: int) -> None:
        """The former owner says who holds what."""
        delivery = self._delivery(key)
        for lease in leases:
            delivery.expect(lease, now)

    def leases_for_successor(
        self, key: PartitionKey, now: int, runs: list[Run] | None = None
    ) -> list[LeaseField]:
        """The in-flight table (of these runs), for whoever owns the partition now."""
        delivery = self.deliveries.get(key) or self._former.get(key)
        if delivery is None:
            return []
        return delivery.lease_fields(runs or self.partition(key).unacked.runs(), now)

    def owned_just_now(self, key: PartitionKey, now: int) -> bool:
        """Whether this node has delivered from the partition until now, and does no more."""
        at = self._handed_back_at.get(key)
        return at is not None and now - at <= HANDED_BACK_MS

    def on_handed_back(self, key: PartitionKey) -> None:
        """Who owned until now has said who holds what: nobody else need be waited for."""
        if key in self.deliveries:
            self.deliveries[key].end_quiet()

    def on_settle_durable(self, event: SettleDurable) -> list[Effect]:
        """The acks are on disk here; if that is enough, say so."""
        return self.settled(event) if self._copies.on_settle_durable(event) else []

    def settled(self, event: SettleDurable) -> list[Effect]:
        """The acks are on enough disks."""
        key = event.key
        return [Send(event.peer, Settled(key.queue, key.number, event.consumer, event.number))]

    def on_batch_refused(self, event: BatchDurable) -> list[Effect]:
        """The disk is full: the batch stays with its publisher."""
        partition = self.partitions[event.key]
        for trace in event.traces:
            self._copies.on_refused(event.key, partition.on_write_refused(trace))
        stored = partition.on_write_refused(event.number)
        partition.refuse_those_after(stored)
        self._copies.on_refused(event.key, stored)
        self.forget(event.key, [stored.run])
        effects: list[Effect] = [Notify(Counted("disk_full", text=DISK_FULL, alarming=True))]
        if stored.publisher is not None:
            refused = PublishRefused(
                event.key.queue, event.key.number, stored.session, stored.first, REFUSED_DISK_FULL
            )
            effects.append(Send(stored.publisher, refused))
        return effects

    def on_settle_refused(self, key: PartitionKey, records: tuple[Record, ...]) -> list[Effect]:
        """The disk is full even for acks: owe them, until the consumer's repeat tries again."""
        if key in self.partitions:
            self._owed.setdefault(key, []).extend(records)
        return [Notify(Counted("disk_full", text=DISK_FULL, alarming=True))]

    def take_owed(self, key: PartitionKey) -> list[Record]:
        """The records that a full disk refused: they go before any later one of the partition."""
        return self._owed.pop(key, [])

    def on_unreadable(self, key: PartitionKey, run: Run, now: int) -> list[Effect]:
        """Bodies are damaged: have them again from another home, or do without the only copy."""
        partition = self.partitions.get(key)
        if partition is None:
            return []
        only_copy = self.owns(key) and self._copies.has_no_other(key)
        if only_copy:
            found = [part for part, _ in partition.pending.overlap(run)]
            lost, records = partition.remove(found)
        else:
            lost, records = partition.unsee(run)
        if not lost:
            return []
        if key in self.deliveries:
            self.deliveries[key].on_unreadable(lost)
        count = total(lost)
        text = f"queue {key.queue!r}: {count} bodies do not match their checksums" + (
            "; there is no other copy" if only_copy else "; asking for another copy"
        )
        notice = Notify(Counted("body_unreadable", count, text, alarming=True))
        effects: list[Effect] = [notice, Persist((*self.take_owed(key), *records))]
        if not only_copy:
            effects += self._copies.repair(key, lost, now)
        return [*effects, *self._pump(key, now)]

    # -- the world changes --

    def on_placement_changed(self, now: int) -> list[Effect]:
        """Begin to deliver what is ours now; stop with what is not."""
        effects: list[Effect] = []
        for key in list(self.partitions):
            if self.owns(key):
                if key not in self.deliveries:
                    self._takeovers[key] = now + TAKEOVER_GRACE_MS
                    self._handed_back_at.pop(key, None)
                    former = self._former.pop(key, None)
                    self._delivery(key)
                    if former is not None:
                        self.deliveries[key].remember(former)
                self.deliveries[key].age(self.ageing_of(key.queue))
                effects += self._pump(key, now)
            elif key in self.deliveries:
                self.early.drop(key)  # their publishers turn to the new owner
                self.limits.drop(key)
                delivery = self._former[key] = self.deliveries.pop(key)
                for consumer in delivery.consumers.values():
                    self._let_go.note(key, consumer)
                if delivery.knows_holders(now):
                    self._handed_back_at[key] = now
                told = {bearer.node_id: None for bearer in delivery.consumers}
                effects += [self._moved(node_id, key) for node_id in told]
        return effects

    def on_node_gone(self, node_id: NodeId, now: int, *, restarted: bool = False) -> list[Effect]:
        """A node died, left or restarted: what its consumers held is free again.

        One that restarted has died of it, perhaps: that counts before anybody else gets it.
        """
        effects: list[Effect] = []
        for key, delivery in self.deliveries.items():
            for consumer in delivery.detach_node(node_id):
                self._let_go.note(key, consumer)
            if restarted:
                delivery.on_restarted(node_id)
                effects += self._give_up(key, delivery, now)
            effects += self._pump(key, now)
        return effects

    def next_deadline(self) -> int | None:
        """When a lease or a delay may end."""
        return self._timers.next_deadline()

    def on_timeout(self, now: int) -> list[Effect]:
        """Free the messages whose visibility timeout or delay is over."""
        effects: list[Effect] = []
        while (key := self._timers.pop_due(now)) is not None:
            delivery = self.deliveries.get(key)
            if delivery is None:
                continue
            expired = delivery.on_timeout(now)
            if expired:
                text = f"queue {key.queue!r}: {expired} messages were not settled in time"
                effects.append(Notify(Counted("visibility_timeout", expired, text, alarming=True)))
            if self.owns(key):
                effects += [_attached(key, consumer) for consumer in delivery.silent(now)]
            effects += self._pump(key, now)
        return effects

    def drop(self, key: PartitionKey) -> None:
        """Forget a partition that has been handed over."""
        partition = self.partitions.pop(key, None)
        if partition is not None:  # packets on their way out may still name its batches
            self._next_numbers[key] = partition.next_number
        self.deliveries.pop(key, None)
        self._handed_back_at.pop(key, None)
        self._former.pop(key, None)
        self.early.drop(key)
        self.limits.drop(key)
        self._owed.pop(key, None)
        self._timers.clear(key)

    def forget(self, key: PartitionKey, removed: list[Run]) -> None:
        """The dots are acked elsewhere: deliver them no more."""
        if key in self.deliveries and self.deliveries[key].forget(removed):
            self._timers.set_if_earlier(key, 0)
        self._copies.on_removed(key, removed)

    def on_acked_elsewhere(self, key: PartitionKey, removed: list[Run]) -> list[Effect]:
        """Another owner's consumers have done these meanwhile: count what ours were given, too."""
        delivery = self.deliveries.get(key)
        count = delivery.given_of(removed) if delivery is not None else 0
        self.forget(key, removed)
        if not count:
            return []
        text = f"queue {key.queue!r}: {count} messages delivered here were acked elsewhere"
        return [Notify(Counted("duplicates_after_heal", count, text, alarming=True))]

    def on_handed_over(
        self,
        key: PartitionKey,
        numbers: tuple[int, ...],
        leases: tuple[LeaseField, ...],
        now: int,
    ) -> list[Effect]:
        """Batches of another node are on disk here: deliver them, but what is held there."""
        durable = self.on_stored(key, numbers)
        if not self.owns(key):
            return []
        self.expect(key, leases, now)  # first: where one copy is enough, they can be delivered now
        effects = self._copies.on_found(key, durable, now)
        return [*effects, *self._pump(key, now)]

    # -- within --

    def _give_up(self, key: PartitionKey, delivery: PartitionDelivery, now: int) -> list[Effect]:
        """Make dead letters of what has failed too often."""
        effects: list[Effect] = []
        for run, failing in delivery.retries.take_given_up():
            reason = REJECTED if failing.rejected else MAX_DELIVERIES
            death = Death(reason, error=failing.error, failures=failing.times)
            effects += self._copies.dead_letters.condemn(key, [run], death, now)
        return effects

    def _delivery(self, key: PartitionKey) -> PartitionDelivery:
        delivery = self.deliveries.get(key)
        if delivery is None:
            quiet_until = max(self._quiet_until, self._takeovers.pop(key, 0))
            delivery = PartitionDelivery(
                self.partition(key),
                quiet_until,
                partial(self._copies.deliverable, key),
                Retries(partial(self.retry_of, key.queue), self.rng),
            )
            delivery.age(self.ageing_of(key.queue))
            self.deliveries[key] = delivery
        return delivery

    def _pump(self, key: PartitionKey, now: int) -> list[Effect]:
        if not self.owns(key) or self.is_stopping:
            return []
        delivery = self._delivery(key)
        effects: list[Effect] = []
        if self._copies.is_active(key):
            effects += expire(self, self._copies, delivery, now)
            for peer, packet in self.early.take(key, now):
                effects += self.on_publish(peer, packet, now)
            release(delivery, now)
            effects += self.limits.make_room(self, self._copies, delivery, now)
            effects += delivery.pump(now)
            partition = self.partition(key)
            for at in (partition.expiring.next, partition.scheduled.next):
                if at is not None:
                    self._timers.set_if_earlier(key, at)
        due = delivery.next_deadline()
        if due is not None:
            self._timers.set_if_earlier(key, due)
        return effects

    def _confirm(self, peer: NodeId, key: PartitionKey, run: Run, copies: int) -> Effect:
        return Send(peer, Confirm(key.queue, key.number, (RunField(*run),), copies))

    def _moved(self, peer: NodeId, key: PartitionKey) -> Effect:
        return Send(peer, Moved(key.queue, key.number, self._owner_of(key) or NOBODY))
