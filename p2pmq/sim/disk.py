"""A simulated disk: what survives a crash, and a store on it for each run of a process.

The store commits in groups as the real one does: writes that come while one is
on its way go with the next. A crash loses every write whose completion was not
called yet, and may lose none of the others, unless the disk is told to lie.

Invariant: `records` are applied to the disk in the order of the writes, each
write whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from p2pmq.core import records as rec
from p2pmq.core.dots import DotSet
from p2pmq.core.ids import Run
from p2pmq.core.records import Recovered, RecoveredBatch, Space, StoredBodies
from p2pmq.errors import StoreCorruptError, StoreError, StoreFullError
from p2pmq.wire.bodies import PackedBodies

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

    from p2pmq.core.ids import PartitionKey, Session
    from p2pmq.core.intervals import Interval
    from p2pmq.core.packets.binding import BindingRecord
    from p2pmq.core.packets.membership import Rumour
    from p2pmq.core.packets.publishing import Batch
    from p2pmq.core.packets.registering import QueueRecord
    from p2pmq.core.packets.scheduling import ScheduleRecord
    from p2pmq.core.records import Record
    from p2pmq.sim.hostloop import HostLoop
    from p2pmq.sim.trace import Trace
    from p2pmq.store.base import WriteDone


class BatchName(NamedTuple):
    """Where a batch lies."""

    space: Space
    key: PartitionKey
    number: int


class Kept(NamedTuple):
    """A batch on the disk: as it came, and which of its seqs are alive."""

    batch: Batch
    alive: tuple[Interval, ...]
    unseen: tuple[Interval, ...] = ()
    expires_ms: int = 0
    due_ms: int = 0


@dataclass(slots=True)
class Contents:
    """Everything on a disk. A copy of it is a snapshot."""

    node_id: bytes = b""
    store_id: bytes = b""
    boot: int = 0
    incarnation: int = 0
    batches: dict[BatchName, Kept] = field(default_factory=dict)
    seen: dict[tuple[PartitionKey, Session], tuple[Interval, ...]] = field(default_factory=dict)
    touched: dict[tuple[PartitionKey, Session], int] = field(default_factory=dict)
    horizons: dict[PartitionKey, int] = field(default_factory=dict)
    members: dict[bytes, Rumour] = field(default_factory=dict)
    queues: dict[str, QueueRecord] = field(default_factory=dict)
    bindings: dict[tuple[str, str], BindingRecord] = field(default_factory=dict)
    processed: dict[tuple[PartitionKey, Session, int], rec.ProcessedChanged] = field(
        default_factory=dict
    )
    schedules: dict[str, ScheduleRecord] = field(default_factory=dict)
    refilling: bool = False
    filled: dict[PartitionKey, None] = field(default_factory=dict)

    def copy(self) -> Contents:
        """A snapshot: entries are never changed in place."""
        return replace(
            self,
            batches=dict(self.batches),
            seen=dict(self.seen),
            touched=dict(self.touched),
            horizons=dict(self.horizons),
            members=dict(self.members),
            queues=dict(self.queues),
            bindings=dict(self.bindings),
            processed=dict(self.processed),
            schedules=dict(self.schedules),
            filled=dict(self.filled),
        )

    def apply(self, record: Record) -> None:  # noqa: C901, PLR0912 - one case for each record
        """Make one record part of the contents."""
        match record:
            case rec.BatchStored(space, key, number, batch, expires_ms, due_ms):
                alive = ((batch.first, batch.last),)
                self.batches[BatchName(space, key, number)] = Kept(
                    batch, alive, expires_ms=expires_ms, due_ms=due_ms
                )
            case rec.BatchTrimmed(space, key, number, alive, unseen):
                name = BatchName(space, key, number)
                if name in self.batches:
                    self.batches[name] = self.batches[name]._replace(alive=alive, unseen=unseen)
            case rec.BatchRemoved(space, key, number):
                self.batches.pop(BatchName(space, key, number), None)
            case rec.SeenChanged(key, session, seqs, touched):
                self.seen[key, session] = seqs
                self.touched[key, session] = touched
                if not seqs:
                    del self.seen[key, session], self.touched[key, session]
            case rec.HorizonMoved(key, horizon):
                self.horizons[key] = horizon
            case rec.PartitionRemoved(key):
                self._remove_partition(key)
            case rec.MemberSaved(rumour):
                self.members[rumour.node_id] = rumour
            case rec.MemberRemoved(node_id):
                self.members.pop(node_id, None)
            case rec.QueueSaved(saved):
                self.queues[saved.queue] = saved
            case rec.BindingSaved(binding):
                self.bindings[binding.pattern, binding.queue] = binding
            case rec.ProcessedChanged(key, session, block, seqs):
                self.processed[key, session, block] = record
                if not seqs:
                    del self.processed[key, session, block]
            case rec.ScheduleSaved(schedule):
                self.schedules[schedule.name] = schedule
            case rec.IncarnationSaved(incarnation):
                self.incarnation = incarnation
            case rec.RefillingChanged(refilling):
                self.refilling = refilling
                self.filled.clear()
            case rec.PartitionFilled(key):
                self.filled[key] = None

    def _remove_partition(self, key: PartitionKey) -> None:
        for name in [n for n in self.batches if n.key == key and n.space is Space.PARTITION]:
            del self.batches[name]
        for seen_key in [s for s in self.seen if s[0] == key]:
            del self.seen[seen_key], self.touched[seen_key]
        self.filled.pop(key, None)
        self.horizons.pop(key, None)


class SimDisk:
    """One host's disk, with its faults."""

    def __init__(self, host: str, rng: random.Random, trace: Trace) -> None:
        self.host = host
        self.contents = Contents()
        self.sync_ms: tuple[float, float] = (0.5, 3.0)
        """How long a commit takes: uniform between these two."""
        self.full = False
        self.failing = False
        self.lying = False
        """Says that a write is durable before it is: only to show that somebody notices."""
        self.cut_short = False
        """The store's file was cut: it cannot be opened any more."""
        self.processes = 0
        """How many processes have opened it; unlike `boot` it survives a wipe."""
        self._rng = rng
        self._trace = trace
        self._snapshots: dict[str, Contents] = {}

    def sync_s(self) -> float:
        """How long the next commit takes."""
        return self._rng.uniform(*self.sync_ms) / 1000

    def torn_at(self, writes: int) -> int:
        """How many writes of a commit of so many had reached the platter when the process died."""
        return self._rng.randint(0, writes) if writes else 0

    def alive(self) -> Iterator[tuple[Space, PartitionKey, Run]]:
        """The dots whose bodies are here, in the order of the batches' names."""
        for name in sorted(self.contents.batches):
            batch, alive = self.contents.batches[name][:2]
            for low, high in alive:
                yield name.space, name.key, Run(batch.session, low, high)

    def taken_for_acked(self) -> Iterator[tuple[PartitionKey, Run]]:
        """The dots that were seen, and have no body here: a merge takes them for acked."""
        seen: dict[PartitionKey, DotSet] = {}
        for (key, session), seqs in self.contents.seen.items():
            for low, high in seqs:
                seen.setdefault(key, DotSet()).add(Run(session, low, high))
        for name, kept in self.contents.batches.items():
            if name.space is Space.PARTITION:
                proven = DotSet([kept.batch.run])
                for low, high in kept.unseen:
                    proven.remove(Run(kept.batch.session, low, high))
                seen[name.key] = seen.get(name.key, DotSet()).union(proven)
        for space, key, run in self.alive():
            if space is Space.PARTITION:
                seen[key].remove(run)
        for key in sorted(seen):
            for run in seen[key].runs():
                yield key, run

    def boot(self) -> Recovered:
        """A process opens the store; a new disk draws its ids."""
        if self.cut_short:
            what = "data.mdb was cut; move the directory away and start again"
            raise StoreCorruptError(self.host, what)
        self.processes += 1
        contents = self.contents
        if not contents.node_id:
            contents.node_id = self._rng.randbytes(8)
            contents.store_id = self._rng.randbytes(8)
        contents.boot += 1
        return self._recovered()

    def _recovered(self) -> Recovered:
        contents = self.contents
        found = []
        for name in sorted(contents.batches):
            kept = contents.batches[name]
            where = StoredBodies(name.space, name.key, name.number, 0, kept.batch.count)
            batch = replace(kept.batch, bodies=where, ttl_ms=0)
            times = kept.expires_ms, kept.due_ms
            found.append(RecoveredBatch(*name, batch, kept.alive, kept.unseen, *times))
        seen = tuple(
            rec.SeenChanged(*name, seqs, contents.touched[name])
            for name, seqs in sorted(contents.seen.items())
        )
        members = tuple(contents.members[node_id] for node_id in sorted(contents.members))
        return Recovered(
            contents.node_id,
            contents.store_id,
            contents.boot,
            contents.incarnation,
            tuple(found),
            seen,
            members,
            tuple(contents.queues[queue] for queue in sorted(contents.queues)),
            contents.refilling,
            tuple(sorted(contents.filled)),
            tuple(rec.HorizonMoved(*item) for item in sorted(contents.horizons.items())),
            tuple(contents.bindings[pair] for pair in sorted(contents.bindings)),
            tuple(contents.processed[block] for block in sorted(contents.processed)),
            tuple(contents.schedules[name] for name in sorted(contents.schedules)),
        )

    def apply(self, records: Sequence[Record]) -> None:
        """Make one write durable."""
        for record in records:
            self.contents.apply(record)
        self._trace.add("disk", self.host, str(len(records)))

    # -- faults --

    def wipe(self) -> None:
        """A new, empty disk in its place."""
        self.contents = Contents()
        self.cut_short = False

    def cut_file(self) -> None:
        """The store's file is cut short: nothing of it can be read any more."""
        self.contents = Contents()
        self.cut_short = True

    def known(self) -> dict[PartitionKey, DotSet]:
        """What can be had from here: bodies that can be read, and dots known to be acked."""
        found: dict[PartitionKey, DotSet] = {}
        for (key, session), seqs in self.contents.seen.items():
            for low, high in seqs:
                found.setdefault(key, DotSet()).add(Run(session, low, high))
        for name, kept in self.contents.batches.items():
            session, of_batch = kept.batch.session, DotSet()
            whole = [(kept.batch.first, kept.batch.last)] if name.space is Space.PARTITION else []
            for low, high in (*whole, *kept.alive):
                of_batch.add(Run(session, low, high))
            for low, high in (*kept.unseen, *_damaged(kept.batch)):
                of_batch.remove(Run(session, low, high))
            dots = found.setdefault(name.key, DotSet())
            for run in of_batch.runs():
                dots.add(run)
        return found

    def snapshot(self, name: str = "") -> None:
        """Remember the contents, to roll back to."""
        self._snapshots[name] = self.contents.copy()

    def roll_back(self, name: str = "") -> None:
        """The contents are as at the snapshot again (a restored backup, a lost cache)."""
        self.contents = self._snapshots[name].copy()

    def flip_bit(self) -> tuple[PartitionKey, Run] | None:
        """Flip one bit in one stored body; which message's, or None if there is none."""
        names = sorted(n for n, kept in self.contents.batches.items() if kept.batch.size)
        if not names:
            return None
        name = self._rng.choice(names)
        batch = self.contents.batches[name].batch
        packed = batch.bodies
        assert isinstance(packed, PackedBodies)
        blob = bytearray(packed.blob)
        position = self._rng.choice([at for at, body in enumerate(packed.bodies) if body])
        body = packed.bodies[position]
        # Bodies lie in the blob in order: look for this one behind those before it.
        start = 0
        for before in packed.bodies[:position]:
            start = blob.index(before, start) + len(before)
        at = blob.index(body, start) + self._rng.randrange(len(body))
        blob[at] ^= 1 << self._rng.randrange(8)
        damaged = replace(batch, bodies=PackedBodies.from_blob(bytes(blob)))
        self.contents.batches[name] = self.contents.batches[name]._replace(batch=damaged)
        seq = batch.first + position
        return name.key, Run(batch.session, seq, seq)


