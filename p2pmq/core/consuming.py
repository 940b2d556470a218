"""The consumer's part: attachments to owners, and settles kept until they are confirmed.

What the user's code has acked is said again, in any owner's ear, until one
confirms it: removal is monotone, so that saying it twice does no harm. A
delivery that went missing shows as a hole in the numbers; then the consumer
attaches anew, naming what it holds, and the owner frees the rest.

Invariant: a dot is in `holding` from its delivery until the user settles it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from p2pmq.core.effects import Counted, Deliver, Notify, Send
from p2pmq.core.ids import Run, total
from p2pmq.core.packets.delivering import Attach, Detach, Extend, Nack, Segment, Settle
from p2pmq.core.packets.publishing import RunField
from p2pmq.core.runmap import RunMap
from p2pmq.core.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.config import Timing
    from p2pmq.core.effects import Effect
    from p2pmq.core.events import DrainRequested, SettleRequested, SubscribeRequested
    from p2pmq.core.ids import ConsumerId, NodeId, PartitionKey
    from p2pmq.core.packets.delivering import Attached, Delivery, Settled

ATTACH_RETRY_MS = 500
RENEW_MS = 5_000
"""How often an attachment is renewed: a last delivery that was lost leaves no other trace."""
PATIENCE_MS = RENEW_MS // 2
"""A delivery that is missing for longer is taken for lost, at the answer to the next renewal."""
PATIENCE_MS_MAX = 600_000
"""Patience doubles each time it was too short: a large message may take minutes on a slow link."""


class Subscription:
    """One consumer's state for one partition."""

    __slots__ = (
        "attached",
        "attachment",
        "closing",
        "consumer",
        "draining",
        "expected",
        "given_up",
        "holding",
        "key",
        "lapsed",
        "limit",
        "missed",
        "missed_at",
        "owner",
        "patience_ms",
        "prefetch",
        "renew_at",
        "settle_number",
        "settles",
        "settles_sent_at",
        "settling",
        "visibility_timeout_ms",
    )

    def __init__(self, request: SubscribeRequested) -> None:
        self.consumer = request.consumer
        self.key = request.key
        self.prefetch = request.prefetch
        self.visibility_timeout_ms = request.visibility_timeout_ms
        self.owner: NodeId | None = None
        self.attachment = 0
        self.attached = False
        self.lapsed = False
        self.expected = 1
        self.missed: int | None = None
        self.missed_at = 0
        self.patience_ms = PATIENCE_MS
        self.given_up = 0
        self.renew_at = 0
        self.limit = 0
        self.holding: RunMap[int] = RunMap()
        self.settle_number = 0
        self.settles: deque[Settle] = deque()
        self.settles_sent_at = 0
        self.settling: RunMap[None] = RunMap()
        self.draining = False
        self.closing = False


