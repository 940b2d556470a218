"""Refill: how a refilling node learns that nothing is missing any more.

Owners fill it partition by partition. But of a partition that it never heard
of it cannot tell whether that is new, or old and not brought yet. So it asks
every full member of the roster what it holds. Once all of them have answered
in one round, and all that is listed and belongs here is filled, whatever comes
later is new: it was committed with this disk in its place.

A member that is away keeps the round from ending, as it may hold what no other
does; partitions that are filled count meanwhile.

Invariant: a round ends well only if everybody on the roster answered in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.core.effects import Send
from p2pmq.core.ids import PartitionKey
from p2pmq.core.packets.replicating import Holdings, HoldingsRequest, PartitionField

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.core.effects import Effect
    from p2pmq.core.ids import NodeId
    from p2pmq.core.intact import Intactness
    from p2pmq.core.ownership import Ownership
    from p2pmq.core.replica import Replica

FIRST_ROUND_MS = 2_000
"""Owners begin at once to fill what they know of: earlier answers would mostly be too early."""
ROUND_MS = 10_000
NOTED_MAX = 1_000_000
"""Partitions noted in one round: one that lists more does not end well."""
LISTED_MAX = 2_048
"""Partitions in one packet: some 60 KiB with names of usual length."""


class Refill:
    """One round of questions after another, while this node is refilling."""

    def __init__(
        self,
        own_id: NodeId,
        boot: int,
        intact: Intactness,
        ownership: Ownership,
        replica: Replica,
        full_members: Callable[[], list[NodeId]],
    ) -> None:
        """`full_members` gives all of the roster that may own, there or not."""
        self._own_id = own_id
        self._intact = intact
        self._ownership = ownership
        self._replica = replica
        self._full_members = full_members
        self._round = boot << 32
        self._round_at: int | None = None
        self._parts: dict[NodeId, dict[int, None]] = {}
        self._last_part: dict[NodeId, int] = {}
        self._listed: dict[PartitionKey, None] = {}

    def begin(self, now: int) -> None:
        """This node is refilling, from now on or from its start on."""
        self._round_at = now + FIRST_ROUND_MS

    def next_deadline(self) -> int | None:
        """When the next round begins."""
        return self._round_at if self._intact.refilling else None

    def on_timeout(self, now: int) -> list[Effect]:
        """See whether the round has ended well; if not, begin another."""
        due = self.next_deadline()
        if due is None or now < due:
            return []
        effects = self._look(now)
        if effects:
            return effects
        self._round_at = now + ROUND_MS
        self._round += 1
        self._parts, self._last_part, self._listed = {}, {}, {}
        others = self._others()
        return [Send(node_id, HoldingsRequest(self._round)) for node_id in others] or self._look(
            now
        )

    def on_request(self, peer: NodeId, packet: HoldingsRequest) -> list[Effect]:
        """Say of which partitions something is here."""
        held = [PartitionField(*key) for key in self._replica.held()]
        pieces = [held[at : at + LISTED_MAX] for at in range(0, len(held), LISTED_MAX)] or [[]]
        return [
            Send(peer, Holdings(packet.number, tuple(piece), at, more=at < len(pieces) - 1))
            for at, piece in enumerate(pieces)
        ]

    def on_holdings(self, peer: NodeId, packet: Holdings, now: int) -> list[Effect]:
        """A member has said what it holds, or a part of that."""
        asked = packet.number == self._round and self._intact.refilling
        if not asked or peer not in self._others() or len(self._listed) > NOTED_MAX:
            return []
        self._parts.setdefault(peer, {})[packet.part] = None
        if not packet.more:
            self._last_part[peer] = packet.part
        for field in packet.partitions:
            self._listed[PartitionKey(field.queue, field.partition)] = None
        return self._look(now)

    def _others(self) -> list[NodeId]:
        return [node_id for node_id in self._full_members() if node_id != self._own_id]

    def _has_answered(self, node_id: NodeId) -> bool:
        last = self._last_part.get(node_id)
        return last is not None and len(self._parts[node_id]) > last

    def _look(self, now: int) -> list[Effect]:
        """If everybody has answered and nothing is missing, refilling ends."""
        if not all(map(self._has_answered, self._others())):
            return []
        for key in self._listed:
            belongs_here = self._own_id in self._ownership.homes_of(key)[0]
            if belongs_here and not self._intact.holds(key):
                return []
        return self._intact.end() + self._replica.offer_all(now)
