"""The bodies of the benchmark's messages, and the count of what arrived.

A body carries its number and, where latency is taken, the time of its
publish call by the monotonic clock, which all processes of a machine share.

Invariant: a run counts only if every number arrived.
"""

from __future__ import annotations

import struct
import time
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = struct.Struct("<QQ")
SIZE_MIN = HEADER.size


class Bodies:
    """Makes the bodies of one run, each of `size` bytes."""

    def __init__(self, size: int) -> None:
        assert size >= SIZE_MIN
        self._rest = bytes(size - HEADER.size)

    def numbered(self, count: int) -> Iterator[bytes]:
        """`count` bodies without a time."""
        pack, rest = HEADER.pack, self._rest
        for number in range(count):
            yield pack(number, 0) + rest

    def stamped(self, number: int) -> bytes:
        """A body that says when it was made."""
        return HEADER.pack(number, time.monotonic_ns()) + self._rest


class Tally:
    """The consumer's handler: what arrived, how often, and (with `timed`) after how long."""

    def __init__(self, count: int, *, skip: int = 0, timed: bool = False) -> None:
        self._seen = bytearray(count)
        self._skip = skip
        self._timed = timed
        self.left = count
        self.duplicates = 0
        self.latencies_ns: array[int] = array("q")

    def handle(self, body: bytes) -> None:
        """Take one message."""
        number, published_ns = HEADER.unpack_from(body)
        if self._seen[number]:
            self.duplicates += 1
            return
        self._seen[number] = 1
        self.left -= 1
        if self._timed and number >= self._skip:
            self.latencies_ns.append(time.monotonic_ns() - published_ns)

    def percentiles_us(self) -> dict[str, float]:
        """The median, the 99th percentile and the maximum, in microseconds."""
        ordered = sorted(self.latencies_ns)
        if not ordered:
            return {}
        last = len(ordered) - 1
        ranks = {"p50_us": last // 2, "p99_us": last * 99 // 100, "max_us": last}
        return {name: ordered[rank] / 1000 for name, rank in ranks.items()}