class Consuming:
    """All subscriptions of this node."""

    def __init__(self, owner_of: Callable[[PartitionKey], NodeId | None], timing: Timing) -> None:
        self._owner_of = owner_of
        self._timing = timing
        self._subscriptions: dict[ConsumerId, Subscription] = {}
        self._timers: Timers[ConsumerId] = Timers()

    # -- the user --

    def on_subscribe(self, request: SubscribeRequested, now: int) -> list[Effect]:
        """Begin to consume."""
        subscription = self._subscriptions[request.consumer] = Subscription(request)
        return self._attach(subscription, now)

    def on_unsubscribe(self, consumer: ConsumerId, now: int) -> list[Effect]:
        """End: what is held goes back, what is acked is still said until confirmed."""
        subscription = self._subscriptions.get(consumer)
        if subscription is None or subscription.closing:
            return []
        subscription.closing = True
        subscription.holding = RunMap()
        effects = self._detach(subscription)
        if not subscription.settles:
            self._drop(subscription)
        else:
            self._timers.set_if_earlier(consumer, now + self._timing.settle_resend_ms)
        return effects

    def on_drain(self, request: DrainRequested, now: int) -> list[Effect]:
        """Take no more: attach anew without any credit, naming what is in hand and no more.

        The owner frees what is not named, and what is on its way counts as never sent.
        """
        subscription = self._subscriptions.get(request.consumer)
        if subscription is None or subscription.closing:
            return []
        subscription.draining = True
        for run in request.unread:
            subscription.holding.take(run)
        return self._attach(subscription, now)

    def on_settle(self, request: SettleRequested, now: int) -> list[Effect]:
        """Pass on acks, nacks and extensions, and keep them until they are confirmed."""
        subscription = self._subscriptions.get(request.consumer)
        if subscription is None:
            return []
        for run in request.acks:
            subscription.limit += sum(part.length for part, _ in subscription.holding.take(run))
            subscription.settling.put(run, None)
        nacks = tuple(
            Nack(
                *part,
                attempt,
                given.delay_ms or 0,
                given.delay_ms is None,
                given.error,
                given.failed,
                given.rejected,
            )
            for given in request.nacks
            for part, attempt in subscription.holding.take(given.run)
        )
        extends = tuple(
            Extend(*part, attempt, timeout_ms)
            for run, timeout_ms in request.extends
            for part, attempt in subscription.holding.overlap(run)
        )
        subscription.limit += sum(nack.last - nack.first + 1 for nack in nacks)
        if subscription.draining:
            subscription.limit = 0
        subscription.settle_number += 1
        packet = Settle(
            subscription.key.queue,
            subscription.key.number,
            subscription.consumer,
            subscription.attachment,
            subscription.settle_number,
            subscription.limit,
            tuple(RunField(*run) for run in request.acks),
            nacks,
            extends,
        )
        if not subscription.settles:
            subscription.settles_sent_at = now
        subscription.settles.append(packet)
        due = now + self._timing.settle_resend_ms
        self._timers.set_if_earlier(subscription.consumer, due)
        return [Send(subscription.owner, packet)] if subscription.owner is not None else []

    # -- packets --

    def on_attached(self, peer: NodeId, packet: Attached, now: int) -> list[Effect]:
        """The owner has us; what it sent long ago and is missing still was lost."""
        subscription = self._subscriptions.get(packet.consumer)
        if subscription is None or subscription.closing:  # our Detach was lost, or is on its way
            detach = Detach(packet.queue, packet.partition, packet.consumer, packet.attachment)
            return [Send(peer, detach)]
        if subscription.attachment != packet.attachment or peer != subscription.owner:
            return []
        subscription.attached = True
        self._renew_later(subscription, now)
        effects: list[Effect] = []
        if subscription.lapsed:  # it did not own yet when our settles came: they must not wait
            subscription.lapsed = False
            effects = self._resend_settles(subscription, now)
        if packet.number < subscription.expected:
            subscription.missed = None
        elif subscription.missed != subscription.expected:  # perhaps only slower than this answer
            subscription.missed, subscription.missed_at = subscription.expected, now
        elif now - subscription.missed_at >= subscription.patience_ms:
            subscription.given_up = subscription.attachment
            return [Notify(Counted("delivery_lost")), *self._attach(subscription, now)]
        return effects

    def _renew_later(self, subscription: Subscription, now: int) -> None:
        subscription.renew_at = now + RENEW_MS
        self._timers.set_if_earlier(subscription.consumer, subscription.renew_at)

    def on_delivery(self, peer: NodeId, packet: Delivery, now: int) -> list[Effect]:
        """Hand the messages to the user's iterator, in order and without holes."""
        subscription = self._subscriptions.get(packet.consumer)
        if subscription is None or subscription.closing:
            detach = Detach(packet.queue, packet.partition, packet.consumer, packet.attachment)
            return [Notify(Counted("delivery_unwanted")), Send(peer, detach)]
        if peer != subscription.owner:
            detach = Detach(packet.queue, packet.partition, packet.consumer, packet.attachment)
            return [Notify(Counted("delivery_stale")), Send(peer, detach)]
        if packet.attachment != subscription.attachment or packet.number < subscription.expected:
            if packet.attachment <= subscription.given_up:  # it was slow, not lost: as in RFC 3522
                subscription.given_up = 0
                subscription.patience_ms = min(2 * subscription.patience_ms, PATIENCE_MS_MAX)
            return [Notify(Counted("delivery_stale"))]
        if packet.number > subscription.expected:
            return [Notify(Counted("delivery_gap")), *self._attach(subscription, now)]
        subscription.expected += 1
        subscription.attached = True
        segments = self._take_in(subscription, packet.segments)
        if not segments:
            return []
        return [Deliver(subscription.consumer, subscription.key, tuple(segments))]

    def on_failed(self, consumer: ConsumerId, runs: tuple[Run, ...], now: int) -> list[Effect]:
        """Messages never reached the user: they are not held, so that they come again."""
        subscription = self._subscriptions.get(consumer)
        if subscription is None or subscription.closing:
            return []
        for run in runs:
            subscription.holding.take(run)
        return self._attach(subscription, now)

    def on_settled(self, packet: Settled, now: int) -> list[Effect]:
        """An owner has made a settle durable."""
        subscription = self._subscriptions.get(packet.consumer)
        if subscription is None:
            return []
        settles = subscription.settles
        for at, settle in enumerate(settles):
            if settle.number == packet.number:
                for ack in settle.acks:
                    subscription.settling.take(Run(ack.session, ack.first, ack.last))
                del settles[at]
                if not at:  # the oldest: while that one is missing, all are sent again in time
                    subscription.settles_sent_at = now
                break
        if subscription.closing and not subscription.settles:
            self._drop(subscription)
        return []

    # -- the world changes --

    def on_moved(self, key: PartitionKey, now: int) -> list[Effect]:
        """Who we took for the owner is not: look again soon."""
        for subscription in self._subscriptions.values():
            if subscription.key == key:
                subscription.attached = False
                subscription.lapsed = True
                self._timers.set_if_earlier(subscription.consumer, now + ATTACH_RETRY_MS // 5)
        return []

    def on_placement_changed(self, now: int) -> list[Effect]:
        """Follow the owners of all partitions."""
        effects: list[Effect] = []
        for subscription in list(self._subscriptions.values()):
            if self._owner_of(subscription.key) != subscription.owner:
                effects += self._attach(subscription, now)
        return effects

    def on_peer_connected(self, peer: NodeId, now: int) -> list[Effect]:
        """A link to the peer is new: what was on the old one may be lost."""
        effects: list[Effect] = []
        for subscription in list(self._subscriptions.values()):
            if subscription.owner == peer:
                effects += self._attach(subscription, now)
        return effects

    def next_deadline(self) -> int | None:
        """When an attach or a settle is due again."""
        return self._timers.next_deadline()

    def on_timeout(self, now: int) -> list[Effect]:
        """Say again what was not answered."""
        effects: list[Effect] = []
        while (consumer := self._timers.pop_due(now)) is not None:
            subscription = self._subscriptions.get(consumer)
            if subscription is None:
                continue
            if not subscription.attached and not subscription.closing:
                owner = self._owner_of(subscription.key)
                if owner is None or owner != subscription.owner or subscription.lapsed:
                    effects += self._attach(subscription, now)
                else:
                    effects += self._send_attach(subscription, owner, now)
                continue
            if subscription.settles:
                resend_at = subscription.settles_sent_at + self._timing.settle_resend_ms
                if resend_at <= now:
                    subscription.owner = self._owner_of(subscription.key)
                    effects += self._resend_settles(subscription, now)
                    resend_at = now + self._timing.settle_resend_ms
                self._timers.set_if_earlier(consumer, resend_at)
            if not subscription.closing:
                effects += self._renew(subscription, now)
        return effects

    def _renew(self, subscription: Subscription, now: int) -> list[Effect]:
        """Ask whether the attachment stands, if it is time to."""
        effects: list[Effect] = []
        if now >= subscription.renew_at and subscription.owner is not None:
            attach = replace(self._attach_packet(subscription), renewal=True)
            effects = [Send(subscription.owner, attach)]
            subscription.renew_at = now + RENEW_MS
        self._timers.set_if_earlier(subscription.consumer, subscription.renew_at)
        return effects

    def held(self, consumer: ConsumerId) -> list[Run]:
        """The messages that a consumer was delivered, and has not settled."""
        subscription = self._subscriptions.get(consumer)
        return subscription.holding.runs() if subscription is not None else []

    def settle(self, consumer: ConsumerId, number: int) -> Settle | None:
        """A settle that no owner has confirmed."""
        subscription = self._subscriptions.get(consumer)
        settles = subscription.settles if subscription is not None else ()
        return next((settle for settle in settles if settle.number == number), None)

    @property
    def unconfirmed(self) -> int:
        """How many settles no owner has confirmed."""
        return sum(len(subscription.settles) for subscription in self._subscriptions.values())

    # -- within --

    def _attach(self, subscription: Subscription, now: int) -> list[Effect]:
        """Attach (anew) to whoever owns the partition now.

        A former owner is not told: it hands over what we hold, and who holds it.
        """
        owner = subscription.owner = self._owner_of(subscription.key)
        subscription.attached = False
        if owner is None:
            self._timers.set_if_earlier(subscription.consumer, now + ATTACH_RETRY_MS)
            return []
        if subscription.closing:
            return self._resend_settles(subscription, now)
        subscription.lapsed = False
        subscription.missed = None
        subscription.attachment += 1
        subscription.expected = 1
        free = subscription.prefetch - subscription.holding.count
        subscription.limit = 0 if subscription.draining else max(0, free)
        return self._send_attach(subscription, owner, now)

    def _send_attach(self, subscription: Subscription, owner: NodeId, now: int) -> list[Effect]:
        """Say the attach, perhaps again; what was acked is said first.

        A repeat has the same number: where answers take longer than our
        patience, a new one each time would make every answer a stale one.
        """
        self._timers.set_if_earlier(subscription.consumer, now + ATTACH_RETRY_MS)
        attach = self._attach_packet(subscription)
        return [*self._resend_settles(subscription, now), Send(owner, attach)]

    def _attach_packet(self, subscription: Subscription) -> Attach:
        return Attach(
            subscription.key.queue,
            subscription.key.number,
            subscription.consumer,
            subscription.attachment,
            subscription.limit,
            subscription.visibility_timeout_ms,
            tuple(RunField(*run) for run in subscription.holding.runs()),
        )

    def _resend_settles(self, subscription: Subscription, now: int) -> list[Effect]:
        subscription.settles_sent_at = now
        owner = subscription.owner
        if owner is None:
            return []
        return [Send(owner, packet) for packet in subscription.settles]

    def _detach(self, subscription: Subscription) -> list[Effect]:
        if subscription.owner is None:
            return []
        detach = Detach(
            subscription.key.queue,
            subscription.key.number,
            subscription.consumer,
            subscription.attachment,
        )
        return [Send(subscription.owner, detach)]

    def _take_in(self, subscription: Subscription, segments: tuple[Segment, ...]) -> list[Segment]:
        """Note the dots as held, leaving out what is held already or acked but unconfirmed.

        A later delivery of what is held is handed on: its time was up, and
        maybe whoever had it has lost it.
        """
        fresh: list[Segment] = []
        for segment in segments:
            run = segment.batch.run
            runs = subscription.holding.missing(run)
            if subscription.settling:
                runs = [part for new in runs for part in subscription.settling.missing(new)]
            subscription.limit += run.length - total(runs)
            held = subscription.holding.overlap(run)
            runs += [part for part, attempt in held if attempt < segment.attempt]
            for part in sorted(runs):
                subscription.holding.put(part, segment.attempt)
                fresh.append(Segment(segment.batch.part(part.first, part.last), segment.attempt))
        return fresh

    def _drop(self, subscription: Subscription) -> None:
        del self._subscriptions[subscription.consumer]
        self._timers.clear(subscription.consumer)
