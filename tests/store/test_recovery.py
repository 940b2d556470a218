"""Recovery: any history of records is found again, compared with a model of dicts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pmq.core.ids import PartitionKey
from p2pmq.core.intervals import IntervalSet
from p2pmq.core.packets.binding import BindingRecord
from p2pmq.core.packets.membership import Rumour
from p2pmq.core.packets.publishing import Batch, Death
from p2pmq.core.packets.registering import QueueRecord, QueueSettings
from p2pmq.core.packets.scheduling import ScheduleRecord
from p2pmq.core.records import (
    BatchRemoved,
    BatchStored,
    BatchTrimmed,
    BindingSaved,
    HorizonMoved,
    IncarnationSaved,
    MemberRemoved,
    MemberSaved,
    PartitionFilled,
    PartitionRemoved,
    ProcessedChanged,
    QueueSaved,
    Record,
    Recovered,
    RefillingChanged,
    ScheduleSaved,
    SeenChanged,
    Space,
)
from p2pmq.store.lmdb_store import LmdbStore
from tests.store.scene import batch_of, body_of, give

if TYPE_CHECKING:
    from pathlib import Path

KEYS = [PartitionKey("a", 0), PartitionKey("a", 1), PartitionKey("b", 0)]
SESSIONS = [b"session1", b"session2"]
MEMBERS = [
    Rumour(
        node_id=b"member-%d" % at,
        state=at,
        incarnation=at,
        name=f"née {at}",
        addresses=("10.0.0.1:1", "h:2")[:at],
        boot=7,
        store_id=b"\xff" * 8,
        zone="z",
        weight=3,
    )
    for at in range(3)
]


class Model:
    """What a store holds, in dicts."""

    def __init__(self) -> None:
        self.batches: dict[tuple[Space, PartitionKey, int], tuple[tuple[int, int], ...]] = {}
        self.stored: dict[tuple[Space, PartitionKey, int], BatchStored] = {}
        self.unseen: dict[tuple[Space, PartitionKey, int], tuple[tuple[int, int], ...]] = {}
        self.seen: dict[tuple[PartitionKey, bytes], tuple[tuple[tuple[int, int], ...], int]] = {}
        self.horizons: dict[PartitionKey, int] = {}
        self.members: dict[bytes, Rumour] = {}
        self.queues: dict[str, QueueRecord] = {}
        self.bindings: dict[tuple[str, str], BindingRecord] = {}
        self.processed: dict[tuple[PartitionKey, bytes, int], ProcessedChanged] = {}
        self.schedules: dict[str, ScheduleRecord] = {}
        self.incarnation = 0
        self.refilling = False
        self.filled: set[PartitionKey] = set()

    def apply(self, record: Record) -> None:  # noqa: C901, PLR0912 - one case for each record
        """Do what the store should do."""
        match record:
            case BatchStored(space, key, number, batch):
                self.batches[space, key, number] = ((batch.first, batch.last),)
                self.stored[space, key, number] = record
            case BatchTrimmed(space, key, number, alive, unseen):
                if (space, key, number) in self.batches:
                    self.batches[space, key, number] = alive
                    self.unseen[space, key, number] = unseen
            case BatchRemoved(space, key, number):
                self.batches.pop((space, key, number), None)
                self.unseen.pop((space, key, number), None)
            case SeenChanged(key, session, seqs, touched):
                self.seen[key, session] = seqs, touched
                if not seqs:
                    del self.seen[key, session]
            case HorizonMoved(key, horizon):
                self.horizons[key] = horizon
            case PartitionRemoved(gone):
                self.filled.discard(gone)
                self.horizons.pop(gone, None)
                for where in [where for where in self.batches if where[:2] == (0, gone)]:
                    del self.batches[where]
                    self.unseen.pop(where, None)
                for row in [row for row in self.seen if row[0] == gone]:
                    del self.seen[row]
            case MemberSaved(rumour):
                self.members[rumour.node_id] = rumour
            case MemberRemoved(node_id):
                self.members.pop(node_id, None)
            case QueueSaved(queue):
                self.queues[queue.queue] = queue
            case BindingSaved(binding):
                self.bindings[binding.pattern, binding.queue] = binding
            case ProcessedChanged(key, session, block, seqs):
                self.processed[key, session, block] = record
                if not seqs:
                    del self.processed[key, session, block]
            case ScheduleSaved(schedule):
                self.schedules[schedule.name] = schedule
            case IncarnationSaved(incarnation):
                self.incarnation = incarnation
            case RefillingChanged(refilling):
                self.refilling, self.filled = refilling, set()
            case PartitionFilled(key):
                self.filled.add(key)


@st.composite
def schedules(draw: st.DrawFn, queue: str, author: bytes) -> ScheduleSaved:
    """A schedule, or its removal."""
    body, removed = draw(st.binary(max_size=9)), draw(st.booleans())
    made = (queue, 2**60, author, "* * * * *", queue, body, 1, 7, 9, removed)
    return ScheduleSaved(ScheduleRecord(*made))


@st.composite
def batches(draw: st.DrawFn, number: int, session: bytes) -> Batch:
    """A batch to be stored, with some of what it may have."""
    size = draw(st.sampled_from([10, 20_000]))
    batch = batch_of(1 + 100 * number, draw(st.integers(1, 8)), size, session)
    keys = draw(st.sampled_from((b"", b"keyhash1" * batch.count)))
    batch = replace(batch, priority=draw(st.integers(0, 9)), keys=keys)
    if draw(st.booleans()):
        batch = replace(batch, dead=(Death("stale-replica", "é", "ü", 3),))
    return batch


@st.composite
def histories(  # noqa: C901, PLR0912, PLR0915 - one case for each record
    draw: st.DrawFn,
) -> list[list[Record]]:
    """Writes whose records refer to batches that were stored before, and to some never stored."""
    model = Model()
    number = 0
    writes: list[list[Record]] = []
    for _ in range(draw(st.integers(1, 25))):
        records: list[Record] = []
        for _ in range(draw(st.integers(0, 3))):
            kind = draw(st.sampled_from("ssssttrreghnmdiqfwbppc"))
            key = draw(st.sampled_from(KEYS))
            session = draw(st.sampled_from(SESSIONS))
            known = sorted(model.batches)
            where = draw(st.sampled_from(known)) if known else (Space.OUTBOX, key, 10**6)
            record: Record
            if kind == "s":
                number += 1
                batch = draw(batches(number, session))
                space = draw(st.sampled_from(list(Space)))
                expires_ms, due_ms = (draw(st.sampled_from((0, 1, 2**63))) for _ in range(2))
                delayed = replace(batch, delay_ms=7 if due_ms else 0)
                record = BatchStored(space, key, number, delayed, expires_ms, due_ms)
            elif kind == "t" and where in model.batches:
                left = IntervalSet(model.batches[where])
                for _ in range(draw(st.integers(1, 7))):
                    if left.count > 1:
                        gone = draw(st.sampled_from([low for low, _ in left]))
                        left.remove(gone, gone)
                gone_bad = draw(st.sampled_from([(), ((1, 2),), ((1, 2), (5, 5))]))
                record = BatchTrimmed(*where, left.pairs(), gone_bad)
            elif kind in "tr":
                record = BatchRemoved(*where)
            elif kind == "e":
                seqs = ((1, draw(st.integers(1, 2**63 - 1))),)
                record = SeenChanged(key, session, seqs, draw(st.integers(0, 2**64 - 1)))
            elif kind == "g":
                record = SeenChanged(key, session, ())
            elif kind == "h":
                record = HorizonMoved(key, draw(st.integers(0, 2**64 - 1)))
            elif kind == "n":
                record = PartitionRemoved(key)
            elif kind == "m":
                record = MemberSaved(draw(st.sampled_from(MEMBERS)))
            elif kind == "q":
                asked = QueueSettings(draw(st.integers(0, 9)), draw(st.integers(0, 9)))
                stamp = draw(st.integers(0, 2**64 - 1))
                record = QueueSaved(QueueRecord(key.queue, stamp, session, asked))
            elif kind == "b":
                pattern = draw(st.sampled_from(("a.*", "é" * 127 + ".")))
                bound = draw(st.booleans())
                record = BindingSaved(BindingRecord(pattern, key.queue, 1, session, bound))
            elif kind == "p":
                done = draw(st.sampled_from((((1, 4_095),), ((4_000, 4_000), (4_002, 4_095)), ())))
                record = ProcessedChanged(key, session, draw(st.integers(0, 2)), done, number)
            elif kind == "c":
                record = draw(schedules(key.queue, session))
            elif kind == "f":
                record = PartitionFilled(key)
            elif kind == "w":
                record = RefillingChanged(refilling=draw(st.booleans()))
            elif kind == "d":
                record = MemberRemoved(draw(st.sampled_from(MEMBERS)).node_id)
            else:
                record = IncarnationSaved(draw(st.integers(0, 2**32 - 1)))
            model.apply(record)
            records.append(record)
        writes.append(records)
    return writes


async def again_opened(path: Path) -> Recovered:
    """What another start of the node finds."""
    store = LmdbStore(path)
    recovered = await store.open()
    await store.close()
    return recovered


async def replay(
    path: Path, writes: list[list[Record]], waits: list[bool]
) -> tuple[Recovered, Recovered]:
    """Write the history, in groups as `waits` cuts it; what two more starts find."""
    store = LmdbStore(path)
    await store.open()
    answers = []
    for records, wait in zip(writes, waits, strict=True):
        answers.append(give(store, *records))
        if wait:
            await answers[-1]
    await store.close()
    assert {await answer for answer in answers} == {None}
    store = LmdbStore(path)
    recovered = await store.open()
    for found in recovered.batches:
        for low, high in found.alive:
            where = found.batch.part(low, high).bodies
            size = found.batch.size // found.batch.count
            bodies = store.read(where).bodies  # type: ignore[arg-type]  # bodies are StoredBodies
            assert bodies == [body_of(seq, size) for seq in range(low, high + 1)]
    await store.close()
    return recovered, await again_opened(path)


@settings(max_examples=40)
@given(writes=histories(), data=st.data())
def test_any_history_is_found_again_as_a_simple_model_has_it(
    writes: list[list[Record]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    waits = data.draw(st.lists(st.booleans(), min_size=len(writes), max_size=len(writes)))
    path = tmp_path_factory.mktemp("store")
    recovered, again = asyncio.run(replay(path, writes, waits))
    model = Model()
    for records in writes:
        for record in records:
            model.apply(record)
    found = {(one.space, one.key, one.number): one for one in recovered.batches}
    assert [*found] == sorted(model.batches)
    assert {where: one.alive for where, one in found.items()} == model.batches
    unseen = {where: one.unseen for where, one in found.items() if one.unseen}
    assert unseen == {where: seqs for where, seqs in model.unseen.items() if seqs}
    for where, one in found.items():
        stored = model.stored[where]
        for name in ("run", "size", "priority", "dead", "keys"):
            assert getattr(one.batch, name) == getattr(stored.batch, name)
        assert one.expires_ms == stored.expires_ms
        assert (one.due_ms, one.batch.delay_ms) == (stored.due_ms, stored.batch.delay_ms)
    seen = {(one.key, one.session): (one.seqs, one.touched) for one in recovered.seen}
    assert seen == model.seen
    assert {one.key: one.horizon for one in recovered.horizons} == model.horizons
    assert {one.node_id: one for one in recovered.members} == model.members
    assert {one.queue: one for one in recovered.queues} == model.queues
    assert {(one.key, one.session, one.block): one for one in recovered.processed} == (
        model.processed
    )
    assert {(one.pattern, one.queue): one for one in recovered.bindings} == model.bindings
    assert {one.name: one for one in recovered.schedules} == model.schedules
    assert recovered.incarnation == model.incarnation
    assert (recovered.refilling, set(recovered.filled)) == (model.refilling, model.filled)
    assert (again.batches, again.seen, again.members) == (
        recovered.batches,
        recovered.seen,
        recovered.members,
    )
