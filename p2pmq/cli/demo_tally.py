"""What the demo's services did, written down so that it outlives a kill -9, and counted.

Each line that a service published or processed is an entry in a file of its
own: the line's number and checksum, written before the confirm or the ack that
follows from it. An entry that a kill cut short is no entry; its line was not acked.

Invariant: the result comes from these files alone, not from what a process says.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

NUMBER_DIGITS = 9
ENTRY_BYTES = NUMBER_DIGITS + 1 + 8 + 1
Entry = tuple[bytes, bytes]


def numbered(number: int, text: bytes) -> bytes:
    """The message for one line: its number, which makes it unique, and its text."""
    return b"%0*d %b" % (NUMBER_DIGITS, number, text)


def entry_of(message: bytes) -> bytes:
    """The entry that says that this message was published, or processed."""
    return b"%b %08x\n" % (message[:NUMBER_DIGITS], crc32(message))


class Ledger:
    """A file of entries that one service writes."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if os.fstat(self._descriptor).st_size % ENTRY_BYTES:
            os.write(self._descriptor, b"\n")  # the end of an entry that a kill cut short

    def add(self, messages: Iterable[bytes]) -> None:
        """Hand entries for all messages to the kernel, which keeps them when we are killed."""
        view = memoryview(b"".join(map(entry_of, messages)))
        while view:
            view = view[os.write(self._descriptor, view) :]


def entries_in(path: Path) -> list[Entry]:
    """The whole entries of a ledger."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().split(b"\n"):
        if len(line) == ENTRY_BYTES - 1:
            number, _, checksum = line.partition(b" ")
            found.append((number, checksum))
    return found


def count_in(path: Path) -> int:
    """About how many entries a ledger has, at the price of a look at its size."""
    try:
        return path.stat().st_size // ENTRY_BYTES
    except FileNotFoundError:
        return 0


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of lines.

    `duplicated` counts the second and later times; `damaged` are lines that
    were processed with another text than was published, or never published.
    """

    published: int
    processed: int
    lost: int
    duplicated: int
    damaged: int

    @classmethod
    def of(cls, published: list[Entry], processed: list[Entry]) -> Tally:
        """Compare what was confirmed to the publisher with what consumers did."""
        confirmed, done = set(published), set(processed)
        return cls(
            published=len(confirmed),
            processed=len(done & confirmed),
            lost=len(confirmed - done),
            duplicated=len(processed) - len(done),
            damaged=len(done - confirmed),
        )
