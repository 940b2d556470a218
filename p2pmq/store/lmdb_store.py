"""The store on disk: one LMDB file per node, and one thread that commits.

While the thread commits, the loop gathers the next group: the slower the disk,
the larger the groups. Durability is LMDB's own (fdatasync, then the page that
makes the transaction count), and nothing here loosens it. A failed sync is
never retried: the kernel may have dropped the pages and say yes the second
time (Rebello et al., *Can applications recover from fsync failures?*, 2020).

Invariant: `done` is called once for each write, in the order given, in the
loop's thread, and with None only after the commit that holds it returned.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

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
    RefillingChanged,
    ScheduleSaved,
    SeenChanged,
    Space,
    StoredBodies,
)
from p2pmq.errors import StoreCorruptError, StoreError, StoreFullError
from p2pmq.store.cache import BodiesCache, part, whole
from p2pmq.store.datafile import DataFile
from p2pmq.store.directory import DirectoryLock, make_directory
from p2pmq.store.layout import (
    FILLED,
    REFILLING,
    batch_key,
    binding_key,
    filled_key,
    horizon_key,
    id_key,
    meta_of,
    pack_binding,
    pack_partition,
    pack_processed,
    pack_queue,
    pack_rumour,
    pack_schedule,
    pack_stamp,
    processed_key,
    schedule_key,
)
from p2pmq.store.recovery import incarnation_row
from p2pmq.store.writes import (
    Delete,
    DeleteAll,
    Forget,
    Group,
    Put,
    PutBatch,
    PutSeen,
    RemoveBatch,
    TrimBatch,
    Write,
)
from p2pmq.wire.bodies import PackedBodies

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2pmq.core.ids import PartitionKey
    from p2pmq.core.records import Record, Recovered
    from p2pmq.store.base import WriteDone
    from p2pmq.store.writes import Op

CACHE_BYTES_MAX = 32 * 1024 * 1024
GROUP_BYTES_MAX = 32 * 1024 * 1024
PATIENCE_S = 0.005
"""How long a patient write waits for others to be committed with: a few commits' time."""
"""Bodies in one transaction: what waits beyond goes into the next, so that no commit takes long."""


