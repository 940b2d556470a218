"""A scenario: who is there, what they do, what goes wrong and what is expected, as plain data.

It is read from a TOML file (`scenario_file`), drawn from a seed (`draw`) or
made smaller (`shrink`); `runner` plays it. A field's kind says how it stands in
the file, under its name without the unit: `every_ms` is `every = "100ms"`.

Invariant: together with a seed, a scenario decides everything that happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from p2pmq.sim.units import (
    COUNT,
    COUNT_1,
    DURATION,
    FLAG,
    NUMBER,
    PRIORITY,
    SHARE,
    SHIFT,
    SIZE,
    TEXT,
    list_of,
    one_of,
    range_of,
    table_of,
)

RangeMs = tuple[int, int]
Table = tuple[tuple[str, Any], ...]
Names = tuple[str, ...]

_DURATIONS = range_of(DURATION)
_NAMES = list_of(TEXT)
CONFIRMS = ("committed", "stored", "none")
PROFILES = ("lan", "wan")
RESTS = ("isolated", "crashed", "paused")
OVERFLOWS = ("block", "reject", "drop-oldest")
MOMENTS = ("handover", "recovery")

FAULTS: dict[str, tuple[Names, Names, str]] = {
    "partition": (("groups",), (), "cut all paths between the groups; who is in none is one more"),
    "isolate": (("hosts",), (), "cut each of the hosts off from all others"),
    "one_way": (("from", "to"), (), "let nothing through in this direction"),
    "cut": (("from", "to"), (), "let nothing through in both directions"),
    "bridge": (("from", "middle", "to"), (), "two halves that only one host can reach"),
    "ring_of_majorities": ((), (), "each host reaches a majority, and no two the same"),
    "flap": (("from", "to"), ("every",), "cut and mend the paths by turns"),
    "latency": (("latency",), ("from", "to"), "how long packets take"),
    "loss": (("share",), ("from", "to"), "lose a share of the packets"),
    "duplicate": (("share",), ("from", "to"), "let a share of the packets come twice"),
    "reorder": (("share",), ("from", "to", "late"), "let a share of the packets be overtaken"),
    "corrupt": (("share",), ("from", "to"), "flip a bit in a share of the packets"),
    "rate": (("rate",), ("from", "to"), "let so many bytes a second pass"),
    "heal": ((), (), "end every fault of the network"),
    "crash": (("hosts",), (), "kill the processes, as kill -9 does"),
    "power_cut": (("hosts",), (), "cut the power: what was not synced is lost"),
    "stop": (("hosts",), (), "stop the processes in good order"),
    "restart": (("hosts",), (), "start them again; one that runs is stopped first"),
    "rolling_restart": (("hosts",), ("every",), "restart one after the other"),
    "upgrade": (
        ("hosts", "versions"),
        ("every",),
        "restart one after the other, as other versions",
    ),
    "churn": (("hosts",), ("every", "down", "times"), "crash a random one and start it again"),
    "crash_during": (
        ("hosts", "during"),
        ("times",),
        "kill the first of them that is amid it, when it sends its `times`-th packet of it",
    ),
    "pause": (("hosts",), (), "stop the processes, as SIGSTOP does"),
    "resume": (("hosts",), (), "let paused processes go on"),
    "join": (("hosts",), (), "start hosts that were named `late`"),
    "leave": (("hosts",), (), "leave the mesh for good, in good order"),
    "wipe": (("hosts",), (), "a new, empty disk; the process is killed first"),
    "snapshot": (("hosts",), (), "remember what is on the disk"),
    "roll_back": (("hosts",), (), "the disk as at the snapshot; the process is killed first"),
    "torn_tail": (
        ("hosts",),
        ("late",),
        "cut the power after `late`; what the disk said it had synced meanwhile is gone, too",
    ),
    "truncate": (
        ("hosts",),
        (),
        "cut the store's file short, and kill the process; when mended, it starts empty",
    ),
    "flip_bit": (("hosts",), (), "flip one bit of a stored body"),
    "failing_disk": (("hosts",), (), "every sync fails (EIO): the node stops"),
    "full_disk": (("hosts",), (), "no message fits on the disk any more (ENOSPC)"),
    "slow_disk": (("hosts",), ("sync",), "let a sync take so long"),
    "clock_jump": (("hosts", "by"), (), "move the wall clock"),
    "clock_drift": (("hosts", "drift"), (), "let the wall clock run too fast by this share"),
}
"""What may go wrong: the keys that it needs, those that it may have, and what it does."""

LASTING = frozenset(
    {"partition", "isolate", "one_way", "cut", "bridge", "ring_of_majorities", "flap"}
    | {"latency", "loss", "duplicate", "reorder", "corrupt", "rate"}
    | {"crash", "power_cut", "stop", "pause", "wipe", "roll_back", "torn_tail", "truncate"}
    | {"crash_during"}
    | {"failing_disk", "full_disk", "slow_disk"}
)
"""These may have `for`: after so long, what they broke is mended."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """Who is there: `names`, or a `count` of nodes n1, n2, and so on."""

    count: Annotated[int, COUNT] = 0
    names: Annotated[Names, _NAMES] = ()
    late: Annotated[Names, _NAMES] = ()
    """Of these, those that are started by a fault `join` only."""
    leaves: Annotated[Names, _NAMES] = ()
    """Of these, those that never own a queue."""
    zones: Annotated[Table, table_of(_NAMES)] = ()
    """Zones, and who is in each."""
    weights: Annotated[Table, table_of(COUNT_1)] = ()
    versions: Annotated[Table, table_of(list_of(COUNT_1))] = ()
    """The protocol versions that a node speaks: the least and the most."""
    replicas: Annotated[int, COUNT_1] = 1
    """On how many nodes' disks a queue belongs."""
    min_copies: Annotated[int, COUNT] = 0
    """On how many of them a message is committed; 0: on a majority."""
    max_deliveries: Annotated[int, COUNT] = 0
    """After so many failures a message is a dead letter; 0: by default."""
    profile: Annotated[str, one_of(*PROFILES)] = "lan"
    """How patiently failures are detected."""
    in_turn: Annotated[bool, FLAG] = False
    """Start one after the other, instead of all at once."""

    @property
    def all(self) -> Names:
        """Every host's name."""
        return self.names or tuple(f"n{number}" for number in range(1, self.count + 1))

    @property
    def first(self) -> Names:
        """Those that are started at the beginning."""
        return tuple(name for name in self.all if name not in self.late)

    def zone_of(self, name: str) -> str:
        """The zone of a host; empty if it has none."""
        return next((zone for zone, members in self.zones if name in members), "")


