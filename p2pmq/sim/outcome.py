"""The outcome of one simulated run: what reports, scripts and tests need of it, as plain data.

It holds neither nodes nor a loop, so that it can leave the process that ran the
simulation. All `_s` are virtual seconds since the start of the run, but `wall_s`.

Invariant: everything but `wall_s` follows from the scenario and the seed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Band:
    """A fault, or another change from outside, and how long it lasted.

    `what` is its kind (cut, flap, link, down, leave, join, pause, disk, slow disk, failing disk,
    full disk, clock); `text` says it in words. One of a single moment has `to_s == from_s`.
    """

    what: str
    who: tuple[str, ...]
    from_s: float
    to_s: float
    text: str
    sides: tuple[tuple[str, ...], ...] = ()
    """Of a partition: who was with whom; nodes that no side names were one more."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """A node took itself for the owner of a queue, and delivered from it."""

    queue: str
    node: str
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True)
class Presence:
    """What a host's process did in that time; the spans of one host follow each other."""

    node: str
    state: Literal["up", "down", "paused"]
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check or expectation: whether it held, and each breach, in words."""

    name: str
    ok: bool
    violations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of messages, after Jepsen's total-queue."""

    attempted: int = 0
    committed: int = 0
    """Of those attempted, promised to be kept: confirmed as committed or stored."""
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    unexpected: int = 0
    recovered: int = 0
    stuck: int = 0


@dataclass(frozen=True, slots=True)
class Latencies:
    """Samples in milliseconds of virtual time, in the order in which they were measured."""

    detection: tuple[float, ...] = ()
    """From the end of a process, or its pause, to the first other node that takes it for dead."""
    convergence: tuple[float, ...] = ()
    """From a fault's begin to the moment from which all views are equal, as far as connected."""
    failover: tuple[float, ...] = ()
    """From the end of an owner's process to the first delivery of its queue by another."""
    heal: tuple[float, ...] = ()
    """From the end of the last fault to the moment from which all views are equal."""
    delivery: tuple[float, ...] = ()
    """From a message's publication to its first delivery."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a node sent in the `interval_s` seconds that end at `at_s`."""

    node: str
    at_s: float
    interval_s: float
    packets_per_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that is worth knowing of a run."""

    scenario: str
    seed: int
    replay: str
    """The command that makes it happen again."""
    trace_hash: str
    events: int
    """Callbacks that the virtual loop ran."""
    virtual_s: float
    wall_s: float
    nodes: tuple[str, ...]
    """Names of the hosts, in the order in which they were started."""
    bands: tuple[Band, ...] = ()
    ownership: tuple[Ownership, ...] = ()
    presence: tuple[Presence, ...] = ()
    convergence_s: tuple[float, ...] = ()
    """Moments from which all views were equal again."""
    verdicts: tuple[Verdict, ...] = ()
    totals: Totals = field(default_factory=Totals)
    latencies: Latencies = field(default_factory=Latencies)
    traffic: tuple[Sample, ...] = ()
    error: str = ""
    """What ended the run before its time; empty if nothing did."""

    @property
    def ok(self) -> bool:
        """Whether the run came to its end, and every check and expectation held."""
        return not self.error and all(verdict.ok for verdict in self.verdicts)

    def as_json(self) -> dict[str, Any]:
        """For a script: every field by its name, and `ok`."""
        return {"ok": self.ok, **asdict(self)}
