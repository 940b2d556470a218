"""A node's protocol that is watched from within: the real machine, and a witness beside it.

The witness sees what the machine is asked and what comes of it, packets of
the node to itself included. It changes nothing, so that a node runs the same
with it and without.

Invariant: the machine's own result is returned, untouched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

from p2pmq.core import effects as fx
from p2pmq.core import events
from p2pmq.core.effects import (
    Deliver,
    Expired,
    Notify,
    Overflowed,
    Persist,
    Published,
    Resolve,
    Send,
)
from p2pmq.core.ids import PartitionKey, Run, key_of
from p2pmq.core.machine import Machine
from p2pmq.core.packets.delivering import Delivery, Settled
from p2pmq.core.packets.publishing import Publish
from p2pmq.core.records import BatchRemoved, BatchStored, Space, StoredBodies
from p2pmq.core.tying import batches_of
from p2pmq.errors import StoreCorruptError
from p2pmq.node.settings import OVERFLOWS
from p2pmq.sim.history import (
    AckConfirmed,
    Acked,
    Buried,
    ConsumerEnded,
    Declared,
    Delivered,
    Dropped,
    Fetched,
    Fired,
    Nacked,
    Outcome,
    Publication,
    Purge,
    Pushed,
    Returned,
    Scheduled,
    Subscription,
    Taken,
    Unread,
)
from p2pmq.wire.bodies import PackedBodies

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from p2pmq.config import Config
    from p2pmq.core.effects import Effect
    from p2pmq.core.events import Event
    from p2pmq.core.ids import ConsumerId, NodeId, Session
    from p2pmq.core.packets.delivering import Segment, Settle
    from p2pmq.core.packets.membership import Rumour
    from p2pmq.core.packets.publishing import Batch
    from p2pmq.core.packets.registry import Packet
    from p2pmq.sim.disk import SimStore
    from p2pmq.sim.history import History, Process

    _Handler = Callable[..., list[Effect]]


class Witness:
    """Writes down what one process does."""

    def __init__(
        self,
        history: History,
        process: Process,
        session: Session,
        store: SimStore,
        on_sent: Callable[[Packet], None],
    ) -> None:
        self.process = process
        self.now_s = 0.0
        self.is_alone = True
        """The process has not met anybody yet."""
        self.on_sent = on_sent
        """Who is told of each packet to another node."""
        self._history = history
        self._session = session
        self._store = store
        self._next_seq: dict[PartitionKey, int] = {}
        self._waiting: dict[int, Publication] = {}
        self._reposts: dict[int, Publication] = {}
        self._purges: dict[int, Purge] = {}
        self._being_taken: dict[events.BatchDurable, tuple[Batch, bool]] = {}
        self._key_of: dict[ConsumerId, PartitionKey] = {}

    def on_resolve(self, effect: Resolve) -> None:
        """Whoever asked for something is told how it ended."""
        match effect.outcome:
            case Published():
                self.on_outcome(effect.token, effect.outcome)
            case fx.Purged():
                self.on_purged(effect.token)
            case fx.Done():
                self.on_reposted(effect.token)
            case _:
                pass

    def on_notice(self, notice: fx.Notice) -> None:
        """The node lets go of messages, and says so."""
        match notice:
            case Expired():
                self.on_expired(notice)
            case fx.Buried() | fx.Discarded():
                self.on_left(notice)
            case fx.Deduplicated() | fx.TracesGone():
                self.on_deduplicated(notice)
            case Overflowed():
                self.on_overflowed(notice)
            case _:
                pass

    # -- the publisher's part --

    def on_publish(self, event: events.PublishRequested) -> None:
        """Messages are published: they get the next dots of the session."""
        first = self._next_seq.get(event.key, 1)
        self._next_seq[event.key] = first + event.count
        publication = Publication(
            self.now_s,
            self.process,
            event.key,
            Run(self._session, first, first + event.count - 1),
            event.wanted.name.lower(),
            _digests(event.bodies),
            event.token,
            delay_ms=event.delay_ms,
            patience_s=event.timeout_ms / 1000,
        )
        self._history.add(publication)
        self._waiting[event.token] = publication

    def on_declare(self, event: events.DeclareRequested) -> None:
        """A queue is given settings."""
        given = event.settings
        overflow = next(name for name, at in OVERFLOWS.items() if at == given.overflow)
        limits = (given.max_messages, given.max_bytes, overflow, given.partitions)
        self._history.add(Declared(self.now_s, event.queue, *limits))

    def on_schedule(self, event: events.ScheduleRequested) -> None:
        """A schedule is made, or removed."""
        record = event.record
        if not record.removed:
            made = Scheduled(self.now_s, record.name, record.queue, record.cron)
            self._history.add(made)

    def on_purge(self, event: events.PurgeRequested) -> None:
        """A queue is to be purged."""
        purge = self._purges[event.token] = Purge(self.now_s, event.key)
        self._history.add(purge)

    def on_purged(self, token: int) -> None:
        """It is."""
        purge = self._purges.pop(token, None)
        if purge is not None:
            purge.done_at_s = self.now_s

    def on_repost(self, event: events.RepostRequested) -> None:
        """A dead letter is to be a message again."""
        batch, now_s = event.batch, self.now_s
        digests = _digests(batch.bodies)
        self._history.add(Buried(now_s, self.process, event.key, batch.run, digests, "redriven"))
        wanted = events.Confirmation.COMMITTED.name.lower()
        self._reposts[event.token] = Publication(
            now_s, self.process, event.key, batch.run, wanted, digests, event.token
        )

    def on_reposted(self, token: int) -> None:
        """It is committed: from here on it is one of those that are kept."""
        publication = self._reposts.pop(token, None)
        if publication is not None:
            publication.outcome = Outcome.COMMITTED
            publication.told_at_s = self.now_s
            self._history.add(publication)

    def on_outcome(self, token: int, outcome: Published) -> None:
        """The publisher is told something."""
        publication = self._waiting.pop(token, None)
        if publication is None:
            return
        assert publication.run[:2] == (outcome.session, outcome.first), "dots count from 1"
        publication.told_at_s = self.now_s
        publication.stored = outcome.stored
        publication.gone = outcome.gone
        if outcome.timed_out:
            publication.outcome = Outcome.TIMED_OUT
        else:
            publication.outcome = Outcome.COMMITTED if outcome.copies else Outcome.STORED

    def on_overflowed(self, notice: Overflowed) -> None:
        """The outbox dropped or refused messages, and said so. What only waits has no dots."""
        if notice.action == "waited":
            return
        run = Run(notice.session, notice.first, notice.first + notice.count - 1)
        reason = f"{notice.reason}: {notice.action}"
        self._history.add(Dropped(self.now_s, self.process, notice.key, run, reason))

    # -- the consumer's part --

    def on_subscribe(self, event: events.SubscribeRequested) -> None:
        """A consumer begins."""
        self._key_of[event.consumer] = event.key
        self._history.add(
            Subscription(
                self.now_s,
                self.process,
                event.consumer,
                event.key,
                event.prefetch,
                event.visibility_timeout_ms / 1000,
            )
        )

    def on_unsubscribe(self, event: events.UnsubscribeRequested) -> None:
        """A consumer ends."""
        self._return(event.consumer, event.unread)
        self._history.add(ConsumerEnded(self.now_s, event.consumer))

    def on_drain(self, event: events.DrainRequested) -> None:
        """A consumer takes no more."""
        self._return(event.consumer, event.unread)

    def _return(self, consumer: ConsumerId, unread: tuple[Run, ...]) -> None:
        key = self._key_of.get(consumer)
        if key is not None:
            for run in unread:
                self._history.add(Returned(self.now_s, self.process, consumer, key, run))

    def on_settle(self, event: events.SettleRequested) -> None:
        """The user's code has settled messages."""
        if event.consumer not in self._key_of:
            return
        where = (self.now_s, self.process, event.consumer, event.key)
        for run in event.acks:
            self._history.add(Acked(*where, run))
        for nack in event.nacks:
            self._history.add(Nacked(*where, nack.run))

    def on_tie(self, event: events.TieRequested) -> None:
        """The user's code has acked a message, with what is to be published before."""
        self._history.add(Acked(self.now_s, self.process, event.consumer, event.key, event.run))
        for to, batch in batches_of(event.key, event.run, event.outputs):
            self._history.add(
                Publication(
                    self.now_s, self.process, to, batch.run, "ack", _digests(batch.bodies), 0
                )
            )

    def on_settled(self, by: str, settle: Settle, *, is_known: bool) -> None:
        """The acks of a settle are durable, says the owner on host `by`."""
        key = key_of(settle)
        for session, first, last in ((ack.session, ack.first, ack.last) for ack in settle.acks):
            run = Run(session, first, last)
            self._history.add(AckConfirmed(self.now_s, settle.consumer, key, run, by, is_known))

    def on_deliver(self, effect: Deliver) -> None:
        """Messages for the user; those that cannot be read do not come to him."""
        where = (self.now_s, self.process, effect.consumer, effect.key)
        found: list[Delivered] = []
        for segment in effect.segments:
            digests = self._read(segment)
            if digests is None:
                return
            found.append(Delivered(*where, segment.batch.run, segment.attempt, digests))
        for delivered in found:
            self._history.add(delivered)

    def _read(self, segment: Segment) -> tuple[int, ...] | None:
        bodies = segment.batch.bodies
        if isinstance(bodies, StoredBodies):
            try:
                bodies = self._store.read(bodies)
            except (StoreCorruptError, KeyError):
                return None
        return _digests(bodies)

    # -- the owner's part --

    def on_started(self, event: events.Started) -> None:
        """A process takes up what its disk holds."""
        for found in event.recovered.batches:
            if found.space is Space.PARTITION:
                self._take(found.key, found.batch)

    def on_persist(self, effect: Persist) -> None:
        """An owner stores messages: from their publisher, or from a disk where they lie."""
        for record in effect.records:
            if not isinstance(record, BatchStored):
                continue
            run = record.batch.run
            if isinstance(effect.then, events.BatchDurable):
                self._being_taken[effect.then] = record.batch, self.is_alone
            elif isinstance(effect.then, events.SupplyDurable | events.HandoverDurable):
                self._history.add(Fetched(self.now_s, self.process, record.key, run))

    def on_batch_durable(self, event: events.BatchDurable, effects: list[Effect]) -> None:
        """It has taken them; or takes them back, as a full disk refused those before."""
        batch, alone = self._being_taken.pop(event, (None, False))
        removed = BatchRemoved(Space.PARTITION, event.key, event.number)
        taken_back = any(isinstance(e, Persist) and removed in e.records for e in effects)
        if batch is not None and not taken_back:
            self._take(event.key, batch, alone=alone)

    def _take(self, key: PartitionKey, batch: Batch, *, alone: bool = False) -> None:
        where = (self.now_s, self.process, key, batch.run)
        self._history.add(Taken(*where, batch.priority, batch.keys, alone))

    def on_push(self, packet: Delivery) -> None:
        """The owner pushes messages."""
        key = key_of(packet)
        for segment in packet.segments:
            where = (self.now_s, self.process, key, segment.batch.run)
            self._history.add(Pushed(*where, segment.attempt, segment.batch.keys))

    def on_expired(self, notice: Expired) -> None:
        """Messages are given up with a reason: their time to live is over."""
        for run in notice.runs:
            self._history.add(
                Dropped(self.now_s, self.process, notice.key, run, "its time to live is over")
            )

    def on_deduplicated(self, notice: fx.Deduplicated | fx.TracesGone) -> None:
        """Messages are not taken, since others had their ids; or traces are gone."""
        for run in notice.runs:
            self._history.add(
                Dropped(
                    self.now_s,
                    self.process,
                    notice.key,
                    run,
                    "another had its id, or it is a trace",
                )
            )

    def on_left(self, notice: fx.Buried | fx.Discarded) -> None:
        """Messages have left a queue without an ack: as dead letters, or for want of room."""
        for run in notice.runs:
            self._history.add(Dropped(self.now_s, self.process, notice.key, run, notice.reason))

    def on_letter(self, packet: Publish) -> None:
        """Dead letters come to the queue for them; bodies that cannot be read are not taken."""
        batch = packet.batch
        bodies = batch.bodies
        if isinstance(bodies, StoredBodies):
            try:
                bodies = self._store.read(bodies)
            except (StoreCorruptError, KeyError):
                return
        key = key_of(packet)
        where = (self.now_s, self.process, key, batch.run)
        self._history.add(Buried(*where, _digests(bodies), batch.dead[0].reason))

    def on_fired(self, packet: Publish) -> None:
        """A tick of a schedule comes to the owner of its queue."""
        batch, key = packet.batch, key_of(packet)
        self._history.add(Fired(self.now_s, self.process, key, batch.run, _digests(batch.bodies)))

    def on_unread(self, event: events.BodyUnreadable) -> None:
        """A body is damaged, and is had again from another copy."""
        self._history.add(Unread(self.now_s, self.process, event.key, event.run))

    def on_given_up(self, event: events.BodyUnreadable) -> None:
        """A body is damaged, there is no other copy of it, and it is given up with a reason."""
        self._history.add(
            Dropped(self.now_s, self.process, event.key, event.run, "its body is damaged")
        )


