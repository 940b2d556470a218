"""Everything that can happen to a node, as data: what the driver feeds the core.

Packets from peers, links that come and go, the user's requests, writes that
became durable. Time is not an event: it comes as `now` with each.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from p2pmq.core.ids import ConsumerId, JobId, NodeId, PartitionKey, Run
    from p2pmq.core.packets.binding import BindingRecord
    from p2pmq.core.packets.delivering import LeaseField
    from p2pmq.core.packets.publishing import Batch, Bodies
    from p2pmq.core.packets.registering import QueueRecord, QueueSettings
    from p2pmq.core.packets.registry import Packet
    from p2pmq.core.packets.replaying import CursorField
    from p2pmq.core.packets.scheduling import ScheduleRecord
    from p2pmq.core.records import Record, Recovered, Space


class Confirmation(IntEnum):
    """What a publisher waits for."""

    NONE = 0
    STORED = 1
    COMMITTED = 2


@dataclass(frozen=True, slots=True)
class Started:
    """The node starts, with what its store holds. `wall_offset_ms` is wall clock minus now."""

    recovered: Recovered
    addresses: tuple[str, ...]
    wall_offset_ms: int


@dataclass(frozen=True, slots=True)
class WallClockRead:
    """The wall clock is at `now + wall_offset_ms`."""

    wall_offset_ms: int


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing but time: a deadline has come."""


@dataclass(frozen=True, slots=True)
class PacketReceived:
    """An authentic, well-formed packet from a peer."""

    peer: NodeId
    packet: Packet


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A link to the peer is up: both sides have said Hello. Links that stand are not repeated."""

    peer: NodeId
    boot: int
    name: str
    addresses: tuple[str, ...]
    leaf: bool


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    """The last link to the peer is gone. No verdict on the peer: that is SWIM's."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class PublishRequested:
    """Publish the messages, as one batch. `token` names the request in `Resolve`.

    `wanted` is what resolves the token; 0 is for confirm="none". `timeout_ms`
    ends the wait, not the message. `size` is in bytes. `ttl_ms`, `priority`,
    `delay_ms`, `keys` and `ids` are as in `Batch`.
    """

    key: PartitionKey
    bodies: Bodies
    count: int
    size: int
    wanted: Confirmation
    timeout_ms: int
    token: int
    ttl_ms: int = 0
    priority: int = 0
    delay_ms: int = 0
    keys: bytes = b""
    ids: bytes = b""


@dataclass(frozen=True, slots=True)
class RepostRequested:
    """Publish the batch under the dots that it has: it is a repeat of itself, if need be.

    The token resolves with `Done` when all of it is committed, or after `timeout_ms` with
    `Refused`; then some of it may be, or may be yet.
    """

    key: PartitionKey
    batch: Batch
    timeout_ms: int
    token: int


@dataclass(frozen=True, slots=True)
class SubscribeRequested:
    """A consumer begins: keep it attached to the owner of each partition."""

    consumer: ConsumerId
    key: PartitionKey
    prefetch: int
    visibility_timeout_ms: int
    once: bool = False
    """Whether what was processed on this node is acked without being delivered again."""


@dataclass(frozen=True, slots=True)
class UnsubscribeRequested:
    """A consumer ends: what it holds unsettled goes back. Nobody has looked at `unread`."""

    consumer: ConsumerId
    unread: tuple[Run, ...] = ()


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """A consumer takes no more, and goes on with what is in hand; `unread` goes back at once."""

    consumer: ConsumerId
    unread: tuple[Run, ...]


class GivenBack(NamedTuple):
    """Dots that a consumer nacks, to rest for `delay_ms`; None: as the queue's rules say."""

    run: Run
    delay_ms: int | None = None
    error: str = ""
    failed: bool = True
    """Whether it counts: a handler that was cancelled has not failed."""
    rejected: bool = False
    """Never to be tried again: a dead letter at once."""


@dataclass(frozen=True, slots=True)
class SettleRequested:
    """A consumer's acks, nacks and extensions (dots, new timeout in ms from now) since the last."""

    consumer: ConsumerId
    key: PartitionKey
    acks: tuple[Run, ...] = ()
    nacks: tuple[GivenBack, ...] = ()
    extends: tuple[tuple[Run, int], ...] = ()


