"""Delivery of one partition: who gets which message, for how long, and for the how-manieth time.

A pending dot is scheduled (`scheduled` says when it is due), ready, leased to a consumer, or
delayed. `ready` is the line of
candidate runs; whether a candidate may still go out is looked up when it comes
up, so that acks and re-attachments need not search the line. Leases and delays
share one heap of deadlines, lazily too.

Invariant: a dot is leased to at most one consumer, and no dot is both leased
and delayed.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from p2pmq.core.dots import DotSet
from p2pmq.core.effects import Send
from p2pmq.core.ids import Run
from p2pmq.core.keys import KeyTurns
from p2pmq.core.packets.delivering import Delivery, LeaseField, Segment
from p2pmq.core.packets.publishing import FRAME_BYTES_MAX
from p2pmq.core.ready import Candidate, ReadyLine
from p2pmq.core.retries import PROCESS_DIED, Retries
from p2pmq.core.runmap import RunMap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from p2pmq.core.effects import Effect
    from p2pmq.core.ids import ConsumerId, NodeId, Session
    from p2pmq.core.packets.delivering import Attach, Extend, Nack
    from p2pmq.core.partition import Partition

SEGMENTS_MAX = 256
ATTEMPT_MAX = 2**32 - 1
"""A peer may claim any number of deliveries: this is the most that a packet can say."""
VISIBILITY_MS_MIN = 10
"""A shorter timeout would deliver again and again at once, and keep this node from its work."""
SILENCE_MS = 15_000
"""Three renewals late: the end of a consumer may have been lost on its way here, so ask it."""
HEAP_SLACK = 1_024
"""Entries of a heap that are stale are left alone below this, and while they are not most."""


class Bearer(NamedTuple):
    """A consumer as the owner knows it: its node and its id."""

    node_id: NodeId
    consumer: ConsumerId


class Lease(NamedTuple):
    """Who holds a run of dots until when, and which delivery of them it is (1: the first)."""

    bearer: Bearer
    attempt: int
    due: int


class Delay(NamedTuple):
    """Until when a run of dots rests."""

    due: int


@dataclass(slots=True)
class Consumer:
    """An attached consumer: it has been pushed `pushed` of the `limit` messages it allows."""

    bearer: Bearer
    attachment: int
    limit: int
    visibility_timeout_ms: int
    heard_at: int
    pushed: int = 0
    number: int = 0
    segments: list[Segment] = field(default_factory=list)
    segments_bytes: int = 0

    @property
    def credit(self) -> int:
        """How many more messages it may be pushed now."""
        return self.limit - self.pushed


class PartitionDelivery:
    """The delivery state of one partition; it lives and dies with this node's ownership."""

    def __init__(
        self,
        partition: Partition,
        quiet_until: int,
        committed: Callable[[Run], list[Run]],
        retries: Retries | None = None,
    ) -> None:
        self.partition = partition
        self._committed = committed
        self.retries = retries if retries is not None else Retries()
        self.consumers: dict[Bearer, Consumer] = {}
        self.leases: RunMap[Lease] = RunMap()
        self.delays: RunMap[Delay] = RunMap()
        self.attempts: RunMap[int] = RunMap()
        self._given = DotSet()
        """Pending dots that were pushed from here; `leases` may come from a former owner."""
        self._has_pushed = False
        self._ready = ReadyLine()
        self._keys = KeyTurns(partition, self._deliverable)
        self._due: list[tuple[int, Session, int, int]] = []
        self._ready_max = self._due_max = HEAP_SLACK
        self._ask_at = 0
        self._turn: deque[Bearer] = deque()
        self._rebuild_ready()
        self._quiet_until = quiet_until if partition.pending else 0

    def remember(self, former: PartitionDelivery) -> None:
        """This node owned the partition before: what it pushed then, it pushes again as such."""
        for run in self.partition.unacked.runs():
            pushed = [(part, lease.attempt) for part, lease in former.leases.overlap(run)]
            for part, attempt in (*pushed, *former.attempts.overlap(run)):
                for known in self.attempts.missing(part):
                    self.attempts.put(known, attempt)

    def age(self, ageing_ms: int) -> None:
        """Let each level of priority count for so long a wait; 0: for any."""
        if ageing_ms != self._ready.ageing_ms:
            self._ready = ReadyLine(ageing_ms)
            self._rebuild_ready()

    # -- messages come and go --

    def add(self, run: Run, number: int) -> None:
        """Messages of a batch have become deliverable."""
        if self.partition.has_keys:
            for held, _ in self.leases.overlap(run):  # said of them while they were being written
                self._keys.hold(held)
        self._make_ready(run, number)

    def on_unreadable(self, removed: list[Run]) -> None:
        """The dots are lost, and so is the packet that was to bring them.

        Their consumers get the credit back: the next packet shows them the hole.
        """
        for run in removed:
            for part, lease in self.leases.overlap(run):
                consumer = self.consumers.get(lease.bearer)
                if consumer is not None:
                    consumer.pushed = max(0, consumer.pushed - part.length)
        self.forget(removed)

    def forget(self, removed: list[Run]) -> bool:
        """The dots are acked: nothing of them is kept here. Whether others can go out by that."""
        for run in removed:
            self.leases.take(run)
            self.delays.take(run)
            self.attempts.take(run)
            self.retries.forget(run)
            self._given.remove(run)
        self._prune_due()
        following = self._keys.forget(removed) if self.partition.has_keys else []
        for run in following:
            self._make_all_ready(run)
        return bool(following)

    def ready_of(self, run: Run) -> list[Run]:
        """The parts of the run that a consumer with credit could get now."""
        return self._deliverable(run)

    def given_of(self, runs: Iterable[Run]) -> int:
        """How many of the dots were pushed from here."""
        return sum(part.length for run in runs for part in self._given.overlap(run))

    # -- consumers come and go --

    def is_attached(self, bearer: Bearer, attachment: int) -> bool:
        """Whether this very attachment stands."""
        known = self.consumers.get(bearer)
        return known is not None and known.attachment == attachment

    def attach(self, peer: NodeId, packet: Attach, now: int) -> bool:
        """Take (or renew) a consumer; what it does not hold is free again. False: a stale one."""
        bearer = Bearer(peer, packet.consumer)
        known = self.consumers.get(bearer)
        self._ask_at = self._ask_at or now + SILENCE_MS
        if known is not None and known.attachment >= packet.attachment:
            if known.attachment == packet.attachment:
                known.limit = max(known.limit, packet.limit)
                known.heard_at = now
            return known.attachment == packet.attachment
        if known is None:
            self._turn.append(bearer)
        visibility_ms = max(packet.visibility_timeout_ms, VISIBILITY_MS_MIN)
        self.consumers[bearer] = Consumer(
            bearer, packet.attachment, packet.limit, visibility_ms, heard_at=now
        )
        due = now + visibility_ms
        held: RunMap[int] = RunMap()
        for field_ in packet.holding:
            run = Run(field_.session, field_.first, field_.last)
            for part in self._coming_or_here(run):
                self._hold(part, bearer, due, held)
        self._release([r for r, lease in self.leases.items() if lease.bearer == bearer], keep=held)
        return True

    def expect(self, lease: LeaseField, now: int) -> None:
        """The former owner says that a consumer holds these dots: leave them to it for now."""
        run = Run(lease.session, lease.first, lease.last)
        bearer = Bearer(lease.node_id, lease.consumer)
        held = Lease(bearer, lease.attempt, now + lease.remaining_ms)
        for part in self._coming_or_here(run):
            for free in self.leases.missing(part):
                for idle in self.delays.missing(free):
                    self._lease(idle, held)

    def detach(self, bearer: Bearer, attachment: int | None = None) -> None:
        """Drop a consumer; what it holds is free again. An older attachment's end is ignored."""
        known = self.consumers.get(bearer)
        if known is not None:
            if attachment is not None and known.attachment > attachment:
                return
            del self.consumers[bearer]
            self._turn.remove(bearer)
        self._release([r for r, lease in self.leases.items() if lease.bearer == bearer])

    def detach_node(self, node_id: NodeId) -> list[Consumer]:
        """Drop every consumer of a node that is gone; if it is not, it finds out by a renewal."""
        gone = [c for bearer, c in self.consumers.items() if bearer.node_id == node_id]
        held = [run for run, lease in self.leases.items() if lease.bearer.node_id == node_id]
        self.retries.on_away(node_id, held)
        bearers = dict.fromkeys(self.consumers)
        bearers.update((lease.bearer, None) for lease in self.leases.values())
        for bearer in [b for b in bearers if b.node_id == node_id]:
            self.detach(bearer)
        return gone

    def on_restarted(self, node_id: NodeId) -> None:
        """A node is there again whose process ended: that counts against what it held."""
        for run in self.retries.on_restarted(node_id):
            for part, _ in self.partition.pending.overlap(run):
                self.retries.fail(part, PROCESS_DIED)

    # -- what consumers say about messages --

    def raise_limit(self, bearer: Bearer, attachment: int, limit: int) -> None:
        """The consumer allows more."""
        known = self.consumers.get(bearer)
        if known is not None and known.attachment == attachment:
            known.limit = max(known.limit, limit)

    def nack(self, bearer: Bearer, nack: Nack, now: int) -> int:
        """Give dots back now or after a delay; how many it was.

        A newer delivery of them stays, and so does one to somebody else.
        """
        run = Run(nack.session, nack.first, nack.last)
        count = 0
        for part, _ in self.partition.pending.overlap(run):
            for leased, lease in self.leases.overlap(part):
                if lease.bearer != bearer or lease.attempt > nack.attempt:
                    continue
                self.leases.take(leased)
                self._retry(leased, lease.attempt, nack, now)
                count += leased.length
            if nack.delay_ms:
                for unleased in self.leases.missing(part):
                    count += self._rest(unleased, nack, now)
        return count

    def extend(self, bearer: Bearer, extend: Extend, now: int) -> None:
        """Hide dots for longer, if that delivery still holds them."""
        run = Run(extend.session, extend.first, extend.last)
        for part, lease in self.leases.overlap(run):
            if lease.bearer == bearer and lease.attempt <= extend.attempt:
                self._lease(part, lease._replace(due=now + extend.timeout_ms))

    # -- time --

    def next_deadline(self) -> int | None:
        """When a lease, a delay or the quiet may end (or a moment that proves to be none)."""
        times = [at for at in (self._quiet_until, self._ask_at) if at]
        if self._due:
            times.append(self._due[0][0])
        return min(times, default=None)

    def knows_holders(self, now: int) -> bool:
        """Whether it has delivered, and so every consumer has said what it holds of before."""
        return now >= self._quiet_until and self._has_pushed

    def end_quiet(self) -> None:
        """There is nobody left who could say that he holds something."""
        self._quiet_until = 0

    def silent(self, now: int) -> list[Consumer]:
        """The consumers to be asked whether they are there still: at most once in SILENCE_MS."""
        if not self._ask_at or now < self._ask_at:
            return []
        self._ask_at = now + SILENCE_MS if self.consumers else 0
        return [one for one in self.consumers.values() if one.heard_at <= now - SILENCE_MS]

    def on_timeout(self, now: int) -> int:
        """Free what is due; how many leases' messages timed out."""
        expired = 0
        if now >= self._quiet_until:
            self._quiet_until = 0
        while self._due and self._due[0][0] <= now:
            _, session, first, last = heapq.heappop(self._due)
            run = Run(session, first, last)
            for part, lease in self.leases.overlap(run):
                if lease.due <= now:
                    self.leases.take(part)
                    self._give_back(part, lease.attempt, now, 0)
                    expired += part.length
            for part, delay in self.delays.overlap(run):
                if delay.due <= now:
                    self.delays.take(part)
                    self._make_all_ready(part)
        return expired

    # -- pushing --

    def pump(self, now: int) -> list[Effect]:
        """Push what is ready to whoever has credit, in turn."""
        if not self._ready or not self._turn or now < self._quiet_until:
            return []
        if self._keys.is_overgrown:
            self._rebuild_ready()
        effects: list[Effect] = []
        while self._ready:
            open_consumers = sum(1 for c in self.consumers.values() if c.credit > 0)
            if not open_consumers:
                break
            candidate = self._ready.pop()
            parts = self._deliverable(candidate.run)
            if self.partition.has_keys:
                parts = self._in_turn(parts, candidate)
            for part in parts:
                rest = self._push_part(part, open_consumers, now, effects)
                if rest is not None:
                    self._ready.push(candidate._replace(run=rest))
        effects += [self._flush(c) for c in self.consumers.values() if c.segments]
        return effects

    def lease_fields(self, runs: Iterable[Run], now: int) -> list[LeaseField]:
        """What of the runs is in flight, to hand over."""
        return [
            LeaseField(
                lease.bearer.node_id,
                lease.bearer.consumer,
                part.session,
                part.first,
                part.last,
                lease.attempt,
                max(0, lease.due - now),
            )
            for run in runs
            for part, lease in self.leases.overlap(run)
        ]

    # -- within --

    def _make_all_ready(self, run: Run) -> None:
        for part, number in self.partition.pending.overlap(run):
            self._make_ready(part, number)

    def _make_ready(self, run: Run, number: int) -> None:
        batch = self.partition.batches[number]
        if batch.due_at or batch.is_trace:
            return
        self._ready.push(Candidate(run, batch.stamp, batch.priority))
        if len(self._ready) > self._ready_max:
            self._rebuild_ready()

    def _rebuild_ready(self) -> None:
        """Drop the candidates that are none any more: they gather while nobody has credit."""
        batches = self.partition.batches
        self._ready = ReadyLine(self._ready.ageing_ms)
        self._keys.clear_parked(self._ready.ageing_ms)
        for run, number in self.partition.pending.items():
            if batches[number].is_trace:
                continue
            for part in self._deliverable(run):
                batch = batches[number]
                self._ready.push(Candidate(part, batch.stamp, batch.priority))
        # The next time after as many new ones as this one walked: else it is n² of them.
        self._ready_max = len(self._ready) + len(batches) + HEAP_SLACK

    def _coming_or_here(self, run: Run) -> list[Run]:
        """The parts that are pending, or just being written: who gives them may know no lease."""
        here = [part for part, _ in self.partition.pending.overlap(run)]
        return here + self.partition.appending.overlap(run)

    def _lease(self, run: Run, lease: Lease) -> None:
        if self.partition.has_keys:
            self._keys.hold(run)
        self.leases.put(run, lease)
        self._set_due(lease.due, run)

    def _set_due(self, due: int, run: Run) -> None:
        heapq.heappush(self._due, (due, run.session, run.first, run.last))
        if len(self._due) > self._due_max:  # most are of leases that were extended since
            self._due = [(lease.due, *run) for run, lease in self.leases.items()]
            self._due += [(delay.due, *run) for run, delay in self.delays.items()]
            heapq.heapify(self._due)
            self._due_max = 2 * len(self._due) + HEAP_SLACK

    def _hold(self, part: Run, bearer: Bearer, due: int, held: RunMap[int]) -> None:
        """A consumer says that it holds these dots: true, unless another got them meanwhile."""
        for leased, lease in self.leases.overlap(part):
            if lease.bearer == bearer:
                self._lease(leased, lease._replace(due=due))
                held.put(leased, lease.attempt)
        for free in self.leases.missing(part):
            self.delays.take(free)
            for known, attempt in self.attempts.overlap(free):
                self._lease(known, Lease(bearer, attempt, due))
            for unknown in self.attempts.missing(free):
                self._lease(unknown, Lease(bearer, 1, due))
            held.put(free, 1)

    def _release(self, runs: list[Run], keep: RunMap[int] | None = None) -> None:
        """Free leased dots at once, except those in `keep`."""
        for run in runs:
            for part in keep.missing(run) if keep is not None else [run]:
                for leased, lease in self.leases.take(part):
                    self._give_back(leased, lease.attempt, 0, 0)

    def _tried(self, run: Run, attempt: int) -> None:
        """So many attempts were made, or more: another owner's lease may be an older one."""
        more = [known for known in self.attempts.overlap(run) if known[1] > attempt]
        self.attempts.put(run, attempt)
        for part, made in more:
            self.attempts.put(part, made)

    def _give_back(self, run: Run, attempt: int, now: int, delay_ms: int) -> None:
        self._tried(run, attempt)
        if self.partition.has_keys:
            self._keys.hold(run)
        if delay_ms:
            self.delays.put(run, Delay(now + delay_ms))
            self._set_due(now + delay_ms, run)
        else:
            self._make_all_ready(run)

    def _retry(self, run: Run, attempt: int, nack: Nack, now: int) -> None:
        """Give back what has failed, unless it is given up."""
        if not nack.failed:
            self._give_back(run, attempt, now, nack.delay_ms)
            return
        self._tried(run, attempt)
        if nack.rejected:
            self.retries.reject(run, nack.error)
            return
        for part, failing in self.retries.fail(run, nack.error):
            delay_ms = self.retries.pause_ms(failing.times) if nack.backoff else nack.delay_ms
            self._give_back(part, attempt, now, delay_ms)

    def _rest(self, unleased: Run, nack: Nack, now: int) -> int:
        """Delay ready dots whose lease had ended before the nack came; a later one stands."""
        count = 0
        for idle in self.delays.missing(unleased):
            known = self.attempts.overlap(idle)
            runs = [run for run, made in known if made <= nack.attempt]
            for run in runs + self.attempts.missing(idle):
                self._give_back(run, nack.attempt, now, nack.delay_ms)
                count += run.length
        return count

    def _deliverable(self, run: Run) -> list[Run]:
        """The parts of a candidate that are pending, due, on enough disks, and not held or rest."""
        batches = self.partition.batches
        found = self.partition.pending.overlap(run)
        parts = [part for part, number in found if not batches[number].due_at]
        parts = [enough for part in parts for enough in self._committed(part)]
        if self.leases:
            parts = [free for part in parts for free in self.leases.missing(part)]
        if self.delays:
            parts = [free for part in parts for free in self.delays.missing(part)]
        return parts

    def _in_turn(self, parts: list[Run], candidate: Candidate) -> list[Run]:
        """Of the parts those whose key is free; what there is no credit for waits on."""
        going: list[Run] = []
        credit = sum(max(0, c.credit) for c in self.consumers.values())
        for part in parts:
            now_, rest = self._keys.in_turn(part, credit)
            credit -= sum(run.length for run in now_)
            going += now_
            if rest is not None:
                self._ready.push(candidate._replace(run=rest))
        return going

    def _push_part(
        self, part: Run, open_consumers: int, now: int, effects: list[Effect]
    ) -> Run | None:
        """Push a run to the next consumers in turn; what is left when credit ends."""
        scarce = open_consumers > 1 and len(self._ready) < open_consumers
        share = -(-part.length // open_consumers) if scarce else part.length
        while True:
            consumer = self._next_open()
            if consumer is None:
                return part
            count = min(share, consumer.credit, part.length)
            piece = Run(part.session, part.first, part.first + count - 1)
            self._push(consumer, piece, now, effects)
            if count == part.length:
                return None
            part = Run(part.session, piece.last + 1, part.last)

    def _next_open(self) -> Consumer | None:
        for _ in range(len(self._turn)):
            consumer = self.consumers[self._turn[0]]
            self._turn.rotate(-1)
            if consumer.credit > 0:
                return consumer
        return None

    def _push(self, consumer: Consumer, piece: Run, now: int, effects: list[Effect]) -> None:
        """Lease the dots to the consumer, and add them to its next packet."""
        due = now + consumer.visibility_timeout_ms
        consumer.pushed += piece.length
        self._given.add(piece)
        self._has_pushed = True
        for attempt, run in self._by_attempt(piece):
            self._lease(run, Lease(consumer.bearer, attempt, due))
            for part, number in self.partition.pending.overlap(run):
                batch = self.partition.batch(part, number)
                if consumer.segments and consumer.segments_bytes + batch.size > FRAME_BYTES_MAX:
                    effects.append(self._flush(consumer))
                consumer.segments.append(Segment(batch, attempt))
                consumer.segments_bytes += batch.size
                if len(consumer.segments) >= SEGMENTS_MAX:
                    effects.append(self._flush(consumer))

    def _by_attempt(self, piece: Run) -> list[tuple[int, Run]]:
        """The run cut where the number of earlier deliveries differs."""
        if not self.attempts:
            return [(1, piece)]
        overlap = self.attempts.overlap(piece)
        known = [(min(made + 1, ATTEMPT_MAX), run) for run, made in overlap]
        fresh = [(1, run) for run in self.attempts.missing(piece)]
        return sorted(known + fresh, key=lambda item: item[1].first)

    def _flush(self, consumer: Consumer) -> Effect:
        consumer.number += 1
        segments, consumer.segments, consumer.segments_bytes = consumer.segments, [], 0
        key = self.partition.key
        packet = Delivery(
            key.queue,
            key.number,
            consumer.bearer.consumer,
            consumer.attachment,
            consumer.number,
            tuple(segments),
        )
        return Send(consumer.bearer.node_id, packet)

    def _prune_due(self) -> None:
        """Drop deadlines of settled dots from the top, so that the heap does not grow with them."""
        while self._due:
            _, session, first, last = self._due[0]
            run = Run(session, first, last)
            if self.leases.overlap(run) or self.delays.overlap(run):
                return
            heapq.heappop(self._due)
