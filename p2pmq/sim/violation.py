"""What a check of a history finds.

Invariant: it names its check, and tells what happened in one line.
"""

from __future__ import annotations

from typing import NamedTuple


class Violation(NamedTuple):
    """A promise that was broken: which check says so, and what happened.

    >>> print(Violation("order_is_kept", "q/5e01-2 came before q/5e01-1"))
    order_is_kept: q/5e01-2 came before q/5e01-1
    """

    check: str
    text: str

    def __str__(self) -> str:
        return f"{self.check}: {self.text}"
