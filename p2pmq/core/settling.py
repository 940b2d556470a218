"""Settling: what must be so before an ack leaves this node.

An ack of a consumer that processes once waits until the message's id is on this
node's disk (`once`), one with outputs until these are committed (`tying`). A
message that was processed here, or is just being published for, is not given to a
consumer again: it is acked, now or when that is done. A consumer that ends
meanwhile takes no more, but ends only when its acks have gone out.

Invariant: no ack of a message whose consumer processes once is sent before its id
is durable.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from p2pmq.core.dots import DotSet
from p2pmq.core.effects import Counted, Deliver, Notify, Persist
from p2pmq.core.events import DrainRequested, ProcessedDurable, SettleRequested
from p2pmq.core.ids import total
from p2pmq.core.packets.delivering import Segment
from p2pmq.core.timers import Timers

if TYPE_CHECKING:
    from p2pmq.core.consuming import Consuming
    from p2pmq.core.effects import Effect
    from p2pmq.core.events import SubscribeRequested, TieRequested, UnsubscribeRequested
    from p2pmq.core.ids import ConsumerId, NodeId, PartitionKey
    from p2pmq.core.once import Once
    from p2pmq.core.packets.delivering import Delivery
    from p2pmq.core.packets.publishing import Confirm
    from p2pmq.core.tying import Tying

REFUSED_RETRY_MS = 1_000
"""How long after a full disk refused ids they are written again."""
DISK_FULL = (
    "no room on this node's disk for the ids of messages that were processed once: their acks wait"
)


class Settling:
    """What stands between the user's acks and `consuming`."""

    def __init__(self, consuming: Consuming, once: Once, tying: Tying) -> None:
        self._consuming = consuming
        self._once = once
        self._tying = tying
        self._asks_once: dict[ConsumerId, None] = {}
        self._visibility_ms: dict[ConsumerId, int] = {}
        self._writing: dict[int, SettleRequested] = {}
        self._next_number = 1
        self._refused: Timers[int] = Timers()
        self._leaving: dict[ConsumerId, UnsubscribeRequested] = {}

    @property
    def unconfirmed(self) -> int:
        """How many settles wait here, or no owner has confirmed."""
        return self._consuming.unconfirmed + len(self._writing) + len(self._tying)

    @property
    def awaited(self) -> list[tuple[PartitionKey, list[PartitionKey]]]:
        """Of each message whose outputs are on their way, its partition and where they go."""
        return self._tying.awaited()

    @property
    def tied(self) -> int:
        """Of how many messages the outputs are not all committed yet."""
        return len(self._tying)

    # -- the user --

    def on_subscribe(self, event: SubscribeRequested, now: int) -> list[Effect]:
        """Begin to consume."""
        self._visibility_ms[event.consumer] = event.visibility_timeout_ms
        if event.once:
            self._asks_once[event.consumer] = None
        return self._consuming.on_subscribe(event, now)

    def on_settle(self, event: SettleRequested, now: int) -> list[Effect]:
        """Pass on what may go; write the ids of what was processed once before its ack goes."""
        if not event.acks or event.consumer not in self._asks_once:
            return self._consuming.on_settle(event, now)
        effects = self._once.record(event.key, event.acks, now)
        number = self._next_number
        self._next_number += 1
        self._writing[number] = replace(event, nacks=(), extends=())
        effects.append(self._write(number))
        if event.nacks or event.extends:
            effects += self._consuming.on_settle(replace(event, acks=()), now)
        return effects

    def on_tie(self, event: TieRequested, now: int) -> list[Effect]:
        """Publish what came with an ack; the ack goes when that is committed."""
        visibility_ms = self._visibility_ms.get(event.consumer)
        if visibility_ms is None:
            return []
        for tie in self._tying.find(event.key, event.run):
            tie.consumers.setdefault(event.consumer, visibility_ms)
            return []
        return self._tying.begin(event, visibility_ms, now)

    def on_unsubscribe(self, event: UnsubscribeRequested, now: int) -> list[Effect]:
        """End, when the acks that wait here have gone; until then only keep what these are of."""
        waiting = self._waits_of(event.consumer)
        if not waiting:
            self._asks_once.pop(event.consumer, None)
            self._visibility_ms.pop(event.consumer, None)
            return self._consuming.on_unsubscribe(event.consumer, now)
        if event.consumer in self._leaving:
            return []
        self._leaving[event.consumer] = event
        held = DotSet(self._consuming.held(event.consumer)).difference(waiting)
        drain = DrainRequested(event.consumer, tuple(held.runs()))
        return self._consuming.on_drain(drain, now)

    # -- deliveries --

    def on_delivery(self, peer: NodeId, packet: Delivery, now: int) -> list[Effect]:
        """Hand on what is new; ack what was processed here."""
        effects: list[Effect] = []
        for effect in self._consuming.on_delivery(peer, packet, now):
            if type(effect) is not Deliver or not (
                len(self._tying) or effect.consumer in self._asks_once
            ):
                effects.append(effect)
                continue
            done = self._done_of(effect)
            if not done:
                effects.append(effect)
                continue
            fresh = _without(effect.segments, done)
            if fresh:
                effects.append(replace(effect, segments=fresh))
            acks = tuple(done.difference(self._under_way(effect.key, done)).runs())
            if acks:
                effects.append(Notify(Counted("once_skipped", total(acks))))
                skipped = SettleRequested(effect.consumer, effect.key, acks=acks)
                effects += self.on_settle(skipped, now)
        return effects

    def _done_of(self, effect: Deliver) -> DotSet:
        """What of a delivery was processed here, or is being published for."""
        done = DotSet()
        for segment in effect.segments:
            run = segment.batch.run
            for tie in self._tying.find(effect.key, run):
                visibility_ms = self._visibility_ms[effect.consumer]
                tie.consumers.setdefault(effect.consumer, visibility_ms)
                done.add(tie.run)
            if effect.consumer in self._asks_once:
                for part in self._once.processed(effect.key, run):
                    done.add(part)
        return done

    def _under_way(self, key: PartitionKey, done: DotSet) -> DotSet:
        return DotSet(tie.run for run in done.runs() for tie in self._tying.find(key, run))

    # -- what acks wait for --

    def on_processed_durable(self, event: ProcessedDurable, now: int) -> list[Effect]:
        """The ids are on disk: the acks may go."""
        request = self._writing.pop(event.number)
        return self._consuming.on_settle(request, now) + self._leave(request.consumer, now)

    def on_write_refused(self, event: ProcessedDurable, now: int) -> list[Effect]:
        """The disk is full: the acks wait, and the ids are written again in time."""
        self._refused.set(event.number, now + REFUSED_RETRY_MS)
        return [Notify(Counted("once_disk_full", text=DISK_FULL, alarming=True))]

    def on_confirm(self, packet: Confirm, key: PartitionKey, now: int) -> list[Effect]:
        """Outputs are committed: the acks of what they were made of may go."""
        effects: list[Effect] = []
        for tie in self._tying.on_confirm(packet, key):
            for consumer in tie.consumers:
                ack = SettleRequested(consumer, tie.key, acks=(tie.run,))
                effects += self.on_settle(ack, now)
                effects += self._leave(consumer, now)
        return effects

    def on_placement_changed(self, now: int) -> list[Effect]:
        """Outputs go to whoever owns their queues."""
        return self._tying.on_placement_changed(now) if len(self._tying) else []

    def next_deadline(self) -> int | None:
        """When something here is due."""
        rooms = (self._once, self._tying, self._refused)
        return min((at for room in rooms if (at := room.next_deadline()) is not None), default=None)

    def on_timeout(self, now: int) -> list[Effect]:
        """Forget, write and send again, and keep hidden what is under way."""
        effects = self._once.on_timeout(now)
        while (number := self._refused.pop_due(now)) is not None:
            effects.append(self._write(number))
        sent, due = self._tying.on_timeout(now)
        effects += sent
        for tie in due:
            for consumer, visibility_ms in tie.consumers.items():
                hidden = ((tie.run, visibility_ms),)
                extend = SettleRequested(consumer, tie.key, extends=hidden)
                effects += self._consuming.on_settle(extend, now)
        return effects

    # -- within --

    def _write(self, number: int) -> Effect:
        request = self._writing[number]
        records = self._once.records(request.key, request.acks)
        return Persist(records, then=ProcessedDurable(number), patient=True)

    def _waits_of(self, consumer: ConsumerId) -> DotSet:
        """The messages whose acks by the consumer wait here."""
        waits = DotSet()
        for request in self._writing.values():
            if request.consumer == consumer:
                for run in request.acks:
                    waits.add(run)
        for tie in self._tying.of(consumer):
            waits.add(tie.run)
        return waits

    def _leave(self, consumer: ConsumerId, now: int) -> list[Effect]:
        """End a consumer that was to, if nothing of it waits any more."""
        leaving = self._leaving.get(consumer)
        if leaving is None or self._waits_of(consumer):
            return []
        del self._leaving[consumer]
        return self.on_unsubscribe(leaving, now)


def _without(segments: tuple[Segment, ...], done: DotSet) -> tuple[Segment, ...]:
    """What of the segments is not done."""
    return tuple(
        Segment(segment.batch.part(part.first, part.last), segment.attempt)
        for segment in segments
        for part in done.missing(segment.batch.run)
    )
