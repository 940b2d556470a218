"""Packets of schedules: what is published again and again, and the comparison of maps."""

from __future__ import annotations

from typing import Annotated

from p2pmq.core.packets.publishing import PRIORITY_MAX
from p2pmq.core.packets.registering import BUCKETS
from p2pmq.core.packets.registry import (
    U8,
    U64,
    Id,
    Milliseconds,
    NameText,
    Packet,
    Range,
    ShortText,
    Size,
    Struct,
    packet,
    struct,
)

SCHEDULE_BODY_BYTES_MAX = 16 * 1024
"""Every node keeps every schedule: what is large belongs elsewhere, and its name in here."""
SCHEDULES_TOLD_MAX = 16
"""In one packet: with the largest bodies just over a frame's 256 KiB."""


@struct
class ScheduleRecord(Struct):
    """Publish the body into the queue whenever `cron` says, in UTC; or (`removed`) never again.

    The record with the greatest (stamp, author) of a name holds. `stamp` is from the author's
    hybrid logical clock: no tick before it is ever published. `body_format` is as in a batch's
    bodies; `ttl_ms` and `priority` are as in `Batch`.
    """

    name: NameText
    stamp: U64
    author: Id
    cron: ShortText = ""
    queue: ShortText = ""
    body: Annotated[bytes, Size(0, SCHEDULE_BODY_BYTES_MAX)] = b""
    body_format: U8 = 0
    ttl_ms: Milliseconds = 0
    priority: Annotated[int, Range(0, PRIORITY_MAX)] = 0
    removed: bool = False


@packet(90, bulk=True)
class ScheduleRecords(Packet):
    """Records that the receiver may lack, or have older. Bulk, as `QueueRecords` is."""

    records: Annotated[tuple[ScheduleRecord, ...], Size(0, SCHEDULES_TOLD_MAX)]


@packet(91)
class ScheduleDigest(Packet):
    """A digest of all records that the sender has: where it differs, `ScheduleBuckets` answers."""

    digest: Id


@packet(92)
class ScheduleBuckets(Packet):
    """The digest of each of the sender's 256 buckets, as `QueueBuckets`."""

    digests: Annotated[bytes, Size(8 * BUCKETS, 8 * BUCKETS)]
    answer: bool = False
