"""Writes on their way to the disk: records as operations, gathered into groups.

The loop's thread makes the operations, the writer's thread applies them. What
a later write of the same group undoes is not written at all: a batch that was
stored and removed, a `seen` that was replaced. That holds only while the group
is committed as one; alone, each write is applied as it was given.

Invariant: `seen` never runs ahead of bodies. When a full disk refuses a batch,
writes that were given before the core learned of it may claim its dots as
seen; `Refusals` takes them out of such claims, or a restart would take the
refused messages for acked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from p2pmq.core.intervals import Interval, IntervalSet
from p2pmq.store.layout import (
    Kept,
    Meta,
    pack_meta,
    pack_seen,
    seal,
    unpack_meta,
    unseal,
)
from p2pmq.wire.bodies import BodiesError, PackedBodies

if TYPE_CHECKING:
    import lmdb

    from p2pmq.store.base import WriteDone

Table = Any  # lmdb's handle of a named database, which its stubs do not name

SHRINK_BYTES_MIN = 64 * 1024
SHRINK_FRACTION = 4
"""A batch of more than 64 KiB of which less than a quarter is alive is rewritten: so a body is
copied 1/3 times at most, on average, and dead ones fill 3/4 of a batch at most."""


class Tables(NamedTuple):
    """The handles of the named databases."""

    identity: Table
    partitions: Table
    meta: Table
    bodies: Table
    seen: Table
    members: Table
    queues: Table
    notes: Table


@dataclass(slots=True)
class Work:
    """A transaction, and what operations need to know beside it.

    `told`: of how many refusals the core knew when it gave the write at hand.
    """

    txn: lmdb.Transaction
    tables: Tables
    refusals: Refusals
    may_shrink: bool
    told: int = 0


class Op(Protocol):
    """One change of the tables. `skip`: a later one of the same group makes it needless."""

    skip: bool

    def apply(self, work: Work) -> None:
        """Make the change."""
        ...


@dataclass(slots=True, eq=False)
class Put:
    """A row is written."""

    table: Table
    key: bytes
    value: bytes
    skip: bool = False

    def apply(self, work: Work) -> None:
        """Make the change."""
        work.txn.put(self.key, seal(self.key, self.value), db=self.table)


@dataclass(slots=True, eq=False)
class Delete:
    """A row is deleted, if it is there."""

    table: Table
    key: bytes
    skip: bool = False

    def apply(self, work: Work) -> None:
        """Make the change."""
        work.txn.delete(self.key, db=self.table)


@dataclass(slots=True, eq=False)
class DeleteAll:
    """All rows go whose keys begin with the prefix."""

    table: Table
    prefix: bytes
    skip: bool = False

    def apply(self, work: Work) -> None:
        """Make the change."""
        for key in keys_from(work.txn, self.table, self.prefix):
            work.txn.delete(key, db=self.table)


@dataclass(slots=True, eq=False)
class PutBatch:
    """A batch is stored; its bodies are the blob as it came."""

    key: bytes
    meta: Meta
    blob: bytes
    skip: bool = False

    def apply(self, work: Work) -> None:
        """Make the change."""
        key, bodies = self.key, work.tables.bodies
        # Appended where it is the last key: else LMDB leaves pages of few large rows half empty.
        if not work.txn.put(key, self.blob, db=bodies, append=True):
            work.txn.put(key, self.blob, db=bodies)
        work.txn.put(key, seal(key, pack_meta(self.meta)), db=work.tables.meta)


@dataclass(slots=True, eq=False)
class RemoveBatch:
    """A batch is deleted, if it is there (it is not where a full disk had refused it)."""

    key: bytes
    skip: bool = False

    def apply(self, work: Work) -> None:
        """Make the change."""
        work.txn.delete(self.key, db=work.tables.meta)
        work.txn.delete(self.key, db=work.tables.bodies)
        if work.refusals:
            work.refusals.settle(self.key)


@dataclass(slots=True, eq=False)
class TrimBatch:
    """Only some of a batch is alive; where little is, the dead bodies are left behind."""

    key: bytes
    alive: tuple[Interval, ...]
    unseen: tuple[Interval, ...] = ()
    skip: bool = False

    def apply(self, work: Work) -> None:
        """Make the change."""
        row = work.txn.get(self.key, db=work.tables.meta)
        if row is None:
            return  # refused by a full disk
        meta = unpack_meta(unseal(self.key, bytes(row)))
        meta = meta._replace(alive=self.alive, unseen=self.unseen)
        if work.may_shrink and worth_shrinking(meta):
            blob = work.txn.get(self.key, db=work.tables.bodies)
            shrunk = None if blob is None else shrink(meta, bytes(blob))
            if shrunk is not None:
                meta, blob = shrunk
                work.txn.put(self.key, blob, db=work.tables.bodies)
        work.txn.put(self.key, seal(self.key, pack_meta(meta)), db=work.tables.meta)


@dataclass(slots=True, eq=False)
class PutSeen:
    """The seqs of one session that a partition has seen; none: its row goes."""

    key: bytes
    seqs: tuple[Interval, ...]
    touched: int = 0
    skip: bool = False

    def apply(self, work: Work) -> None:
        """Make the change."""
        seqs = self.seqs
        if work.refusals:
            seqs = work.refusals.without(self.key, seqs, work.told)
        if not seqs:
            work.txn.delete(self.key, db=work.tables.seen)
            return
        row = seal(self.key, pack_seen(seqs, self.touched))
        work.txn.put(self.key, row, db=work.tables.seen)


@dataclass(slots=True, eq=False)
class Forget:
    """A partition's batches go, and what it has seen; its row stays until the next start.

    So an id that was durable once stays so, whatever is still on its way.
    """

    prefix: bytes
    skip: bool = False

    def apply(self, work: Work) -> None:
        """Make the change."""
        tables, txn = work.tables, work.txn
        for listed, others in ((tables.meta, (tables.bodies,)), (tables.seen, ())):
            for key in keys_from(txn, listed, self.prefix):
                for table in (listed, *others):
                    txn.delete(key, db=table)


def keys_from(txn: lmdb.Transaction, table: Table, prefix: bytes) -> list[bytes]:
    """The keys that begin with the prefix; keys alone, as values would be read from the disk."""
    keys = []
    with txn.cursor(db=table) as cursor:
        if cursor.set_range(prefix):
            for key in cursor.iternext(keys=True, values=False):
                if not bytes(key).startswith(prefix):
                    break
                keys.append(bytes(key))
    return keys


def worth_shrinking(meta: Meta) -> bool:
    """Whether a batch holds so much that is dead that it is rewritten."""
    if meta.alive is None or sum(part.size for part in meta.kept) <= SHRINK_BYTES_MIN:
        return False
    alive = sum(high - low + 1 for low, high in meta.alive)
    kept = sum(part.stop - part.start for part in meta.kept)
    return alive * SHRINK_FRACTION < kept


def shrink(meta: Meta, blob: bytes) -> tuple[Meta, bytes] | None:
    """The batch with one blob for each interval alive; None if that cannot be made of it.

    Positions stay those of the batch as it was stored: `kept` says where they lie now.
    """
    kept: list[Kept] = []
    blobs: list[bytes] = []
    try:
        segments = split(meta, blob)
        for low, high in meta.alive or ():
            start, stop = low - meta.first, high - meta.first + 1
            for part, bodies in segments:
                if part.start <= start and stop <= part.stop:
                    made = bodies.part(start - part.start, stop - part.start).blob
                    kept.append(Kept(start, stop, len(made)))
                    blobs.append(made)
                    break
            else:
                return None
    except BodiesError:
        return None  # it is damaged: whoever reads it is told so
    return (meta._replace(kept=tuple(kept)), b"".join(blobs)) if kept else None


def split(meta: Meta, blob: bytes) -> list[tuple[Kept, PackedBodies]]:
    """The parts of a batch's row in `bodies`; nothing is unpacked or checked."""
    if len(meta.kept) == 1:
        return [(meta.kept[0], PackedBodies.from_blob(blob))]
    at = 0
    parts = []
    for part in meta.kept:
        parts.append((part, PackedBodies.from_blob(blob[at : at + part.size])))
        at += part.size
    return parts