class WatchedMachine(Machine):
    """The protocol of one node, with a witness."""

    def __init__(
        self,
        own: Rumour,
        mesh: str,
        session: Session,
        config: Config,
        rng: Random,
        witness: Witness,
    ) -> None:
        self.witness = witness
        super().__init__(own, mesh, session, config, rng)

    def handle(self, event: Event, now: int) -> list[Effect]:
        """As the machine does."""
        witness = self.witness
        witness.now_s = now / 1000
        effects = super().handle(event, now)
        witness.is_alone = len(self.swim.members) <= 1
        if isinstance(event, events.BatchDurable):
            witness.on_batch_durable(event, effects)
        for effect in effects:
            if isinstance(effect, Send):
                self.witness.on_sent(effect.packet)
                if isinstance(effect.packet, Delivery):
                    witness.on_push(effect.packet)
            elif isinstance(effect, Persist):
                witness.on_persist(effect)
            elif isinstance(effect, Deliver):
                witness.on_deliver(effect)
            elif isinstance(effect, Resolve):
                witness.on_resolve(effect)
            elif isinstance(effect, Notify):
                witness.on_notice(effect.notice)
        return effects

    def _event_table(self) -> dict[type, _Handler]:
        table = super()._event_table()
        seen: dict[type, Callable[[Any], None]] = {
            events.Started: self.witness.on_started,
            events.PublishRequested: self.witness.on_publish,
            events.DeclareRequested: self.witness.on_declare,
            events.PurgeRequested: self.witness.on_purge,
            events.ScheduleRequested: self.witness.on_schedule,
            events.RepostRequested: self.witness.on_repost,
            events.SubscribeRequested: self.witness.on_subscribe,
            events.UnsubscribeRequested: self.witness.on_unsubscribe,
            events.DrainRequested: self.witness.on_drain,
            events.SettleRequested: self.witness.on_settle,
            events.TieRequested: self.witness.on_tie,
        }
        for kind, see in seen.items():
            table[kind] = _seen_first(see, table[kind])
        unreadable = table[events.BodyUnreadable]

        def on_unreadable(event: events.BodyUnreadable, now: int) -> list[Effect]:
            effects = unreadable(event, now)
            if self._is_fetched_again(event):
                self.witness.on_unread(event)
            else:
                self.witness.on_given_up(event)
            return effects

        table[events.BodyUnreadable] = on_unreadable
        return table

    def _is_fetched_again(self, event: events.BodyUnreadable) -> bool:
        """Whether a damaged body was un-seen, to be had from another copy."""
        partition = self.owner.partitions.get(event.key)
        if event.space is Space.OUTBOX or partition is None:
            return False
        return not partition.seen.has(event.run.session, event.run.first)

    def _packet_table(self) -> dict[type[Packet], _Handler]:
        table = super()._packet_table()
        settled, delivery, publish = table[Settled], table[Delivery], table[Publish]

        def on_settled(peer: NodeId, packet: Settled, now: int) -> list[Effect]:
            member = self.swim.members.get(peer)
            settle = self.consuming.settle(packet.consumer, packet.number)
            if settle is not None:
                by = member.name if member is not None else peer.hex()
                homes, wanted = self.homes_of(key_of(settle))
                self.witness.on_settled(by, settle, is_known=2 * wanted > len(homes))
            return settled(peer, packet, now)

        def on_delivery(peer: NodeId, packet: Delivery, now: int) -> list[Effect]:
            if peer == self.node_id:  # it never left the machine, so `handle` did not see it
                self.witness.on_push(packet)
            return delivery(peer, packet, now)

        def on_publish(peer: NodeId, packet: Publish, now: int) -> list[Effect]:
            if packet.batch.dead:
                self.witness.on_letter(packet)
            elif peer == self.node_id and self.firing.is_under_way(packet.batch):
                self.witness.on_fired(packet)
            return publish(peer, packet, now)

        return table | {Settled: on_settled, Delivery: on_delivery, Publish: on_publish}


def _seen_first(see: Callable[[Any], None], handler: _Handler) -> _Handler:
    def handle(event: Any, now: int) -> list[Effect]:  # noqa: ANN401  any event
        see(event)
        return handler(event, now)

    return handle


def _digests(bodies: object) -> tuple[int, ...]:
    assert isinstance(bodies, PackedBodies), "at hand"
    return tuple(map(crc32, bodies.bodies))
