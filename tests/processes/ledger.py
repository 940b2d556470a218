"""What services did, written down so that a kill -9 cannot take it back, and Jepsen's total-queue.

An entry is in the kernel's hands before what follows from it (the publish after a "try", the ack
after a "got"). One that a kill cut short is no entry: what follows from it was not done either.

Invariant: the result comes from these files alone, not from what a process says.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

PROMISED = ("committed", "stored")


class Ledger:
    """The file of one process; it may have been begun by an earlier one, which was killed."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(self._descriptor, b"\n")  # the end of an entry that a kill cut short

    def add(self, kind: str, names: Iterable[str]) -> None:
        """Add an entry for each of the messages."""
        at = time.monotonic()
        view = memoryview("".join(f"{kind} {at:.6f} {name} .\n" for name in names).encode())
        while view:
            view = view[os.write(self._descriptor, view) :]


@dataclass(slots=True)
class Books:
    """All ledgers together: for each message, the times at which something was done with it."""

    attempted: dict[str, float] = field(default_factory=dict)
    acknowledged: dict[str, float] = field(default_factory=dict)
    got: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def read(cls, ledgers: Iterable[Path]) -> Books:
        """What the ledgers say now; a service may be writing meanwhile."""
        books = cls()
        for ledger in ledgers:
            lines = ledger.read_text().split("\n") if ledger.exists() else []
            for line in lines:
                match line.split(" "):
                    case ["try", at, name, "."]:
                        books.attempted[name] = float(at)
                    case ["got", at, name, "."]:
                        books.got.setdefault(name, []).append(float(at))
                    case [kind, at, name, "."] if kind in PROMISED:
                        books.acknowledged[name] = float(at)
        for times in books.got.values():
            times.sort()
        return books

    @property
    def lost(self) -> set[str]:
        """Promised to be kept, and nobody got them."""
        return self.acknowledged.keys() - self.got.keys()

    @property
    def unexpected(self) -> set[str]:
        """Nobody published them."""
        return self.got.keys() - self.attempted.keys()

    @property
    def recovered(self) -> set[str]:
        """Somebody got them though they had not been confirmed."""
        return (self.got.keys() & self.attempted.keys()) - self.acknowledged.keys()

    @property
    def duplicated(self) -> int:
        """Deliveries beyond a message's first."""
        return sum(len(times) - 1 for times in self.got.values())

    def unexplained(self, disturbed: Sequence[tuple[float, float]]) -> list[str]:
        """Messages that came again though nothing was disturbed from the one to the other."""
        return [
            name
            for name, times in self.got.items()
            for former, later in pairwise(times)
            if not any(start <= later and former <= end for start, end in disturbed)
        ]

    def __str__(self) -> str:
        return (
            f"{len(self.attempted)} attempted, {len(self.acknowledged)} acknowledged, "
            f"{len(self.got)} delivered, {len(self.lost)} lost, {self.duplicated} duplicated, "
            f"{len(self.unexpected)} unexpected, {len(self.recovered)} recovered"
        )
