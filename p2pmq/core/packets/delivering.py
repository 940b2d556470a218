"""Packets of delivery: attach, push within the credit, settle; and handover of a partition."""

from __future__ import annotations

from typing import Annotated

from p2pmq.core.packets.publishing import ERROR_BYTES_MAX, Batch, Runs
from p2pmq.core.packets.registry import (
    ITEMS_MAX,
    U16,
    U32,
    U64,
    Id,
    Milliseconds,
    NameText,
    Packet,
    Seq,
    Size,
    Struct,
    packet,
    struct,
)


@packet(30)
class Attach(Packet):
    """Push this consumer messages of the partition.

    `attachment` counts the consumer's attaches: a newer one replaces an older
    one, and what the consumer does not list in `holding` is free again. `limit`
    is how many messages the owner may push over the whole attachment, those of
    `holding` not counted (like QUIC's MAX_DATA: a lost update does no harm).
    A `renewal` only asks whether the attachment stands, and how far it is.
    """

    queue: NameText
    partition: U16
    consumer: Id
    attachment: U32
    limit: U64
    visibility_timeout_ms: Milliseconds
    holding: Runs = ()
    renewal: bool = False


@packet(31)
class Attached(Packet):
    """The attachment stands; its last delivery was `number` (0: there was none)."""

    queue: NameText
    partition: U16
    consumer: Id
    attachment: U32
    number: U64 = 0


@packet(32)
class Detach(Packet):
    """Push no more; what the consumer has not settled is free again."""

    queue: NameText
    partition: U16
    consumer: Id
    attachment: U32


@struct
class Segment(Struct):
    """Messages that are delivered for the `attempt`-th time (1: the first)."""

    batch: Batch
    attempt: U32


@packet(33, bulk=True)
class Delivery(Packet):
    """Messages for one consumer; `number` counts deliveries of the attachment from 1."""

    queue: NameText
    partition: U16
    consumer: Id
    attachment: U32
    number: U64
    segments: Annotated[tuple[Segment, ...], Size(1, 4096)]


@struct
class Nack(Struct):
    """Give the dots back, to be delivered again after `delay_ms`; `backoff`: the owner decides.

    `attempt` names the delivery that is given back: a later one stays. `error` is what
    the user's code said of it; `failed`: it counts towards `max_deliveries`;
    `rejected`: it becomes a dead letter at once.
    """

    session: Id
    first: Seq
    last: Seq
    attempt: U32
    delay_ms: Milliseconds = 0
    backoff: bool = False
    error: Annotated[str, Size(0, ERROR_BYTES_MAX)] = ""
    failed: bool = True
    rejected: bool = False


@struct
class Extend(Struct):
    """Hide the dots for `timeout_ms` from now."""

    session: Id
    first: Seq
    last: Seq
    attempt: U32
    timeout_ms: Milliseconds


@packet(34)
class Settle(Packet):
    """Acks, nacks and extensions; repeated until `Settled` comes back with the number."""

    queue: NameText
    partition: U16
    consumer: Id
    attachment: U32
    number: U64
    limit: U64
    acks: Runs = ()
    nacks: Annotated[tuple[Nack, ...], Size(0, ITEMS_MAX)] = ()
    extends: Annotated[tuple[Extend, ...], Size(0, ITEMS_MAX)] = ()


@packet(35)
class Settled(Packet):
    """Settle `number` is durable: the acks in it will not be undone."""

    queue: NameText
    partition: U16
    consumer: Id
    number: U64


@struct
class LeaseField(Struct):
    """Dots that a consumer holds, for `remaining_ms` more."""

    node_id: Id
    consumer: Id
    session: Id
    first: Seq
    last: Seq
    attempt: U32
    remaining_ms: Milliseconds


@packet(40, bulk=True)
class Handover(Packet):
    """Part of a partition, from a node that holds it to its owner.

    The context covers only the dots that it carries or knows to be acked:
    `acked`, and those of `batches`. The sender deletes what `HandoverTaken`
    has confirmed. `horizon` is in the last piece: of what is older, and was not seen
    by then, it cannot be said any more whether it was acked.
    """

    queue: NameText
    partition: U16
    transfer: U64
    acked: Runs = ()
    leases: Annotated[tuple[LeaseField, ...], Size(0, ITEMS_MAX)] = ()
    batches: Annotated[tuple[Batch, ...], Size(0, 4096)] = ()
    horizon: U64 = 0


@packet(41)
class HandoverTaken(Packet):
    """Handover `transfer` is durable at the owner."""

    queue: NameText
    partition: U16
    transfer: U64
