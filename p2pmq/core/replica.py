"""A replica's side of copies: it stores what owners send, and tells them what is here.

It obeys whoever takes itself for the owner, two at once as well: storing and
acking are merges (section 6 of the design), so that lost, repeated and
reordered packets do no harm.

Invariant: a replica answers for a packet only after everything in it is durable.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from p2pmq.core.antientropy import ALL, digest_of, in_parts, span_of, tell
from p2pmq.core.deleting import told_of_deleted, without_deleted
from p2pmq.core.dots import DotSet
from p2pmq.core.effects import Counted, Notify, Persist, Send
from p2pmq.core.events import ReplicaDurable
from p2pmq.core.ids import PartitionKey, Run, key_of
from p2pmq.core.packets.publishing import FRAME_BYTES_MAX, RunField
from p2pmq.core.packets.replicating import Compared, Offer, Replicated, Supply
from p2pmq.core.records import BatchStored
from p2pmq.core.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.core.effects import Effect
    from p2pmq.core.events import SupplyDurable
    from p2pmq.core.ids import NodeId
    from p2pmq.core.intact import Intactness
    from p2pmq.core.owner import Owner
    from p2pmq.core.ownership import Ownership
    from p2pmq.core.packets.publishing import Batch
    from p2pmq.core.packets.registering import QueueRecord
    from p2pmq.core.packets.replicating import Compare, Fetch, Replicate
    from p2pmq.core.partition import Partition
    from p2pmq.core.records import Record

OFFER_AGAIN_MS = 30_000
"""How often a replica offers what it holds: the round of anti-entropy."""
NEWS_AGAIN_MS = 1_000
"""… and one that has what its owner cannot know, until that compares."""
LOOK_AGAIN_MS = 10
"""How soon what came during a write is looked at again. Its owner's repeat comes after a second,
and for so long nothing that the same publisher sent later would be delivered."""
EARLY_MAX = 256
RUNS_MAX = 4_096
BATCHES_MAX = 64


class Replica:
    """All partitions of which this node holds copies for another."""

    def __init__(
        self, own_id: NodeId, owner: Owner, ownership: Ownership, intact: Intactness
    ) -> None:
        self._intact = intact
        self._own_id = own_id
        self._owner = owner
        self._ownership = ownership
        self._timers: Timers[PartitionKey] = Timers()
        self._early: deque[tuple[NodeId, Replicate]] = deque(maxlen=EARLY_MAX)
        """What came while another owner's packet with the same messages was being written …"""
        self._look_again_at: int | None = None
        self._told: dict[PartitionKey, tuple[NodeId, ...]] = {}
        """The owners that were told all that is here, but for what they wrote themselves."""
        self.declared_unlike: Callable[[str, bytes], tuple[QueueRecord, ...]] = lambda *_: ()
        """How a queue is declared, as this node knows it, if not with such a hash."""

    def offer(self, key: PartitionKey, now: int) -> list[Effect]:
        """Tell the owner that something of its partition is here."""
        owner = self._ownership.owner_of(key)
        homes, _ = self._ownership.homes_of(key)
        if owner is None or self._own_id not in homes:
            return []
        news = owner not in self._told.get(key, (owner,))
        self._timers.set(key, now + (NEWS_AGAIN_MS if news else OFFER_AGAIN_MS))
        digest = digest_of(self._owner.partition(key))
        return [Send(owner, Offer(*key, digest, not self._intact.holds(key), news))]

    def note_writer(self, key: PartitionKey, writer: NodeId) -> None:
        """An owner writes here, perhaps this node: what others have been told is not all any more.

        An owner that was cut off for a moment only, and has not noticed, would deliver on without.
        """
        told = self._told.get(key)
        if told is None or len(told) > (writer in told):
            self._told[key] = (writer,) if told is None or writer in told else ()

    def on_replicate(self, peer: NodeId, packet: Replicate, now: int) -> list[Effect]:
        """Store what an owner sends, and answer once it is durable.

        Whoever has not heard of such a partition does not take it, and is sent it again soon: so
        that W disks which have a message know its place, too.
        """
        key = key_of(packet)
        came, packet = packet, without_deleted(packet, self._owner.deleted_until(key.queue))
        if not self._ownership.knows(key):
            return [Notify(Counted("partition_unknown"))]
        self.note_writer(key, peer)
        partition = self._owner.partition(key)
        acked = [Run(run.session, run.first, run.last) for run in packet.acked]
        if partition.is_appending([*acked, *(batch.run for batch in packet.batches)]):
            self._early.append((peer, came))  # being written just now, for a former owner
            self._look_again_at = self._look_again_at or now + LOOK_AGAIN_MS
            return []
        told = told_of_deleted(self._owner, key, came.batches)
        numbers, records = self.take_in(key, acked, packet.batches, now)
        known = tuple(run for batch in came.batches for run in partition.acked_of(batch.run))
        if packet.filled:
            records += self._intact.fill(key)
        if packet.horizon:
            old = [Run(run.session, run.first, run.last) for run in packet.forgotten]
            records += partition.retain(packet.horizon, old)
        then = ReplicaDurable(key, peer, packet.number, tuple(numbers), known)
        self._timers.set_if_earlier(key, now + OFFER_AGAIN_MS)
        return [Persist(tuple(records), then=then), *told]

    def take_in(
        self, key: PartitionKey, acked: list[Run], batches: tuple[Batch, ...], now: int
    ) -> tuple[list[int], list[Record]]:
        """Merge acks and batches into the partition: what is being written, as records."""
        partition = self._owner.partition(key)
        removed, records = partition.remove(acked)
        self._owner.forget(key, removed)
        numbers: list[int] = []
        for batch in batches:
            for part in partition.new_parts(batch):
                stored, record = partition.stage(part, now + self._owner.clock.wall_offset_ms)
                numbers.append(stored.number)
                records.append(record)
        return numbers, self._owner.take_owed(key) + records

    def on_durable(self, event: ReplicaDurable, now: int) -> list[Effect]:
        """What an owner sent is on disk here."""
        key = event.key
        effects = self._owner.on_replica_stored(key, event.numbers, now)
        acked = tuple(RunField(*run) for run in event.acked)
        answer = Replicated(key.queue, key.number, event.number, acked)
        return [Send(event.peer, answer), *effects]

    def on_write_refused(
        self, event: ReplicaDurable | SupplyDurable, records: tuple[Record, ...]
    ) -> list[Effect]:
        """The disk is full: batches never came, and are not answered for; acks are owed."""
        partition = self._owner.partitions.get(event.key)
        if partition is not None:
            for number in event.numbers:
                self._owner.forget(event.key, [partition.on_write_refused(number).run])
        acks = tuple(record for record in records if type(record) is not BatchStored)
        return self._owner.on_settle_refused(event.key, acks)

    def on_compare(self, peer: NodeId, packet: Compare, now: int) -> list[Effect]:
        """Tell an owner what is here, unless it is the same."""
        key = key_of(packet)
        knowing = self._told.get(key, ())
        self._told[key] = knowing if peer in knowing else (*knowing, peer)
        partition = self._owner.partition(key)
        leases = tuple(self._owner.leases_for_successor(key, now))
        refilling = not self._intact.holds(key)
        handed_back = self._owner.owned_just_now(key, now)
        declared = () if packet.ranges else self.declared_unlike(key.queue, packet.declared)
        if not packet.ranges and packet.digest == digest_of(partition):
            answer = Compared(
                key.queue,
                key.number,
                packet.number,
                equal=True,
                leases=leases,
                refilling=refilling,
                handed_back=handed_back,
                horizon=partition.horizon,
                declared=declared,
            )
            return [Send(peer, answer)]
        told = tell(partition, [span_of(field) for field in packet.ranges] or [ALL])
        pieces = in_parts(told, RUNS_MAX)
        return [
            Send(
                peer,
                Compared(
                    key.queue,
                    key.number,
                    packet.number,
                    equal=False,
                    seen=tuple(piece.seen),
                    pending=tuple(piece.pending),
                    leases=leases if at == len(pieces) - 1 else (),
                    more=at < len(pieces) - 1,
                    part=at,
                    refilling=refilling,
                    handed_back=handed_back and at == len(pieces) - 1,
                    ranges=tuple(piece.pieces),
                    horizon=partition.horizon,
                    declared=() if at else declared,
                ),
            )
            for at, piece in enumerate(pieces)
        ]

    def on_fetch(self, peer: NodeId, packet: Fetch) -> list[Effect]:
        """Send an owner messages that it lacks."""
        key = key_of(packet)
        partition = self._owner.partition(key)
        asked = DotSet(Run(run.session, run.first, run.last) for run in packet.runs)
        acked = asked.intersection(partition.seen).difference(partition.unacked)
        queue = deque(asked.intersection(partition.unacked).runs())
        effects: list[Effect] = []
        gone = tuple(RunField(*run) for run in acked.runs())
        while queue or gone:
            batches = cut(partition, queue)
            supply = Supply(key.queue, key.number, packet.number, gone, batches)
            effects.append(Send(peer, supply))
            gone = ()
        return effects

    def held(self) -> list[PartitionKey]:
        """The partitions of which this node has stored or learned anything."""
        return [key for key, partition in self._owner.partitions.items() if partition.seen]

    def on_dropped(self, key: PartitionKey) -> None:
        """The partition has been handed over."""
        self._intact.on_dropped(key)
        self._told.pop(key, None)

    def offer_all(self, now: int) -> list[Effect]:
        """Tell every owner anew what is here: more of it counts than did."""
        return [effect for key in list(self._owner.partitions) for effect in self.offer(key, now)]

    def next_deadline(self) -> int | None:
        """When something is to be offered, or looked at, again."""
        offers = self._timers.next_deadline()
        times = [at for at in (offers, self._look_again_at) if at is not None]
        return min(times, default=None)

    def on_timeout(self, now: int) -> list[Effect]:
        """Take what came too early; offer again what is owned elsewhere."""
        effects: list[Effect] = []
        if self._look_again_at is not None and now >= self._look_again_at:
            early, self._look_again_at = list(self._early), None
            self._early.clear()
            for peer, packet in early:
                effects += self.on_replicate(peer, packet, now)
        while (key := self._timers.pop_due(now)) is not None:
            if key in self._owner.partitions and not self._owner.owns(key):
                effects += self.offer(key, now)
        return effects


