"""Replication: an owner's copies on the other home replicas of its partitions.

The owner sends each batch and each ack to every home in reach while its own
disk writes; W durable copies confirm. With a home that comes into reach it
first compares states and fetches what only that home has, and confirms and
delivers nothing until that is merged. Merging is the set's own (section 6 of
the design), so that lost, repeated and reordered packets do no harm.

Invariant: what an owner takes for durable elsewhere, its holder has said to be so.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from p2pmq.core.antientropy import ROUNDS_MAX, digest_of, field_of, within
from p2pmq.core.copies import (
    Contact,
    Copies,
    Home,
    Settling,
    leases_of,
)
from p2pmq.core.deadletters import STALE_REPLICA, DeadLetters
from p2pmq.core.deleting import told_of_deleted, without_deleted
from p2pmq.core.dots import DotSet
from p2pmq.core.effects import Counted, Notify, Persist, Send
from p2pmq.core.events import HandoverDurable, SettleDurable, SupplyDurable
from p2pmq.core.ids import PartitionKey, Run, key_of
from p2pmq.core.intact import Intactness
from p2pmq.core.packets.delivering import HandoverTaken
from p2pmq.core.packets.publishing import RunField
from p2pmq.core.packets.replicating import Compare, Fetch, Replicate
from p2pmq.core.replica import BATCHES_MAX, RUNS_MAX, Replica
from p2pmq.core.retention import judged, stale_here
from p2pmq.core.telling import ASK_AGAIN_MS, RESEND_MS, Telling

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pmq.core.effects import Effect
    from p2pmq.core.ids import NodeId
    from p2pmq.core.owner import Owner
    from p2pmq.core.ownership import Ownership
    from p2pmq.core.packets.publishing import Batch
    from p2pmq.core.packets.replicating import Compared, Offer, Replicated, Supply
    from p2pmq.core.partition import Stored

Settled = SettleDurable | HandoverDurable
"""Acks that somebody waits to see on enough disks."""
SETTLING_MAX = 4_096
"""Settles on their way to enough disks; the oldest beyond that waits for its consumer's repeat."""
ASKS_MAX = 3
"""A home that has not answered so many comparisons does not hold up the others any more."""