@dataclass(frozen=True, slots=True)
class Links:
    """What the network does in the best of times: for all links, or from some hosts to some."""

    from_: Annotated[Names, _NAMES] = ()
    to: Annotated[Names, _NAMES] = ()
    both: Annotated[bool, FLAG] = True
    """Between `from` and `to` in both directions."""
    latency_ms: Annotated[RangeMs | None, _DURATIONS] = None
    loss: Annotated[float, SHARE] = 0.0
    duplicate: Annotated[float, SHARE] = 0.0
    reorder: Annotated[float, SHARE] = 0.0
    late_ms: Annotated[int, DURATION] = 50
    """By how much a reordered packet may be late."""
    corrupt: Annotated[float, SHARE] = 0.0
    rate_bytes: Annotated[int | None, SIZE] = None
    """Bytes a second."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What some queues are declared with, before anything else happens."""

    queues: Annotated[Names, _NAMES] = ("orders",)
    max_messages: Annotated[int, COUNT] = 0
    """How many a queue holds at most; 0: no limit."""
    overflow: Annotated[str, one_of(*OVERFLOWS)] = "block"
    """What happens beyond."""
    retain_ms: Annotated[int, DURATION] = 0
    """How long messages can be replayed; when all is at rest, they are."""
    schedule: Annotated[str, TEXT] = ""
    """A cron expression: at each of its ticks a message comes into each of the queues."""


