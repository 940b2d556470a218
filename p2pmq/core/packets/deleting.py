"""Packets of deleting a queue: its owners say how far the deletion reaches."""

from __future__ import annotations

from p2pmq.core.packets.registry import U8, U16, U32, U64, NameText, Packet, packet


@packet(110)
class DeletionRequest(Packet):
    """The queue is to be deleted: `DeletionReach` says what of this partition goes with it."""

    queue: NameText
    partition: U16
    number: U32


@packet(111)
class DeletionReach(Packet):
    """The answer to DeletionRequest `number`: a stamp that is later than all that is here.

    `refused` is one of `DELETION_REFUSALS` where the sender cannot tell.
    """

    number: U32
    partition: U16
    reach: U64 = 0
    refused: U8 = 0


DELETION_REFUSED_MOVED = 1
DELETION_REFUSED_ALONE = 2
DELETION_REFUSALS = {
    DELETION_REFUSED_MOVED: "the queue has another owner just now: try again",
    DELETION_REFUSED_ALONE: "the owner cannot reach enough of the queue's other homes",
}
