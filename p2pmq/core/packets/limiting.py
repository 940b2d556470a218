"""Packets of limits and purges: an owner calls who was held back, and empties a queue."""

from __future__ import annotations

from p2pmq.core.packets.registry import U8, U16, U32, U64, NameText, Packet, packet


@packet(100)
class RoomAgain(Packet):
    """The partition was full, and has room again: whoever was refused may try at once.

    It may be lost: publishers try again by themselves, a little later.
    """

    queue: NameText
    partition: U16


@packet(101)
class PurgeRequest(Packet):
    """Remove everything that waits in the partition now: `PurgeResult` follows.

    One of a `boot` and a `number` is done once: a repeat that comes late would take what was
    published since.
    """

    queue: NameText
    partition: U16
    number: U32
    boot: U64 = 0


@packet(102)
class PurgeResult(Packet):
    """The answer to PurgeRequest `number`: how many messages are gone.

    `refused` is one of `PURGE_REFUSALS` where it was not, or not wholly, done.
    """

    number: U32
    count: U64
    refused: U8 = 0


PURGE_REFUSED_MOVED = 1
PURGE_REFUSED_ALONE = 2
PURGE_REFUSED_DISK_FULL = 3
PURGE_REFUSALS = {
    PURGE_REFUSED_MOVED: "the queue has another owner just now: try again",
    PURGE_REFUSED_ALONE: "the owner cannot reach enough of the queue's other homes",
    PURGE_REFUSED_DISK_FULL: "the owner's disk is full: after its restart they may be there again",
}
