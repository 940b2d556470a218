"""What is said of a mesh of just two full nodes: neither of them may be away.

A majority of two is two. A person who set up a second node for safety would
find out from an outage that it made the mesh more fragile, not less; so the
mesh says so as soon as it stays at two.

Invariant: it is said at most once each time that the roster comes to two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.core.effects import Counted, Notify

if TYPE_CHECKING:
    from p2pmq.config import Replication
    from p2pmq.core.effects import Effect

PAIR = 2
PAIR_SETTLES_MS = 2_000
"""A mesh that forms is two for a moment: its nodes meet within a second or so by mDNS."""
TEXT = (
    "the mesh has two full nodes, and a message is committed on both disks: while either node is "
    "away, the other confirms and delivers nothing. A third full node would not stop then, and "
    "neither would these two with Replication(min_copies=1), which keeps fewer copies"
)


class Pair:
    """Watches how many full nodes the roster has."""

    def __init__(self, replication: Replication) -> None:
        wanted = replication.min_copies or replication.replicas // 2 + 1
        self._both_needed = min(wanted, replication.replicas) >= PAIR
        self._is_pair = False
        self._due_at: int | None = None

    def on_roster(self, full_nodes: int, now: int) -> None:
        """The roster has so many members that may own, this node among them or not."""
        was_pair, self._is_pair = self._is_pair, self._both_needed and full_nodes == PAIR
        if not self._is_pair:
            self._due_at = None
        elif not was_pair:
            self._due_at = now + PAIR_SETTLES_MS

    def next_deadline(self) -> int | None:
        """When it is to be said."""
        return self._due_at

    def on_timeout(self, now: int) -> list[Effect]:
        """Say it, if the mesh has stayed at two."""
        if self._due_at is None or now < self._due_at:
            return []
        self._due_at = None
        return [Notify(Counted("two_full_nodes", text=TEXT, alarming=True))]
