"""Random faults: drawn from a seed, and written down as a timetable before the run.

So a random run is an ordinary scenario: it can be made smaller, kept as a
file, and played again.

Invariant: the same generator and arguments give the same faults.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from p2pmq.sim.scenario import LASTING, FaultSpec
from p2pmq.sim.scenario_sense import RING_MIN
from p2pmq.sim.selecting import meant_before_start

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from p2pmq.sim.scenario import Chaos, Scenario

KINDS = (
    "crash", "crash", "power_cut", "restart", "stop", "pause", "partition", "partition", "one_way",
    "flap", "isolate", "cut", "bridge", "loss", "duplicate", "reorder", "corrupt", "latency",
    "rate", "slow_disk", "full_disk", "failing_disk", "clock_jump", "clock_drift", "heal", "heal",
)  # fmt: skip
"""What may happen at random, as often as it stands here."""
LASTS_MS = (200, 15_000)
SHARES = {
    "loss": (0.02, 0.1, 0.3),
    "duplicate": (0.02, 0.1, 0.3),
    "reorder": (0.02, 0.1, 0.3),
    "corrupt": (0.002, 0.02),
}
BETWEEN = ("partition", "one_way", "cut", "flap", "bridge")


def chaos_faults(scenario: Scenario, rng: random.Random) -> list[FaultSpec]:
    """The random faults of a scenario, in the order of their times."""
    found: list[FaultSpec] = []
    for chaos in scenario.chaos:
        names = meant_before_start(chaos.hosts, scenario.nodes)
        stop_ms = scenario.duration_ms if chaos.stop_ms is None else chaos.stop_ms
        found += drawn_faults(rng, names, chaos, stop_ms)
    return sorted(found, key=lambda fault: fault.at_ms)


def drawn_faults(
    rng: random.Random, names: Sequence[str], chaos: Chaos, stop_ms: int
) -> list[FaultSpec]:
    """Faults among these hosts, one after the other until `stop_ms`."""
    found: list[FaultSpec] = []
    at_ms = chaos.start_ms + rng.randint(*chaos.every_ms)
    while at_ms < stop_ms:
        fault = drawn_fault(rng, names, at_ms, rng.choice(chaos.what or KINDS))
        if fault is not None:
            found.append(fault)
        at_ms += max(1, rng.randint(*chaos.every_ms))
    return found


def drawn_fault(
    rng: random.Random, names: Sequence[str], at_ms: int, what: str
) -> FaultSpec | None:
    """One fault of a kind; None if there are too few hosts for it."""
    if len(names) < _least(what):
        return None
    fault = FaultSpec(at_ms, what, rng.randint(*LASTS_MS) if what in LASTING else None)
    shuffled = rng.sample(list(names), len(names))
    if what in SHARES:
        fault = replace(fault, share=rng.choice(SHARES[what]))
    elif what == "latency":
        fault = replace(fault, latency_ms=(1, rng.choice((20, 300))))
    elif what == "rate":
        fault = replace(fault, rate_bytes=rng.choice((200_000, 1_000_000)))
    elif what in BETWEEN:
        fault = _between(rng, fault, tuple(shuffled))
    elif what not in ("heal", "ring_of_majorities"):
        fault = _on_a_host(rng, fault, tuple(shuffled))
    return fault


def _between(rng: random.Random, fault: FaultSpec, shuffled: tuple[str, ...]) -> FaultSpec:
    """Some hosts are parted from others."""
    cut_at = rng.randint(1, len(shuffled) - 1)
    if fault.what == "partition":
        return replace(fault, groups=(shuffled[:cut_at], shuffled[cut_at:]))
    if fault.what == "bridge":
        return replace(fault, from_=shuffled[:1], middle=shuffled[1:2], to=shuffled[2:])
    if fault.what == "flap":
        every_ms = rng.choice((500, 3_000, 7_000))
        return replace(fault, from_=shuffled[:1], to=shuffled[1:2], every_ms=every_ms)
    return replace(fault, from_=shuffled[:cut_at], to=shuffled[cut_at:])


def _on_a_host(rng: random.Random, fault: FaultSpec, shuffled: tuple[str, ...]) -> FaultSpec:
    """One host is hit; by a power cut, perhaps all of them."""
    fault = replace(fault, hosts=shuffled[:1])
    match fault.what:
        case "power_cut":
            return replace(fault, hosts=rng.choice((shuffled[:1], shuffled)))
        case "slow_disk":
            return replace(fault, sync_ms=(5, rng.choice((50, 800))))
        case "clock_jump":
            return replace(fault, by_ms=rng.randint(-900_000, 900_000))
        case "clock_drift":
            return replace(fault, drift=rng.choice((-0.1, 0.01, 0.5)))
        case _:
            return fault


def _least(what: str) -> int:
    """How many hosts a fault needs."""
    if what == "bridge":
        return 3
    if what == "ring_of_majorities":
        return RING_MIN
    return 2 if what in (*BETWEEN, "isolate") else 1
