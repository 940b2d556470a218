"""Early batches: what publishers send to an owner that has not merged yet.

A new owner first merges what the other homes hold. A batch stamped before that
could go before what its publisher sent to a former owner, so it waits here.

Invariant: at most HELD_MAX batches of a partition wait; the rest is said again by
its publishers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from p2pmq.core.effects import Counted, Notify

if TYPE_CHECKING:
    from p2pmq.core.effects import Effect
    from p2pmq.core.ids import NodeId, PartitionKey, Session
    from p2pmq.core.packets.publishing import Publish

HELD_MAX = 256
"""Batches that wait until an owner has merged: each is at most a frame."""
HELD_MS = 60_000
"""… and that were said again within this, four times what a publisher waits at most: what nobody
says any more may have been taken by another owner, acked, and forgotten."""


class EarlyBatches:
    """The batches that wait, of every partition."""

    def __init__(self) -> None:
        self._held: dict[
            PartitionKey, dict[tuple[Session, int], tuple[NodeId, Publish, int, int]]
        ] = {}
        """With each: when it came first, and when it was said last."""

    def __contains__(self, key: PartitionKey) -> bool:
        return key in self._held

    def counts(self) -> list[int]:
        """How many wait, of each partition."""
        return [len(held) for held in self._held.values()]

    def hold(self, key: PartitionKey, peer: NodeId, packet: Publish, now: int) -> list[Effect]:
        """Let a batch wait.

        Whether one before it is missing is asked afterwards: that may be waiting here as well.
        """
        held = self._held.setdefault(key, {})
        name = (packet.batch.session, packet.batch.first)
        if len(held) >= HELD_MAX and name not in held:
            return [Notify(Counted("publish_not_held"))]  # its publisher says it again
        peer, packet, came_at, _ = held.get(name, (peer, packet, now, now))
        held[name] = (peer, packet, came_at, now)
        return []

    def take(self, key: PartitionKey, now: int) -> list[tuple[NodeId, Publish]]:
        """The merge is done: what has waited, and was said again of late.

        A ms less than it seems to have waited: it may have come at the end of the first one, and
        nothing is due too early.
        """
        held = self._held.pop(key, {})
        return [
            (peer, replace(packet, batch=packet.batch.after(max(0, now - came_at - 1))))
            for peer, packet, came_at, said_at in held.values()
            if now - said_at < HELD_MS
        ]

    def drop(self, key: PartitionKey) -> None:
        """The partition is another's: its publishers turn there."""
        self._held.pop(key, None)