class Refused(NamedTuple):
    """A batch that a full disk refused, as dots of one row of `seen`."""

    number: int
    batch: bytes
    seen: bytes
    low: int
    high: int


class Refusals:
    """Batches that were refused and of which the core was perhaps not told yet."""

    __slots__ = ("_refused", "count")

    def __init__(self) -> None:
        self._refused: list[Refused] = []
        self.count = 0

    def __bool__(self) -> bool:
        return bool(self._refused)

    def refuse(self, write: Write) -> None:
        """The write was refused."""
        self.count += 1
        for op in write.ops:
            if isinstance(op, PutBatch):
                meta = op.meta
                seen = op.key[:4] + meta.session
                last = meta.first + meta.length - 1
                self._refused.append(Refused(self.count, op.key, seen, meta.first, last))

    def without(self, seen: bytes, seqs: tuple[Interval, ...], told: int) -> tuple[Interval, ...]:
        """The seqs without those refused that the core took for stored when it gave the write."""
        left: IntervalSet | None = None
        for refused in self._refused:
            if refused.number > told and refused.seen == seen:
                left = IntervalSet(seqs) if left is None else left
                left.remove(refused.low, refused.high)
        return seqs if left is None else left.pairs()

    def settle(self, batch: bytes) -> None:
        """Its messages are done without having been stored: they may count as seen."""
        self._refused = [refused for refused in self._refused if refused.batch != batch]

    def forget(self, told: int) -> None:
        """The core knew of the first `told` refusals when it gave the write that comes now."""
        if self._refused and self._refused[0].number <= told:
            self._refused = [refused for refused in self._refused if refused.number > told]


@dataclass(slots=True, eq=False)
class Write:
    """One atomic write. `told`: of how many refused writes the core knew when it gave it.

    `batches` are the keys of the batches that it stores, `ids` the partitions
    whose rows it writes, `size` the bytes of the bodies.
    """

    ops: list[Op]
    done: WriteDone
    told: int
    batches: tuple[bytes, ...] = ()
    ids: tuple[int, ...] = ()
    size: int = 0


class Group:
    """Writes that are committed together, in order; `urgent` once somebody waits for one."""

    __slots__ = ("_seen", "_stored", "size", "urgent", "writes")

    def __init__(self) -> None:
        self.urgent = False
        self.writes: list[Write] = []
        self.size = 0
        self._stored: dict[bytes, PutBatch] = {}
        self._seen: dict[bytes, PutSeen] = {}

    def add(self, write: Write) -> None:
        """Take the write in; mark what it makes needless."""
        self.writes.append(write)
        self.size += write.size
        for op in write.ops:
            if isinstance(op, PutBatch):
                self._stored[op.key] = op
            elif isinstance(op, RemoveBatch):
                stored = self._stored.pop(op.key, None)
                if stored is not None:
                    stored.skip = op.skip = True
            elif isinstance(op, PutSeen):
                earlier = self._seen.get(op.key)
                if earlier is not None:
                    earlier.skip = True
                self._seen[op.key] = op
