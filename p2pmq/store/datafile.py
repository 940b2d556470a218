"""The LMDB file of one node: opened, made room in, written to, read from.

The file is allocated ahead in steps, and LMDB's map is never larger than it.
So LMDB itself never makes the file longer: "map full" is the one sign that
room is needed, a full disk is found before a transaction and not in the middle
of one, and a file that is shorter than its last page was cut by somebody else
(reading it would end in SIGBUS). Some pages are kept back: removing messages
from a full disk needs pages, too, before it frees any (copy on write).

All but `read` and `recover` is called by one thread at a time. Invariant: the
file is at least as long as the map, and the last page lies within both.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from typing import TYPE_CHECKING

import lmdb

from p2pmq.errors import DataDirectoryError, StoreCorruptError, StoreError, StoreFullError
from p2pmq.store.cache import Segment
from p2pmq.store.directory import sync_directory
from p2pmq.store.layout import LayoutError, unpack_meta, unseal
from p2pmq.store.recovery import recover, start
from p2pmq.store.writes import PutBatch, Refusals, Tables, Work, Write, split
from p2pmq.wire.bodies import BodiesError, PackedBodies

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from p2pmq.core.records import Recovered
    from p2pmq.store.recovery import Identity, PartitionIds
    from p2pmq.store.writes import Group

FILE_NAME = "data.mdb"
STEP_BYTES_MIN = 4 * 1024 * 1024
STEP_BYTES_MAX = 64 * 1024 * 1024
STEP_FRACTION = 8
"""The file grows by an eighth of its size, within these bounds."""
STEP_BYTES_LEAST = 64 * 1024
"""A nearly full disk is used up in steps of no less."""
RESERVE_BYTES = 1024 * 1024
"""Kept back for removals. One needs a copy of each page on the way to its rows: some 20 pages."""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_LMDB = (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError)


class DataFile:
    """An LMDB environment that grows by itself."""

    def __init__(self, path: Path, node_id: bytes | None) -> None:
        """Open the file, or make one; its directory is there and locked.

        Raises DataDirectoryError, StoreCorruptError, StoreFullError.
        """
        self.path = path
        self._map_lock = threading.Lock()
        """Held while somebody reads, or the map is replaced: LMDB allows only one of them."""
        self._refusals = Refusals()
        self._full = False
        self.bytes = 0
        self._env = self._open_env()
        try:
            self._refuse_a_cut_file()
            self._descriptor = os.open(path / FILE_NAME, os.O_RDWR | os.O_CLOEXEC)
        except BaseException:
            self._env.close()
            raise
        try:
            self.tables, self.identity = self._open_tables(node_id)
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------------------------- opening

    def _open_env(self) -> lmdb.Environment:
        if sys.maxsize < 2**32:
            raise StoreError(
                "this Python is a 32-bit one, and LMDB maps the whole store into memory: "
                "use a 64-bit Python, or store='memory' if nothing needs to survive a restart"
            )
        file = self.path / FILE_NAME
        try:
            size = file.stat().st_size if file.exists() else 0
            # Durability is LMDB's default (sync, metasync, no writemap); nothing here loosens it.
            return lmdb.open(
                str(self.path), map_size=max(_pages(size), STEP_BYTES_MIN), max_dbs=8, mode=0o600
            )
        except _NOT_LMDB as error:
            raise StoreCorruptError(str(self.path), f"{FILE_NAME}: {error}") from error
        except (lmdb.Error, OSError) as error:
            if _is_no_room(error):
                raise StoreFullError(str(self.path)) from error
            raise DataDirectoryError(str(self.path), f"LMDB says {error}") from error

    def _refuse_a_cut_file(self) -> None:
        # Looks only at the two pages that were read, not mapped, when it was opened.
        self.bytes = (self.path / FILE_NAME).stat().st_size
        needed = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        if self.bytes < needed:
            reason = f"{FILE_NAME} was cut: it has {self.bytes:,} of {needed:,} bytes"
            raise StoreCorruptError(str(self.path), reason)

    def _open_tables(self, node_id: bytes | None) -> tuple[Tables, Identity]:
        """All in one transaction, so that a store is there wholly or not at all."""
        is_new = self._env.stat()["entries"] == 0
        try:
            if self.bytes < STEP_BYTES_MIN:
                self._full = not self._allocate(STEP_BYTES_MIN)
            self._set_map_bytes(self.bytes)  # the reserve as well: a full store must open
            with self._env.begin(write=True) as txn:
                names = Tables._fields
                tables = Tables(*(self._env.open_db(name.encode(), txn=txn) for name in names))
                identity = start(txn, tables, self.path, node_id, is_new=is_new)
            if is_new:
                sync_directory(self.path)
            if not self._full:
                self._set_map_bytes(self.bytes - RESERVE_BYTES)
        except lmdb.MapFullError as error:
            raise StoreFullError(str(self.path)) from error
        except (lmdb.Error, LayoutError, OSError) as error:
            raise self._error_of(error) from error
        return tables, identity

    def recover(self) -> tuple[Recovered, PartitionIds]:
        """All but the bodies, and the ids of the partitions in use. Raises StoreCorruptError."""
        try:
            with self._map_lock, self._env.begin(buffers=True) as txn:
                return recover(txn, self.tables, self.identity)
        except (lmdb.Error, LayoutError) as error:
            raise self._error_of(error) from error

    def close(self) -> None:
        """Let go of the file."""
        with self._map_lock:
            self._env.close()
            os.close(self._descriptor)

    # ------------------------------------------------------------------------------- reading

    def read(self, key: bytes) -> tuple[Segment, ...]:
        """The bodies of a batch, with their checksums checked.

        Raises KeyError where there is no such batch, StoreCorruptError where it
        cannot be told what belongs to it.
        """
        try:
            with self._map_lock, self._env.begin(buffers=True) as txn:
                row = txn.get(key, db=self.tables.meta)
                if row is None:
                    raise KeyError(key)
                meta = unpack_meta(unseal(key, bytes(row)))
                found = txn.get(key, db=self.tables.bodies)
                blob = b"" if found is None else bytes(found)
        except LayoutError as error:
            raise StoreCorruptError(str(self.path), str(error)) from error
        except lmdb.Error as error:
            raise self._error_of(error) from error
        segments = []
        for part, bodies in split(meta, blob):
            bad = tuple(part.start + at for at in _damaged(bodies, part.stop - part.start))
            segments.append(Segment(part.start, part.stop, bodies, bad))
        return tuple(segments)

    # ------------------------------------------------------------------------------- writing

    def commit(self, group: Group) -> list[StoreError | None]:
        """Make the group durable; for each write None, or StoreFullError if it was refused.

        Raises another StoreError when the disk failed: nothing later may be written.
        """
        writes = group.writes
        self._refusals.forget(writes[0].told)
        try:
            self._transact(writes, together=True)
        except StoreFullError as error:
            if len(writes) == 1 and self._is_refusable(writes[0]):
                self._refusals.refuse(writes[0])
                return [error]
            return [self._commit_alone(write) for write in writes]
        return [None] * len(writes)

    def _commit_alone(self, write: Write) -> StoreError | None:
        try:
            self._transact([write], together=False)
        except StoreFullError as error:
            self._refusals.refuse(write)
            return error
        return None

    def _transact(self, writes: list[Write], *, together: bool) -> None:
        """One transaction, again with more room while there is some. Raises StoreFullError."""
        if self._full:
            self._grow()
        while True:
            try:
                with self._env.begin(write=True) as txn:
                    self._apply(writes, txn, together=together)
            except lmdb.MapFullError as error:
                if self._full or not self._grow():
                    raise StoreFullError(str(self.path)) from error
            except (lmdb.Error, LayoutError, OSError) as error:
                raise self._error_of(error) from error
            else:
                return

    def _apply(self, writes: list[Write], txn: lmdb.Transaction, *, together: bool) -> None:
        work = Work(txn, self.tables, self._refusals, may_shrink=not self._full)
        for write in writes:
            work.told = write.told
            for op in write.ops:
                if not (together and op.skip):
                    op.apply(work)
        if self._full and any(self._is_refusable(write) for write in writes):
            self._keep_the_reserve(txn)

    def _is_refusable(self, write: Write) -> bool:
        return any(isinstance(op, PutBatch) for op in write.ops)

    def _keep_the_reserve(self, txn: lmdb.Transaction) -> None:
        """Raise StoreFullError, which aborts, if new messages leave too little for removals."""
        stats = [txn.stat(table) for table in self.tables]
        used = 16 + sum(
            stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats
        )
        page = stats[0]["psize"]
        free = self.bytes // page - used
        # LMDB's own list of free pages: 8 bytes each, of pages that are half full.
        free -= 2 * 8 * free // page
        if free * page < RESERVE_BYTES:
            raise StoreFullError(str(self.path))

    # ---------------------------------------------------------------------------------- room

    def _grow(self) -> bool:
        """Make the file longer by a step, or by what the disk has; whether it got longer."""
        step = max(STEP_BYTES_MIN, min(self.bytes // STEP_FRACTION, STEP_BYTES_MAX))
        grown = False
        while step >= STEP_BYTES_LEAST:
            if self._allocate(self.bytes + _pages(step)):
                grown = True
                break
            step //= 2
        self._full = not grown
        # On a full disk the reserve comes into reach, for removals alone (_keep_the_reserve).
        self._set_map_bytes(self.bytes if self._full else self.bytes - RESERVE_BYTES)
        return grown

    def _allocate(self, size: int) -> bool:
        """Make the file `size` bytes long, with all blocks; False on a full disk."""
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._descriptor, self.bytes, size - self.bytes)
            else:  # macOS: a full disk shows in the commit, which LMDB takes back
                os.ftruncate(self._descriptor, size)
        except OSError as error:
            if error.errno in _NO_ROOM:
                return False
            raise
        self.bytes = size
        return True

    def _set_map_bytes(self, size: int) -> None:
        with self._map_lock:
            self._env.set_mapsize(size)

    def _error_of(self, error: Exception) -> StoreError:
        if _is_no_room(error):
            return StoreFullError(str(self.path))
        if isinstance(error, (LayoutError, *_NOT_LMDB, lmdb.PageNotFoundError)):
            return StoreCorruptError(str(self.path), str(error))
        return StoreError(
            f"the disk under {self.path} failed ({error}): what was not confirmed may be lost; "
            "the node stops, and recovers what is there when it is started again; check the disk"
        )


def _damaged(bodies: PackedBodies, wanted: int) -> Sequence[int]:
    try:
        bad = bodies.verify()
        return bad if len(bodies) == wanted else range(wanted)
    except BodiesError:
        return range(wanted)


def _pages(size: int) -> int:
    """The size, rounded up to whole pages of any machine."""
    return -(-size // 65_536) * 65_536


def _is_no_room(error: Exception) -> bool:
    return isinstance(error, lmdb.DiskError) or getattr(error, "errno", None) in _NO_ROOM