class LmdbStore:
    """The Store port on one directory. `node_id` names a new store's node; None: drawn."""

    def __init__(
        self,
        path: Path | str,
        *,
        node_id: bytes | None = None,
        cache_bytes_max: int = CACHE_BYTES_MAX,
    ) -> None:
        self.path = Path(path)
        self._node_id = node_id
        self._cache = BodiesCache(cache_bytes_max)
        self._ids: dict[tuple[Space, PartitionKey], int] = {}
        """They stay for the life of the process, after PartitionRemoved as well."""
        self._durable_ids: set[int] = set()
        self._next_id = 0
        self._told = 0
        self._lock = threading.Lock()
        """Guards the three below."""
        self._groups: deque[Group] = deque()
        self._idle = True
        self._closing = False
        self._wake = threading.Event()
        self._patience: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None

    async def open(self) -> Recovered:
        """Open, lock, and give back what is there; a new store draws its ids.

        Raises DataDirectoryError, DataDirectoryLockedError, StoreCorruptError, StoreFullError.
        """
        assert self._thread is None, "a store is opened once"
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[Recovered] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._run, args=(opened,), name=f"p2pmq-store-{self.path.name}", daemon=True
        )
        self._thread.start()
        try:
            return await asyncio.shield(opened)
        except asyncio.CancelledError:
            await self.close()
            raise

    @property
    def file_bytes(self) -> int:
        """How long the file is."""
        return self._file.bytes

    # ------------------------------------------------------------------------ in the loop's thread

    def write(self, records: Sequence[Record], done: WriteDone, *, patient: bool = False) -> None:
        """Make the records durable, then call `done` in the loop's thread."""
        write = Write([], done, self._told)
        try:
            for record in records:
                self._encode(record, write)
        except StoreCorruptError as error:  # bodies to be copied: nothing of it is written
            for key in write.batches:
                self._cache.drop(key)
            unreadable = error
            write = Write([], lambda failed: done(failed or unreadable), self._told)
        with self._lock:
            assert not self._closing, "a closed store is written to"
            if not self._groups or self._groups[-1].size > GROUP_BYTES_MAX:
                self._groups.append(Group())
            self._groups[-1].add(write)
        if not patient:
            self._hasten()
        elif self._patience is None:
            self._patience = self._loop.call_later(PATIENCE_S, self._end_patience)

    def _hasten(self) -> None:
        """Have everything that was given committed as soon as the disk is free."""
        with self._lock:
            for group in self._groups:
                group.urgent = True
            idle, self._idle = self._idle, False
        if idle:
            self._wake.set()

    def _end_patience(self) -> None:
        self._patience = None
        self._hasten()

    def read(self, where: StoredBodies) -> PackedBodies:
        """The bodies as they were written, from memory or disk.

        Raises KeyError where there is no such batch, or where those bodies were
        dead and are not kept any more; StoreCorruptError.
        """
        key = batch_key(self._ids[where.space, where.key], where.number)
        segments = self._cache.get(key)
        if segments is None:
            try:
                segments = self._file.read(key)
            except StoreCorruptError as error:
                bad = range(where.stop - where.start)
                raise StoreCorruptError(str(self.path), str(error), bad) from error
            self._cache.keep(key, segments)
        return part(segments, where.start, where.stop, str(self.path))

    async def close(self) -> None:
        """Finish the writes that were given, then close; again: nothing."""
        if self._thread is None:
            return
        with self._lock:
            self._closing = True
        if self._patience is not None:
            self._patience.cancel()
        self._wake.set()
        await asyncio.shield(self._closed)
        self._thread.join()
        self._cache.clear()

    def _encode(  # noqa: C901 - one case for each record
        self, record: Record, write: Write
    ) -> None:
        """Add the operations of one record."""
        ops = write.ops
        match record:
            case BatchStored(space, key, number, batch, expires_ms, due_ms):
                stored_key = batch_key(self._id_for(space, key, write), number)
                bodies = batch.bodies
                if isinstance(bodies, StoredBodies):
                    bodies = self.read(bodies)
                assert isinstance(bodies, PackedBodies)
                blob = bodies.blob
                ops.append(
                    PutBatch(stored_key, meta_of(batch, len(blob), expires_ms, due_ms), blob)
                )
                write.batches += (stored_key,)
                write.size += len(blob)
                self._cache.pin(stored_key, whole(bodies, batch.count))
            case BatchTrimmed(space, key, number, alive, unseen):
                stored_key = batch_key(self._id_for(space, key, write), number)
                ops.append(TrimBatch(stored_key, alive, unseen))
            case BatchRemoved(space, key, number):
                stored_key = batch_key(self._id_for(space, key, write), number)
                ops.append(RemoveBatch(stored_key))
                self._cache.drop(stored_key)
            case SeenChanged(key, session, seqs, touched):
                partition = self._id_for(Space.PARTITION, key, write)
                ops.append(PutSeen(id_key(partition) + session, seqs, touched))
            case PartitionRemoved(key):
                prefix = id_key(self._id_of(Space.PARTITION, key))
                ops.append(Forget(prefix))
                ops.append(Delete(self._file.tables.notes, filled_key(key)))
                ops.append(Delete(self._file.tables.notes, horizon_key(key)))
                self._cache.drop_prefix(prefix)
            case MemberSaved(rumour):
                ops.append(Put(self._file.tables.members, rumour.node_id, pack_rumour(rumour)))
            case MemberRemoved(node_id):
                ops.append(Delete(self._file.tables.members, node_id))
            case QueueSaved(queue):
                row = queue.queue.encode("utf-8", "surrogatepass")
                ops.append(Put(self._file.tables.queues, row, pack_queue(queue)))
            case IncarnationSaved(incarnation):
                ops.append(Put(self._file.tables.identity, *incarnation_row(incarnation)))
            case (
                HorizonMoved()
                | BindingSaved()
                | ProcessedChanged()
                | ScheduleSaved()
                | RefillingChanged()
                | PartitionFilled()
            ):
                ops += self._notes_of(record)
            case _:
                assert_never(record)

    def _notes_of(  # noqa: PLR0911 - one case for each record
        self,
        record: (
            HorizonMoved
            | BindingSaved
            | ProcessedChanged
            | ScheduleSaved
            | RefillingChanged
            | PartitionFilled
        ),
    ) -> list[Op]:
        """The operations of a record that is kept as a note."""
        notes = self._file.tables.notes
        match record:
            case HorizonMoved(key, horizon):
                return [Put(notes, horizon_key(key), pack_stamp(horizon))]
            case BindingSaved(binding):
                return [Put(notes, binding_key(binding), pack_binding(binding))]
            case ProcessedChanged(seqs=()):
                return [Delete(notes, processed_key(record))]
            case ProcessedChanged():
                return [Put(notes, processed_key(record), pack_processed(record))]
            case ScheduleSaved(schedule):
                return [Put(notes, schedule_key(schedule), pack_schedule(schedule))]
            case RefillingChanged(refilling):
                mark = Put(notes, REFILLING, b"") if refilling else Delete(notes, REFILLING)
                return [DeleteAll(notes, FILLED), mark]
            case PartitionFilled(key):
                return [Put(notes, filled_key(key), b"")]

    def _id_of(self, space: Space, key: PartitionKey) -> int:
        found = self._ids.get((space, key))
        if found is None:
            found = self._ids[space, key] = self._next_id
            self._next_id += 1
        return found

    def _id_for(self, space: Space, key: PartitionKey, write: Write) -> int:
        """The partition's id; its row goes with each write until one was durable."""
        found = self._id_of(space, key)
        if found not in self._durable_ids:
            row = id_key(found)
            write.ops.append(Put(self._file.tables.partitions, row, pack_partition(space, key)))
            write.ids += (found,)
        return found

    def _finish(self, finished: deque[tuple[Write, StoreError | None]]) -> None:
        try:
            while finished:
                write, error = finished.popleft()
                for key in write.batches:
                    if error is None:
                        self._cache.unpin(key)
                    else:
                        self._cache.drop(key)
                if error is None and write.ids:
                    self._durable_ids.update(write.ids)
                if isinstance(error, StoreFullError):
                    self._told += 1
                write.done(error)
        finally:
            if finished:  # a `done` raised, which the loop reports: the others are called still
                self._loop.call_soon(self._finish, finished)

    # ---------------------------------------------------------------------- in the writer's thread

    def _run(self, opened: asyncio.Future[Recovered]) -> None:
        lock = None
        try:
            make_directory(self.path)
            lock = DirectoryLock(self.path)
            self._file = DataFile(self.path, self._node_id)
            try:
                recovered, self._ids = self._file.recover()
                self._durable_ids = set(self._ids.values())
                self._next_id = max(self._durable_ids, default=-1) + 1
                self._call(_settle, opened, recovered)
                self._commit_until_closed()
            finally:
                self._file.close()
        except Exception as error:  # noqa: BLE001 - no caller sees it: who opens is told
            self._call(_fail, opened, error)
        finally:
            if lock is not None:
                lock.release()
            self._call(_settle, self._closed, None)

    def _commit_until_closed(self) -> None:
        failed: StoreError | None = None
        while True:
            with self._lock:
                ready = bool(self._groups) and (self._groups[0].urgent or self._closing)
                group = self._groups.popleft() if ready else None
                if group is None:
                    if self._closing:
                        return
                    self._idle = True
                    self._wake.clear()
            if group is None:
                self._wake.wait()
                continue
            errors: list[StoreError | None] = []
            if failed is None:
                failed = self._commit(group, errors)
            if failed is not None:
                errors = [failed] * len(group.writes)
            self._call(self._finish, deque(zip(group.writes, errors, strict=True)))

    def _commit(self, group: Group, errors: list[StoreError | None]) -> StoreError | None:
        """Commit the group and say how each write went; or why nothing is written any more."""
        try:
            errors += self._file.commit(group)
        except StoreError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever it is, every write must be answered
            return StoreError(
                f"the store under {self.path} failed ({error!r}): the node stops, and recovers "
                "what is there when it is started again"
            )
        return None

    def _call(self, function: Callable[..., None], *args: object) -> None:
        """Have the loop's thread call it; a loop that was closed meanwhile wants no answer."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)


def _settle(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
