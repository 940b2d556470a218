"""What an owner knows of the copies that it looks after, asked for by other rooms.

Invariant: it only answers; `replication` alone changes what is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.core.ids import Run

if TYPE_CHECKING:
    from p2pmq.core.copies import Copies, Home
    from p2pmq.core.events import HandoverDurable
    from p2pmq.core.ids import NodeId, PartitionKey
    from p2pmq.core.intact import Intactness
    from p2pmq.core.ownership import Ownership
    from p2pmq.core.packets.publishing import Death
    from p2pmq.core.runmap import RunMap


class LookedAfter:
    """The copies of the partitions that this node owns."""

    def __init__(self, ownership: Ownership, intact: Intactness) -> None:
        self._ownership = ownership
        self._intact = intact
        self._copies: dict[PartitionKey, Copies] = {}

    def looked_after(self) -> dict[PartitionKey, Copies]:
        """The copies of every partition that this node owns."""
        return self._copies

    def keeps(self, key: PartitionKey, node_id: NodeId) -> bool:
        """Whether this owner wants a copy kept there."""
        copies = self._copies.get(key)
        return copies is not None and copies.holder(node_id) is not None

    def may_delete(self, event: HandoverDurable) -> bool:
        """Whether the giver's copy is needed no more: enough others are there, and it is no home.

        It may have become one since it gave.
        """
        proven = not any(self.unproven(event.key, run) for run in event.runs)
        return proven and not self.keeps(event.key, event.peer)

    def holders_in_reach(self, key: PartitionKey) -> list[Home]:
        """The other homes and the stand-ins that this owner can send to."""
        copies = self._copies.get(key)
        return copies.listening() if copies is not None else []

    def counts_here(self, key: PartitionKey) -> bool:
        """Whether this node's own copy counts."""
        return self._intact.holds(key)

    def is_active(self, key: PartitionKey) -> bool:
        """Whether the owner may deliver from the partition."""
        copies = self._copies.get(key)
        return copies is not None and copies.active(intact=self._intact.holds(key))

    def is_alone(self, key: PartitionKey) -> bool:
        """Whether too few homes are in reach for anything to be committed."""
        copies = self._copies.get(key)
        return copies is None or copies.is_stuck(intact=self._intact.holds(key))

    def has_no_other(self, key: PartitionKey) -> bool:
        """Whether the partition belongs on this node alone."""
        return len(self._ownership.homes_of(key)[0]) <= 1

    def unproven(self, key: PartitionKey, run: Run) -> list[Run]:
        """The parts of the run that are not on enough disks yet."""
        copies = self._copies.get(key)
        return [] if copies is None else [part for part, _ in copies.unproven.overlap(run)]

    def deliverable(self, key: PartitionKey, run: Run) -> list[Run]:
        """What of the run is on enough disks, with all that its publisher sent before it."""
        copies = self._copies.get(key)
        low = copies.unproven.lowest(run.session) if copies is not None else None
        if low is not None and low <= run.last:
            if low <= run.first:
                return []
            run = Run(run.session, run.first, low - 1)
        if copies is not None and copies.condemned:
            return copies.condemned.missing(run)
        return [run]

    def condemned(self, key: PartitionKey) -> RunMap[Death] | None:
        """What is pending here and becomes dead letters; None: this node does not own it."""
        copies = self._copies.get(key)
        return copies.condemned if copies is not None else None

    def wanted(self, key: PartitionKey) -> int:
        """How many copies commit a message."""
        return self._ownership.homes_of(key)[1]