class SimStore:
    """The store port on a simulated disk, for one run of a process."""

    def __init__(self, disk: SimDisk, loop: HostLoop) -> None:
        self._disk = disk
        self._loop = loop
        self._queued: list[tuple[Sequence[Record], WriteDone]] = []
        self._writing: list[tuple[Sequence[Record], WriteDone]] = []
        self._unwritten: dict[BatchName, PackedBodies] = {}
        self._committing = False
        self._dead = False
        self._error: StoreError | None = None

    async def open(self) -> Recovered:
        """What the disk holds."""
        return self._disk.boot()

    def write(
        self,
        records: Sequence[Record],
        done: WriteDone,
        *,
        patient: bool = False,  # noqa: ARG002  disks that never wait are among those there are
    ) -> None:
        """Queue a write; it goes with the next commit."""
        for record in records:
            if isinstance(record, rec.BatchStored):
                assert isinstance(record.batch.bodies, PackedBodies), "a batch is stored as it came"
                name = BatchName(record.space, record.key, record.number)
                self._unwritten[name] = record.batch.bodies
        self._queued.append((records, done))
        if not self._committing:
            self._begin()

    def _begin(self) -> None:
        self._writing, self._queued = self._queued, []
        self._committing = bool(self._writing)
        if not self._writing:
            return
        if self._disk.lying:
            for _, done in self._writing:
                self._loop.call_soon(done, None)
        self._loop.call_later(self._disk.sync_s(), self._commit)

    def _commit(self) -> None:
        """The group is on the disk: say so, in order."""
        if self._dead:
            return
        group, self._writing = self._writing, []
        for records, done in group:
            error = self._apply(records)
            if not self._disk.lying:
                done(error)
            if self._dead:
                return
        self._begin()

    def _apply(self, records: Sequence[Record]) -> StoreError | None:
        if self._disk.failing:
            self._error = self._error or StoreError(
                f"the disk of {self._disk.host} failed to sync (EIO): the node stops; look at the "
                "disk, then start it again"
            )
        if self._error is not None:
            return self._error
        stored = [record for record in records if isinstance(record, rec.BatchStored)]
        for record in stored:
            self._unwritten.pop(BatchName(record.space, record.key, record.number), None)
        if self._disk.full and stored:
            return StoreFullError(self._disk.host)
        self._disk.apply(records)
        return None

    def read(self, where: StoredBodies) -> PackedBodies:
        """Bodies, verified."""
        name = BatchName(where.space, where.key, where.number)
        packed = self._unwritten.get(name)
        if packed is not None:
            return packed.part(where.start, where.stop)
        kept = self._disk.contents.batches[name]
        assert isinstance(kept.batch.bodies, PackedBodies)
        part = kept.batch.bodies.part(where.start, where.stop)
        bad = part.verify()
        if bad:
            raise StoreCorruptError(self._disk.host, f"{len(bad)} bodies are damaged", bad)
        return part

    async def close(self) -> None:
        """Finish the writes that were given."""
        while self._committing and not self._dead:
            waiter = self._loop.create_future()
            self._loop.call_later(0.001, _set, waiter)
            await waiter
        self._dead = True

    def kill(self, *, unsynced_may_survive: bool) -> None:
        """The process is gone, and what it had not synced.

        After a crash of the process alone, some of the commit that was under way may be
        found on the disk (its first writes, each whole), though nobody was told so.
        """
        if unsynced_may_survive and not self._dead and not self._disk.lying:
            for records, _ in self._writing[: self._disk.torn_at(len(self._writing))]:
                self._apply(records)
        self._dead = True


def _damaged(batch: Batch) -> Iterator[Interval]:
    """The seqs of a batch whose bodies cannot be read."""
    assert isinstance(batch.bodies, PackedBodies)
    for position in batch.bodies.verify():
        yield batch.first + position, batch.first + position


def _set(waiter: object) -> None:
    if not waiter.done():  # type: ignore[attr-defined]  # it is the future made above
        waiter.set_result(None)  # type: ignore[attr-defined]  # as above
