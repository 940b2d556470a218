"""What a check of a history finds.

Invariant: it names its check, and tells what happened in one line.
"""

from __future__ import annotations

from typing import NamedTuple


class Violation(NamedTuple):
    """A promise that was broken: which check says so, and what happened."""

    check: str
    text: str

    def __str__(self) -> str:
        return f"{self.check}: {self.text}"
