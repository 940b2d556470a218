"""What this node is interested in: patterns counted, so that others hear of the first and last.

Changes of one round of the loop leave as one: a service that subscribes to a
hundred patterns tells each peer once.

Invariant: what the core was told, and is about to be told, is what is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.core.events import InterestsRequested
from p2pmq.core.packets.emitting import PATTERN_BYTES_MAX, PATTERNS_MAX
from p2pmq.errors import SubscriptionLimitError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from p2pmq.core.events import Event


class Wanted:
    """The patterns of this node's subscriptions and responders."""

    def __init__(self, feed: Callable[[Event], None], loop: asyncio.AbstractEventLoop) -> None:
        self._feed = feed
        self._loop = loop
        self._counts: dict[str, int] = {}
        self._bytes = 0
        self._told: dict[str, None] = {}
        self._touched: dict[str, None] = {}

    def add(self, patterns: Iterable[str]) -> None:
        """Count them in; all or none. Raises SubscriptionLimitError."""
        wanted = tuple(patterns)
        new = [pattern for pattern in dict.fromkeys(wanted) if pattern not in self._counts]
        count = len(self._counts) + len(new)
        size = self._bytes + sum(len(pattern.encode()) for pattern in new)
        if new and (count > PATTERNS_MAX or size > PATTERN_BYTES_MAX):
            raise SubscriptionLimitError(count, size, PATTERNS_MAX, PATTERN_BYTES_MAX)
        self._bytes = size
        for pattern in wanted:
            self._counts[pattern] = self._counts.get(pattern, 0) + 1
        self._touch(new)

    def drop(self, patterns: Iterable[str]) -> None:
        """Count them out."""
        gone: list[str] = []
        for pattern in patterns:
            self._counts[pattern] -= 1
            if not self._counts[pattern]:
                del self._counts[pattern]
                self._bytes -= len(pattern.encode())
                gone.append(pattern)
        self._touch(gone)

    def _touch(self, patterns: Iterable[str]) -> None:
        before = len(self._touched)
        self._touched.update(dict.fromkeys(patterns))
        if self._touched and not before:
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Tell the core what has changed since the last time."""
        touched, self._touched = self._touched, {}
        added = tuple(p for p in touched if p in self._counts and p not in self._told)
        removed = tuple(p for p in touched if p not in self._counts and p in self._told)
        for pattern in removed:
            del self._told[pattern]
        self._told.update(dict.fromkeys(added))
        if added or removed:
            self._feed(InterestsRequested(added, removed))