class Output(NamedTuple):
    """One message that is published with an ack: `bodies` holds one body of `size` bytes.

    It goes into one of the `partitions` of its queue, which `key` names.
    """

    key: PartitionKey
    bodies: Bodies
    size: int
    ttl_ms: int = 0
    priority: int = 0
    partitions: int = 1


@dataclass(frozen=True, slots=True)
class TieRequested:
    """Publish the outputs of one message, and ack it when all of them are committed."""

    consumer: ConsumerId
    key: PartitionKey
    run: Run
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class StatsRequested:
    """Ask every owner (or that of one queue) for its partitions' statistics."""

    queue: str
    timeout_ms: int
    token: int


@dataclass(frozen=True, slots=True)
class ReplayRequested:
    """Read a page of what the partition retains, after `cursor`."""

    key: PartitionKey
    cursor: CursorField
    timeout_ms: int
    token: int


@dataclass(frozen=True, slots=True)
class FlushRequested:
    """Resolve the token when the outbox is empty, settles are confirmed, or time is up.

    What is left then is made durable first.
    """

    timeout_ms: int
    token: int


@dataclass(frozen=True, slots=True)
class LeaveRequested:
    """Leave the mesh for good: hand over, tell the others, then resolve the token."""

    timeout_ms: int
    token: int


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The process ends, and may come back: say so, that nobody waits for our probes' answers."""

    token: int


@dataclass(frozen=True, slots=True)
class ForgetRequested:
    """Take a member that is gone for good off the roster."""

    node_id: NodeId
    token: int


@dataclass(frozen=True, slots=True)
class DeclareRequested:
    """Give a queue these settings, on every node of the mesh."""

    queue: str
    settings: QueueSettings
    token: int


@dataclass(frozen=True, slots=True)
class BindRequested:
    """Copy events of the pattern into the queue, or (not `bound`) do so no more, on every node."""

    pattern: str
    queue: str
    bound: bool
    token: int


@dataclass(frozen=True, slots=True)
class ScheduleRequested:
    """Make or remove a schedule on every node; the record's stamp and author are not set yet."""

    record: ScheduleRecord
    token: int


@dataclass(frozen=True, slots=True)
class PurgeRequested:
    """Remove what waits in the partition; the token resolves with `Purged` or `Refused`."""

    key: PartitionKey
    timeout_ms: int
    token: int


@dataclass(frozen=True, slots=True)
class DeletionRequested:
    """Delete the queue, which has these partitions; the token resolves with `Done` or `Refused`."""

    queue: str
    partitions: tuple[PartitionKey, ...]
    timeout_ms: int
    token: int