@dataclass(frozen=True, slots=True)
class Publishers:
    """On each of `on`, one publisher, which picks one of `queues` each time."""

    on: Annotated[Names, _NAMES] = ("all",)
    queues: Annotated[Names, _NAMES] = ("orders",)
    every_ms: Annotated[RangeMs, _DURATIONS] = (100, 100)
    """From one publish to the next, at least; a confirm is waited for."""
    count: Annotated[int | None, COUNT_1] = None
    """Stop after so many messages."""
    batch: Annotated[RangeMs, range_of(COUNT_1)] = (1, 1)
    """Messages in one publish."""
    size_bytes: Annotated[RangeMs, range_of(SIZE)] = (100, 100)
    priority: Annotated[RangeMs, range_of(PRIORITY)] = (0, 0)
    """The higher the more urgent."""
    keys: Annotated[int, COUNT] = 0
    """Each message has one of so many ordering keys; 0: none has any."""
    ttl_ms: Annotated[int | None, DURATION] = None
    """How long a message lives."""
    ids: Annotated[float, SHARE] = 0.0
    """Share of publishes of one message with an id that another may have had."""
    emits: Annotated[float, SHARE] = 0.0
    """Share of publishes of one message that are emitted to a topic bound to the queue."""
    groups: Annotated[bool, FLAG] = False
    """What is emitted goes to a topic that is bound to all of `queues`: one group each."""
    delay_ms: Annotated[RangeMs, _DURATIONS] = (0, 0)
    """How long a message rests before anybody gets it."""
    purges: Annotated[float, SHARE] = 0.0
    """Share of publishes before which the queue is purged."""
    partitions: Annotated[int, COUNT_1] = 1
    """Now and then its queues are declared with more of them, up to so many."""
    confirm: Annotated[Names, list_of(one_of(*CONFIRMS))] = ("committed",)
    """One of these is drawn each time."""
    timeout_ms: Annotated[int | None, DURATION] = None
    """How long to wait for a confirm; the node's own default without."""
    start_ms: Annotated[int, DURATION] = 0
    stop_ms: Annotated[int | None, DURATION] = None
    """When to stop; at the end of `duration` without."""


@dataclass(frozen=True, slots=True)
class Consumers:
    """On each of `on`, one consumer of each of `queues`."""

    on: Annotated[Names, _NAMES] = ("all",)
    queues: Annotated[Names, _NAMES] = ("orders",)
    prefetch: Annotated[int, COUNT_1] = 100
    handler_ms: Annotated[RangeMs, _DURATIONS] = (0, 0)
    """How long a message is processed."""
    visibility_ms: Annotated[int | None, DURATION] = None
    """The visibility timeout; the node's own default without."""
    nack: Annotated[float, SHARE] = 0.0
    """Share of messages that are given back."""
    nack_delay_ms: Annotated[RangeMs, _DURATIONS] = (0, 0)
    late: Annotated[float, SHARE] = 0.0
    """Share of messages that are acked only when their visibility timeout is over."""
    resubscribe: Annotated[int | None, COUNT_1] = None
    """Begin anew after so many messages: what is held then goes back."""
    once: Annotated[bool, FLAG] = False
    """What was acked on this host does not come there again."""
    outputs: Annotated[float, SHARE] = 0.0
    """Share of messages that publish one more with their ack, into `<queue>.out`."""
    start_ms: Annotated[int, DURATION] = 0


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """One line of the timetable: at that time, this happens. Keys besides depend on `what`."""

    at_ms: Annotated[int, DURATION]
    what: Annotated[str, one_of(*FAULTS)]
    for_ms: Annotated[int | None, DURATION] = None
    """Mend it after so long."""
    hosts: Annotated[Names, _NAMES] = ()
    groups: Annotated[tuple[Names, ...], list_of(_NAMES)] = ()
    from_: Annotated[Names, _NAMES] = ()
    middle: Annotated[Names, _NAMES] = ()
    to: Annotated[Names, _NAMES] = ()
    every_ms: Annotated[int, DURATION] = 5_000
    down_ms: Annotated[int, DURATION] = 5_000
    times: Annotated[int, COUNT_1] = 1
    share: Annotated[float, SHARE] = 0.0
    latency_ms: Annotated[RangeMs | None, _DURATIONS] = None
    late_ms: Annotated[int, DURATION] = 50
    rate_bytes: Annotated[int | None, SIZE] = None
    sync_ms: Annotated[RangeMs, _DURATIONS] = (200, 1_000)
    by_ms: Annotated[int, SHIFT] = 0
    drift: Annotated[float, NUMBER] = 0.0
    versions: Annotated[tuple[int, ...], list_of(COUNT_1)] = ()
    during: Annotated[str, one_of(*MOMENTS)] = ""


