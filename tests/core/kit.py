"""What the core's tests share: bodies that say what they are, a disk of plain dicts, names."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from p2pmq.config import Replication as Copies
from p2pmq.core import antientropy
from p2pmq.core import records as rec
from p2pmq.core.effects import Effect, Persist, Send
from p2pmq.core.handover import Handovers
from p2pmq.core.hlc import HybridClock
from p2pmq.core.ids import NodeId, PartitionKey, Run
from p2pmq.core.owner import Owner
from p2pmq.core.ownership import Ownership
from p2pmq.core.packets.publishing import Batch
from p2pmq.core.records import Recovered, RecoveredBatch, Space, StoredBodies
from p2pmq.core.replication import Replication

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

    from p2pmq.core.intervals import Interval
    from p2pmq.core.packets.binding import BindingRecord
    from p2pmq.core.packets.membership import Rumour
    from p2pmq.core.packets.registering import QueueRecord
    from p2pmq.core.packets.registry import Packet
    from p2pmq.core.packets.scheduling import ScheduleRecord
    from p2pmq.core.records import Record

KEY = PartitionKey("orders", 0)
A, B, C = b"node-aaa", b"node-bbb", b"node-ccc"
S1, S2, S3 = b"session1", b"session2", b"session3"

Dot = tuple[bytes, int]


@dataclass(frozen=True, slots=True)
class Texts:
    """Bodies that a test can read."""

    texts: tuple[str, ...]

    def part(self, start: int, stop: int) -> Texts:
        return Texts(self.texts[start:stop])


def batch_of(session: bytes, first: int, count: int, *, size: int | None = None) -> Batch:
    """A batch whose bodies name their dots."""
    texts = tuple(f"{session.hex()}-{seq}" for seq in range(first, first + count))
    return Batch(session, first, count, 10 * count if size is None else size, Texts(texts))


def dots_of(runs: Iterable[Run]) -> set[Dot]:
    return {(run.session, seq) for run in runs for seq in range(run.first, run.last + 1)}


def runs_of(dots: Iterable[Dot]) -> list[Run]:
    """The dots as the longest runs."""
    found: list[Run] = []
    for session, seq in sorted(dots):
        if found and found[-1].session == session and found[-1].last == seq - 1:
            found[-1] = found[-1]._replace(last=seq)
        else:
            found.append(Run(session, seq, seq))
    return found


def packets(effects: Iterable[Effect]) -> list[Packet]:
    return [effect.packet for effect in effects if isinstance(effect, Send)]


def writes(effects: Iterable[Effect]) -> list[Persist]:
    return [effect for effect in effects if isinstance(effect, Persist)]


def compare_by_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let states of some runs be large already for a comparison."""
    monkeypatch.setattr(antientropy, "PIECES", 4)
    monkeypatch.setattr(antientropy, "RUNS_TOLD", 2)
    monkeypatch.setattr(antientropy, "RUNS_TOLD_AT_ONCE", 2)


class View(Ownership):
    """What a node believes, set by the test: one node owns everything, and has the only copy."""

    def __init__(self, owner: NodeId | None) -> None:
        super().__init__(Copies(replicas=1))
        self.owner = owner

    def owner_of(self, key: PartitionKey) -> NodeId | None:
        del key
        return self.owner

    def homes_of(self, key: PartitionKey) -> tuple[tuple[NodeId, ...], int]:
        del key
        return (() if self.owner is None else (self.owner,)), 1

    def is_alive(self, node_id: NodeId) -> bool:
        return node_id == self.owner


class Rooms(NamedTuple):
    """The rooms of a node that look after partitions; they need one another."""

    owner: Owner
    replication: Replication
    handovers: Handovers

    def on_placement_changed(self, now: int) -> list[Effect]:
        return [
            *self.replication.on_placement_changed(now),
            *self.owner.on_placement_changed(now),
            *self.handovers.on_placement_changed(now),
        ]


def rooms_of(node_id: NodeId, boot: int, view: Ownership) -> Rooms:
    owner = Owner(node_id, HybridClock(), view.owner_of)
    replication = Replication(node_id, boot, owner, view)
    owner.use(replication)
    return Rooms(owner, replication, Handovers(node_id, boot, owner, view, replication))


class Name(NamedTuple):
    space: Space
    key: PartitionKey
    number: int


class Kept(NamedTuple):
    batch: Batch
    alive: tuple[Interval, ...]
    unseen: tuple[Interval, ...] = ()
    expires_ms: int = 0
    due_ms: int = 0


