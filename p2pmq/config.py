"""The settings of a node, each with its unit, its default and where that comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from p2pmq.errors import UsageError

RETENTION_MS_MIN = 3_600_000
OVERFLOWS = ("wait", "refuse", "drop-lowest")


@dataclass(frozen=True, slots=True)
class SwimConfig:
    """Failure detection and gossip. The defaults are memberlist's LAN profile.

    Durations are in milliseconds; `*_mult` are factors of log10(N) as
    memberlist defines them.

    >>> WAN.probe_interval_ms, SwimConfig().suspicion_mult
    (5000, 4)
    """

    probe_interval_ms: int = 1_000
    """How often a node asks another one whether it lives."""
    probe_timeout_ms: int = 500
    """How long it waits for the answer before it asks by way of others."""
    indirect_checks: int = 3
    """How many others it asks."""
    suspicion_mult: int = 4
    """How long a suspect has to refute, in probe intervals, once enough others confirm it …"""
    suspicion_max_timeout_mult: int = 6
    """… and how many times as long while nobody does."""
    retransmit_mult: int = 4
    """How often a piece of news is told."""
    gossip_interval_ms: int = 200
    """How often news are told …"""
    gossip_nodes: int = 3
    """… and to how many."""
    gossip_to_the_dead_ms: int = 30_000
    """For how long a member that was declared dead is still told of it."""
    push_pull_interval_ms: int = 30_000
    """How often two nodes compare all that they know of members."""
    awareness_max: int = 8
    """How many times slower than usual a node that is itself slow may probe."""
    healing_interval_ms: int = 15_000
    """How often a node tries some dead or once-known members: three turns fit into the 60 s
    within which a split heals."""
    healing_fanout: int = 3
    """How many of them it tries."""
    leaf_reap_ms: int = 600_000
    """A dead member that never owns (weight 0) is dropped from the roster after this."""
    tombstone_ms: int = 86_400_000
    """How long a member that left or was forgotten is remembered as such."""
    rumours_per_packet: int = 12
    """How many pieces of news ride on another packet."""
    lifeguard: bool = True
    """Off only in simulations that show what it is good for."""


LAN = SwimConfig()
WAN = SwimConfig(
    probe_interval_ms=5_000,
    probe_timeout_ms=3_000,
    suspicion_mult=6,
    gossip_interval_ms=500,
    gossip_nodes=4,
    gossip_to_the_dead_ms=60_000,
    push_pull_interval_ms=60_000,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of every buffer, window and table; at a bound callers wait, then get an error.

    >>> Limits(body_bytes_max=1024 * 1024).body_bytes_max
    1048576
    """

    body_bytes_max: int = 16 * 1024 * 1024
    """The largest body, packed; the same on every node of a mesh."""
    packet_bytes_max: int = 20 * 1024 * 1024
    """Above the largest body with its header; anything larger closes the connection (ZMQ)."""
    outbox_bytes_max: int = 64 * 1024 * 1024
    """Bodies held in memory by the outbox; what is on its disk does not count."""
    publish_window_bytes: int = 4 * 1024 * 1024
    """Bytes on their way to one partition's owner, unconfirmed."""
    link_window_bytes: int = 1024 * 1024
    """Bulk bytes on their way to one peer: a probe never waits behind more."""
    links_max: int = 256
    """Dialled connections; the least used is closed first."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the node waits for what. Milliseconds.

    >>> Config(timing=Timing(confirm_timeout_ms=10_000)).timing.confirm_timeout_ms
    10000
    """

    confirm_timeout_ms: int = 5_000
    """How long a publish waits for its confirm, and for room in the outbox, unless it says so."""
    resend_ms: int = 1_000
    """No confirm at all for this long: send the unconfirmed batches again."""
    spill_ms: int = 500
    """An unconfirmed batch goes to the outbox's disk after this."""
    settle_resend_ms: int = 1_000
    """No answer to acks for this long: send them again."""
    visibility_timeout_ms: int = 30_000
    """How long a delivery hides its message from other consumers, unless the consumer says so."""
    drain_timeout_ms: int = 10_000
    """How long `close()` waits for the outbox to empty."""
    stats_timeout_ms: int = 2_000
    """How long owners have to say how much they hold."""
    responder_wait_ms: int = 500
    """How long a request waits for a responder to become known, before it says that none is."""
    join_timeout_ms: int = 1_500
    """How long `start()` waits to meet somebody, before it goes on alone."""
    name_claim_ms: int = 15_000
    """How long `start()` tries again when its name seems taken: an old bearer may be dying."""