@dataclass(frozen=True, slots=True)
class Chaos:
    """Faults that are drawn from the seed, beside those of the timetable."""

    what: Annotated[Names, list_of(one_of(*FAULTS))] = ()
    """Which; by default whatever can be mended."""
    every_ms: Annotated[RangeMs, _DURATIONS] = (500, 6_000)
    """From one to the next."""
    hosts: Annotated[Names, _NAMES] = ("all",)
    """Whom they may hit."""
    start_ms: Annotated[int, DURATION] = 0
    stop_ms: Annotated[int | None, DURATION] = None


@dataclass(frozen=True, slots=True)
class Liveness:
    """After all has been mended: everything fails again, then `core` alone is healed."""

    core: Annotated[Names, _NAMES]
    duration_ms: Annotated[int, DURATION] = 20_000
    rest: Annotated[str, one_of(*RESTS)] = "isolated"
    """What becomes of the others at the end; they stay so."""
    faults: tuple[FaultSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class Expect:
    """What must hold besides the promises, which always must; without a value, any will do."""

    lost: Annotated[int, COUNT] = 0
    unexpected: Annotated[int, COUNT] = 0
    stuck: Annotated[int, COUNT] = 0
    duplicates_max: Annotated[int | None, COUNT] = None
    """Deliveries beyond a message's first."""
    recovered_max: Annotated[int | None, COUNT] = None
    """Messages that were delivered though their publisher had no confirm."""
    committed_min: Annotated[int | None, COUNT] = None
    """Messages that were promised to be kept: committed or stored."""
    delivered_min: Annotated[int | None, COUNT] = None
    gave_up_max: Annotated[int | None, COUNT] = None
    """Publishes that ended in an error."""
    detect_within_ms: Annotated[int | None, DURATION] = None
    """From the end of a process, or its pause, until some node takes it for dead."""
    converge_within_ms: Annotated[int | None, DURATION] = None
    """From the begin of a fault until all views are equal, as far as connected."""
    failover_within_ms: Annotated[int | None, DURATION] = None
    """From the end of an owner until another delivers its queue."""
    heal_within_ms: Annotated[int, DURATION] = 60_000
    """From the end of the last fault until all views are equal."""
    settle_within_ms: Annotated[int, DURATION] = 180_000
    """From the end of the workload until nothing is under way."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """The whole of it."""

    nodes: Nodes
    about: Annotated[str, TEXT] = ""
    """The story in one line."""
    seed: Annotated[int, COUNT] = 0
    """Where none is given."""
    duration_ms: Annotated[int, DURATION] = 30_000
    """How long publishers publish, and faults happen; then all is mended."""
    mend: Annotated[bool, FLAG] = True
    """Mend everything at the end; false: as far as it was not, it stays broken."""
    links: tuple[Links, ...] = ()
    declared: tuple[Declared, ...] = ()
    publishers: tuple[Publishers, ...] = ()
    consumers: tuple[Consumers, ...] = ()
    faults: tuple[FaultSpec, ...] = ()
    chaos: tuple[Chaos, ...] = ()
    liveness: Liveness | None = None
    expect: Expect = Expect()

    @property
    def queues(self) -> Names:
        """Every queue that the workload names, in order."""
        named: Sequence[Publishers | Consumers] = (*self.publishers, *self.consumers)
        return tuple(dict.fromkeys(queue for spec in named for queue in spec.queues))
