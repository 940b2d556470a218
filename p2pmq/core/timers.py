"""Deadlines by name: set, move, clear, and take those that are due.

The one place where the core keeps time. A moved deadline leaves its old heap
entry behind, which is skipped when it comes up, so that setting a timer costs
one push whatever the number of timers.
"""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

Name = TypeVar("Name")

STALE_MAX = 1_024
"""So many old entries stay in the heap, and as many as there are deadlines; then it is rebuilt."""


class Timers(Generic[Name]):
    """A set of named deadlines, in milliseconds of the core's clock."""

    __slots__ = ("_count", "_deadlines", "_heap")

    def __init__(self) -> None:
        self._deadlines: dict[Name, tuple[int, int]] = {}
        self._heap: list[tuple[int, int, Name]] = []
        self._count = 0

    def set(self, name: Name, at: int) -> None:
        """Set or move the deadline of `name`."""
        self._count += 1
        self._deadlines[name] = (at, self._count)
        heapq.heappush(self._heap, (at, self._count, name))
        if len(self._heap) > 2 * len(self._deadlines) + STALE_MAX:
            self._heap = [(at, count, name) for name, (at, count) in self._deadlines.items()]
            heapq.heapify(self._heap)

    def set_if_earlier(self, name: Name, at: int) -> None:
        """Set the deadline unless an earlier one stands."""
        standing = self._deadlines.get(name)
        if standing is None or at < standing[0]:
            self.set(name, at)

    def clear(self, name: Name) -> None:
        """Forget the deadline of `name`, if there is one."""
        self._deadlines.pop(name, None)

    def __contains__(self, name: Name) -> bool:
        return name in self._deadlines

    def next_deadline(self) -> int | None:
        """When the next one is due, or None."""
        heap = self._heap
        while heap:
            at, count, name = heap[0]
            if self._deadlines.get(name) == (at, count):
                return at
            heapq.heappop(heap)
        return None

    def pop_due(self, now: int) -> Name | None:
        """Take one name whose deadline has passed, earliest first, or None."""
        at = self.next_deadline()
        if at is None or at > now:
            return None
        _, _, name = heapq.heappop(self._heap)
        del self._deadlines[name]
        return name