class Replication(Telling):
    """All partitions of this node that have copies elsewhere."""

    def __init__(
        self,
        own_id: NodeId,
        boot: int,
        owner: Owner,
        ownership: Ownership,
        intact: Intactness | None = None,
    ) -> None:
        super().__init__(own_id, boot, owner, ownership, intact or Intactness())
        self.replica = Replica(own_id, owner, ownership, self._intact)
        self.dead_letters = DeadLetters(owner, ownership, self)

    # -- the owner: while it owns --

    def on_appended(
        self, key: PartitionKey, written: list[tuple[Batch, ...]], now: int
    ) -> list[Effect]:
        """New batches are being written here: send them to every home in reach meanwhile.

        A marker is on every disk by when its batch is.
        """
        self.replica.note_writer(key, self._own_id)
        copies, effects = self.copies(key, now)
        for together in written:
            for batch in together:
                copies.unproven.put(batch.run, ())
        if copies.homes:
            for together in written:
                effects += self._send_all(key, copies, (), together, now)[1]
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
            for home in copies.listening():
                home.late.remove(stored.run)
                if home.node_id != holder:
                    home.to_push.extend(copies.condemned.missing(stored.run))
                    effects += self._push(key, home, now)
        return effects

    def on_durable(self, key: PartitionKey, stored: Stored, now: int) -> list[Effect]:
        """A batch is on the own disk: perhaps that is enough; homes that came late get it."""
        copies = self._copies.get(key)
        if copies is None:
            return []
        effects = self._owner.on_proven(key, copies.note(stored.run, self._own_id), now)
        for home in copies.listening():
            late = home.late.overlap(stored.run)
            if late:
                home.to_push.extend(late)
                home.late.remove(stored.run)
                if home.contact is Contact.MERGED:  # else it is compared first: it may be stale
                    effects += self._push(key, home, now)
        return effects

    def on_refused(self, key: PartitionKey, stored: Stored) -> None:
        """A batch could not be written here."""
        copies = self._copies.get(key)
        if copies is not None:
            for home in copies.holders():
                home.late.remove(stored.run)
        self.on_removed(key, [stored.run])

    def on_removed(self, key: PartitionKey, removed: Iterable[Run]) -> None:
        """Dots are acked: their copies matter no more, and nothing waits for them."""
        copies = self._copies.get(key)
        if copies is not None:
            for run in copies.forget(removed):
                self._owner.on_no_longer_awaited(key, run)

    def on_settle(
        self, key: PartitionKey, acks: list[Run], event: Settled, now: int
    ) -> list[Effect]:
        """Acks are being written here: send them to every home in reach meanwhile."""
        self.replica.note_writer(key, self._own_id)
        copies, effects = self.copies(key, now)
        if not copies.homes:
            return effects  # the own disk is all there is
        if event in copies.settling:
            copies.drop_settle(event)
        elif len(copies.settling) >= SETTLING_MAX:
            copies.drop_settle(next(iter(copies.settling)))
        runs = tuple(RunField(*run) for run in acks)
        operation, sent = self._send_all(key, copies, runs, (), now)
        copies.settling[event] = Settling(operation)
        copies.acking[operation] = event
        return effects + sent

    def on_settle_durable(self, event: Settled) -> bool:
        """The acks are on the own disk; whether they are on enough disks now."""
        copies = self._copies.get(event.key)
        if copies is None or event not in copies.settling:
            return self.wanted(event.key) <= 1  # else said already, or no owner's to say any more
        return self._settled_at(copies, event, self._own_id)

    def _settled_at(self, copies: Copies, event: Settled, holder: NodeId) -> bool:
        if holder != self._own_id and holder not in copies.homes:
            return False  # a stand-in counts for nothing
        settling = copies.settling[event]
        settling.holders[holder] = None
        if len(settling.holders) < copies.wanted:
            return False
        copies.drop_settle(event)
        return True

    def on_replicated(self, peer: NodeId, packet: Replicated, now: int) -> list[Effect]:
        """A home has it on disk: perhaps that is enough."""
        key = key_of(packet)
        copies = self._copies.get(key)
        home = copies.holder(peer) if copies is not None else None
        if copies is None or home is None:
            return []
        oldest = next(iter(home.unanswered), None)
        sent = home.unanswered.pop(packet.number, None)
        if sent is None:
            return []
        if packet.number == oldest:  # while that one is missing, all are sent again in time
            home.sent_at = now
        home.unanswered_bytes -= sent.size
        home.horizon = max(home.horizon, sent.horizon)
        acked = DotSet(Run(run.session, run.first, run.last) for run in packet.acked)
        durable = DotSet(batch.run for batch in sent.batches).difference(acked)
        proven = [part for run in durable.runs() for part in copies.note(run, peer)]
        effects = self._owner.on_proven(key, proven, now)
        if acked and self._takes_for_new(key, acked):
            # Somebody else owned meanwhile, and we did not notice (a pause, a blink of the
            # network): nothing more is delivered before what it has done is merged.
            effects.append(Notify(Counted("replica_knew_acks")))
            for other in copies.listening():
                other.contact = Contact.COMPARING
                effects += self.ask(key, other, now)
        event = copies.acking.get(packet.number)
        if event is not None and self._settled_at(copies, event, peer):
            effects += self._answer(event)
        effects += self._push(key, home, now)
        if packet.number == home.filled_by:
            home.intact, home.filled_by = True, 0
        return effects + self._fill(key, copies, now)

    def _fill(self, key: PartitionKey, copies: Copies, now: int) -> list[Effect]:
        """Let those homes count again, this one too, that have all that is needed for it."""
        here = self._intact.holds(key)
        lacking = [home for home in copies.homes.values() if not home.intact]
        if (here and not lacking) or not copies.knows_enough(intact=here):
            return []
        effects: list[Effect] = []
        if not here and (marks := self._intact.fill(key)):
            effects.append(Persist((*self._owner.take_owed(key), *marks)))
        for home in lacking:
            if not home.filled_by and home.is_level(self._next_number):
                home.filled_by = self._take_number()
                packet = Replicate(key.queue, key.number, home.filled_by, filled=True)
                effects += self._send_to(key, home, packet, now)
        return effects + self._owner.on_active(key, now)

    def _takes_for_new(self, key: PartitionKey, acked: DotSet) -> bool:
        """Whether some of what is acked elsewhere is pending here, or about to be."""
        partition = self._owner.partition(key)
        pending = any(partition.pending.overlap(run) for run in acked.runs())
        return pending or partition.is_appending(acked.runs())

    def _answer(self, event: Settled) -> list[Effect]:
        """The acks are on enough disks: tell whoever brought them."""
        if isinstance(event, SettleDurable):
            return self._owner.settled(event)
        if not self.may_delete(event):
            return []  # the giver's repeat is answered when it may
        taken = HandoverTaken(event.key.queue, event.key.number, event.transfer)
        return [Send(event.peer, taken)]

    # -- the owner: comparing --

    def on_placement_changed(self, now: int) -> list[Effect]:
        """Look after what is owned now, offer what is not."""
        effects: list[Effect] = []
        for key in list(self._copies):
            if not self._owner.owns(key):
                del self._copies[key]
                self._timers.clear(key)
        # A copy that was offered is looked after before anything of its partition is here.
        for key in {**self._owner.partitions, **self._copies}:
            if self._owner.owns(key):
                copies, begun = self.copies(key, now)
                before = copies.wanted
                proven = copies.set_homes(*self._ownership.homes_of(key))
                effects += begun + self._owner.on_proven(key, proven, now)
                if copies.wanted > before:
                    effects += self._doubt(key, copies, now)
                effects += self.reach_out(key, copies, now) + self._fill(key, copies, now)
            else:
                effects += self.replica.offer(key, now)
        return effects

    def _doubt(self, key: PartitionKey, copies: Copies, now: int) -> list[Effect]:
        """More copies are wanted than proved what is here: ask who has it, and wait for the rest.

        Else a publisher's repeat would be confirmed as on so many disks, and not be.
        """
        copies.doubt(self._owner.partition(key).pending.runs())
        return [effect for home in copies.in_reach() for effect in self.ask(key, home, now)]

    def repair(self, key: PartitionKey, lost: Iterable[Run], now: int) -> list[Effect]:
        """Messages were un-seen here: have them again from a home that holds them."""
        if not self._owner.owns(key):
            return self.replica.offer(key, now)
        copies, effects = self.copies(key, now)
        self.on_removed(key, lost)
        for home in copies.listening():
            effects += self.ask(key, home, now)
        return effects

    def on_offer(self, peer: NodeId, packet: Offer, now: int) -> list[Effect]:
        """A home replica holds something: merge from it, if it is not known to be the same."""
        key = key_of(packet)
        if not self._owner.owns(key):
            return []
        copies, effects = self.copies(key, now)
        home = copies.holder(peer)
        if home is None or home.number:
            return effects
        if packet.refilling is home.intact:
            home.intact = False  # if it counts now, it says so when it is compared
            return effects + self.ask(key, home, now)
        if packet.news:
            home.contact = Contact.COMPARING
            return effects + self.ask(key, home, now)
        if home.unanswered or home.to_push:
            return effects
        if packet.digest != digest_of(self._owner.partition(key)):
            effects += self.ask(key, home, now)
        return effects

    def on_compared(self, peer: NodeId, packet: Compared, now: int) -> list[Effect]:
        """A home has told its state: take what it knows, fetch what it has, push what it lacks."""
        key = key_of(packet)
        copies = self._copies.get(key)
        home = copies.holder(peer) if copies is not None else None
        if copies is None or home is None or home.number != packet.number:
            return []
        if not home.take_in(packet):
            return []  # more is to come
        home.asked = 0
        home.intact = not packet.refilling
        partition = self._owner.partition(key)
        differing = home.narrow(partition, copies.unproven.runs())
        if differing is None or home.rounds > ROUNDS_MAX:
            home.lose()
            self._timers.set_if_earlier(key, now + ASK_AGAIN_MS)
            return [Notify(Counted("comparison_absurd"))]
        if differing:
            home.rounds += 1
            home.begin_round(self._take_number(), differing, now)
            self._timers.set_if_earlier(key, now + RESEND_MS)
            ranges = tuple(map(field_of, differing))
            narrower = Compare(*key, home.number, bytes(8), home.hint, ranges)
            return [Send(peer, narrower)]
        home.number = 0
        acked_there = home.seen.difference(home.pending)
        if acked_there.intersection(partition.appending):
            self._timers.set_if_earlier(key, now + RESEND_MS // 10)
            home.again = True
            return []  # just being written here: ask again when it is
        return self._merge(key, copies, home, acked_there, now)

    def _merge(
        self,
        key: PartitionKey,
        copies: Copies,
        home: Home,
        acked_there: DotSet,
        now: int,
    ) -> list[Effect]:
        partition = self._owner.partition(key)
        news = [part for run in acked_there.runs() for part in partition.not_acked(run)]
        removed, records = partition.remove(news)
        effects: list[Effect] = [Persist(tuple(records))] if records else []
        effects += self._owner.on_acked_elsewhere(key, removed)
        self._owner.expect(key, home.leases, now)
        held = [
            part
            for run in copies.unproven.runs()
            for part in (*home.seen.overlap(run), *home.holding.overlap(run))
        ]
        proven = [part for run in held for part in copies.note(run, home.node_id)]
        effects += self._withdraw(key, copies, stale_here(partition, home), now)
        effects += self._owner.on_proven(key, proven, now)
        on_its_way = home.on_its_way()
        here = within(partition.unacked, home.told)
        lacks = here.difference(home.seen).difference(on_its_way)
        new = lacks.difference(DotSet(home.to_push)).runs()
        home.to_push.extend(free for run in new for free in copies.condemned.missing(run))
        home.late = partition.appending.difference(home.seen).difference(on_its_way)
        acked_here = within(partition.seen, home.told).difference(here)
        not_acked_there = acked_here.difference(acked_there)
        home.acks_to_push.extend(not_acked_there.difference(DotSet(home.acks_to_push)).runs())
        effects += self._push(key, home, now)
        for other in copies.listening():
            if news and other is not home:
                other.acks_to_push.extend(news)
                effects += self._push(key, other, now)
        home.fetching = home.pending.difference(partition.seen).difference(partition.appending)
        home.fetching = home.fetching.difference(self.dead_letters.under_way(key))
        return effects + self._fetch_next(key, copies, home, now)

    def _withdraw(
        self, key: PartitionKey, copies: Copies, stale: list[Run], now: int
    ) -> list[Effect]:
        """What may have been acked while this node was away is given to nobody any more."""
        if not stale:
            return []
        effects = self.dead_letters.condemn(key, stale, STALE_REPLICA, now)
        for home in copies.holders():
            free = [part for run in home.to_push for part in copies.condemned.missing(run)]
            home.to_push = deque(free)
        return effects

    def _fetch_next(self, key: PartitionKey, copies: Copies, home: Home, now: int) -> list[Effect]:
        """Ask for the next of what only that home has; merged when there is no more."""
        if not home.fetching:
            home.contact = Contact.MERGED
            if home.handed_back:
                self._owner.on_handed_back(key)
            taken_over = self._owner.partition(key).retain(home.horizon, ())
            if taken_over:  # all that it has seen has been seen here
                return [Persist(tuple(taken_over)), *self._when_merged(key, copies, now)]
            return self._when_merged(key, copies, now)
        if home.contact is not Contact.MERGED:
            home.contact = Contact.FETCHING
        return self._fetch(key, home, now)

    def _when_merged(self, key: PartitionKey, copies: Copies, now: int) -> list[Effect]:
        return self._fill(key, copies, now) + self._owner.on_active(key, now)

    def _fetch(self, key: PartitionKey, home: Home, now: int) -> list[Effect]:
        home.number = self._take_number()
        home.asked_at = now
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
        key = key_of(packet)
        copies = self._copies.get(key)
        home = copies.holder(peer) if copies is not None else None
        if home is None or home.number != packet.number:
            return []
        came, packet = packet, without_deleted(packet, self._owner.deleted_until(key.queue))
        acked = [Run(run.session, run.first, run.last) for run in packet.acked]
        if self._owner.partition(key).is_appending(acked):
            return []  # a publisher's repeat is being written just now: it is asked for again
        fresh, stale = judged(self._owner.partition(key), packet.batches)
        for batch in stale:
            home.requested.remove(batch.run)
            home.fetching.remove(batch.run)
        told = told_of_deleted(self._owner, key, came.batches)
        numbers, records = self.replica.take_in(key, acked, fresh, now)
        runs = (*acked, *(batch.run for batch in fresh))
        then = SupplyDurable(key, peer, packet.number, tuple(numbers), runs)
        return [
            Persist(tuple(records), then=then),
            *told,
            *self.dead_letters.bury(key, stale, STALE_REPLICA, now),
        ]

    def on_supply_durable(self, event: SupplyDurable, now: int) -> list[Effect]:
        """What was fetched is on disk here too."""
        key = event.key
        stored = self._owner.on_stored(key, event.numbers)
        copies = self._copies.get(key)
        if copies is None:
            return []
        home = copies.holder(event.peer)
        if home is not None:  # before it can be delivered here: a consumer may hold it
            self._owner.expect(key, leases_of(home.leases, event.runs), now)
        effects = self.on_found(key, stored, now, holder=event.peer)
        if home is None or home.number != event.number:
            return effects
        home.asked = 0
        seen = self._owner.partition(key).seen
        for part in [part for run in event.runs for part in seen.overlap(run)]:
            home.requested.remove(part)
            home.fetching.remove(part)
        if not home.requested:
            home.number = 0
            effects += self._fetch_next(key, copies, home, now)
        return effects

    # -- time and links --

    def next_deadline(self) -> int | None:
        """When something is to be said again."""
        mine, replica = self._timers.next_deadline(), self.replica.next_deadline()
        return replica if mine is None or (replica is not None and replica < mine) else mine

    def on_timeout(self, now: int) -> list[Effect]:
        """Say again what was not answered; ask again who was given up."""
        effects = self.replica.on_timeout(now)
        while (key := self._timers.pop_due(now)) is not None:
            copies = self._copies.get(key)
            if copies is not None:
                for home in copies.holders():
                    effects += self._remind(key, home, now)
                effects += self._owner.on_active(key, now)
        return effects

    def _remind(self, key: PartitionKey, home: Home, now: int) -> list[Effect]:
        if home.contact is Contact.AWAY:
            if not self._ownership.is_alive(home.node_id):
                return []
            return self.ask(key, home, now)
        effects: list[Effect] = []
        if home.unanswered:
            if now - home.sent_at >= RESEND_MS:
                effects += self._send_again(key, home, now)
            self._timers.set_if_earlier(key, now + RESEND_MS)
        if home.again:
            effects += self.ask(key, home, now)
        elif home.number or home.contact is Contact.COMPARING:
            if now - home.asked_at < RESEND_MS:
                self._timers.set_if_earlier(key, home.asked_at + RESEND_MS)
                return effects
            home.asked += 1
            if home.asked > ASKS_MAX:
                home.lose()
                self._timers.set_if_earlier(key, now + ASK_AGAIN_MS)
                return effects
            effects += self.ask(key, home, now)
        return effects

    def on_peer_connected(self, peer: NodeId, now: int) -> list[Effect]:
        """A link to the peer is new: it may have restarted, and packets may be lost."""
        effects: list[Effect] = []
        for key, copies in list(self._copies.items()):
            home = copies.holder(peer)
            if home is not None and self._ownership.is_alive(peer):
                effects += self._send_again(key, home, now)
                effects += self.ask(key, home, now)
        for key in list(self._owner.partitions):
            if self._ownership.owner_of(key) == peer:
                effects += self.replica.offer(key, now)
        return effects