@dataclass(frozen=True, slots=True)
class Replication:
    """How many copies there are of each partition; every node of a mesh must say the same.

    A mesh of fewer full nodes than R keeps as many copies as it has. So the defaults
    commit on one disk where a node is alone, and on two disks in any larger mesh.

    >>> Config(replication=Replication(replicas=5, min_copies=3)).replication.min_copies
    3
    >>> Replication(context_retention_ms=1_000)
    Traceback (most recent call last):
    p2pmq.errors.UsageError: context_retention_ms=1000 is too short: ...
    """

    replicas: int = 3
    """R: on how many nodes' disks a partition belongs."""
    min_copies: int = 0
    """W: on how many of them a message must be fsynced to be committed; 0: a majority of R."""
    replace_after_ms: int = 600_000
    """A home that has been away for so long has its copies kept elsewhere meanwhile; 0: never.
    Those count for nothing: they are there to recover from. Ten minutes is longer than a reboot
    or an update, which should move no data."""
    context_retention_ms: int = 30 * 86_400_000
    """How long it is remembered that a message was acked, since anything of its publisher's session
    last changed; 0: for ever. What a node that was away for longer still holds is not delivered but
    goes to the dead-letter queue, if it may have been acked. A month covers a holiday, and a
    machine that waits for a spare part."""

    def __post_init__(self) -> None:
        """Raise UsageError where it makes no sense."""
        if self.context_retention_ms and self.context_retention_ms < RETENTION_MS_MIN:
            raise UsageError(
                f"context_retention_ms={self.context_retention_ms} is too short: what was acked is "
                f"forgotten once an hour, so give at least {RETENTION_MS_MIN} (an hour), or 0 to "
                "remember it for ever"
            )


@dataclass(frozen=True, slots=True)
class OutboxPolicy:
    """How much the outbox holds while owners are away, and what happens when it is full.

    >>> OutboxPolicy(bytes_max=10_000_000, overflow="drop-lowest").overflow
    'drop-lowest'
    >>> OutboxPolicy(bytes_max=0)
    Traceback (most recent call last):
    p2pmq.errors.UsageError: an outbox of 0 bytes ...
    """

    bytes_max: int = 1024 * 1024 * 1024
    """All that the outbox holds, on disk too: bodies, and an overhead for each message and batch.
    1 GiB: a site that makes 1 KB a second is cut off for ten days, and the disk of the smallest
    machine that runs this is not filled by it."""
    age_max_ms: int = 0
    """A message that was not sent within this is dropped; 0: none ever."""
    overflow: Literal["wait", "refuse", "drop-lowest"] = "wait"
    """A publisher waits for room up to its timeout; gets OutboxFullError at once; or unsent
    messages of lower priorities make room, the oldest of the lowest first."""

    def __post_init__(self) -> None:
        """Raise UsageError where it makes no sense."""
        if self.bytes_max < 1 or self.age_max_ms < 0:
            raise UsageError(
                f"an outbox of {self.bytes_max} bytes and {self.age_max_ms} ms of age cannot be: "
                "bytes_max is at least 1, age_max_ms at least 0 (no limit)"
            )
        if self.overflow not in OVERFLOWS:
            raise UsageError(
                f"{self.overflow!r} is no policy for a full outbox: choose one of "
                f"{', '.join(OVERFLOWS)}"
            )


@dataclass(frozen=True, slots=True)
class Retry:
    """What becomes of a message that has failed; `Node.declare` sets it for one queue.

    A failure is a nack, an exception in `async with message:`, or the end of the consumer's
    process; not a visibility timeout, and no partition.

    >>> Config(retry=Retry(max_deliveries=5)).retry.max_deliveries
    5
    """

    max_deliveries: int = 20
    """After so many failures a message goes to `<queue>.dlq`."""
    backoff_ms: int = 1_000
    """How long it rests after the first failure, unless the nack says how long; twice as long
    after each further one. Half of that is drawn by lot."""
    backoff_max_ms: int = 300_000
    """The longest rest: five minutes, so that twenty failures take about an hour."""


@dataclass(frozen=True, slots=True)
class Config:
    """All of a node's settings that are not who it is.

    >>> Config(swim=WAN, retry=Retry(backoff_ms=500)).swim.probe_interval_ms
    5000
    """

    swim: SwimConfig = LAN
    limits: Limits = Limits()
    timing: Timing = Timing()
    replication: Replication = Replication()
    outbox: OutboxPolicy = OutboxPolicy()
    retry: Retry = Retry()


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Who a node is, where it listens and keeps things, and whom it may meet.

    >>> NodeSettings("billing", zone="north").mesh
    'default'
    """

    name: str
    """Who it is in the mesh; no two living nodes of one may share it. 1 to 255 bytes, printable."""
    mesh: str = "default"
    """Which mesh it belongs to: it talks to no node of another one."""
    listen: str = "127.0.0.1:0"
    """`host:port` to listen on; port 0 takes any that is free."""
    seeds: tuple[str, ...] = ()
    """`host:port` of nodes to meet, or DNS names of them: see docs/discovery.md."""
    mdns: bool = True
    """Whether to find others, and to be found, by multicast DNS."""
    store: Literal["disk", "memory"] = "disk"
    """"memory" is for leaves and tests: a full node's confirms then hold as long as its process."""
    data_dir: str | None = None
    """Where the store lies; None: `~/.local/share/p2pmq/<mesh>/<name>` (XDG honoured)."""
    leaf: bool = False
    """A leaf never owns a queue: it publishes and consumes."""
    zone: str = ""
    """What fails together with this node (a rack, a site): copies are spread over zones."""
    weight: int = 1
    """Its part of the load, 1 to 32: 2 owns twice as many queues as 1."""
    insecure: bool = False
    """Whether it may listen off the loopback interface without mesh credentials."""
    config: Config = Config()
