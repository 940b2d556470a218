"""The store port: records made durable in groups, bodies read back.

A write is one atomic unit. It is durable when its callback is called without
an error, not before; writes complete in the order they were given. Writes that
are given while one is on its way to the disk are committed together by the
next (group commit).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2pmq.core.records import Record, Recovered, StoredBodies
    from p2pmq.errors import StoreError
    from p2pmq.wire.bodies import PackedBodies

WriteDone: TypeAlias = "Callable[[StoreError | None], None]"


class Store(Protocol):
    """Where a node keeps what must outlive it."""

    async def open(self) -> Recovered:
        """Open, lock, and give back what is there; a new store draws its ids.

        Raises DataDirectoryError, DataDirectoryLockedError, StoreCorruptError, StoreFullError.
        """
        ...

    def write(self, records: Sequence[Record], done: WriteDone, *, patient: bool = False) -> None:
        """Make the records durable, then call `done` in the loop's thread.

        A `patient` write may wait some milliseconds for others to be committed
        with, since nobody's latency hangs on it (acks, for one).

        `done(None)`: durable. `done(StoreFullError)`: the disk is full, nothing of
        it was written, later writes may succeed; only writes that store a batch
        are refused while the reserve lasts. `done(StoreCorruptError)` with `bad`:
        bodies to be copied (a batch whose bodies are `StoredBodies`) cannot be
        read, nothing of it was written, later writes go on. `done(another
        StoreError)`: the disk failed, nothing later is written either.
        """
        ...

    def read(self, where: StoredBodies) -> PackedBodies:
        """The bodies as they were written; there from `write` on, before they are durable.

        Positions are those of the batch as it was stored, whatever was trimmed since.
        Raises StoreCorruptError, with `bad` (positions within `where`) whose checksums are
        wrong, and KeyError where there is no such batch, or where some of the bodies were
        trimmed (not alive) and the batch was rewritten without them.
        """
        ...

    async def close(self) -> None:
        """Finish the writes that were given, then close."""
        ...
