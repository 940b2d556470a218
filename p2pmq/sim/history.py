"""The history of a simulation: what was published, pushed, delivered and settled, and the faults.

It is written by `watch`, from within every node, and by the mesh, which makes
the faults; it is read by `checks` and reports. Messages are named by their
dots, in runs, as everywhere.

Invariant: the timeline, and every list, is in the order in which things happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from p2pmq.core.spreading import message_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from p2pmq.core.ids import ConsumerId, PartitionKey, Run, Session


class Process(NamedTuple):
    """One run of a host's node: it ends at a stop or a crash, and the next has another number."""

    host: str
    boot: int


class Dot(NamedTuple):
    """One message's name for ever."""

    key: PartitionKey
    session: Session
    seq: int

    def __str__(self) -> str:
        return f"{self.key.queue}/{message_name(self.session, self.seq, self.key.number)}"


TICK_S = 0.001
"""The clocks of machines tick so; these are floats."""


class Outcome(Enum):
    """What a publisher was told."""

    NOTHING = "nothing"
    """Not yet, or it asked for nothing, or it died before."""
    STORED = "stored"
    COMMITTED = "committed"
    TIMED_OUT = "timed out"


@dataclass(slots=True)
class Publication:
    """One batch as it was published. `digests` are CRC-32s of the bodies; `wanted` the confirm."""

    at_s: float
    process: Process
    key: PartitionKey
    run: Run
    wanted: str
    digests: tuple[int, ...]
    token: int
    outcome: Outcome = Outcome.NOTHING
    stored: bool = False
    told_at_s: float | None = None
    delay_ms: int = 0
    gone: str = ""
    """Its publisher was told that it is not in the outbox any more, and this is why."""
    patience_s: float = inf
    """So long its publisher waits to be told."""

    @property
    def has_expired(self) -> bool:
        """Whether its publisher's patience had ended when it was told something."""
        waited_s = None if self.told_at_s is None else self.told_at_s - self.at_s
        return waited_s is not None and waited_s > self.patience_s - TICK_S

    @property
    def is_promised(self) -> bool:
        """Whether the publisher was told that it is kept."""
        return self.stored or self.outcome in (Outcome.STORED, Outcome.COMMITTED)

    @property
    def is_committed(self) -> bool:
        """Whether the publisher was told that it is committed."""
        return self.outcome is Outcome.COMMITTED


class Subscription(NamedTuple):
    """A `consume()` begins."""

    at_s: float
    process: Process
    consumer: ConsumerId
    key: PartitionKey
    prefetch: int
    visibility_timeout_s: float


class Delivered(NamedTuple):
    """Messages came to a consumer."""

    at_s: float
    process: Process
    consumer: ConsumerId
    key: PartitionKey
    run: Run
    attempt: int
    digests: tuple[int, ...]


class Pushed(NamedTuple):
    """An owner sent messages to a consumer."""

    at_s: float
    owner: Process
    key: PartitionKey
    run: Run
    attempt: int
    keys: bytes = b""
    """As in `Taken`."""


class Taken(NamedTuple):
    """An owner took messages: from a publisher, or from its own disk at its start."""

    at_s: float
    owner: Process
    key: PartitionKey
    run: Run
    priority: int = 0
    keys: bytes = b""
    """The hashes of ordering keys, as in `Batch`."""
    alone: bool = False
    """The owner knew of nobody else: it was a mesh of its own, with its own declarations."""


class Fetched(NamedTuple):
    """An owner stores messages that it has from another disk than its publisher's."""

    at_s: float
    owner: Process
    key: PartitionKey
    run: Run


class Acked(NamedTuple):
    """A consumer's code acked messages."""

    at_s: float
    process: Process
    consumer: ConsumerId
    key: PartitionKey
    run: Run


class Nacked(NamedTuple):
    """A consumer's code gave messages back."""

    at_s: float
    process: Process
    consumer: ConsumerId
    key: PartitionKey
    run: Run


class AckConfirmed(NamedTuple):
    """An owner has told the consumer that the ack is durable. `by` is the owner's host.

    `is_known`: of the W homes that another owner must reach, some one has it.
    """

    at_s: float
    consumer: ConsumerId
    key: PartitionKey
    run: Run
    by: str
    is_known: bool = True


class ConsumerEnded(NamedTuple):
    """A consumer was closed; what it held goes back."""

    at_s: float
    consumer: ConsumerId


class ProcessEnded(NamedTuple):
    """A process ended, in whatever way."""

    at_s: float
    process: Process


class Returned(NamedTuple):
    """What had come to a consumer, and was given back before the user's code had seen it."""

    at_s: float
    process: Process
    consumer: ConsumerId
    key: PartitionKey
    run: Run


class Unread(NamedTuple):
    """A node could not read bodies of its own, so that what it was about to send never left."""

    at_s: float
    process: Process
    key: PartitionKey
    run: Run


class Dropped(NamedTuple):
    """A node gave messages up, and said why."""

    at_s: float
    process: Process
    key: PartitionKey
    run: Run
    reason: str


class Buried(NamedTuple):
    """A dead letter came to the owner of its queue, who may deliver it."""

    at_s: float
    owner: Process
    key: PartitionKey
    run: Run
    digests: tuple[int, ...]
    reason: str


