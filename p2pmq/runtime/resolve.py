"""Put bodies into packets that only say where in the store they lie.

The core never holds the bodies of what is on disk; they are read when a packet
leaves, one packet at a time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from p2pmq.core.packets.delivering import Delivery, Handover, Segment
from p2pmq.core.packets.publishing import Publish
from p2pmq.core.packets.replaying import Replayed
from p2pmq.core.packets.replicating import Replicate, Supply
from p2pmq.core.records import BatchStored, NoBody, StoredBodies
from p2pmq.wire.bodies import PackedBodies

if TYPE_CHECKING:
    from p2pmq.core.packets.publishing import Batch
    from p2pmq.core.packets.registry import Packet
    from p2pmq.core.records import Record
    from p2pmq.store.base import Store


TO_RESOLVE = (StoredBodies, NoBody)


def resolved_batch(batch: Batch, store: Store) -> Batch:
    """The batch with its bodies at hand; raises StoreCorruptError or KeyError as the store does."""
    if isinstance(batch.bodies, StoredBodies):
        return replace(batch, bodies=store.read(batch.bodies))
    if isinstance(batch.bodies, NoBody):
        return replace(batch, bodies=PackedBodies.from_bodies([b""] * batch.bodies.count))
    return batch


def resolved_segments(segments: tuple[Segment, ...], store: Store) -> tuple[Segment, ...]:
    """The segments with their bodies at hand."""
    return tuple(
        Segment(resolved_batch(segment.batch, store), segment.attempt) for segment in segments
    )


def resolved_records(records: tuple[Record, ...], store: Store) -> tuple[Record, ...]:
    """The records with bodies at hand: a batch of our own outbox may go into a partition here."""
    if not any(type(r) is BatchStored and type(r.batch.bodies) in TO_RESOLVE for r in records):
        return records
    return tuple(
        replace(record, batch=resolved_batch(record.batch, store))
        if isinstance(record, BatchStored)
        else record
        for record in records
    )


def resolved_packet(packet: Packet, store: Store) -> Packet:
    """The packet with its bodies at hand."""
    match packet:
        case Publish():
            batch = resolved_batch(packet.batch, store)
            return packet if batch is packet.batch else replace(packet, batch=batch)
        case Delivery():
            return replace(packet, segments=resolved_segments(packet.segments, store))
        case Handover() | Replicate() | Supply() | Replayed():
            batches = tuple(resolved_batch(batch, store) for batch in packet.batches)
            return replace(packet, batches=batches)
        case _:
            return packet


def batches_of(packet: Packet) -> tuple[Batch, ...]:
    """The batches that a packet carries."""
    match packet:
        case Publish():
            return (packet.batch,)
        case Delivery():
            return tuple(segment.batch for segment in packet.segments)
        case Handover() | Replicate() | Supply() | Replayed():
            return packet.batches
        case _:
            return ()
