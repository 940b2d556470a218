"""Lines of a file or a pipe, as bytes, a block at a time.

Invariant: joined by newlines, what is given out is what was read; only one
newline at the very end is not told from none.
"""

from __future__ import annotations

import os

from p2pmq.errors import BodyTooLargeError

BLOCK_BYTES = 256 * 1024
"""One read; about what one packet of bodies holds."""


class LineSplitter:
    """Cuts blocks into lines of at most `line_bytes_max`; what is unfinished waits."""

    def __init__(self, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._rest: list[bytes] = []
        self._rest_bytes = 0

    def feed(self, block: bytes) -> list[bytes]:
        """The lines that end in `block`. Raises BodyTooLargeError, with `block` not taken in."""
        *lines, rest = block.split(b"\n")
        first_bytes = self._rest_bytes + len(lines[0]) if lines else 0
        rest_bytes = len(rest) if lines else self._rest_bytes + len(rest)
        longest = max(first_bytes, rest_bytes, *map(len, lines), 0)
        if longest > self._line_bytes_max:
            raise BodyTooLargeError(longest, self._line_bytes_max)
        if not lines:
            self._rest.append(rest)
        else:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest = [rest]
        self._rest_bytes = rest_bytes
        return lines

    def end(self) -> list[bytes]:
        """The last line, if it did not end in a newline."""
        rest = b"".join(self._rest)
        self._rest, self._rest_bytes = [], 0
        return [rest] if rest else []


def read_block(descriptor: int) -> bytes:
    """What can be read now, or nothing at the end; waits for one or the other."""
    return os.read(descriptor, BLOCK_BYTES)
