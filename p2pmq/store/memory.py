"""The store in memory: the disk's contract for nodes that need to survive nothing.

Invariant: a write is whole or not there, and its `done` comes in a later turn of
the loop, as a disk's would: who runs well on this store does not depend on luck.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from p2pmq.core.ids import ID_BYTES
from p2pmq.core.records import (
    BatchRemoved,
    BatchStored,
    BatchTrimmed,
    PartitionRemoved,
    Recovered,
    Space,
    StoredBodies,
)
from p2pmq.store.cache import Segment, part, whole
from p2pmq.store.writes import SHRINK_FRACTION
from p2pmq.wire.bodies import PackedBodies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pmq.core.ids import PartitionKey
    from p2pmq.core.records import Record
    from p2pmq.store.base import WriteDone

Held = tuple[int, tuple[Segment, ...]]
"""A batch's first seq, and its bodies."""


class MemoryStore:
    """The Store port without a disk. Ids that are not given are drawn, at each opening anew."""

    def __init__(self, *, node_id: bytes | None = None, store_id: bytes | None = None) -> None:
        self._node_id = node_id
        self._store_id = store_id
        self._batches: dict[tuple[Space, PartitionKey], dict[int, Held]] = {}
        self._given = 0
        self._all_done: asyncio.Event = asyncio.Event()
        self._all_done.set()

    async def open(self) -> Recovered:
        """An empty store, always."""
        self._batches.clear()
        return Recovered(
            node_id=self._node_id or os.urandom(ID_BYTES),
            store_id=self._store_id or os.urandom(ID_BYTES),
            boot=1,
            incarnation=0,
        )

    def write(
        self,
        records: Sequence[Record],
        done: WriteDone,
        *,
        patient: bool = False,  # noqa: ARG002  nothing is waited for here
    ) -> None:
        """Keep the bodies of the records; call `done` in the next turn of the loop."""
        for record in records:
            match record:
                case BatchStored(space, key, number, batch):
                    bodies = batch.bodies
                    if isinstance(bodies, StoredBodies):
                        bodies = self.read(bodies)
                    assert isinstance(bodies, PackedBodies)
                    held = (batch.first, whole(bodies, batch.count))
                    self._batches.setdefault((space, key), {})[number] = held
                case BatchTrimmed(space, key, number, alive):
                    batches = self._batches.get((space, key), {})
                    if number in batches:
                        batches[number] = _trimmed(batches[number], alive)
                case BatchRemoved(space, key, number):
                    self._batches.get((space, key), {}).pop(number, None)
                case PartitionRemoved(key):
                    self._batches.pop((Space.PARTITION, key), None)
                case _:
                    pass  # nothing else is ever read back
        self._given += 1
        self._all_done.clear()
        asyncio.get_running_loop().call_soon(self._finish, done)

    def read(self, where: StoredBodies) -> PackedBodies:
        """The bodies as they were given. Raises KeyError where there are none."""
        _, segments = self._batches[where.space, where.key][where.number]
        return part(segments, where.start, where.stop, "memory")

    async def close(self) -> None:
        """Let every `done` be called, then forget everything."""
        await self._all_done.wait()
        self._batches.clear()

    def _finish(self, done: WriteDone) -> None:
        self._given -= 1
        if not self._given:
            self._all_done.set()
        done(None)


def _trimmed(held: Held, alive: Sequence[tuple[int, int]]) -> Held:
    """The batch; without its dead bodies, if those are most of it (as the disk does)."""
    first, segments = held
    kept = sum(segment.stop - segment.start for segment in segments)
    if not alive or sum(high - low + 1 for low, high in alive) * SHRINK_FRACTION >= kept:
        return held
    spans = [(low - first, high - first + 1) for low, high in alive]
    return first, tuple(
        Segment(start, stop, part(segments, start, stop, "memory")) for start, stop in spans
    )
