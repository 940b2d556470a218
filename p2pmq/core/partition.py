"""A partition on this node's disk: the set of dots seen, and those pending with their bodies.

What is stored is the batch as it came; acks change a small record beside it,
and a batch that is wholly acked is deleted. A dot is seen only when its body
is durable, never before: until then it is `appending`.

Invariant: pending ⊆ seen, and `unacked` are its dots; appending and seen are
disjoint; a batch is in `batches` exactly while some dot of it is pending or
appending. Every session in `seen` is in `touched`, and whatever was stamped before
`horizon` and is not acked by all that this replica knows has been seen here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from p2pmq.core.batch_times import BatchTimes
from p2pmq.core.dots import DotSet
from p2pmq.core.effects import Persist
from p2pmq.core.events import BatchDurable
from p2pmq.core.ids import Run
from p2pmq.core.packets.publishing import ID_HASH_BYTES, KEY_HASH_BYTES, Batch
from p2pmq.core.records import (
    BatchRemoved,
    BatchStored,
    BatchTrimmed,
    HorizonMoved,
    SeenChanged,
    Space,
    StoredBodies,
)
from p2pmq.core.runmap import RunMap
from p2pmq.core.scheduled import left_ms
from p2pmq.core.traces import Kept, Traces, traces_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pmq.core.effects import Effect
    from p2pmq.core.hlc import HybridClock
    from p2pmq.core.ids import NodeId, PartitionKey, Session
    from p2pmq.core.intervals import Interval
    from p2pmq.core.packets.publishing import Death
    from p2pmq.core.records import Record, RecoveredBatch

NOTHING_KEPT = Kept()


@dataclass(slots=True)
class Stored:
    """One stored batch: its dots are session, first … last; `alive` of them are not acked."""

    number: int
    session: Session
    first: int
    last: int
    size: int
    stamp: int
    alive: int
    publisher: NodeId | None = None
    expires_at: int = 0
    """When its time to live ends, in ms as `now`; 0: never."""
    priority: int = 0
    dead: tuple[Death, ...] = ()
    unseen: tuple[Interval, ...] = ()
    """Seqs whose bodies were found damaged: the batch does not stand for them any more."""
    due_at: int = 0
    """While it is scheduled: when it is due, in ms as `now`; 0: it is not."""
    keys: bytes = b""
    """As in `Batch`."""
    ids: bytes = b""
    """Of a marker: the hashes that it remembers (`core.dedup`)."""
    retained: bool = False

    @property
    def run(self) -> Run:
        """The dots that the batch came with."""
        return Run(self.session, self.first, self.last)

    @property
    def is_trace(self) -> bool:
        """Whether it is for nobody: see `core.traces`."""
        return self.retained or bool(self.ids)

    @property
    def bytes_alive(self) -> int:
        """The share of those that are not acked; a trace has none."""
        return 0 if self.is_trace else self.bytes_of(self.alive)

    def bytes_of(self, count: int) -> int:
        """The share of `count` of its messages in its bytes."""
        return self.size * count // (self.last - self.first + 1)


class Partition:
    """One partition's state on this node."""

    def __init__(self, key: PartitionKey, clock: HybridClock, first_number: int = 1) -> None:
        self.key = key
        self.seen = DotSet()
        self.appending = DotSet()
        self.pending: RunMap[int] = RunMap()
        """Which batch each dot lies in …"""
        self.unacked = DotSet()
        """… and the same dots without that: one run where there are many batches."""
        self.known_digest = (-1, -1, b"")
        """What `antientropy` worked out, and for which `changes` of `seen` and `unacked`."""
        self.batches: dict[int, Stored] = {}
        self.size = 0
        """The bytes of what is pending."""
        self.incoming_count = self.incoming_size = 0
        """The messages that are appending, and their bytes."""
        self.expiring = BatchTimes(self.batches)
        """When those with a time to live expire …"""
        self.scheduled = BatchTimes(self.batches)
        """… and when those with a delay are due."""
        self.resting = 0
        """How many of the pending messages are scheduled."""
        self.taken_back: dict[int, None] = {}
        self.traces = Traces()
        self.touched: dict[Session, int] = {}
        """When something of a session last changed here, as a stamp of the hybrid clock."""
        self.horizon = 0
        """A stamp: what is older and was acked may have been forgotten here."""
        self.has_keys = False
        """Whether some message that came here had an ordering key."""
        self._clock = clock
        self.next_number = first_number

    def recover(self, batches: Iterable[RecoveredBatch], seen: Iterable[SeenChanged]) -> None:
        """Take up what the store holds; a stored batch is proof that its dots are seen."""
        for record in seen:
            self.touched[record.session] = record.touched or self._clock.reading
            for low, high in record.seqs:
                self.seen.add(Run(record.session, low, high))
        for found in batches:
            batch = found.batch
            proven = [batch.run]
            if found.unseen:
                damaged = DotSet(Run(batch.session, low, high) for low, high in found.unseen)
                proven = damaged.missing(batch.run)
            for run in proven:
                self.seen.add(run)
            self.touched.setdefault(batch.session, self._clock.reading)
            self._clock.observe(batch.stamp)
            stored = Stored(
                found.number,
                batch.session,
                batch.first,
                batch.last,
                batch.size,
                batch.stamp,
                alive=0,
                unseen=found.unseen,
                priority=batch.priority,
                dead=batch.dead,
                keys=batch.keys,
                ids=batch.ids,
                retained=batch.retained,
            )
            self.has_keys |= bool(batch.keys)
            if found.expires_ms:
                lives_ms = max(1, found.expires_ms - self._clock.wall_ms)
                self._expire_at(stored, self._clock.now + lives_ms)
            self.batches[found.number] = stored
            self._rest(stored, left_ms(batch.delay_ms, found.due_ms, self._clock.wall_ms))
            for low, high in found.alive:
                self.pending.put(Run(batch.session, low, high), found.number)
                self.unacked.add(Run(batch.session, low, high))
                stored.alive += high - low + 1
            if stored.is_trace:
                self.traces.add(stored)
                self.traces.count += stored.alive
            self.resting += stored.alive if stored.due_at else 0
            self.size += stored.bytes_alive
            self.next_number = max(self.next_number, found.number + 1)

    def received(self, session: Session, seq: int) -> bool:
        """Whether the dot has come, durable or not yet, and stays."""
        if self.seen.has(session, seq):
            return True
        if not self.appending.has(session, seq):
            return False
        doomed = [self.batches[number] for number in self.taken_back]
        return not any(b.session == session and b.first <= seq <= b.last for b in doomed)

    def append(
        self, batch: Batch, wall_ms: int, publisher: NodeId | None, kept: Kept = NOTHING_KEPT
    ) -> tuple[list[Effect], list[tuple[Batch, ...]]]:
        """Write what of the batch is new, stamped; `BatchDurable` follows for each part written.

        What belongs together is told as one: a part, after its traces.
        """
        effects: list[Effect] = []
        written: list[tuple[Batch, ...]] = []
        for part in self.new_parts(batch):
            traces = [new for trace in traces_of(part, kept) for new in self.new_parts(trace)]
            staged = [self.stage(trace, wall_ms) for trace in traces]
            own = replace(part, ids=b"") if part.ids else part
            staged.append(self.stage(own, wall_ms, publisher))
            *beside, number = (stored.number for stored, _ in staged)
            then = BatchDurable(self.key, number, tuple(beside))
            effects.append(Persist(tuple(record for _, record in staged), then=then))
            written.append(tuple(record.batch for _, record in staged))
        return effects, written

    def new_parts(self, batch: Batch) -> list[Batch]:
        """The parts of the batch whose dots have never come."""
        return [
            batch.part(part.first, part.last)
            for run in self.seen.missing(batch.run)
            for part in self.appending.missing(run)
        ]

    def stage(
        self, batch: Batch, wall_ms: int, publisher: NodeId | None = None
    ) -> tuple[Stored, BatchStored]:
        """Note a new batch as being written; the caller persists the record."""
        if self._clock.believes(batch.stamp, wall_ms):
            self._clock.observe(batch.stamp)
        else:
            batch = replace(batch, stamp=self._clock.stamp(wall_ms))
        number = self.next_number
        self.next_number += 1
        stored = Stored(
            number,
            batch.session,
            batch.first,
            batch.last,
            batch.size,
            batch.stamp,
            alive=batch.count,
            publisher=publisher,
            priority=batch.priority,
            dead=batch.dead,
            keys=batch.keys,
            ids=batch.ids,
            retained=batch.retained,
        )
        self.has_keys |= bool(batch.keys)
        if stored.is_trace:
            self.traces.add(stored)
        self.batches[number] = stored
        expires_ms = 0
        if batch.ttl_ms:
            self._expire_at(stored, self._clock.now + batch.ttl_ms)
            expires_ms = self._clock.wall_ms + batch.ttl_ms
        self._rest(stored, batch.delay_ms)
        due_ms = self._clock.wall_ms + batch.delay_ms if batch.delay_ms else 0
        self.appending.add(batch.run)
        if not stored.is_trace:
            self.incoming_count += batch.count
            self.incoming_size += batch.size
        return stored, BatchStored(Space.PARTITION, self.key, number, batch, expires_ms, due_ms)

    def _expire_at(self, stored: Stored, at: int) -> None:
        stored.expires_at = at
        self.expiring.push(at, stored.number)

    def _rest(self, stored: Stored, delay_ms: int) -> None:
        """The batch is scheduled, if it has a delay."""
        if delay_ms:
            stored.due_at = self._clock.now + delay_ms
            self.scheduled.push(stored.due_at, stored.number)

    def expired(self, now: int) -> list[Stored]:
        """The batches whose time to live is over, and that were not told of before."""
        return [self.batches[number] for number in self.expiring.pop_due(now)]

    def beyond(self, bytes_max: int) -> list[Stored]:
        """The oldest retained copies, without which the others take no more bytes."""
        found: list[Stored] = []
        excess = self.traces.copies_bytes - bytes_max if bytes_max else 0
        for place in self.traces.copies:
            if excess <= 0:
                break
            stored = self.batches[place.number]
            if not self.appending.overlap(stored.run):
                found.append(stored)
            excess -= stored.size
        return found

    def expires_later(self, stored: Stored, at: int) -> None:
        """Some of the batch has to wait: tell of it again then."""
        self.expiring.push(at, stored.number)

    def come_due(self, now: int) -> list[Stored]:
        """The batches whose delay is over; they are not scheduled any more."""
        found = [self.batches[number] for number in self.scheduled.pop_due(now)]
        for stored in found:
            stored.due_at = 0
            if not self.appending.overlap(stored.run):
                self.resting -= stored.alive
        return found

    def on_durable(self, number: int) -> Stored | None:
        """The batch is on disk: its dots are seen, and pending. None: it was dropped meanwhile."""
        stored = self.batches.get(number)
        if stored is None:
            return None
        self._no_longer_appending(stored)
        self.seen.add(stored.run)
        self.pending.put(stored.run, number)
        self.unacked.add(stored.run)
        self.traces.count += stored.run.length if stored.is_trace else 0
        self.touched[stored.session] = self._clock.reading
        self.resting += stored.alive if stored.due_at else 0
        self.size += stored.bytes_alive
        return stored

    def on_write_refused(self, number: int) -> Stored:
        """The batch could not be written: it never came."""
        stored = self.batches.pop(number)
        self._no_longer_appending(stored)
        if stored.is_trace:
            self.traces.drop(stored)
        self.horizon = min(self.horizon, stored.stamp)
        return stored

    def _no_longer_appending(self, stored: Stored) -> None:
        self.appending.remove(stored.run)
        if not stored.is_trace:
            self.incoming_count -= stored.last - stored.first + 1
            self.incoming_size -= stored.size
        self.taken_back.pop(stored.number, None)

    def refuse_those_after(self, refused: Stored) -> None:
        """Take back what its publisher sent after it: else it would be delivered before it."""
        for number, stored in self.batches.items():
            later = number > refused.number and stored.session == refused.session
            if later and self.appending.overlap(stored.run):
                self.taken_back[number] = None

    def take_back(
        self, number: int, traces: tuple[int, ...] = ()
    ) -> tuple[list[Stored], tuple[Record, ...]] | None:
        """A batch is on disk that was to be taken back: as if it had never come, nor its traces.

        None: it was not.
        """
        if number not in self.taken_back:
            return None
        del self.taken_back[number]
        numbers = [*traces, number]
        gone = [self.on_write_refused(one) for one in numbers]
        return gone, tuple(BatchRemoved(Space.PARTITION, self.key, one) for one in numbers)

    def is_appending(self, runs: Iterable[Run]) -> bool:
        """Whether some of the dots are on their way to the disk just now."""
        return bool(self.appending) and any(self.appending.overlap(run) for run in runs)

    def remove(self, runs: Iterable[Run]) -> tuple[list[Run], list[Record]]:
        """Take acked dots out of pending: those that were in, and the records that say so.

        Dots that never came here are noted as seen, so that they stay acked.
        None of them may be `appending`: see `is_appending`.
        """
        removed: list[Run] = []
        records: list[Record] = []
        touched: dict[int, Stored] = {}
        sessions: dict[Session, None] = {}
        for run in runs:
            for part, number in self.pending.take(run):
                removed.append(part)
                self.unacked.remove(part)
                stored = touched[number] = self.batches[number]
                self._take_from(stored, part.length)
            for new in self.seen.missing(run):
                self.seen.add(new)
                sessions[new.session] = None
        now = self._clock.reading
        for stored in touched.values():
            self.touched[stored.session] = now
            records.append(self._trimmed(stored))
            if not stored.alive:
                sessions[stored.session] = None
        self.touched.update(dict.fromkeys(sessions, now))
        records += [self._seen_changed(session) for session in sessions]
        return removed, records

    def unsee(self, run: Run) -> tuple[list[Run], list[Record]]:
        """Forget pending dots whose bodies are damaged, as if they had never come.

        A merge would take them for acked otherwise. Those that were in, and the
        records that say so.
        """
        lost: list[Run] = []
        touched: dict[int, Stored] = {}
        for part, number in self.pending.take(run):
            lost.append(part)
            self.seen.remove(part)
            self.unacked.remove(part)
            stored = touched[number] = self.batches[number]
            self._take_from(stored, part.length)
            stored.unseen = (*stored.unseen, (part.first, part.last))
        records: list[Record] = [self._trimmed(stored) for stored in touched.values()]
        if not lost:
            return [], []
        if not self.seen.knows(run.session):
            self.touched.pop(run.session, None)
        records.append(self._seen_changed(run.session))
        oldest = min(stored.stamp for stored in touched.values())
        if oldest < self.horizon:  # what has not been seen here may well be pending elsewhere
            records.append(self._move_horizon(oldest))
        return lost, records

    # -- what was acked long ago is forgotten --

    def forgettable(self, horizon: int) -> list[Run]:
        """The dots of sessions that were last touched before `horizon`, and are all acked."""
        old = [session for session, touched in self.touched.items() if touched < horizon]
        return [
            Run(session, low, high)
            for session in sorted(old)
            if not self._is_under_way(session)
            for low, high in self.seen.seqs(session)
        ]

    def is_written_up_to(self, horizon: int) -> bool:
        """Whether nothing that was stamped before is on its way to the disk just now."""
        return not self.appending or not any(
            stored.stamp < horizon and self.appending.overlap(stored.run)
            for stored in self.batches.values()
        )

    def retain(self, horizon: int, forgotten: Iterable[Run]) -> list[Record]:
        """Forget these acked dots; what is older than `horizon` and not seen may be one of them.

        What is known of a session beyond them stays, and so does all of one that is in use.
        """
        if not self._clock.believes(horizon, self._clock.wall_ms):
            return []
        self._clock.observe(horizon)  # nothing new gets a stamp that is older
        records: list[Record] = []
        changed: dict[Session, None] = {}
        for run in forgotten:
            if not self._is_under_way(run.session) and self.seen.overlap(run):
                self.seen.remove(run)
                changed[run.session] = None
        for session in changed:
            if not self.seen.knows(session):
                del self.touched[session]
            records.append(self._seen_changed(session))
        if horizon > self.horizon:
            records.append(self._move_horizon(horizon))
        return records

    def _is_under_way(self, session: Session) -> bool:
        return self.unacked.knows(session) or self.appending.knows(session)

    def _move_horizon(self, horizon: int) -> Record:
        self.horizon = horizon
        return HorizonMoved(self.key, horizon)

    def recover_horizon(self, horizon: int) -> None:
        """Take up what the store holds of it."""
        self.horizon = horizon
        self._clock.observe(horizon)

    # -- records and batches --

    def _trimmed(self, stored: Stored) -> Record:
        """What is left of a batch, as a record; nothing: it goes."""
        if stored.alive:
            alive = tuple(
                (run.first, run.last)
                for run, number in self.pending.overlap(stored.run)
                if number == stored.number
            )
            return BatchTrimmed(Space.PARTITION, self.key, stored.number, alive, stored.unseen)
        del self.batches[stored.number]
        if stored.is_trace:
            self.traces.drop(stored)
        return BatchRemoved(Space.PARTITION, self.key, stored.number)

    def _take_from(self, stored: Stored, count: int) -> None:
        before = stored.bytes_alive
        stored.alive -= count
        self.size -= before - stored.bytes_alive
        self.traces.count -= count if stored.is_trace else 0
        self.resting -= count if stored.due_at else 0

    def _seen_changed(self, session: Session) -> Record:
        touched = self.touched.get(session, 0)
        return SeenChanged(self.key, session, self.seen.seqs(session).pairs(), touched)

    def batch(self, run: Run, number: int) -> Batch:
        """The messages of the run, which lie in batch `number`, by reference to the store."""
        stored = self.batches[number]
        start = run.first - stored.first
        where = StoredBodies(Space.PARTITION, self.key, number, start, start + run.length)
        ttl_ms = max(1, stored.expires_at - self._clock.now) if stored.expires_at else 0
        delay_ms = max(0, stored.due_at - self._clock.now) if stored.due_at else 0
        size = stored.bytes_of(run.length)
        stop = start + run.length
        return Batch(
            run.session,
            run.first,
            run.length,
            size,
            where,
            stored.stamp,
            ttl_ms=ttl_ms,
            priority=stored.priority,
            dead=stored.dead,
            delay_ms=delay_ms,
            keys=stored.keys[KEY_HASH_BYTES * start : KEY_HASH_BYTES * stop],
            ids=stored.ids[ID_HASH_BYTES * start : ID_HASH_BYTES * stop],
            retained=stored.retained,
        )

    @property
    def waiting(self) -> int:
        """How many messages are pending; traces are none."""
        return self.pending.count - self.traces.count

    def acked_of(self, run: Run) -> list[Run]:
        """The parts of the run that are known to be acked."""
        return [part for seen in self.seen.overlap(run) for part in self.pending.missing(seen)]

    def not_acked(self, run: Run) -> list[Run]:
        """The parts of the run that are not known to be acked."""
        return sorted([*self.seen.missing(run), *self.unacked.overlap(run)])

    def acked(self) -> DotSet:
        """All dots that are known to be acked: seen, and not pending."""
        return self.seen.difference(self.unacked)
