"""Packets between the home replicas of a partition: copies, comparison and repair."""

from __future__ import annotations

from typing import Annotated

from p2pmq.core.packets.delivering import LeaseField
from p2pmq.core.packets.publishing import Batch, Runs
from p2pmq.core.packets.registering import QueueRecord
from p2pmq.core.packets.registry import (
    ITEMS_MAX,
    U16,
    U64,
    Id,
    NameText,
    Packet,
    Size,
    Struct,
    packet,
    struct,
)

Batches = Annotated[tuple[Batch, ...], Size(0, 4096)]


@packet(60, bulk=True)
class Replicate(Packet):
    """From the owner: store the batches, and take the acked dots out of pending.

    The context covers only what the packet carries: `batches`, and `acked`. `filled`:
    with what was answered before, the receiver has all that the owner has merged, which
    was enough for the receiver to count as intact. `horizon`: with what was answered
    before, the receiver has seen every message older than this that is not done for;
    `forgotten`: dots that were acked long ago, which nobody need remember any more.
    """

    queue: NameText
    partition: U16
    number: U64
    acked: Runs = ()
    batches: Batches = ()
    filled: bool = False
    horizon: U64 = 0
    forgotten: Runs = ()

    @property
    def size(self) -> int:
        """The bytes of its bodies."""
        return sum(batch.size for batch in self.batches)


@packet(61)
class Replicated(Packet):
    """Replicate `number` is durable here; of what it brought, `acked` was acked here before."""

    queue: NameText
    partition: U16
    number: U64
    acked: Runs = ()


@struct
class RangeField(Struct):
    """The dots from one to another, both included, in order by session and then by seq.

    `digest` is of the state in there; zeros: all of it is told, or asked for.
    """

    low_session: Id
    low: U64
    high_session: Id
    high: U64
    digest: Id = bytes(8)


Ranges = Annotated[tuple[RangeField, ...], Size(0, ITEMS_MAX)]


@packet(62)
class Compare(Packet):
    """From the owner: is your state the one with this digest? If not, tell it.

    With `ranges`: tell what is in there, whatever the digest. `hint` asks a member
    that is no home to keep a copy in the place of a home that is away, until it is
    told otherwise or hears no more of it. `declared`: the hash of the queue's declaration
    as the owner knows it; zeros: it knows of none.
    """

    queue: NameText
    partition: U16
    number: U64
    digest: Id
    hint: bool = False
    ranges: Ranges = ()
    declared: Id = bytes(8)


@packet(63, bulk=True)
class Compared(Packet):
    """The answer to Compare `number`: equal, or what is seen and pending here.

    `ranges` tile what was asked for: of those without a digest `seen` and `pending`
    tell all runs; the others are too large for that, and are to be asked for if the
    digest is not the owner's. `leases` is the in-flight table of a replica that owned
    the partition until now; `handed_back`: until just now, and no more, so that what
    the table does not name is in nobody's hands. `refilling`: this copy does not count.
    An answer that is too long comes in several packets: `part` 0, 1, …, with `more` in
    all but the last, which has the leases and `handed_back`. `horizon`:
    of what is older, and not seen here, it cannot be said any more whether it was acked.
    `declared`, in part 0: how the queue is declared, if the owner knows it otherwise. An owner
    that has just joined must not take messages by other settings than those it has not heard of.
    """

    queue: NameText
    partition: U16
    number: U64
    equal: bool
    seen: Runs = ()
    pending: Runs = ()
    leases: Annotated[tuple[LeaseField, ...], Size(0, ITEMS_MAX)] = ()
    more: bool = False
    part: U16 = 0
    refilling: bool = False
    handed_back: bool = False
    ranges: Ranges = ()
    horizon: U64 = 0
    declared: Annotated[tuple[QueueRecord, ...], Size(0, 1)] = ()


@packet(64)
class Fetch(Packet):
    """From the owner: send these messages, which are pending at yours."""

    queue: NameText
    partition: U16
    number: U64
    runs: Runs


@packet(65, bulk=True)
class Supply(Packet):
    """The answer to Fetch `number`: what of it is still pending here, and what is acked by now."""

    queue: NameText
    partition: U16
    number: U64
    acked: Runs = ()
    batches: Batches = ()


@packet(66)
class Offer(Packet):
    """From a home replica to whom it takes for the owner: I hold something of this partition.

    `refilling`: this copy does not count. `news`: since you compared, another owner has
    written here: merge that before you deliver on.
    """

    queue: NameText
    partition: U16
    digest: Id
    refilling: bool = False
    news: bool = False


@struct
class PartitionField(Struct):
    """A partition, as a field."""

    queue: NameText
    partition: U16


@packet(67)
class HoldingsRequest(Packet):
    """From a refilling node: say of which partitions you hold something."""

    number: U64


@packet(68, bulk=True)
class Holdings(Packet):
    """The answer to HoldingsRequest `number`, in packets `part` 0, 1, …; `more` but in the last."""

    number: U64
    partitions: Annotated[tuple[PartitionField, ...], Size(0, ITEMS_MAX)] = ()
    part: U16 = 0
    more: bool = False
