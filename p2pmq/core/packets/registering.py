"""Packets of the registry: the records of queues, and the comparison of whole maps."""

from __future__ import annotations

from typing import Annotated

from p2pmq.core.packets.registry import (
    U8,
    U16,
    U32,
    U64,
    Id,
    Milliseconds,
    NameText,
    Packet,
    Range,
    Size,
    Struct,
    packet,
    struct,
)

BUCKETS = 256
"""A record lies in a bucket by its queue's name: of two maps that differ in little, only the
buckets that differ are sent."""
RECORDS_MAX = 512
"""In one packet: at most some 150 KiB."""

PARTITIONS_MAX = 256
"""Of one queue. Each has homes, copies and an attachment of each consumer of its own."""

OVERFLOW_BLOCK = 0
OVERFLOW_REJECT = 1
OVERFLOW_DROP_OLDEST = 2


@struct
class QueueSettings(Struct):
    """What a queue's declaration may set; 0 is the mesh's default (in `config`).

    `max_messages` and `max_bytes` 0: no limit. `overflow` is what happens at one: publishers
    wait, are rejected, or the oldest messages go. `partitions` 0: one, or as many as there are;
    their number never falls.
    """

    replicas: U8 = 0
    min_copies: U8 = 0
    max_deliveries: U16 = 0
    backoff_ms: U32 = 0
    backoff_max_ms: U32 = 0
    visibility_timeout_ms: U32 = 0
    ttl_ms: Milliseconds = 0
    max_messages: U64 = 0
    max_bytes: U64 = 0
    overflow: Annotated[int, Range(0, 2)] = OVERFLOW_BLOCK
    dedup_window_ms: U32 = 0
    retain_ms: Milliseconds = 0
    retain_bytes: U64 = 0
    ageing_ms: U32 = 0
    partitions: Annotated[int, Range(0, PARTITIONS_MAX)] = 0


@struct
class QueueRecord(Struct):
    """A declaration: the one with the greatest (stamp, author) holds.

    `stamp` is from the author's hybrid logical clock. `incarnation` is the stamp, of the messages'
    clock, up to which messages of the name are deleted; 0: the queue was never deleted. Of two
    records the greater incarnation holds, and the greater number of partitions.
    """

    queue: NameText
    stamp: U64
    author: Id
    settings: QueueSettings
    incarnation: U64 = 0


@packet(70, bulk=True)
class QueueRecords(Packet):
    """Records that the receiver may lack, or have older.

    Bulk, though it has no bodies: whole maps may be sent, and probes are not to wait for them.
    """

    records: Annotated[tuple[QueueRecord, ...], Size(0, RECORDS_MAX)]


@packet(71)
class QueueDigest(Packet):
    """A digest of all records that the sender has: where it differs, `QueueBuckets` answers."""

    digest: Id


@packet(72)
class QueueBuckets(Packet):
    """The digest of each of the sender's 256 buckets, 8 bytes each.

    The receiver sends its records in those that differ; and its own buckets as they were, if
    this is no `answer`, so that the sender does the same.
    """

    digests: Annotated[bytes, Size(8 * BUCKETS, 8 * BUCKETS)]
    answer: bool = False
