"""Random faults: drawn from a seed, and written down as a timetable before the run.

So a random run is an ordinary scenario: it can be made smaller, kept as a
file, and played again.

Invariant: the same generator and arguments give the same faults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.sim.scenario import FaultSpec
from p2pmq.sim.selecting import meant_before_start

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from p2pmq.sim.scenario import Chaos, Scenario

KINDS = (
    "crash", "crash", "power_cut", "restart", "stop", "pause", "partition", "partition", "one_way",
    "flap", "isolate", "cut", "bridge", "loss", "duplicate", "reorder", "latency",
    "rate", "slow_disk", "full_disk", "failing_disk", "clock_jump", "clock_drift", "heal", "heal",
)  # fmt: skip
"""What may happen at random, as often as it stands here."""
LASTS_MS = (200, 15_000)
TWO, THREE = 2, 3


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
    for_ms = rng.randint(*LASTS_MS)
    shuffled = rng.sample(list(names), len(names))
    cut_at = rng.randint(1, max(1, len(names) - 1))
    some, others = tuple(shuffled[:cut_at]), tuple(shuffled[cut_at:])
    one, other = tuple(shuffled[:1]), tuple(shuffled[1:2])
    match what:
        case "partition":
            return FaultSpec(at_ms, what, for_ms, groups=(some, others))
        case "one_way" | "cut":
            return FaultSpec(at_ms, what, for_ms, from_=some, to=others)
        case "flap":
            every_ms = rng.choice((500, 3_000, 7_000))
            return FaultSpec(at_ms, what, for_ms, from_=one, to=other, every_ms=every_ms)
        case "bridge":
            return FaultSpec(at_ms, what, for_ms, from_=one, middle=other, to=tuple(shuffled[2:]))
        case "loss" | "duplicate" | "reorder" | "corrupt":
            share = rng.choice((0.02, 0.1, 0.3)) / (5 if what == "corrupt" else 1)
            return FaultSpec(at_ms, what, for_ms, share=share)
        case "latency":
            return FaultSpec(at_ms, what, for_ms, latency_ms=(1, rng.choice((20, 300))))
        case "rate":
            rate = rng.choice((50_000, 200_000, 1_000_000))
            return FaultSpec(at_ms, what, for_ms, rate_bytes=rate)
        case "slow_disk":
            sync_ms = (5, rng.choice((50, 800)))
            return FaultSpec(at_ms, what, for_ms, hosts=one, sync_ms=sync_ms)
        case "clock_jump":
            return FaultSpec(at_ms, what, hosts=one, by_ms=rng.randint(-900_000, 900_000))
        case "clock_drift":
            return FaultSpec(at_ms, what, hosts=one, drift=rng.choice((-0.1, 0.01, 0.5)))
        case "heal":
            return FaultSpec(at_ms, what)
        case "power_cut":
            return FaultSpec(at_ms, what, for_ms, hosts=rng.choice((one, tuple(shuffled))))
        case "restart" | "leave" | "join" | "flip_bit":
            return FaultSpec(at_ms, what, hosts=one)
        case _:
            return FaultSpec(at_ms, what, for_ms, hosts=one)


def _least(what: str) -> int:
    """How many hosts a fault needs."""
    if what == "bridge":
        return THREE
    return TWO if what in ("partition", "one_way", "cut", "flap", "isolate") else 1
