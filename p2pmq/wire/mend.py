"""One flipped bit in the structure of a blob, found and flipped back.

A checksum tells which body is bad as long as the blob can be unpacked; but a
bit flipped in one of the few bytes between the bodies (a length, a type) makes
all of it unreadable. The walk along the lengths goes astray right there, so
the culprit is a header byte that the walk has passed: flip each of their bits
in turn, keep those where the walk goes on plausibly, and let the checksums
decide.

Invariant: what comes out unpacks, and at most one message of it is bad.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.wire.bodies import BodiesError, PackedBodies

if TYPE_CHECKING:
    from collections.abc import Iterator

BIN_SIZES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
"""msgpack's types of bin, and the bytes of their lengths."""
ARRAY_SIZES = {0xDC: 2, 0xDD: 4}
FIXARRAY = 0x90
FIXARRAY_MASK = 0xF0
STEPS_AHEAD = 3
TAIL_BYTES = 64
TRIES_MAX = 100_000
"""Bounds the work to some seconds, whatever lies on the disk."""


def mend(blob: bytes) -> PackedBodies | None:
    """The bodies of a blob that raises BodiesError, if one flipped bit is to blame; else None.

    It takes milliseconds to seconds and blocks: a repair, not a read.
    """
    damaged = bytearray(blob)
    for tries, (at, size) in enumerate(_suspects(blob)):
        if tries > TRIES_MAX:
            break
        for position in range(at, min(at + size, len(blob))):
            for bit in range(8):
                damaged[position] ^= 1 << bit
                if _goes_on(damaged, at):
                    mended = _unpacked(bytes(damaged))
                    if mended is not None:
                        return mended
                damaged[position] ^= 1 << bit
    return None


def _suspects(blob: bytes) -> Iterator[tuple[int, int]]:
    """Where the headers lie that a walk passes until it goes astray, and the tail of the blob."""
    yield 0, 1
    yield 1, 5
    at = _array_end(blob, 1)
    while at < len(blob):
        size = BIN_SIZES.get(blob[at])
        if size is None:
            yield at, 5
            break
        yield at, 1 + size
        at += 1 + size + int.from_bytes(blob[at + 1 : at + 1 + size], "big")
    yield max(0, len(blob) - TAIL_BYTES), TAIL_BYTES


def _array_end(blob: bytes | bytearray, at: int) -> int:
    return at + 1 + ARRAY_SIZES.get(blob[at] if at < len(blob) else 0, 0)


def _goes_on(blob: bytearray, at: int) -> bool:
    """Whether the next few headers from a header on are bins that fit, or the end is near."""
    if at <= 1:
        return True
    for _ in range(STEPS_AHEAD):
        if at >= len(blob) - TAIL_BYTES:
            return True
        size = BIN_SIZES.get(blob[at])
        if size is None:
            return False
        at += 1 + size + int.from_bytes(blob[at + 1 : at + 1 + size], "big")
    return at <= len(blob)


def _unpacked(blob: bytes) -> PackedBodies | None:
    bodies = PackedBodies.from_blob(blob)
    try:
        return bodies if len(bodies.verify()) <= 1 else None
    except BodiesError:
        return None