@dataclass(slots=True)
class Disk:
    """What is durable. Every batch is kept as its bodies came; reading gives `StoredBodies`."""

    node_id: bytes = A
    boot: int = 0
    incarnation: int = 0
    batches: dict[Name, Kept] = field(default_factory=dict)
    seen: dict[tuple[PartitionKey, bytes], tuple[Interval, ...]] = field(default_factory=dict)
    touched: dict[tuple[PartitionKey, bytes], int] = field(default_factory=dict)
    horizons: dict[PartitionKey, int] = field(default_factory=dict)
    members: dict[bytes, Rumour] = field(default_factory=dict)
    queues: dict[str, QueueRecord] = field(default_factory=dict)
    bindings: dict[tuple[str, str], BindingRecord] = field(default_factory=dict)
    processed: dict[tuple[PartitionKey, bytes, int], rec.ProcessedChanged] = field(
        default_factory=dict
    )
    schedules: dict[str, ScheduleRecord] = field(default_factory=dict)
    refilling: bool = False
    filled: dict[PartitionKey, None] = field(default_factory=dict)

    def apply(self, records: Iterable[Record]) -> None:
        for record in records:
            self._apply(record)

    def _apply(self, record: Record) -> None:  # noqa: C901, PLR0912 - one case for each record
        match record:
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
            case rec.MemberSaved() | rec.MemberRemoved() | rec.IncarnationSaved():
                self._apply_roster(record)
            case rec.BatchStored(space, key, number, batch, expires_ms, due_ms):
                name = Name(space, key, number)
                assert name not in self.batches, f"{name} was used before"
                alive = ((batch.first, batch.last),)
                self.batches[name] = Kept(self.read(batch), alive, (), expires_ms, due_ms)
            case rec.BatchTrimmed(space, key, number, alive, unseen):
                name = Name(space, key, number)
                self.batches[name] = self.batches[name]._replace(alive=alive, unseen=unseen)
            case rec.BatchRemoved(space, key, number):
                del self.batches[Name(space, key, number)]
            case rec.SeenChanged(key, session, seqs, touched):
                self.seen[key, session] = seqs
                self.touched[key, session] = touched
                if not seqs:
                    del self.seen[key, session], self.touched[key, session]
            case rec.HorizonMoved(key, horizon):
                self.horizons[key] = horizon
            case rec.RefillingChanged(refilling):
                self.refilling = refilling
                self.filled.clear()
            case rec.PartitionFilled(key):
                self.filled[key] = None
            case rec.PartitionRemoved(key):
                self.filled.pop(key, None)
                self.horizons.pop(key, None)
                for name in [n for n in self.batches if n[:2] == (Space.PARTITION, key)]:
                    del self.batches[name]
                for seen in [s for s in self.seen if s[0] == key]:
                    del self.seen[seen], self.touched[seen]

    def _apply_roster(
        self, record: rec.MemberSaved | rec.MemberRemoved | rec.IncarnationSaved
    ) -> None:
        match record:
            case rec.MemberSaved(rumour):
                self.members[rumour.node_id] = rumour
            case rec.MemberRemoved(node_id):
                self.members.pop(node_id, None)
            case rec.IncarnationSaved(incarnation):
                self.incarnation = incarnation

    def read(self, batch: Batch) -> Batch:
        """The batch with its bodies at hand."""
        where = batch.bodies
        if not isinstance(where, StoredBodies):
            return batch
        kept = self.batches[Name(where.space, where.key, where.number)]
        return replace(batch, bodies=kept.batch.bodies.part(where.start, where.stop))

    def recovered(self) -> Recovered:
        """What the next start finds."""
        batches = tuple(
            RecoveredBatch(
                *name,
                replace(kept.batch, bodies=StoredBodies(*name, 0, kept.batch.count), ttl_ms=0),
                kept.alive,
                kept.unseen,
                kept.expires_ms,
                kept.due_ms,
            )
            for name, kept in sorted(self.batches.items(), key=lambda item: item[0])
        )
        seen = tuple(
            rec.SeenChanged(*name, seqs, self.touched[name])
            for name, seqs in sorted(self.seen.items())
        )
        members = tuple(self.members[node_id] for node_id in sorted(self.members))
        return Recovered(
            self.node_id,
            b"store-id",
            self.boot,
            self.incarnation,
            batches,
            seen,
            members,
            tuple(self.queues[queue] for queue in sorted(self.queues)),
            self.refilling,
            tuple(sorted(self.filled)),
            tuple(rec.HorizonMoved(*item) for item in sorted(self.horizons.items())),
            tuple(self.bindings[pair] for pair in sorted(self.bindings)),
            tuple(self.processed[block] for block in sorted(self.processed)),
            tuple(self.schedules[name] for name in sorted(self.schedules)),
        )

    def of_space(self, space: Space) -> list[RecoveredBatch]:
        """The batches that the next start finds in one space."""
        return [found for found in self.recovered().batches if found.space is space]
