"""Bodies in memory: those on their way to the disk, and the last few read or written.

A message is usually sent to replicas and to a consumer right after it was
stored, so that the disk is read only for a backlog.

Invariant: what is not durable yet is never evicted, for it can be read nowhere
else; the rest stays under the limit.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from p2pmq.errors import StoreCorruptError

if TYPE_CHECKING:
    from p2pmq.wire.bodies import PackedBodies

ENTRY_BYTES = 1024
"""What an entry costs beside its bodies (measured: 0.6 to 1 KiB)."""


class Segment(NamedTuple):
    """The bodies at positions start … stop - 1 of a batch; those at `bad` are damaged."""

    start: int
    stop: int
    bodies: PackedBodies
    bad: tuple[int, ...] = ()


def whole(bodies: PackedBodies, count: int) -> tuple[Segment, ...]:
    """A batch with all of its bodies."""
    return (Segment(0, count, bodies),)


def part(segments: tuple[Segment, ...], start: int, stop: int, path: str) -> PackedBodies:
    """The bodies at positions start … stop - 1.

    Raises KeyError if some of them are not kept any more, StoreCorruptError if some are damaged.
    """
    for segment in segments:
        if segment.start <= start and stop <= segment.stop:
            if segment.bad:
                bad = [at - start for at in segment.bad if start <= at < stop]
                if bad:
                    reason = f"{len(bad)} of {stop - start} bodies are not what was written"
                    raise StoreCorruptError(path, reason, bad)
            return segment.bodies.part(start - segment.start, stop - segment.start)
    raise KeyError((start, stop))


class BodiesCache:
    """Segments by the key of their batch."""

    __slots__ = ("_bytes_max", "_pinned", "_recent", "recent_bytes")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._pinned: dict[bytes, tuple[Segment, ...]] = {}
        self._recent: OrderedDict[bytes, tuple[tuple[Segment, ...], int]] = OrderedDict()
        self.recent_bytes = 0

    def get(self, key: bytes) -> tuple[Segment, ...] | None:
        """The batch, if it is here."""
        found = self._pinned.get(key)
        if found is not None:
            return found
        entry = self._recent.get(key)
        if entry is None:
            return None
        self._recent.move_to_end(key)
        return entry[0]

    def pin(self, key: bytes, segments: tuple[Segment, ...]) -> None:
        """Keep the batch until `unpin` or `drop`."""
        self._pinned[key] = segments

    def unpin(self, key: bytes) -> None:
        """The batch is durable: it may be evicted."""
        segments = self._pinned.pop(key, None)
        if segments is not None:
            self.keep(key, segments)

    def keep(self, key: bytes, segments: tuple[Segment, ...]) -> None:
        """Keep a batch that is on disk as well, while there is room."""
        # A blob and the bodies unpacked from it are both held by one PackedBodies.
        cost = ENTRY_BYTES + 2 * sum(len(segment.bodies.blob) for segment in segments)
        self._forget(key)
        self._recent[key] = (segments, cost)
        self.recent_bytes += cost
        while self.recent_bytes > self._bytes_max and self._recent:
            _, (_, evicted) = self._recent.popitem(last=False)
            self.recent_bytes -= evicted

    def drop(self, key: bytes) -> None:
        """The batch is gone."""
        self._pinned.pop(key, None)
        self._forget(key)

    def drop_prefix(self, prefix: bytes) -> None:
        """All batches are gone whose keys begin so."""
        for keys in (list(self._pinned), list(self._recent)):
            for key in keys:
                if key.startswith(prefix):
                    self.drop(key)

    def clear(self) -> None:
        """Let go of everything."""
        self._pinned.clear()
        self._recent.clear()
        self.recent_bytes = 0

    def _forget(self, key: bytes) -> None:
        entry = self._recent.pop(key, None)
        if entry is not None:
            self.recent_bytes -= entry[1]
