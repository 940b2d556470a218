"""Packets of bindings: which topics are copied into which queues, and the comparison of maps."""

from __future__ import annotations

from typing import Annotated

from p2pmq.core.packets.registering import BUCKETS, RECORDS_MAX
from p2pmq.core.packets.registry import U64, Id, NameText, Packet, Size, Struct, packet, struct


@struct
class BindingRecord(Struct):
    """Events whose topic matches the pattern are copied into the queue, or (not `bound`) are not.

    The record with the greatest (stamp, author) of a pattern and a queue holds. `stamp` is from
    the author's hybrid logical clock.
    """

    pattern: Annotated[str, Size(1, 255)]
    queue: NameText
    stamp: U64
    author: Id
    bound: bool = True


@packet(104, bulk=True)
class BindingRecords(Packet):
    """Records that the receiver may lack, or have older. Bulk, as `QueueRecords` is."""

    records: Annotated[tuple[BindingRecord, ...], Size(0, RECORDS_MAX)]


@packet(105)
class BindingDigest(Packet):
    """A digest of all records that the sender has: where it differs, `BindingBuckets` answers."""

    digest: Id


@packet(106)
class BindingBuckets(Packet):
    """The digest of each of the sender's 256 buckets, as `QueueBuckets`."""

    digests: Annotated[bytes, Size(8 * BUCKETS, 8 * BUCKETS)]
    answer: bool = False
