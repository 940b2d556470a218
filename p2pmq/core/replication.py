"""Replication: the owner's copies on other home replicas, and the replica's side of it.

The owner sends each batch and each ack to every home in reach while its own
disk writes; W durable copies confirm. With a home that comes into reach it
first compares states and fetches what only that home has, and confirms and
delivers nothing until that is merged. Merging is the set's own (section 6 of
the design), so that lost, repeated and reordered packets do no harm.

Invariant: a replica answers for a packet only after everything in it is durable.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from p2pmq.core.copies import UNANSWERED_BYTES_MAX, Contact, Copies, Home, Settling, digest_of
from p2pmq.core.dots import DotSet
from p2pmq.core.effects import Counted, Notify, Persist, Send
from p2pmq.core.events import ReplicaDurable, SupplyDurable
from p2pmq.core.ids import PartitionKey, Run
from p2pmq.core.packets.publishing import FRAME_BYTES_MAX, RunField
from p2pmq.core.packets.replicating import (
    Compare,
    Compared,
    Fetch,
    Offer,
    Replicate,
    Replicated,
    Supply,
)
from p2pmq.core.records import BatchStored
from p2pmq.core.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pmq.core.effects import Effect
    from p2pmq.core.events import SettleDurable
    from p2pmq.core.ids import NodeId
    from p2pmq.core.owner import Owner
    from p2pmq.core.ownership import Ownership
    from p2pmq.core.packets.delivering import LeaseField
    from p2pmq.core.packets.publishing import Batch
    from p2pmq.core.partition import Partition, Stored
    from p2pmq.core.records import Record

RESEND_MS = 1_000
ASKS_MAX = 3
"""A home that has not answered so many comparisons does not hold up the others any more."""
ASK_AGAIN_MS = 5_000
"""… and is asked again after this."""
OFFER_AGAIN_MS = 30_000
"""How often a replica offers what it holds: the round of anti-entropy."""
RUNS_MAX = 4_096
BATCHES_MAX = 64


class Replication:
    """All partitions of this node that have copies elsewhere."""

    def __init__(self, own_id: NodeId, boot: int, owner: Owner, ownership: Ownership) -> None:
        self._own_id = own_id
        self._owner = owner
        self._ownership = ownership
        self._copies: dict[PartitionKey, Copies] = {}
        self._timers: Timers[PartitionKey] = Timers()
        self._next_number = (boot << 32) + 1

    # -- the owner: while it owns --

    def copies(self, key: PartitionKey, now: int) -> tuple[Copies, list[Effect]]:
        """The copies of an owned partition; at first every home in reach is asked for its state."""
        copies = self._copies.get(key)
        if copies is not None:
            return copies, []
        homes, wanted = self._ownership.homes_of(key)
        copies = self._copies[key] = Copies(self._own_id, homes, wanted)
        if wanted > 1:
            for run in self._owner.partition(key).pending.runs():
                copies.unproven.put(run, (self._own_id,))
        return copies, self._reach_out(key, copies, now)

    def is_active(self, key: PartitionKey) -> bool:
        """Whether the owner may deliver from the partition."""
        copies = self._copies.get(key)
        return copies is not None and copies.active

    def is_alone(self, key: PartitionKey) -> bool:
        """Whether too few homes are in reach for anything to be committed."""
        copies = self._copies.get(key)
        return copies is None or len(copies.in_reach()) + 1 < copies.wanted or not copies.is_home

    def unproven(self, key: PartitionKey, run: Run) -> list[Run]:
        """The parts of the run that are not on enough disks yet."""
        copies = self._copies.get(key)
        return [] if copies is None else [part for part, _ in copies.unproven.overlap(run)]

    def deliverable(self, key: PartitionKey, run: Run) -> list[Run]:
        """What of the run is on enough disks, with all that its publisher sent before it."""
        copies = self._copies.get(key)
        low = copies.unproven.lowest(run.session) if copies is not None else None
        if low is None or low > run.last:
            return [run]
        return [Run(run.session, run.first, low - 1)] if low > run.first else []

    def on_appended(self, key: PartitionKey, batches: list[Batch], now: int) -> list[Effect]:
        """New batches are being written here: send them to every home in reach meanwhile."""
        copies, effects = self.copies(key, now)
        for batch in batches:
            copies.unproven.put(batch.run, ())
        if copies.homes:
            for batch in batches:
                effects += self._send_all(key, copies, (), (batch,), now)[1]
        return effects

    def on_found(
        self,
        key: PartitionKey,
        found: list[Stored],
        now: int,
        holder: NodeId | None = None,
    ) -> list[Effect]:
        """Batches that came from elsewhere are durable here (and at `holder`): spread them."""
        copies, effects = self.copies(key, now)
        for stored in found:
            known = holder is not None and holder in copies.homes
            copies.unproven.put(stored.run, (holder,) if known and holder is not None else ())
            proven = copies.note(stored.run, self._own_id)
            effects += self._owner.on_proven(key, proven, now)
            for home in copies.in_reach():
                if home.node_id != holder:
                    home.to_push.append(stored.run)
                    effects += self._push(key, home, now)
        return effects

    def wanted(self, key: PartitionKey) -> int:
        """How many copies commit a message."""
        return self._ownership.homes_of(key)[1]

    def on_durable(self, key: PartitionKey, stored: Stored) -> list[tuple[Run, int]]:
        """A batch is on the own disk; what is proven by that."""
        copies = self._copies.get(key)
        return [] if copies is None else copies.note(stored.run, self._own_id)

    def on_refused(self, key: PartitionKey, stored: Stored) -> None:
        """A batch could not be written here."""
        copies = self._copies.get(key)
        if copies is not None:
            copies.forget([stored.run])

    def on_removed(self, key: PartitionKey, removed: Iterable[Run]) -> None:
        """Dots are acked: their copies matter no more."""
        copies = self._copies.get(key)
        if copies is not None:
            copies.forget(removed)

    def on_settle(
        self, key: PartitionKey, acks: list[Run], event: SettleDurable, now: int
    ) -> list[Effect]:
        """Acks are being written here: send them to every home in reach meanwhile."""
        copies, effects = self.copies(key, now)
        if not copies.homes:
            return effects  # the own disk is all there is
        known = copies.settling.pop(event, None)
        if known is not None:
            copies.acking.pop(known.operation, None)
        runs = tuple(RunField(*run) for run in acks)
        operation, sent = self._send_all(key, copies, runs, (), now)
        copies.settling[event] = Settling(operation)
        copies.acking[operation] = event
        return effects + sent

    def on_settle_durable(self, event: SettleDurable) -> bool:
        """The acks are on the own disk; whether they are on enough disks now."""
        copies = self._copies.get(event.key)
        if copies is None or event not in copies.settling:
            return True
        return self._settled_at(copies, event, self._own_id)

    def _settled_at(self, copies: Copies, event: SettleDurable, holder: NodeId) -> bool:
        settling = copies.settling[event]
        settling.holders[holder] = None
        if len(settling.holders) < copies.wanted:
            return False
        del copies.settling[event]
        copies.acking.pop(settling.operation, None)
        return True

    def _send_all(
        self,
        key: PartitionKey,
        copies: Copies,
        acked: tuple[RunField, ...],
        batches: tuple[Batch, ...],
        now: int,
    ) -> tuple[int, list[Effect]]:
        packet = Replicate(key.queue, key.number, self._take_number(), acked, batches)
        effects: list[Effect] = []
        for home in copies.in_reach():
            effects += self._send_to(key, home, packet, now)
        return packet.number, effects

    def _send_to(self, key: PartitionKey, home: Home, packet: Replicate, now: int) -> list[Effect]:
        size = sum(batch.size for batch in packet.batches)
        if home.unanswered_bytes + size > UNANSWERED_BYTES_MAX:
            home.lose()
            self._timers.set_if_earlier(key, now + ASK_AGAIN_MS)
            return [Notify(Counted("replica_too_slow"))]
        if not home.unanswered:
            home.sent_at = now
        home.unanswered[packet.number] = packet
        home.unanswered_bytes += size
        self._timers.set_if_earlier(key, now + RESEND_MS)
        return [Send(home.node_id, packet)]

    def on_replicated(self, peer: NodeId, packet: Replicated, now: int) -> list[Effect]:
        """A home has it on disk: perhaps that is enough."""
        key = PartitionKey(packet.queue, packet.partition)
        copies = self._copies.get(key)
        home = copies.homes.get(peer) if copies is not None else None
        if copies is None or home is None:
            return []
        sent = home.unanswered.pop(packet.number, None)
        if sent is None:
            return []
        home.sent_at = now
        home.unanswered_bytes -= sum(batch.size for batch in sent.batches)
        proven = [part for batch in sent.batches for part in copies.note(batch.run, peer)]
        effects = self._owner.on_proven(key, proven, now)
        event = copies.acking.get(packet.number)
        if event is not None and self._settled_at(copies, event, peer):
            effects += self._owner.settled(event)
        return effects + self._push(key, home, now)

    # -- the owner: comparing --

    def on_placement_changed(self, now: int) -> list[Effect]:
        """Look after what is owned now, offer what is not."""
        effects: list[Effect] = []
        for key in list(self._copies):
            if not self._owner.owns(key):
                del self._copies[key]
                self._timers.clear(key)
        for key in list(self._owner.partitions):
            if self._owner.owns(key):
                copies, begun = self.copies(key, now)
                proven = copies.set_homes(*self._ownership.homes_of(key))
                effects += begun + self._owner.on_proven(key, proven, now)
                effects += self._reach_out(key, copies, now)
            else:
                effects += self._offer(key, now)
        return effects

    def _reach_out(self, key: PartitionKey, copies: Copies, now: int) -> list[Effect]:
        """Ask homes that have come into reach; let go of those that have left it."""
        effects: list[Effect] = []
        for home in copies.homes.values():
            alive = self._ownership.is_alive(home.node_id)
            if not alive and home.contact is not Contact.AWAY:
                home.lose()
            elif alive and home.contact is Contact.AWAY:
                effects += self._ask(key, home, now)
        return effects

    def _ask(self, key: PartitionKey, home: Home, now: int) -> list[Effect]:
        """Compare with a home; one that is merged stays so meanwhile."""
        if home.contact is not Contact.MERGED:
            home.contact = Contact.COMPARING
        home.number = self._take_number()
        home.seen, home.pending = DotSet(), DotSet()
        home.fetching, home.requested = DotSet(), DotSet()
        self._timers.set_if_earlier(key, now + RESEND_MS)
        digest = digest_of(self._owner.partition(key))
        return [Send(home.node_id, Compare(key.queue, key.number, home.number, digest))]

    def on_offer(self, peer: NodeId, packet: Offer, now: int) -> list[Effect]:
        """A home replica holds something: merge from it, if it is not known to be the same."""
        key = PartitionKey(packet.queue, packet.partition)
        if not self._owner.owns(key):
            return []
        copies, effects = self.copies(key, now)
        home = copies.homes.get(peer)
        if home is None or home.number or home.unanswered or home.to_push:
            return effects
        if packet.digest != digest_of(self._owner.partition(key)):
            effects += self._ask(key, home, now)
        return effects

    def on_compared(self, peer: NodeId, packet: Compared, now: int) -> list[Effect]:
        """A home has told its state: take what it knows, fetch what it has, push what it lacks."""
        key = PartitionKey(packet.queue, packet.partition)
        copies = self._copies.get(key)
        home = copies.homes.get(peer) if copies is not None else None
        if copies is None or home is None or home.number != packet.number:
            return []
        partition = self._owner.partition(key)
        if packet.equal:
            home.seen, home.pending = partition.seen.copy(), DotSet(partition.pending.runs())
        for run in packet.seen:
            home.seen.add(Run(run.session, run.first, run.last))
        for run in packet.pending:
            home.pending.add(Run(run.session, run.first, run.last))
        if packet.more:
            return []
        home.asked = 0
        acked_there = home.seen.difference(home.pending)
        if acked_there.intersection(partition.appending):
            self._timers.set(key, now + RESEND_MS // 10)
            home.number = 0
            return []  # just being written here: ask again when it is
        home.number = 0
        return self._merge(key, copies, home, acked_there, packet.leases, now)

    def _merge(
        self,
        key: PartitionKey,
        copies: Copies,
        home: Home,
        acked_there: DotSet,
        leases: tuple[LeaseField, ...],
        now: int,
    ) -> list[Effect]:
        partition = self._owner.partition(key)
        removed, records = partition.remove(acked_there.difference(partition.acked()).runs())
        self._owner.forget(key, removed)
        effects: list[Effect] = [Persist(tuple(records))] if records else []
        self._owner.expect(key, leases, now)
        proven = [
            part
            for run in copies.unproven.runs()
            for held in home.seen.overlap(run)
            for part in copies.note(held, home.node_id)
        ]
        effects += self._owner.on_proven(key, proven, now)
        home.fetching = home.pending.difference(partition.seen).difference(partition.appending)
        pending = DotSet(partition.pending.runs())
        home.to_push.extend(pending.difference(home.seen).runs())
        home.acks_to_push.extend(partition.acked().difference(acked_there).runs())
        effects += self._push(key, home, now)
        return effects + self._fetch_next(key, home, now)

    def _fetch_next(self, key: PartitionKey, home: Home, now: int) -> list[Effect]:
        """Ask for the next of what only that home has; merged when there is no more."""
        if not home.fetching:
            home.contact = Contact.MERGED
            return self._owner.on_active(key, now)
        if home.contact is not Contact.MERGED:
            home.contact = Contact.FETCHING
        home.number = self._take_number()
        home.requested = DotSet()
        runs: list[RunField] = []
        for run in home.fetching.runs():
            if len(runs) >= BATCHES_MAX:
                break
            part = Run(run.session, run.first, min(run.last, run.first + RUNS_MAX - 1))
            home.requested.add(part)
            runs.append(RunField(*part))
        self._timers.set_if_earlier(key, now + RESEND_MS)
        return [Send(home.node_id, Fetch(key.queue, key.number, home.number, tuple(runs)))]

    def on_supply(self, peer: NodeId, packet: Supply, now: int) -> list[Effect]:
        """Messages that only that home had: write them here."""
        key = PartitionKey(packet.queue, packet.partition)
        copies = self._copies.get(key)
        home = copies.homes.get(peer) if copies is not None else None
        if home is None or home.number != packet.number:
            return []
        carried = (*packet.acked, *(RunField(*batch.run) for batch in packet.batches))
        numbers, records = self._take_in(key, list(packet.acked), packet.batches, now)
        runs = tuple(Run(run.session, run.first, run.last) for run in carried)
        then = SupplyDurable(key, peer, packet.number, tuple(numbers), runs)
        return [Persist(tuple(records), then=then)]

    def on_supply_durable(self, event: SupplyDurable, now: int) -> list[Effect]:
        """What was fetched is on disk here too."""
        key = event.key
        stored = self._owner.on_stored(key, event.numbers)
        copies = self._copies.get(key)
        if copies is None:
            return []
        home = copies.homes.get(event.peer)
        effects = self.on_found(key, stored, now, holder=event.peer)
        if home is None or home.number != event.number:
            return effects
        home.asked = 0
        for run in event.runs:
            home.requested.remove(run)
            home.fetching.remove(run)
        if not home.requested:
            home.number = 0
            effects += self._fetch_next(key, home, now)
        return effects

    def _push(self, key: PartitionKey, home: Home, now: int) -> list[Effect]:
        """Send what a home lacks, a piece at a time, as it answers."""
        effects: list[Effect] = []
        partition = self._owner.partition(key)
        while (home.to_push or home.acks_to_push) and len(home.unanswered) < BATCHES_MAX:
            acked: list[RunField] = []
            while home.acks_to_push and len(acked) < RUNS_MAX:
                acked.append(RunField(*home.acks_to_push.popleft()))
            batches = self._cut(partition, home.to_push)
            if not acked and not batches:
                continue  # acked meanwhile: that has been sent by itself
            number = self._take_number()
            packet = Replicate(key.queue, key.number, number, tuple(acked), batches)
            effects += self._send_to(key, home, packet, now)
        return effects

    def _cut(self, partition: Partition, runs: deque[Run]) -> tuple[Batch, ...]:
        """Take the next piece off a queue of runs: what of it is pending, up to a frame's size."""
        batches: list[Batch] = []
        size = 0
        while runs and len(batches) < BATCHES_MAX and size < FRAME_BYTES_MAX:
            run = runs.popleft()
            for part, number in partition.pending.overlap(run):
                batch = partition.batch(part, number)
                if batches and size + batch.size > FRAME_BYTES_MAX:
                    runs.appendleft(Run(run.session, part.first, run.last))
                    return tuple(batches)
                batches.append(batch)
                size += batch.size
        return tuple(batches)

    # -- time and links --

    def next_deadline(self) -> int | None:
        """When something is to be said again."""
        return self._timers.next_deadline()

    def on_timeout(self, now: int) -> list[Effect]:
        """Say again what was not answered; ask again who was given up."""
        effects: list[Effect] = []
        while (key := self._timers.pop_due(now)) is not None:
            copies = self._copies.get(key)
            if copies is not None:
                for home in list(copies.homes.values()):
                    effects += self._remind(key, home, now)
                effects += self._owner.on_active(key, now)
            elif key in self._owner.partitions:
                effects += self._offer(key, now)
        return effects

    def _remind(self, key: PartitionKey, home: Home, now: int) -> list[Effect]:
        if home.contact is Contact.AWAY:
            if not self._ownership.is_alive(home.node_id):
                return []
            return self._ask(key, home, now)
        effects: list[Effect] = []
        if home.unanswered:
            if now - home.sent_at >= RESEND_MS:
                effects += self._send_again(key, home, now)
            self._timers.set_if_earlier(key, now + RESEND_MS)
        if home.number or home.contact is Contact.COMPARING:
            home.asked += 1
            if home.asked > ASKS_MAX:
                home.lose()
                self._timers.set_if_earlier(key, now + ASK_AGAIN_MS)
                return effects
            effects += self._ask(key, home, now)
        return effects

    def _send_again(self, key: PartitionKey, home: Home, now: int) -> list[Effect]:
        """Repeat what a home has not answered; what is acked by now goes as an ack."""
        home.sent_at = now
        partition = self._owner.partition(key)
        for number, packet in home.unanswered.items():
            acked = [
                RunField(*done)
                for batch in packet.batches
                for seen in partition.seen.overlap(batch.run)
                for done in partition.pending.missing(seen)
            ]
            if acked:
                batches = [
                    batch.part(run.first, run.last)
                    for batch in packet.batches
                    for run in _without(batch.run, acked)
                ]
                runs = (*packet.acked, *acked)
                home.unanswered[number] = replace(packet, acked=runs, batches=tuple(batches))
        return [Send(home.node_id, packet) for packet in home.unanswered.values()]

    def on_peer_connected(self, peer: NodeId, now: int) -> list[Effect]:
        """A link to the peer is new: it may have restarted, and packets may be lost."""
        effects: list[Effect] = []
        for key, copies in list(self._copies.items()):
            home = copies.homes.get(peer)
            if home is not None and self._ownership.is_alive(peer):
                effects += self._send_again(key, home, now)
                effects += self._ask(key, home, now)
        for key in list(self._owner.partitions):
            if self._ownership.owner_of(key) == peer:
                effects += self._offer(key, now)
        return effects

    # -- the replica --

    def _offer(self, key: PartitionKey, now: int) -> list[Effect]:
        """Tell the owner that something of its partition is here."""
        owner = self._ownership.owner_of(key)
        homes, _ = self._ownership.homes_of(key)
        if owner is None or self._own_id not in homes:
            return []
        self._timers.set(key, now + OFFER_AGAIN_MS)
        digest = digest_of(self._owner.partition(key))
        return [Send(owner, Offer(key.queue, key.number, digest))]

    def on_replicate(self, peer: NodeId, packet: Replicate, now: int) -> list[Effect]:
        """Store what an owner sends, and answer once it is durable."""
        key = PartitionKey(packet.queue, packet.partition)
        runs = [Run(run.session, run.first, run.last) for run in packet.acked]
        partition = self._owner.partition(key)
        if partition.is_appending([*runs, *(batch.run for batch in packet.batches)]):
            return []  # being written just now: the repeat comes after that
        numbers, records = self._take_in(key, list(packet.acked), packet.batches, now)
        then = ReplicaDurable(key, peer, packet.number, tuple(numbers))
        self._timers.set_if_earlier(key, now + OFFER_AGAIN_MS)
        return [Persist(tuple(records), then=then)]

    def _take_in(
        self, key: PartitionKey, acked: list[RunField], batches: tuple[Batch, ...], now: int
    ) -> tuple[list[int], list[Record]]:
        """Merge acks and batches into the partition: what is being written, as records."""
        partition = self._owner.partition(key)
        runs = [Run(run.session, run.first, run.last) for run in acked]
        removed, records = partition.remove(runs)
        self._owner.forget(key, removed)
        self.on_removed(key, removed)
        numbers: list[int] = []
        for batch in batches:
            for part in partition.new_parts(batch):
                stored, record = partition.stage(part, now + self._owner.wall_offset_ms)
                numbers.append(stored.number)
                records.append(record)
        return numbers, self._owner.take_owed(key) + records

    def on_replica_durable(self, event: ReplicaDurable, now: int) -> list[Effect]:
        """What an owner sent is on disk here."""
        key = event.key
        effects = self._owner.on_replica_stored(key, event.numbers, now)
        return [Send(event.peer, Replicated(key.queue, key.number, event.number)), *effects]

    def on_write_refused(
        self, event: ReplicaDurable | SupplyDurable, records: tuple[Record, ...]
    ) -> list[Effect]:
        """The disk is full: batches never came, and are not answered for; acks are owed."""
        partition = self._owner.partitions.get(event.key)
        if partition is not None:
            for number in event.numbers:
                partition.on_write_refused(number)
        acks = tuple(record for record in records if type(record) is not BatchStored)
        return self._owner.on_settle_refused(event.key, acks)

    def on_compare(self, peer: NodeId, packet: Compare, now: int) -> list[Effect]:
        """Tell an owner what is here, unless it is the same."""
        key = PartitionKey(packet.queue, packet.partition)
        partition = self._owner.partition(key)
        leases = tuple(self._owner.leases_for_successor(key, now))
        if packet.digest == digest_of(partition):
            equal = Compared(key.queue, key.number, packet.number, equal=True, leases=leases)
            return [Send(peer, equal)]
        seen = [RunField(*run) for run in partition.seen.runs()]
        pending = [RunField(*run) for run in DotSet(partition.pending.runs()).runs()]
        effects: list[Effect] = []
        while True:
            part, seen = seen[:RUNS_MAX], seen[RUNS_MAX:]
            room = RUNS_MAX - len(part)
            pending_part, pending = pending[:room], pending[room:]
            more = bool(seen or pending)
            answer = Compared(
                key.queue,
                key.number,
                packet.number,
                equal=False,
                seen=tuple(part),
                pending=tuple(pending_part),
                leases=() if more else leases,
                more=more,
            )
            effects.append(Send(peer, answer))
            if not more:
                return effects

    def on_fetch(self, peer: NodeId, packet: Fetch) -> list[Effect]:
        """Send an owner messages that it lacks."""
        key = PartitionKey(packet.queue, packet.partition)
        partition = self._owner.partition(key)
        asked = DotSet(Run(run.session, run.first, run.last) for run in packet.runs)
        pending = DotSet(partition.pending.runs())
        acked = asked.intersection(partition.seen).difference(pending)
        queue = deque(asked.intersection(pending).runs())
        effects: list[Effect] = []
        gone = tuple(RunField(*run) for run in acked.runs())
        while queue or gone:
            batches = self._cut(partition, queue)
            supply = Supply(key.queue, key.number, packet.number, gone, batches)
            effects.append(Send(peer, supply))
            gone = ()
        return effects

    def _take_number(self) -> int:
        self._next_number += 1
        return self._next_number


def _without(run: Run, acked: list[RunField]) -> list[Run]:
    """The parts of the run that are not acked."""
    rest = DotSet([run])
    for done in acked:
        rest.remove(Run(done.session, done.first, done.last))
    return list(rest.runs())
