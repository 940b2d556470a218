"""The outbox's quota: what it holds at most, and who makes room when that is reached.

A batch may be dropped only while it has never been sent: one that was may lie
at an owner already, and would be delivered although its publisher was told
that it is gone. What an earlier run of the process left counts for the quota,
but is never dropped: nothing on the disk says whether it was sent.

Invariant: only batches that were never sent are listed here, each once, and in
each priority the oldest first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from p2pmq.core.packets.publishing import PRIORITY_MAX

if TYPE_CHECKING:
    from p2pmq.config import OutboxPolicy

Item = TypeVar("Item")

MESSAGE_OVERHEAD_BYTES = 64
"""What a message counts for beside its body, so that empty ones fill the memory no more."""
BATCH_OVERHEAD_BYTES = 512
"""What a batch counts for: about what its entry takes in memory while its bodies are on disk."""
OUTBOX_FULL = "outbox_full"
OUTBOX_AGE = "outbox_age"
QUEUE_FULL = "queue_full"


def cost_of(count: int, size: int) -> int:
    """What a batch of `count` messages with `size` bytes of bodies counts for."""
    return size + count * MESSAGE_OVERHEAD_BYTES + BATCH_OVERHEAD_BYTES


class _Unsent(NamedTuple, Generic[Item]):
    item: Item
    cost: int
    since: int


class Quota(Generic[Item]):
    """What the outbox holds, and those of its batches that may still be dropped."""

    def __init__(self, policy: OutboxPolicy) -> None:
        self._policy = policy
        self._drops = policy.overflow == "drop-lowest"
        self._lists = self._drops or policy.age_max_ms > 0
        # OrderedDict, since the first of a plain dict is slow to find once many before it went
        self._unsent: list[OrderedDict[int, _Unsent[Item]]] = [
            OrderedDict() for _ in range(PRIORITY_MAX + 1)
        ]
        self.bytes_held = 0

    def add_unsent(self, number: int, item: Item, priority: int, cost: int, now: int) -> None:
        """A batch waits to be sent. Its bytes are counted apart, by `bytes_held`."""
        if self._lists:
            self._unsent[priority][number] = _Unsent(item, cost, now)

    def on_sent(self, number: int, priority: int) -> None:
        """The batch is on its way, or gone: it is not dropped any more."""
        if self._lists:
            self._unsent[priority].pop(number, None)

    def victims(self, priority: int, cost: int) -> list[Item] | None:
        """What to drop so that a new batch fits; None: it is refused, and nothing is dropped.

        Only lower priorities make room, the lowest first, and in each the oldest first.
        Under "wait" the publisher has waited, and everything fits.
        """
        missing = self.bytes_held + cost - self._policy.bytes_max
        if missing <= 0 or self._policy.overflow == "wait":
            return []
        found: list[Item] = []
        if self._drops:
            for unsent in self._unsent[:priority]:
                for item, freed, _ in unsent.values():
                    found.append(item)
                    missing -= freed
                    if missing <= 0:
                        return found
        return None

    def aged(self, now: int) -> list[Item]:
        """The unsent batches that are too old."""
        limit = self._policy.age_max_ms
        found: list[Item] = []
        if limit:
            for unsent in self._unsent:
                for item, _, since in unsent.values():
                    if now - since < limit:
                        break
                    found.append(item)
        return found

    def next_deadline(self) -> int | None:
        """When the oldest unsent batch is too old."""
        limit = self._policy.age_max_ms
        if not limit:
            return None
        firsts = [next(iter(unsent.values())).since for unsent in self._unsent if unsent]
        return min(firsts) + limit if firsts else None

    @property
    def is_half_full(self) -> bool:
        """Whether publishers should be told how much is held."""
        return self.bytes_held > self._policy.bytes_max // 2