def cut(partition: Partition, runs: deque[Run]) -> tuple[Batch, ...]:
    """Take the next piece off a queue of runs: what of it is pending, up to a frame's size."""
    batches: list[Batch] = []
    size = 0
    while runs and len(batches) < BATCHES_MAX and size < FRAME_BYTES_MAX:
        run = runs.popleft()
        room = BATCHES_MAX - len(batches)
        parts = partition.pending.overlap(run, room + 1)
        for part, number in parts:
            batch = partition.batch(part, number)
            too_much = batches and size + batch.size > FRAME_BYTES_MAX
            if too_much or len(batches) == BATCHES_MAX:
                runs.appendleft(Run(run.session, part.first, run.last))
                return tuple(batches)
            batches.append(batch)
            size += batch.size
    return tuple(batches)


def up_to_date(packet: Replicate, partition: Partition) -> Replicate:
    """The packet as it would be made now: what is acked by now as acks, the rest from the store.

    What is neither here nor acked was damaged, and is not to be had from here.
    """
    acked: list[RunField] = []
    batches: list[Batch] = []
    for batch in packet.batches:
        run = batch.run
        for seen in partition.seen.overlap(run):
            acked += [RunField(*done) for done in partition.pending.missing(seen)]
        batches += [
            partition.batch(part, number) for part, number in partition.pending.overlap(run)
        ]
        batches += [batch.part(new.first, new.last) for new in partition.appending.overlap(run)]
    return replace(packet, acked=(*packet.acked, *acked), batches=tuple(batches))
