"""The outbox: what this node published and no owner has confirmed yet.

A message gets its dot here, once, and keeps it over every retry, so that
repeats are absorbed. Batches of one stream go to the partition's owner in
order, as many as the window allows; whoever owns it later gets the
unconfirmed ones again, from the first. A batch goes to disk when the
publisher asked for that, when the owner is away, or when its confirm takes
long: so what outlives its publisher's patience outlives its process too.
How much it may hold, and who makes room, is `quota`'s to say.

Invariant: a stream's batches are in order of seq; those that are out are a
prefix, and so are those that ever were: only what comes after may be dropped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from p2pmq.config import OutboxPolicy
from p2pmq.core.effects import (
    Counted,
    Expired,
    Notify,
    OutboxChanged,
    Persist,
    Send,
)
from p2pmq.core.events import Confirmation, OutboxDurable
from p2pmq.core.gone import WHY_GONE, tell_gone
from p2pmq.core.hlc import HybridClock
from p2pmq.core.packets.publishing import REFUSED_QUEUE_FULL, Batch, Publish
from p2pmq.core.quota import OUTBOX_AGE, OUTBOX_FULL, QUEUE_FULL, Quota
from p2pmq.core.records import BatchRemoved, BatchStored, Space, StoredBodies
from p2pmq.core.scheduled import left_ms
from p2pmq.core.streams import GAP_QUIET_MS, WINDOW_BATCHES, Entry, Stream
from p2pmq.core.timers import Timers
from p2pmq.core.waits import Waits

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.config import Limits, Timing
    from p2pmq.core.effects import Effect
    from p2pmq.core.events import PublishRequested, WriteRefused
    from p2pmq.core.ids import NodeId, PartitionKey, Run, Session
    from p2pmq.core.packets.publishing import Confirm, PublishRefused
    from p2pmq.core.records import RecoveredBatch

OUTBOX_DISK_FULL = "no room on this node's disk for its outbox: messages wait in memory"
EXPIRED = "its time to live is over"
EXPIRED_SENT = f"{EXPIRED} (an owner was sent it, and may have delivered it before)"
RESEND_MAX_MS = 15_000
FULL_RETRY_MS = 5_000
"""… and because its queue is full: the owner calls when there is room (`RoomAgain`)."""
REFUSED_RETRY_MS = 1_000
"""How long after an owner refused a batch (its disk is full) it is tried again."""
MOVED_RETRY_MS = 100
"""How long after `Moved` the stream is tried again: views of the ring converge by gossip."""


StreamName = tuple["PartitionKey", "Session"]


class Outbox:
    """All streams of this node. `owner_of` gives a partition's living owner, or None."""

    def __init__(
        self,
        session: Session,
        owner_of: Callable[[PartitionKey], NodeId | None],
        limits: Limits,
        timing: Timing,
        policy: OutboxPolicy | None = None,
        clock: HybridClock | None = None,
    ) -> None:
        self.session = session
        self._clock = clock if clock is not None else HybridClock()
        self.quota: Quota[tuple[Stream, Entry]] = Quota(policy or OutboxPolicy())
        self._owner_of = owner_of
        self._limits = limits
        self._timing = timing
        self._streams: dict[StreamName, Stream] = {}
        self._by_key: dict[PartitionKey, list[Stream]] = {}
        self._timers: Timers[StreamName] = Timers()
        self._writing: dict[int, tuple[Stream, Entry]] = {}
        self._waits = Waits(owner_of)
        self._mortal: dict[int, tuple[Stream, Entry]] = {}
        """The batches with a time to live, by number."""
        self._expiring: Timers[int] = Timers()
        self._next_number = 1
        self.bytes_in_memory = 0
        self.messages = 0

    def recover(self, batches: list[RecoveredBatch], now: int) -> list[Effect]:
        """Take up what an earlier run of this node left unconfirmed."""
        for found in batches:
            stream = self._stream(found.key, found.batch.session)
            entry = Entry(
                batch=found.batch,
                number=found.number,
                token=None,
                wanted=Confirmation.NONE,
                durable=True,
                tried=True,
            )
            if found.expires_ms:
                lives_ms = max(1, found.expires_ms - self._clock.wall_ms)
                self._expire_at(stream, entry, now + lives_ms)
            rests_ms = left_ms(found.batch.delay_ms, found.due_ms, self._clock.wall_ms)
            entry.due_at = now + rests_ms if found.due_ms else 0
            stream.entries.append(entry)
            self.quota.bytes_held += entry.cost
            stream.next_seq = found.batch.last + 1
            self.messages += found.batch.count
            self._next_number = max(self._next_number, found.number + 1)
        return [*self._pump_all(now), self._changed()]

    def on_publish(self, request: PublishRequested, now: int) -> list[Effect]:
        """Give the messages their dots, and send or store them."""
        stream = self._stream(request.key, self.session)
        batch = Batch(
            self.session,
            stream.next_seq,
            request.count,
            request.size,
            request.bodies,
            ttl_ms=request.ttl_ms,
            priority=request.priority,
            delay_ms=request.delay_ms,
            keys=request.keys,
            ids=request.ids,
        )
        stream.next_seq += request.count
        waits = request.wanted is not Confirmation.NONE
        entry = Entry(
            batch=batch,
            number=self._next_number,
            token=request.token if waits else None,
            wanted=request.wanted,
            due_at=now + request.delay_ms if request.delay_ms else 0,
        )
        victims = self.quota.victims(batch.priority, entry.cost)
        if victims is None:
            return self._refuse(stream, entry)
        effects: list[Effect] = []
        for victim in victims:
            effects += self._drop(*victim, OUTBOX_FULL)
        self._next_number += 1
        self.messages += request.count
        entry.in_memory = entry.cost
        self.bytes_in_memory += entry.cost
        self.quota.bytes_held += entry.cost
        self.quota.add_unsent(entry.number, (stream, entry), batch.priority, entry.cost, now)
        if batch.ttl_ms:
            self._expire_at(stream, entry, now + batch.ttl_ms)
        if not stream.entries:
            stream.progress_at = now
        stream.entries.append(entry)
        stream.volatile += 1
        if waits:
            self._waits.begin(stream, entry, now + request.timeout_ms)
        if request.wanted is Confirmation.STORED or self._owner_of(stream.key) is None:
            effects += self._spill(stream, entry)
        effects += self._pump(stream, now)
        self._timers.set_if_earlier((stream.key, stream.session), now + self._timing.spill_ms)
        in_memory_max = self._limits.outbox_bytes_max
        if victims or self.quota.is_half_full or self.bytes_in_memory > in_memory_max // 2:
            effects.append(self._changed())
        return effects

    def on_confirm(
        self, packet: Confirm, key: PartitionKey, peer: NodeId, now: int
    ) -> list[Effect]:
        """Drop what is committed and resolve it; send what the window now allows."""
        effects: list[Effect] = []
        for run in packet.runs:
            stream = self._streams.get((key, run.session))
            if stream is None:
                continue
            effects += self._confirm(stream, run.first, run.last, packet.copies, peer, now)
            effects += self._pump(stream, now)
            self._drop_if_idle(stream)
        if effects:
            effects.append(self._changed())
        return effects

    def on_gap(self, key: PartitionKey, session: Session, now: int) -> list[Effect]:
        """The owner misses an earlier batch: send from the first unconfirmed again."""
        stream = self._streams.get((key, session))
        if stream is None or not stream.sent or now - stream.gap_at < stream.quiet_ms:
            return []
        stream.gap_at = now
        stream.quiet_ms = min(RESEND_MAX_MS, 2 * stream.quiet_ms)
        return [Notify(Counted("publish_gap")), *self._resend(stream, now)]

    def on_refused(
        self, packet: PublishRefused, key: PartitionKey, now: int, reason: str
    ) -> list[Effect]:
        """The owner cannot take the batch now: keep it here, on disk, and try later.

        Where the queue is at its limit, that is when the owner calls.
        """
        stream = self._streams.get((key, packet.session))
        if stream is None:
            return []
        stream.reason = reason
        if packet.reason == REFUSED_QUEUE_FULL:
            stream.is_blocked = True
            told = Notify(Counted("publish_blocked", text=f"queue {key.queue!r}: {reason}"))
            return [told, *self._hold_back(stream, now, FULL_RETRY_MS)]
        return [
            Notify(Counted("publish_refused", text=reason, alarming=True)),
            *self._hold_back(stream, now, REFUSED_RETRY_MS),
        ]

    def on_room_again(self, key: PartitionKey, now: int) -> list[Effect]:
        """The queue has room: send what was held back."""
        effects: list[Effect] = []
        for stream in self._by_key.get(key, ()):
            if stream.is_blocked and not stream.sent:
                effects += self._resend(stream, now)
        return effects

    def on_rejected(self, packet: PublishRefused, key: PartitionKey, now: int) -> list[Effect]:
        """The queue is at its limit, and takes the batch never: let go of it, and say so."""
        stream = self._streams.get((key, packet.session))
        if stream is None:
            return []
        entries = stream.entries
        at = bisect_left(entries, packet.first, key=lambda entry: entry.batch.first)
        if at == len(entries) or entries[at].batch.first != packet.first:
            return []  # a repeat, or its time to live was over meanwhile
        entry = entries[at]
        del entries[at]
        on_disk = entry.durable or entry.writing
        self._forget(stream, entry, sent=at < stream.sent)
        stream.progress_at = now
        effects = tell_gone(stream, entry, "refused", QUEUE_FULL)
        if on_disk:
            effects.append(Persist((BatchRemoved(Space.OUTBOX, stream.key, entry.number),)))
        told = {"stored": False, "reason": WHY_GONE[QUEUE_FULL], "gone": "rejected"}
        effects += self._waits.tell(stream, entry, timed_out=True, **told)
        effects += self._pump(stream, now)
        self._drop_if_idle(stream)
        return [*effects, self._changed()]

    def on_moved(self, key: PartitionKey, now: int) -> list[Effect]:
        """Who we took for the owner is not: try again when views have converged."""
        effects: list[Effect] = []
        for stream in self._by_key.get(key, ()):
            effects += self._hold_back(stream, now, MOVED_RETRY_MS)
        return effects

    def on_owner_changed(self, key: PartitionKey, now: int) -> list[Effect]:
        """The partition has another owner, or its owner came or went."""
        effects: list[Effect] = []
        for stream in self._by_key.get(key, ()):
            stream.patience_ms, stream.quiet_ms = 0, GAP_QUIET_MS
            effects += self._resend(stream, now)
        return effects

    def on_peer_connected(self, peer: NodeId, now: int) -> list[Effect]:
        """A link to the peer is new: what was on the old one may be lost."""
        effects: list[Effect] = []
        for key in self._by_key:
            if self._owner_of(key) == peer:
                effects += self.on_owner_changed(key, now)
        return effects

    def on_durable(self, event: OutboxDurable, _now: int) -> list[Effect]:
        """A batch of ours is on disk: that is what confirm="stored" waits for."""
        found = self._writing.pop(event.number, None)
        if found is None:
            return []  # confirmed meanwhile
        stream, entry = found
        entry.writing = False
        entry.durable = True
        self.bytes_in_memory -= entry.in_memory
        entry.in_memory = 0
        where = StoredBodies(Space.OUTBOX, stream.key, entry.number, 0, entry.batch.count)
        entry.batch = replace(entry.batch, bodies=where)
        effects: list[Effect] = [self._changed()]
        if entry.wanted is Confirmation.STORED:
            effects += self._waits.tell(stream, entry)
        return effects

    def on_write_refused(self, event: WriteRefused, now: int) -> list[Effect]:
        """Our own disk is full: the batch stays in memory, and is tried again."""
        then = event.then
        assert isinstance(then, OutboxDurable)
        found = self._writing.pop(then.number, None)
        if found is None:
            return []
        stream, entry = found
        entry.writing = False
        stream.volatile += 1
        stream.reason = "the disk under this node is full"
        self._timers.set_if_earlier((stream.key, stream.session), now + REFUSED_RETRY_MS)
        return [Notify(Counted("outbox_disk_full", text=OUTBOX_DISK_FULL, alarming=True))]

    def on_unreadable(self, key: PartitionKey, run: Run) -> list[Effect]:
        """Bodies in our outbox are damaged, and there is no other copy: go on without them."""
        effects: list[Effect] = []
        for stream in self._by_key.get(key, ()):
            if stream.session != run.session:
                continue
            entries = list(stream.entries)
            stream.entries.clear()
            for entry in entries:
                batch = entry.batch
                if batch.first <= run.last and run.first <= batch.last:
                    effects += self._cut_out(stream, entry, run)
                else:
                    stream.entries.append(entry)
            stream.sent = 0
            stream.window = 0
        return effects

    def next_deadline(self) -> int | None:
        """When something here is due."""
        rooms = (self._timers, self._waits, self._expiring, self.quota)
        return min((at for room in rooms if (at := room.next_deadline()) is not None), default=None)

    def on_timeout(self, now: int) -> list[Effect]:
        """Time out waits, drop what is too old, spill slow batches, resend the unconfirmed."""
        effects: list[Effect] = []
        for aged in self.quota.aged(now):
            effects += self._drop(*aged, OUTBOX_AGE)
        while (number := self._expiring.pop_due(now)) is not None:
            effects += self._expire(*self._mortal.pop(number), now)
        if effects:
            effects.append(self._changed())
        while (late := self._waits.pop_due(now)) is not None:  # the messages stay
            effects += [*self._spill(*late), *self._waits.tell(*late, timed_out=True)]
        while (name := self._timers.pop_due(now)) is not None:
            stream = self._streams.get(name)
            if stream is None or not stream.entries:
                continue
            if now - stream.progress_at >= self._timing.spill_ms:
                effects += self._spill_stream(stream)
            if stream.sent == 0:
                effects += self._resend(stream, now)
            elif now - stream.progress_at >= self._patience(stream):
                # Each time twice as long: on a slow link repeats would only stand in the way.
                stream.patience_ms = min(RESEND_MAX_MS, 2 * self._patience(stream))
                effects += self._resend(stream, now)
            self._set_timer(stream, now)
        return effects

    def spill_all(self) -> list[Effect]:
        """Put everything that is not on disk there: the node is about to stop."""
        return [e for stream in self._streams.values() for e in self._spill_stream(stream)]

    @property
    def writing(self) -> bool:
        """Whether something is on its way to the disk."""
        return bool(self._writing)

    @property
    def unstored(self) -> int:
        """How many messages are not on disk."""
        streams = self._streams.values()
        return sum(e.batch.count for s in streams for e in s.entries if not e.durable)

    def keys(self) -> list[PartitionKey]:
        """The partitions for which something waits."""
        return list(self._by_key)

    # -- within --

    def _stream(self, key: PartitionKey, session: Session) -> Stream:
        stream = self._streams.get((key, session))
        if stream is None:
            stream = self._streams[key, session] = Stream(key, session)
            self._by_key.setdefault(key, []).append(stream)
        return stream

    def _drop_if_idle(self, stream: Stream) -> None:
        """Forget a drained stream of an earlier boot; ours keeps its counter."""
        if not stream.entries and stream.session != self.session:
            del self._streams[stream.key, stream.session]
            self._by_key[stream.key].remove(stream)
            if not self._by_key[stream.key]:
                del self._by_key[stream.key]

    def _pump_all(self, now: int) -> list[Effect]:
        effects: list[Effect] = []
        for stream in list(self._streams.values()):
            effects += self._pump(stream, now)
            self._set_timer(stream, now)
        return effects

    def _pump(self, stream: Stream, now: int) -> list[Effect]:
        """Send what the window allows, or store what cannot be sent."""
        entries = stream.entries
        if stream.sent >= len(entries):
            return []
        owner = self._owner_of(stream.key)
        if owner is None:
            return self._spill_stream(stream)
        effects: list[Effect] = []
        window_max = self._limits.publish_window_bytes
        while stream.sent < min(len(entries), WINDOW_BATCHES):
            batch = entries[stream.sent].batch_at(now)
            if stream.sent and stream.window + batch.size > window_max:
                break
            previous = entries[stream.sent - 1].batch.last if stream.sent else 0
            packet = Publish(stream.key.queue, stream.key.number, previous, batch)
            effects.append(Send(owner, packet))
            if not stream.sent:
                stream.progress_at = now
            self._mark_tried(entries[stream.sent])
            stream.sent += 1
            stream.window += batch.size
        return effects

    def _resend(self, stream: Stream, now: int) -> list[Effect]:
        stream.sent = 0
        stream.window = 0
        effects = self._pump(stream, now)
        self._set_timer(stream, now)
        return effects

    def _hold_back(self, stream: Stream, now: int, retry_ms: int) -> list[Effect]:
        stream.sent = 0
        stream.window = 0
        self._timers.set((stream.key, stream.session), now + retry_ms)
        return self._spill_stream(stream)

    def _confirm(
        self, stream: Stream, first: int, last: int, copies: int, peer: NodeId, now: int
    ) -> list[Effect]:
        """Drop the entries that lie wholly within first … last."""
        effects: list[Effect] = []
        kept: deque[Entry] = deque()
        entries = stream.entries
        while entries and entries[0].batch.first <= last:
            entry = entries.popleft()
            if entry.batch.first < first or entry.batch.last > last:
                kept.append(entry)
                continue
            self._forget(stream, entry, sent=len(kept) < stream.sent)
            stream.progress_at = now
            stream.patience_ms, stream.quiet_ms = 0, GAP_QUIET_MS
            stream.reason = ""
            stream.is_blocked = False
            neighbours = (*kept, entries[0]) if entries else kept
            cut_in_two = any(other.number == entry.number for other in neighbours)
            if (entry.durable or entry.writing) and not cut_in_two:
                removed = BatchRemoved(Space.OUTBOX, stream.key, entry.number)
                effects.append(Persist((removed,), patient=True))
            effects += self._waits.tell(stream, entry, copies=copies, owner=peer)
        entries.extendleft(reversed(kept))
        return effects

    def _cut_out(self, stream: Stream, entry: Entry, run: Run) -> list[Effect]:
        """Replace an entry by what of it lies before and after the run."""
        batch = entry.batch
        first, last = max(batch.first, run.first), min(batch.last, run.last)
        rest = []
        if batch.first < first:
            rest.append(batch.part(batch.first, first - 1))
        if last < batch.last:
            rest.append(batch.part(last + 1, batch.last))
        self.quota.bytes_held -= entry.cost
        for part in rest:
            half = replace(entry, batch=part, token=None)
            self._mark_tried(half)  # it was read to be sent; and halves share a number
            stream.entries.append(half)
            self.quota.bytes_held += half.cost
        count = last - first + 1
        self.messages -= count
        text = f"{count} messages for queue {stream.key.queue!r} rotted in the outbox's file"
        effects: list[Effect] = [
            Notify(Counted("outbox_body_unreadable", count, text, alarming=True))
        ]
        if entry.token is not None:
            stream.reason = text
            effects += self._waits.tell(stream, entry, timed_out=True)
        if not rest:
            effects.append(Persist((BatchRemoved(Space.OUTBOX, stream.key, entry.number),)))
        return effects

    def _forget(self, stream: Stream, entry: Entry, *, sent: bool) -> None:
        self._writing.pop(entry.number, None)
        if self._mortal.pop(entry.number, None) is not None:
            self._expiring.clear(entry.number)
        if not entry.durable and not entry.writing:
            stream.volatile -= 1
        self._mark_tried(entry)
        self.messages -= entry.batch.count
        self.bytes_in_memory -= entry.in_memory
        self.quota.bytes_held -= entry.cost
        if sent:
            stream.sent -= 1
            stream.window -= entry.batch.size

    def _mark_tried(self, entry: Entry) -> None:
        if not entry.tried:
            entry.tried = True
            self.quota.on_sent(entry.number, entry.batch.priority)

    def _expire_at(self, stream: Stream, entry: Entry, at: int) -> None:
        entry.expires_at = at
        self._mortal[entry.number] = (stream, entry)
        self._expiring.set(entry.number, at)

    def _expire(self, stream: Stream, entry: Entry, now: int) -> list[Effect]:
        """The time to live of a batch is over: if an owner has it, that ends it there."""
        entries = stream.entries
        at = bisect_left(entries, entry.batch.first, key=lambda other: other.batch.first)
        if at < len(entries) and entries[at] is entry:
            gone = [(at, entry)]
        else:  # a damaged body was cut out of it: what is left has its number
            found = [pair for pair in enumerate(entries) if pair[1].number == entry.number]
            gone = found[::-1]
        effects: list[Effect] = []
        for place, part in gone:
            del entries[place]
            effects.append(Notify(Expired(stream.key, (part.batch.run,))))
            if part.durable or part.writing:
                removed = BatchRemoved(Space.OUTBOX, stream.key, part.number)
                effects.append(Persist((removed,)))
            reason = EXPIRED_SENT if part.tried else EXPIRED
            self._forget(stream, part, sent=place < stream.sent)
            told = {"stored": False, "reason": reason, "gone": "dropped"}
            effects += self._waits.tell(stream, part, timed_out=True, **told)
        effects += self._pump(stream, now)
        self._drop_if_idle(stream)
        return [*effects, self._changed()]

    def _drop(self, stream: Stream, entry: Entry, reason: str) -> list[Effect]:
        """Let go of a batch that was never sent, and say so to everybody who should know."""
        entries = stream.entries
        at = bisect_left(entries, entry.batch.first, key=lambda other: other.batch.first)
        assert entries[at] is entry
        assert at >= stream.sent
        assert not entry.tried
        del entries[at]
        on_disk = entry.durable or entry.writing
        self._forget(stream, entry, sent=False)
        effects = tell_gone(stream, entry, "dropped", reason)
        if on_disk:
            effects.append(Persist((BatchRemoved(Space.OUTBOX, stream.key, entry.number),)))
        told = {"stored": False, "reason": WHY_GONE[reason], "gone": "dropped"}
        return effects + self._waits.tell(stream, entry, timed_out=True, **told)

    def _refuse(self, stream: Stream, entry: Entry) -> list[Effect]:
        """Do not take a batch for which there is no room. Its dots are not used again."""
        effects = tell_gone(stream, entry, "refused", OUTBOX_FULL)
        told = {"reason": WHY_GONE[OUTBOX_FULL], "gone": "refused"}
        effects += self._waits.tell(stream, entry, timed_out=True, **told)
        return [*effects, self._changed()]

    def _changed(self) -> Effect:
        return Notify(OutboxChanged(self.bytes_in_memory, self.quota.bytes_held))

    def _spill_stream(self, stream: Stream) -> list[Effect]:
        if not stream.volatile:
            return []
        return [effect for entry in stream.entries for effect in self._spill(stream, entry)]

    def _spill(self, stream: Stream, entry: Entry) -> list[Effect]:
        """Begin to make one batch durable here."""
        if entry.durable or entry.writing:
            return []
        entry.writing = True
        stream.volatile -= 1
        self._writing[entry.number] = (stream, entry)
        expires_ms = entry.expires_at and entry.expires_at + self._clock.wall_offset_ms
        due_ms = entry.due_at and entry.due_at + self._clock.wall_offset_ms
        number = entry.number
        stored = BatchStored(Space.OUTBOX, stream.key, number, entry.batch, expires_ms, due_ms)
        return [Persist((stored,), then=OutboxDurable(stream.key, entry.number))]

    def _patience(self, stream: Stream) -> int:
        """How long to wait for a confirm before the unconfirmed is sent again."""
        return max(stream.patience_ms, self._timing.resend_ms)

    def _set_timer(self, stream: Stream, now: int) -> None:
        """Arm the stream's timer for whatever of it is due first."""
        if not stream.entries:
            return
        no_answer_at = stream.progress_at + self._patience(stream)
        due = no_answer_at if stream.sent else now + REFUSED_RETRY_MS
        if stream.volatile:
            due = min(due, max(now, stream.progress_at) + self._timing.spill_ms)
        self._timers.set_if_earlier((stream.key, stream.session), due)
