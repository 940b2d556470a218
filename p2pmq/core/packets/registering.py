"""Packets of the registry: the records of queues, and the comparison of whole maps."""

from __future__ import annotations

from typing import Annotated

from p2pmq.core.packets.registry import (
    U8,
    U32,
    U64,
    Id,
    NameText,
    Packet,
    ShortText,
    Size,
    Struct,
    packet,
    struct,
)

RECORDS_MAX = 512
"""In one packet: at most some 150 KiB."""


@struct
class QueueSettings(Struct):
    """What a queue's declaration may set; 0 is the mesh's default (`config.Replication`)."""

    replicas: U8 = 0
    min_copies: U8 = 0


@struct
class QueueRecord(Struct):
    """A declaration: the one with the greatest (stamp, author) holds.

    `stamp` is from the author's hybrid logical clock. `incarnation` tells a queue from one of
    the same name that was deleted before it.
    """

    queue: NameText
    stamp: U64
    author: Id
    settings: QueueSettings
    incarnation: U32 = 0


@packet(70)
class QueueRecords(Packet):
    """Records of queues whose names lie beyond `after` and up to `upto` (empty: no bound).

    They are sorted by name. Where an answer is `wanted`, the records are all that the sender
    has between the bounds, and the receiver tells what it has newer or beside them.
    """

    records: Annotated[tuple[QueueRecord, ...], Size(0, RECORDS_MAX)]
    after: ShortText = ""
    upto: ShortText = ""
    wanted: bool = False


@packet(71)
class QueueDigest(Packet):
    """A digest of all records that the sender has: where it differs, records are exchanged."""

    digest: Id
