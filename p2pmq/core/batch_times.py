"""Moments of stored batches: when each is due for something, a heap for a whole partition.

A batch that is gone leaves its entry, which is passed over when its time comes, or
cleared away when such entries are most: so a million batches need one timer.

Invariant: every entry was pushed for a batch that was there; at most half of the
entries, and STALE_MAX, are of batches that are gone.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

STALE_MAX = 1_024
"""So many entries of batches that are gone, and as many as there are batches, may stay."""


class BatchTimes:
    """(when, batch number) of the batches of one partition. `there` are those that are not gone."""

    __slots__ = ("_heap", "_room", "_there")

    def __init__(self, there: Container[int]) -> None:
        self._there = there
        self._heap: list[tuple[int, int]] = []
        self._room = STALE_MAX

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._heap)

    @property
    def next(self) -> int | None:
        """When the first of them is due, or proves to be gone."""
        return self._heap[0][0] if self._heap else None

    def push(self, at: int, number: int) -> None:
        """A batch is due at this time."""
        if len(self._heap) >= self._room:
            self._heap = [entry for entry in self._heap if entry[1] in self._there]
            heapq.heapify(self._heap)
            self._room = 2 * len(self._heap) + STALE_MAX
        heapq.heappush(self._heap, (at, number))

    def pop_due(self, now: int) -> list[int]:
        """The numbers of the batches that are due, each told once, in order; the gone left out."""
        found: list[int] = []
        while self._heap and self._heap[0][0] <= now:
            number = heapq.heappop(self._heap)[1]
            if number in self._there:
                found.append(number)
        return found
