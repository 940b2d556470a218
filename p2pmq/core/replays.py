"""Replays: what a queue retains is read again, in order, from whoever owns it.

A reader asks for page after page, each by the place where the last one ended. That
place means the same to every owner, for it is made of stamps and dots, so that a
reader goes on where it was after a failover. Nothing is remembered of it here.

What is not committed yet ends a page: it is given when it is, or never.

Invariant: an owner answers only while it is active, as it delivers only then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pmq.core.effects import Page, Resolve, Send
from p2pmq.core.ids import Run, key_of
from p2pmq.core.packets.publishing import FRAME_BYTES_MAX
from p2pmq.core.packets.replaying import PAGE_BATCHES_MAX, Replayed, ReplayRequest
from p2pmq.core.traces import Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.core.effects import Effect
    from p2pmq.core.events import ReplayRequested
    from p2pmq.core.ids import NodeId, PartitionKey
    from p2pmq.core.owner import Owner
    from p2pmq.core.packets.publishing import Batch
    from p2pmq.core.packets.replaying import CursorField
    from p2pmq.core.partition import Partition
    from p2pmq.core.replication import Replication

ASK_AGAIN_MS = 500
U32_MASK = 2**32 - 1
NUMBER_MAX = 2**63


@dataclass(slots=True)
class Asked:
    """A page that is waited for."""

    event: ReplayRequested
    deadline: int
    ask_at: int


class Replays:
    """The reader's part and the owner's."""

    def __init__(
        self,
        owner: Owner,
        replication: Replication,
        owner_of: Callable[[PartitionKey], NodeId | None],
    ) -> None:
        self._owner = owner
        self._copies = replication
        self._owner_of = owner_of
        self._asked: dict[int, Asked] = {}
        self._next_number = 1

    # -- the reader's part --

    def on_replay(self, event: ReplayRequested, now: int) -> list[Effect]:
        """Ask for a page; the answer, or the deadline, resolves the token."""
        number = self._next_number
        self._next_number = (self._next_number + 1) & U32_MASK
        self._asked[number] = Asked(event, now + event.timeout_ms, now)
        return self._ask(number, now)

    def on_replayed(self, packet: Replayed) -> list[Effect]:
        """A page has come."""
        asked = self._asked.pop(packet.number, None)
        if asked is None:
            return []
        return [Resolve(asked.event.token, Page(packet.batches, packet.more))]

    def next_deadline(self) -> int | None:
        """When to ask again, or to give up."""
        if not self._asked:
            return None
        return min(min(asked.ask_at, asked.deadline) for asked in self._asked.values())

    def on_timeout(self, now: int) -> list[Effect]:
        """Ask again what is not answered: whoever owns by now; give up in the end."""
        effects: list[Effect] = []
        for number, asked in list(self._asked.items()):
            if asked.deadline <= now:
                del self._asked[number]
                effects.append(Resolve(asked.event.token, Page((), more=True, in_time=False)))
            elif asked.ask_at <= now:
                effects += self._ask(number, now)
        return effects

    def _ask(self, number: int, now: int) -> list[Effect]:
        asked = self._asked[number]
        asked.ask_at = now + ASK_AGAIN_MS
        key = asked.event.key
        owner = self._owner_of(key)
        if owner is None:
            return []
        return [Send(owner, ReplayRequest(number, *key, asked.event.cursor))]

    # -- the owner's part --

    def on_request(self, peer: NodeId, packet: ReplayRequest, now: int) -> list[Effect]:
        """Answer with a page; who does not own, or knows too little, is asked again.

        A partition into which nothing was ever published is compared with its homes first, too.
        """
        key = key_of(packet)
        if not self._owner.owns(key):
            return []
        _, begun = self._copies.copies(key, now)
        if not self._copies.is_active(key):
            return begun
        batches, more = self._page(self._owner.partition(key), packet.cursor)
        return [*begun, Send(peer, Replayed(packet.number, tuple(batches), more))]

    def _page(self, partition: Partition, cursor: CursorField) -> tuple[list[Batch], bool]:
        after = Place(cursor.stamp, cursor.session, cursor.first, NUMBER_MAX)
        batches: list[Batch] = []
        size = 0
        for place in partition.traces.after(after):
            stored = partition.batches[place.number]
            if partition.appending.overlap(stored.run) or self._is_unproven(partition, stored.run):
                return batches, True
            if len(batches) == PAGE_BATCHES_MAX or (size and size + stored.size > FRAME_BYTES_MAX):
                return batches, True
            for run, number in partition.pending.overlap(stored.run):
                batches.append(partition.batch(run, number))
            size += stored.size
        return batches, False

    def _is_unproven(self, partition: Partition, run: Run) -> bool:
        return bool(self._copies.unproven(partition.key, run))
