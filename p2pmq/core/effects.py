"""Everything that the core may ask of the world, as data, in order.

The driver carries effects out in the order given. What may only happen after
something is durable is not in the list at all: it follows from the event that
the `Persist` names, when the driver feeds it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from p2pmq.core.events import DurableEvent
    from p2pmq.core.ids import ConsumerId, JobId, NodeId, PartitionKey, Run
    from p2pmq.core.packets.delivering import Segment
    from p2pmq.core.packets.publishing import Batch, Bodies, QueueStats
    from p2pmq.core.packets.registry import Packet
    from p2pmq.core.records import Record


@dataclass(frozen=True, slots=True)
class Send:
    """Send a packet to a peer, dialling it if need be; it may be lost."""

    peer: NodeId
    packet: Packet


@dataclass(frozen=True, slots=True)
class Persist:
    """Make `records` durable in one atomic write, then feed `then` back; a crash before runs none.

    `patient`: nobody's latency hangs on it, so that it may wait a little for
    others to be committed with. A disk that is full feeds back
    `WriteRefused(then)`; any other failure stops the node.
    """

    records: tuple[Record, ...]
    then: DurableEvent | None = None
    patient: bool = False


@dataclass(frozen=True, slots=True)
class Learn:
    """The addresses under which a peer can be dialled, best first; none: forget the peer."""

    peer: NodeId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Deliver:
    """Messages for a consumer of this node, in order."""

    consumer: ConsumerId
    key: PartitionKey
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Emitted:
    """Events that another node emitted, in order: a topic for each body."""

    peer: NodeId
    topics: tuple[str, ...]
    bodies: Bodies


@dataclass(frozen=True, slots=True)
class Handle:
    """Run the handler of a responder on a request; `RequestHandled` follows when it has ended."""

    job_id: JobId
    responder: str
    bodies: Bodies
    left_ms: int
    """Until the deadline, at which `StopHandling` comes."""


@dataclass(frozen=True, slots=True)
class StopHandling:
    """Stop the handler of a request, for nobody waits for it any more."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class Published:
    """How a publish ended so far. `owner` is the node that confirmed, or should have.

    `copies` counts fsynced copies at home replicas; `stored` is whether the
    outbox has it on disk. `timed_out` means that the wait is over, not the message,
    but where `gone` says so: it was "dropped" from the outbox, or "refused" for want of room,
    or "rejected" by a queue that is full.
    """

    first: int
    count: int
    session: bytes
    copies: int
    stored: bool
    owner: NodeId | None
    timed_out: bool = False
    reason: str = ""
    gone: Literal["", "dropped", "refused", "rejected"] = ""


@dataclass(frozen=True, slots=True)
class Flushed:
    """How a flush ended: what was left, and is durable now; `unstored` of it is not."""

    messages_left: int
    settles_left: int
    unstored: int = 0


@dataclass(frozen=True, slots=True)
class Stats:
    """The statistics that came in time; `missing` owners did not answer."""

    queues: tuple[QueueStats, ...]
    missing: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Retained batches in order; `more` follow. Not `in_time`: no owner has answered."""

    batches: tuple[Batch, ...]
    more: bool
    in_time: bool = True


@dataclass(frozen=True, slots=True)
class Done:
    """It is done, and there is nothing more to say."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It was not done, for this reason, which a person can act on."""

    reason: str


@dataclass(frozen=True, slots=True)
class Replied:
    """The answer to a request, one body."""

    bodies: Bodies


@dataclass(frozen=True, slots=True)
class NotReplied:
    """There is no answer: nobody was there, or `peer` was silent, died, was too busy or raised.

    `kind` and `text` are those of the error that its handler raised.
    """

    reason: Literal["nobody", "timeout", "gone", "overloaded", "raised"]
    peer: NodeId | None = None
    kind: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Purged:
    """So many messages were removed from the queue."""

    count: int


Outcome = Purged | Published | Flushed | Stats | Page | Done | Refused | Replied | NotReplied


@dataclass(frozen=True, slots=True)
class Resolve:
    """The request `token` has ended. A confirm="none" publish never resolves."""

    token: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class OutboxChanged:
    """The outbox holds so many bytes in memory, and in all: publishers wait above the limits."""

    bytes_held: int
    bytes_total: int = 0


@dataclass(frozen=True, slots=True)
class Overflowed:
    """The outbox's limits told on these messages: `action` is "dropped", "refused" or "waited".

    `reason` is "outbox_full", "outbox_age", or "queue_full" where the queue's own limit did.
    Messages that only wait have no dots yet.
    """

    action: Literal["dropped", "refused", "waited"]
    key: PartitionKey
    count: int
    size: int
    priority: int
    reason: str
    session: bytes = b""
    first: int = 0


@dataclass(frozen=True, slots=True)
class MemberNotice:
    """A member joined, became suspect, died, came back or left: for logs and listeners."""

    node_id: NodeId
    name: str
    state: int
    address: str


@dataclass(frozen=True, slots=True)
class Counted:
    """Something worth a metric happened, `count` times; if `alarming`, a person should read it."""

    what: str
    count: int = 1
    text: str = ""
    alarming: bool = False


@dataclass(frozen=True, slots=True)
class Expired:
    """The time to live of these messages ended before anybody acked them: they are gone."""

    key: PartitionKey
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """These messages are not taken: others with the same ids were published of late."""

    key: PartitionKey
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class TracesGone:
    """The time of these traces is over (`core.traces`); the dots are theirs."""

    key: PartitionKey
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Buried:
    """These messages of `key` are gone from there without an ack, for this reason.

    They are committed in the queue `into`; or, where that is empty, dropped, and `why` says why.
    """

    key: PartitionKey
    runs: tuple[Run, ...]
    reason: str
    into: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Discarded:
    """These messages left their queue without an ack.

    `reason` is "overflow" (they were the oldest of a full one) or "purged".
    """

    key: PartitionKey
    runs: tuple[Run, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class PartitionsRaised:
    """A queue has more partitions than it had, as this node knows it."""

    queue: str


Notice = (
    Expired
    | Deduplicated
    | TracesGone
    | Buried
    | Discarded
    | MemberNotice
    | Counted
    | OutboxChanged
    | Overflowed
    | PartitionsRaised
)


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell whoever listens: logs, metrics, the user's callbacks."""

    notice: Notice


Effect = Send | Persist | Learn | Deliver | Emitted | Handle | StopHandling | Resolve | Notify
