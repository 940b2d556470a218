"""Who owns a partition just now: the ring says who should, membership who is there.

With one copy (R = 1) the owner is the ring's first member for the partition.
While it is away nobody owns the partition: its messages are on its disk, and
new ones wait in their publishers' outboxes.

Invariant: answers change only in `refresh`, never between two events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.core.ring import Place, Ring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from p2pmq.core.ids import NodeId, PartitionKey

CACHE_MAX = 100_000
PARTITIONS = 1
"""Of every queue for now. A peer may name any number: placing it costs work in proportion."""


class Ownership:
    """The living owner of each partition, as this node sees it."""

    def __init__(self) -> None:
        self._ring = Ring(())
        self._moved_to: list[Place] | None = None
        """The roster that the ring is not of yet: it is made when somebody asks.

        While a mesh forms, the roster changes with every other packet.
        """
        self._alive: dict[NodeId, None] = {}
        self._owners: dict[PartitionKey, NodeId | None] = {}

    def owner_of(self, key: PartitionKey) -> NodeId | None:
        """The living owner, or None while it is away or nobody can own."""
        try:
            return self._owners[key]
        except KeyError:
            owner = self.home_of(key)
            if owner is not None and owner not in self._alive:
                owner = None
            if len(self._owners) >= CACHE_MAX:
                self._owners.clear()
            self._owners[key] = owner
            return owner

    def home_of(self, key: PartitionKey) -> NodeId | None:
        """The member on whose disk the partition belongs, there or not; None: there is no such."""
        if key.number >= PARTITIONS:
            return None
        if self._moved_to is not None:
            self._ring, self._moved_to = self._ring.changed(self._moved_to), None
        return self._ring.owner(key.queue, key.number, PARTITIONS)

    def refresh(
        self, places: Iterable[Place], is_alive: Callable[[NodeId], bool]
    ) -> list[PartitionKey]:
        """Take a new roster; the partitions (of those asked for) whose owner has changed."""
        self._moved_to = sorted(places, key=lambda place: place.node_id)
        self._alive = {
            place.node_id: None
            for place in self._moved_to
            if place.weight and is_alive(place.node_id)
        }
        before, self._owners = self._owners, {}
        return [key for key, owner in before.items() if self.owner_of(key) != owner]

    def alive_owners(self) -> list[NodeId]:
        """The living members that may own."""
        return list(self._alive)