class Fired(NamedTuple):
    """The owner of a queue published a tick of a schedule, perhaps again."""

    at_s: float
    owner: Process
    key: PartitionKey
    run: Run
    digests: tuple[int, ...]


class Declared(NamedTuple):
    """Somebody gave a queue settings: a limit (0: none), and what is to happen at it.

    `partitions` 0: as many as it has.
    """

    at_s: float
    queue: str
    max_messages: int
    max_bytes: int
    overflow: str
    partitions: int = 0


class Scheduled(NamedTuple):
    """Somebody made a schedule, whose ticks go into the queue."""

    at_s: float
    name: str
    queue: str
    cron: str


@dataclass(slots=True)
class Purge:
    """Somebody has a queue purged. `done_at_s`: when he was told that it is."""

    at_s: float
    key: PartitionKey
    done_at_s: float | None = None


class Emitted(NamedTuple):
    """A publisher of a scenario has emitted an event to a topic that it had bound to `queues`."""

    at_s: float
    host: str
    digest: int
    queues: tuple[str, ...]


class Excused(NamedTuple):
    """A fault has destroyed these messages, or what was known of them."""

    at_s: float
    key: PartitionKey
    run: Run
    reason: str


class Held(NamedTuple):
    """At the time of the check these messages lie on a host's disk."""

    host: str
    space: str
    key: PartitionKey
    run: Run


@dataclass(slots=True)
class Fault:
    """Something that the simulation broke, until it was mended (None: not yet)."""

    at_s: float
    kind: str
    hosts: tuple[str, ...]
    text: str
    until_s: float | None = None
    sides: tuple[tuple[str, ...], ...] = ()
    """Of a partition: who was with whom; hosts that no side names were one more."""


@dataclass(slots=True)
class Heal:
    """After the last fault had ended: when all views were equal (None: not seen).

    `disturbed` is set when the next fault came before that, so that nothing follows.
    """

    at_s: float
    equal_at_s: float | None = None
    disturbed: bool = False
    differing: str = ""


Entry = (
    Publication
    | Subscription
    | Delivered
    | Pushed
    | Taken
    | Fetched
    | Acked
    | Nacked
    | AckConfirmed
    | ConsumerEnded
    | ProcessEnded
    | Returned
    | Unread
    | Dropped
    | Buried
    | Fired
    | Declared
    | Scheduled
    | Purge
    | Emitted
    | Excused
    | Fault
    | Heal
)
"""What a history is made of."""


class History:
    """Everything that happened, in order, and by kind."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.timeline: list[Entry] = []
        self.publications: list[Publication] = []
        self.subscriptions: list[Subscription] = []
        self.deliveries: list[Delivered] = []
        self.pushes: list[Pushed] = []
        self.taken: list[Taken] = []
        self.fetched: list[Fetched] = []
        self.acks: list[Acked] = []
        self.nacks: list[Nacked] = []
        self.confirmed_acks: list[AckConfirmed] = []
        self.ended: list[ConsumerEnded] = []
        self.process_ends: list[ProcessEnded] = []
        self.returned: list[Returned] = []
        self.unread: list[Unread] = []
        self.dropped: list[Dropped] = []
        self.buried: list[Buried] = []
        self.fired: list[Fired] = []
        self.declared: list[Declared] = []
        self.scheduled: list[Scheduled] = []
        self.purges: list[Purge] = []
        self.emitted: list[Emitted] = []
        self.excused: list[Excused] = []
        self.faults: list[Fault] = []
        self.heals: list[Heal] = []
        self.held: list[Held] = []
        """Set when the history is checked: what lies on the disks then."""
        self.taken_for_acked: list[Held] = []
        """Likewise: what disks have as seen, and hold no body of."""
        self.peaks: dict[tuple[str, str], tuple[int, int]] = {}
        """The most that a buffer of a host ever held as far as was seen, and its limit."""
        self.outboxes: dict[Process, int] = {}
        """Likewise: how many messages each living process holds in its outbox, and inputs of others
        that it publishes with their acks."""
        self.now_s = 0.0
        """Likewise: when that was."""
        self._of_kind: dict[type, list[Any]] = {
            Publication: self.publications,
            Subscription: self.subscriptions,
            Delivered: self.deliveries,
            Pushed: self.pushes,
            Taken: self.taken,
            Fetched: self.fetched,
            Acked: self.acks,
            Nacked: self.nacks,
            AckConfirmed: self.confirmed_acks,
            ConsumerEnded: self.ended,
            ProcessEnded: self.process_ends,
            Returned: self.returned,
            Unread: self.unread,
            Dropped: self.dropped,
            Buried: self.buried,
            Fired: self.fired,
            Declared: self.declared,
            Scheduled: self.scheduled,
            Purge: self.purges,
            Emitted: self.emitted,
            Excused: self.excused,
            Fault: self.faults,
            Heal: self.heals,
        }
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Something happened, after everything that was added before."""
        self.timeline.append(entry)
        self._of_kind[type(entry)].append(entry)


_WithRun = (Publication | Delivered | Pushed | Taken | Acked | Nacked | AckConfirmed | Unread) | (
    Returned | Fetched | Dropped | Buried | Fired | Excused | Held
)


def dots(entries: Iterable[_WithRun]) -> Iterator[Dot]:
    """Every message that the entries name, one by one."""
    for entry in entries:
        key, (session, first, last) = entry.key, entry.run
        for seq in range(first, last + 1):
            yield Dot(key, session, seq)
