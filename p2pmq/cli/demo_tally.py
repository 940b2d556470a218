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


class LedgerReader:
    """Follows a ledger while it is written; it need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def news(self) -> list[bytes]:
        """The whole entries that have come since the last time."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as ledger:
            ledger.seek(self._offset)
            whole, _, _ = ledger.read().rpartition(b"\n")
        self._offset += len(whole) + 1 if whole else 0
        return [line for line in whole.split(b"\n") if len(line) == ENTRY_BYTES - 1]


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of lines.

    `published` were confirmed to the publisher, and `lost` are those of them
    that nobody processed. `duplicated` counts the second and later times,
    `damaged` what was processed and is none of the lines, and `unconfirmed`
    the lines that were not confirmed before the demo ended.
    """

    published: int
    processed: int
    lost: int
    duplicated: int
    damaged: int
    unconfirmed: int

    @property
    def is_good(self) -> bool:
        """Whether every line was confirmed, and came through whole."""
        return not (self.lost or self.damaged or self.unconfirmed)


class Books:
    """All ledgers of the demo: what was confirmed to the publisher, what consumers did."""

    def __init__(
        self, messages: Iterable[bytes], publisher: Path, consumers: Iterable[Path]
    ) -> None:
        self._lines = {entry_of(message)[:-1] for message in messages}
        self._publisher = LedgerReader(publisher)
        self._consumers = [LedgerReader(path) for path in consumers]
        self._confirmed: set[bytes] = set()
        self._done: set[bytes] = set()
        self._times_done = 0

    def look(self) -> tuple[int, int, int]:
        """Read what is new; how many lines were published and processed, and how often in all."""
        self._confirmed.update(self._publisher.news())
        for ledger in self._consumers:
            news = ledger.news()
            self._done.update(news)
            self._times_done += len(news)
        return len(self._confirmed), len(self._done), self._times_done

    def tally(self) -> Tally:
        """The result, from what has been read."""
        return Tally(
            published=len(self._confirmed),
            processed=len(self._done & self._lines),
            lost=len(self._confirmed - self._done),
            duplicated=self._times_done - len(self._done),
            damaged=len(self._done - self._lines),
            unconfirmed=len(self._lines - self._confirmed),
        )