@dataclass(frozen=True, slots=True)
class InterestsRequested:
    """This node is interested in the patterns of `added` from now on, and no more in `removed`.

    No pattern is in both, and none is added twice before it was removed.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EmitRequested:
    """Events for whoever is interested on other nodes: topics and bodies, one for each.

    `size` is in bytes.
    """

    topics: tuple[str, ...]
    bodies: Bodies
    size: int


@dataclass(frozen=True, slots=True)
class CallRequested:
    """Ask one responder of that name. `bodies` holds one body of `size` bytes."""

    responder: str
    bodies: Bodies
    size: int
    timeout_ms: int
    token: int


@dataclass(frozen=True, slots=True)
class CallCancelled:
    """Whoever waits for the token of a call waits no more; it does not resolve."""

    token: int


@dataclass(frozen=True, slots=True)
class RespondRequested:
    """Answer to this name, so many requests at a time, with so many more in line."""

    responder: str
    concurrency: int
    waiting_max: int


@dataclass(frozen=True, slots=True)
class RespondEnded:
    """Answer to this name no more; what runs may end."""

    responder: str


@dataclass(frozen=True, slots=True)
class RequestHandled:
    """A handler has ended: with one body of `size` bytes, or (None) with an error."""

    job_id: JobId
    bodies: Bodies | None = None
    size: int = 0
    kind: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class BatchDurable:
    """A batch that was appended to a partition is on disk, and its traces (`core.traces`)."""

    key: PartitionKey
    number: int
    traces: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SettleDurable:
    """The acks of a Settle are on disk."""

    key: PartitionKey
    peer: NodeId
    consumer: ConsumerId
    number: int


@dataclass(frozen=True, slots=True)
class OutboxDurable:
    """A batch of the outbox is on disk."""

    key: PartitionKey
    number: int


@dataclass(frozen=True, slots=True)
class HandoverDurable:
    """What a Handover brought is on disk: new batches `numbers`, and who holds what of it.

    `runs` are all of its batches; `acked` is whether it brought acks as well.
    """

    key: PartitionKey
    peer: NodeId
    transfer: int
    numbers: tuple[int, ...] = ()
    leases: tuple[LeaseField, ...] = ()
    runs: tuple[Run, ...] = ()
    acked: bool = False


@dataclass(frozen=True, slots=True)
class ReplicaDurable:
    """What an owner's Replicate brought is on disk here: new batches `numbers`.

    Of the messages in it, those of `acked` were acked here before.
    """

    key: PartitionKey
    peer: NodeId
    number: int
    numbers: tuple[int, ...]
    acked: tuple[Run, ...] = ()


@dataclass(frozen=True, slots=True)
class SupplyDurable:
    """What a home supplied is on disk here: new batches `numbers`, all of it being `runs`."""

    key: PartitionKey
    peer: NodeId
    number: int
    numbers: tuple[int, ...]
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class DeclareDurable:
    """What a queue was declared with is on this node's disk.

    `before` is the record that held until then: the same one, if nothing has changed.
    """

    record: QueueRecord
    token: int
    before: QueueRecord | None = None


@dataclass(frozen=True, slots=True)
class BindDurable:
    """A binding is on this node's disk. `before` is as in `DeclareDurable`."""

    record: BindingRecord
    token: int
    before: BindingRecord | None = None


@dataclass(frozen=True, slots=True)
class ProcessedDurable:
    """The ids of what was processed once are on disk; `number` is of the settle that waits."""

    number: int


@dataclass(frozen=True, slots=True)
class ScheduleDurable:
    """A schedule is on this node's disk. `before` is as in `DeclareDurable`."""

    record: ScheduleRecord
    token: int
    before: ScheduleRecord | None = None


@dataclass(frozen=True, slots=True)
class PurgeDurable:
    """The last of a purge is on the owner's disk: `count` messages in all."""

    key: PartitionKey
    peer: NodeId
    number: int
    count: int


DurableEvent = (
    BatchDurable
    | SettleDurable
    | OutboxDurable
    | HandoverDurable
    | ReplicaDurable
    | SupplyDurable
    | DeclareDurable
    | BindDurable
    | ProcessedDurable
    | ScheduleDurable
    | PurgeDurable
)


@dataclass(frozen=True, slots=True)
class WriteRefused:
    """The disk is full: `records`, whose completion would have been `then`, were not written."""

    then: DurableEvent | None
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class BodyUnreadable:
    """The bodies of these dots could not be read back: their checksum is wrong."""

    space: Space
    key: PartitionKey
    run: Run


@dataclass(frozen=True, slots=True)
class DeliveryFailed:
    """A `Deliver` could not be carried out, since some of its bodies could not be read."""

    consumer: ConsumerId
    runs: tuple[Run, ...]


Event = (
    Started
    | WallClockRead
    | TimePassed
    | PacketReceived
    | PeerConnected
    | PeerDisconnected
    | PublishRequested
    | RepostRequested
    | ReplayRequested
    | SubscribeRequested
    | UnsubscribeRequested
    | DrainRequested
    | SettleRequested
    | TieRequested
    | StatsRequested
    | FlushRequested
    | LeaveRequested
    | StopRequested
    | ForgetRequested
    | DeclareRequested
    | BindRequested
    | ScheduleRequested
    | PurgeRequested
    | DeletionRequested
    | InterestsRequested
    | EmitRequested
    | CallRequested
    | CallCancelled
    | RespondRequested
    | RespondEnded
    | RequestHandled
    | BatchDurable
    | SettleDurable
    | OutboxDurable
    | HandoverDurable
    | ReplicaDurable
    | SupplyDurable
    | DeclareDurable
    | BindDurable
    | ProcessedDurable
    | ScheduleDurable
    | PurgeDurable
    | WriteRefused
    | BodyUnreadable
    | DeliveryFailed
)
