"""Intact: for which partitions this node's copy may count, after a disk was lost.

A home counts towards the W that an owner must be in touch with, because any two
sets of W homes overlap: in the overlap somebody knows of each committed message
and each settled ack. A home whose place was another disk's before (`namesakes`)
has not got what that one knew. It is *refilling*: for each partition it counts
again only when an owner that has merged from R - W + 1 intact homes, so from
one of any W, or from all homes that there are, has given it all of that.

A node that has just begun its life does not know yet whether it has a
namesake. Until it has met somebody it counts for nothing either.

Invariant: what counts here is on disk before it is said to count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.core.effects import Counted, Notify, Persist
from p2pmq.core.records import PartitionFilled, RefillingChanged

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pmq.core.effects import Effect
    from p2pmq.core.ids import PartitionKey
    from p2pmq.core.records import Record


class Intactness:
    """What of this node's disk counts."""

    def __init__(self) -> None:
        self.refilling = False
        self.unsure = False
        """It is new, and has not met anybody who could know its name."""
        self._filled: dict[PartitionKey, None] = {}

    def recover(self, filled: Iterable[PartitionKey], *, refilling: bool) -> None:
        """Take up what the store says."""
        self.refilling = refilling
        self._filled = dict.fromkeys(filled)

    def holds(self, key: PartitionKey) -> bool:
        """Whether this node counts for the partition."""
        return not self.unsure and (not self.refilling or key in self._filled)

    def begin(self) -> list[Effect]:
        """The place of this node was another's: nothing here counts until it is filled."""
        self.refilling = True
        self._filled.clear()
        text = "its place was another disk's before: its copies count once they are filled again"
        notice = Notify(Counted("refill_begun", text=text, alarming=True))
        return [Persist((RefillingChanged(refilling=True),)), notice]

    def fill(self, key: PartitionKey) -> list[Record]:
        """All that there is of the partition is here, or written before these records."""
        if not self.refilling:
            return []
        self._filled[key] = None
        return [PartitionFilled(key)]

    def on_dropped(self, key: PartitionKey) -> None:
        """The partition was handed over; the store forgets its mark with it."""
        self._filled.pop(key, None)

    def end(self) -> list[Effect]:
        """All that anybody holds for this node's places is here: it is a node like any other."""
        self.refilling = False
        self._filled.clear()
        notice = Notify(Counted("refill_ended", text="its copies are complete, and count again"))
        return [Persist((RefillingChanged(refilling=False),)), notice]
