"""What the core asks the store to keep, as data.

A `Persist` carries records; the store makes all of one `Persist` durable in
one atomic write, in order. `Recovered` is what it gives back at the next start.

Invariant: a batch's dots become durable in the same write as its bodies; a
stored batch is proof that its dots are seen (but those that were un-seen since),
and `BatchRemoved` writes the session's `seen` in the same transaction that
deletes the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pmq.core.ids import NodeId, PartitionKey, Session
    from p2pmq.core.intervals import Interval
    from p2pmq.core.packets.binding import BindingRecord
    from p2pmq.core.packets.membership import Rumour
    from p2pmq.core.packets.publishing import Batch
    from p2pmq.core.packets.registering import QueueRecord
    from p2pmq.core.packets.scheduling import ScheduleRecord


class Space(IntEnum):
    """A keyspace of the store in which batches lie."""

    PARTITION = 0
    OUTBOX = 1


@dataclass(frozen=True, slots=True)
class StoredBodies:
    """Where bodies lie in this node's store; the driver reads them when it sends them.

    Positions start … stop - 1 of batch `number`.
    """

    space: Space
    key: PartitionKey
    number: int
    start: int
    stop: int

    def part(self, start: int, stop: int) -> StoredBodies:
        """The bodies at positions start … stop - 1 of these."""
        return StoredBodies(
            self.space, self.key, self.number, self.start + start, self.start + stop
        )


@dataclass(frozen=True, slots=True)
class NoBody:
    """So many empty bodies; the driver puts them in."""

    count: int

    def part(self, start: int, stop: int) -> NoBody:
        """So many of them."""
        return NoBody(stop - start)


@dataclass(frozen=True, slots=True)
class BatchStored:
    """Keep the batch, all of its messages alive. Numbers rise within (space, key).

    `expires_ms` is when its time to live ends, in ms of this node's wall clock; 0: never.
    `due_ms` is likewise when its delay ends; 0: it has none.
    """

    space: Space
    key: PartitionKey
    number: int
    batch: Batch
    expires_ms: int = 0
    due_ms: int = 0


@dataclass(frozen=True, slots=True)
class BatchTrimmed:
    """Only these seqs of the batch are alive still; the others are done, or un-seen.

    `unseen` are those whose bodies were damaged: the batch no longer proves them seen.
    """

    space: Space
    key: PartitionKey
    number: int
    alive: tuple[Interval, ...]
    unseen: tuple[Interval, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchRemoved:
    """Nothing of the batch is alive."""

    space: Space
    key: PartitionKey
    number: int


@dataclass(frozen=True, slots=True)
class SeenChanged:
    """All seqs of the session that the partition ever stored or knows to be acked.

    No seqs: the session is forgotten. `touched` is when that last changed, as a stamp of the
    hybrid clock; 0: not known.
    """

    key: PartitionKey
    session: Session
    seqs: tuple[Interval, ...]
    touched: int = 0


@dataclass(frozen=True, slots=True)
class HorizonMoved:
    """Of messages stamped before `horizon` acked ones may be forgotten. PartitionRemoved: none."""

    key: PartitionKey
    horizon: int


@dataclass(frozen=True, slots=True)
class PartitionRemoved:
    """The partition has been handed over: forget its batches and its `seen`."""

    key: PartitionKey


@dataclass(frozen=True, slots=True)
class MemberSaved:
    """A member of the roster, as last known; the addresses are the address book."""

    rumour: Rumour


@dataclass(frozen=True, slots=True)
class MemberRemoved:
    """The member has left or was forgotten."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class QueueSaved:
    """The latest declaration of a queue."""

    record: QueueRecord


@dataclass(frozen=True, slots=True)
class BindingSaved:
    """The latest record of a pair of pattern and queue."""

    record: BindingRecord


@dataclass(frozen=True, slots=True)
class ProcessedChanged:
    """The seqs of a block of a session that consumers of this node have processed; none: forget it.

    `touched` is when that last changed, in ms of this node's wall clock.
    """

    key: PartitionKey
    session: Session
    block: int
    seqs: tuple[Interval, ...]
    touched: int


@dataclass(frozen=True, slots=True)
class ScheduleSaved:
    """The latest record of a schedule."""

    record: ScheduleRecord


@dataclass(frozen=True, slots=True)
class IncarnationSaved:
    """This node's own incarnation: it never goes back, not over a restart either."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class RefillingChanged:
    """Whether this node is refilling; either way no partition is marked as filled after it."""

    refilling: bool


@dataclass(frozen=True, slots=True)
class PartitionFilled:
    """This refilling node has all that there is of the partition; PartitionRemoved ends that."""

    key: PartitionKey


Record = (
    BatchStored
    | BatchTrimmed
    | BatchRemoved
    | SeenChanged
    | HorizonMoved
    | PartitionRemoved
    | MemberSaved
    | MemberRemoved
    | QueueSaved
    | BindingSaved
    | ProcessedChanged
    | ScheduleSaved
    | IncarnationSaved
    | RefillingChanged
    | PartitionFilled
)


@dataclass(frozen=True, slots=True)
class RecoveredBatch:
    """A batch found at start. `batch.bodies` is a `StoredBodies`: nothing is read yet.

    `expires_ms` and `due_ms` are as in `BatchStored`; the batch's own `ttl_ms` is 0, since only
    the core knows what time it is. Its `delay_ms` is what was left when it was written.
    """

    space: Space
    key: PartitionKey
    number: int
    batch: Batch
    alive: tuple[Interval, ...]
    unseen: tuple[Interval, ...] = ()
    expires_ms: int = 0
    due_ms: int = 0


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the store holds at start. `batches` are in order of (space, key, number)."""

    node_id: NodeId
    store_id: bytes
    boot: int
    incarnation: int
    batches: tuple[RecoveredBatch, ...] = ()
    seen: tuple[SeenChanged, ...] = ()
    members: tuple[Rumour, ...] = ()
    queues: tuple[QueueRecord, ...] = ()
    refilling: bool = False
    filled: tuple[PartitionKey, ...] = ()
    horizons: tuple[HorizonMoved, ...] = ()
    bindings: tuple[BindingRecord, ...] = ()
    processed: tuple[ProcessedChanged, ...] = ()
    schedules: tuple[ScheduleRecord, ...] = ()
