"""What a publisher gets back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from p2pmq.core.spreading import message_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pmq.core.effects import Overflowed
    from p2pmq.core.ids import NodeId
    from p2pmq.core.membership import Member
    from p2pmq.core.packets.publishing import QueueStats


class Receipt(NamedTuple):
    """What became of one message.

    `committed`: it is fsynced on `copies` home nodes, of which `owner` (a node
    name) confirmed it. `stored`: it is fsynced in this node's outbox. Neither,
    after `confirm="none"`: it is on its way. `message_id` names it for ever; `partition` is
    the one of the queue's that it is in.

    >>> receipt = Receipt("orders", b"session1", 7, True, True, 2, "billing")
    >>> receipt.committed, receipt.copies, receipt.message_id
    (True, 2, '73657373696f6e31-7')
    """

    queue: str
    session: bytes
    seq: int
    committed: bool
    stored: bool
    copies: int
    owner: str | None
    partition: int = 0

    @property
    def message_id(self) -> str:
        """Publisher's session, the partition if it is not the first, and seq.

        Empty after `confirm="none"`: the seq comes later.
        """
        return message_name(self.session, self.seq, self.partition) if self.seq else ""


@dataclass(frozen=True, slots=True)
class BulkReceipt:
    """What became of a `publish_many`: counts of messages, and the names of who confirmed them.

    >>> receipt = BulkReceipt("orders", 1_000, 1_000, 1_000, ("billing",))
    >>> receipt.published - receipt.committed
    0
    """

    queue: str
    published: int
    committed: int
    stored: int
    owners: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overflow:
    """What an outbox at its limits did to messages: `Node(on_overflow=)` is told.

    `action`: "dropped" (taken once, and gone now), "refused" (never taken), or
    "waited" (their publisher begins to wait for room). `reason`: "outbox_full",
    "outbox_age" for messages older than `age_max_ms`, or "queue_full" for those
    that a queue at its own limit rejected. `size` is in bytes.
    Bodies are not here: they may lie on the disk, or be many. `message_ids`
    are those of the receipts; there are none where the publisher was held
    back before its messages had any.

    >>> overflow = Overflow("dropped", "orders", 2, 512, 0, "outbox_full", b"session1", 7)
    >>> overflow.message_ids
    ['73657373696f6e31-7', '73657373696f6e31-8']
    """

    action: Literal["dropped", "refused", "waited"]
    queue: str
    count: int
    size: int
    priority: int
    reason: str
    session: bytes
    first_seq: int
    partition: int = 0

    @property
    def message_ids(self) -> list[str]:
        """The messages by id, in the order published."""
        if not self.first_seq:
            return []
        seqs = range(self.first_seq, self.first_seq + self.count)
        return [message_name(self.session, seq, self.partition) for seq in seqs]


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How many messages a queue holds, as its owners see it; `size` in bytes.

    `ready` may be delivered now, `in_flight` are with consumers, `delayed`
    rest after a nack with a delay or were published with one; of these `scheduled` are
    published so, and not due. `consumers` are attached to it, on any node; `owner`
    is a node's name. `replicas` and `min_copies` are as in `QueueInfo`. Of a queue of several
    `partitions` the counts are sums; `owners` are the nodes that own some of them, and `owner`
    owns the first.

    >>> depth = QueueDepth("orders", 5, 2, 1, 4_096, 3, "billing", 3, 2)
    >>> depth.total, depth.ready
    (8, 5)
    """

    queue: str
    ready: int
    in_flight: int
    delayed: int
    size: int
    consumers: int
    owner: str | None
    replicas: int
    min_copies: int
    scheduled: int = 0
    partitions: int = 1
    owners: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """All messages of the queue."""
        return self.ready + self.in_flight + self.delayed


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """One member of the mesh, as this node sees it.

    `node_id` is in hexadecimal. `state`: "alive", "suspect" (it did not answer, and may yet),
    "dead" (it is away, and keeps its place), or "unmet" (known from before a restart).
    `addresses` are of the form host:port. `leaf`: it never owns a queue.

    >>> member = MemberInfo("till", "0a" * 8, "alive", ("10.0.0.7:7000",), "shop", True, False)
    >>> member.name, member.state, member.leaf
    ('till', 'alive', True)
    """

    name: str
    node_id: str
    state: str
    addresses: tuple[str, ...]
    zone: str
    leaf: bool
    is_self: bool


def overflow_of(notice: Overflowed) -> Overflow:
    """A notice of the core as the user sees it."""
    return Overflow(
        notice.action,
        notice.key.queue,
        notice.count,
        notice.size,
        notice.priority,
        notice.reason,
        notice.session,
        notice.first,
        notice.key.number,
    )


def depth_of(
    queue: str, stats: Iterable[QueueStats], owners: list[str | None], copies: tuple[int, int]
) -> QueueDepth:
    """The statistics of a queue's partitions, as the user sees them. Empty ones may have none.

    `owners` are those of each partition; `copies` R and W as this node knows them, for where no
    owner says. A consumer is attached to each of the partitions, so that it is counted once.
    """
    ready = in_flight = delayed = size = consumers = scheduled = 0
    for found in stats:
        ready += found.ready
        in_flight += found.in_flight
        delayed += found.delayed
        size += found.size
        scheduled += found.scheduled
        consumers = max(consumers, found.consumers)
        if found.replicas:
            copies = (found.replicas, found.min_copies)
    return QueueDepth(
        queue,
        ready,
        in_flight,
        delayed,
        size,
        consumers,
        owners[0],
        *copies,
        scheduled,
        len(owners),
        tuple(dict.fromkeys(owner for owner in owners if owner is not None)),
    )


def info_of(member: Member, own_id: NodeId) -> MemberInfo:
    """An entry of the roster as the user sees it."""
    return MemberInfo(
        name=member.name,
        node_id=member.node_id.hex(),
        state=member.state.name.lower(),
        addresses=member.addresses,
        zone=member.zone,
        leaf=member.leaf,
        is_self=member.node_id == own_id,
    )
