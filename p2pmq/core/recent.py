"""Recent: whether a number of one process came before, in bounded memory.

Invariant: no number is new twice; what is older than all that is remembered is not new.
"""

from __future__ import annotations

REMEMBERED_MAX = 8_192


class Recent:
    """Numbers of one process, which mostly rise."""

    __slots__ = ("_floor", "_numbers")

    def __init__(self) -> None:
        self._floor = 0
        self._numbers: dict[int, None] = {}

    def is_new(self, number: int) -> bool:
        """Whether it comes for the first time; from now on it has."""
        if number <= self._floor or number in self._numbers:
            return False
        self._numbers[number] = None
        if len(self._numbers) > REMEMBERED_MAX:
            kept = sorted(self._numbers)[REMEMBERED_MAX // 2 :]
            self._floor = kept[0] - 1
            self._numbers = dict.fromkeys(kept)
        return True
