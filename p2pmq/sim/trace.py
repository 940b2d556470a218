"""The trace: everything that crossed the simulated network or a disk, as one hash.

Two runs of one seed must give the same hash; the first difference shows up as
a different one. With `keep` the lines themselves are kept, to find where.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pmq.sim.loop import SimLoop


class Trace:
    """A running hash over a simulation's history."""

    def __init__(self, loop: SimLoop, *, keep: bool = False) -> None:
        self._loop = loop
        self._hash = hashlib.blake2b(digest_size=16)
        self.lines: list[str] | None = [] if keep else None
        self.count = 0

    def add(self, kind: str, source: str, target: str, frames: Sequence[bytes] = ()) -> None:
        """Mix one happening in."""
        checksum = 0
        for frame in frames:
            checksum = crc32(frame, checksum)
        line = f"{self._loop.time():.6f} {kind} {source} {target} {checksum:08x}\n"
        self._hash.update(line.encode())
        self.count += 1
        if self.lines is not None:
            self.lines.append(line)

    @property
    def digest(self) -> str:
        """The hash so far, in hex."""
        return self._hash.hexdigest()
