"""The judgement of a run: the promises' checks and the scenario's expectations, as verdicts.

Both say the same things with the same code as `mesh.check()`.

Invariant: every verdict that does not hold says what happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.sim.checks import CHECKS, HEAL_WITHIN_S, too_many_duplicates
from p2pmq.sim.history import Pushed, dots
from p2pmq.sim.outcome import Latencies, Totals, Verdict
from p2pmq.sim.ticks import missed_ticks
from p2pmq.sim.units import written_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from p2pmq.sim.checks import Summary
    from p2pmq.sim.history import Dot, History
    from p2pmq.sim.observer import Observer
    from p2pmq.sim.outcome import Ownership
    from p2pmq.sim.scenario import Expect

SHOWN_MAX = 20
LOST_CHECKS = ("committed_is_kept", "stored_is_kept", "nothing_is_dropped_silently")


def checked(history: History) -> list[Verdict]:
    """Every check of the promises; the lost and the unexpected ones may be allowed for."""
    return [
        _verdict(check.__name__, [violation.text for violation in check(history)])
        for check in CHECKS
    ]


def expected(
    expect: Expect, history: History, counted: Summary, latencies: Latencies, gave_up: int
) -> list[Verdict]:
    """Every expectation that the scenario has."""
    bounds: list[tuple[str, int, int | None]] = [
        ("lost", counted.lost, expect.lost),
        ("unexpected", counted.unexpected, expect.unexpected),
        ("recovered", counted.recovered, expect.recovered_max),
        ("gave_up", gave_up, expect.gave_up_max),
    ]
    found = [
        _verdict(f"{name} <= {bound}", [f"{count} {name}"] if count > bound else [])
        for name, count, bound in bounds
        if bound is not None
    ]
    found += _at_least("committed", counted.acknowledged, expect.committed_min)
    found += _at_least("delivered", counted.delivered, expect.delivered_min)
    if expect.duplicates_max is not None:
        violations = too_many_duplicates(history, expect.duplicates_max)
        found.append(
            _verdict(f"duplicates <= {expect.duplicates_max}", [v.text for v in violations])
        )
    for name, within_ms in (
        ("detection", expect.detect_within_ms),
        ("convergence", expect.converge_within_ms),
        ("failover", expect.failover_within_ms),
        ("heal", expect.heal_within_ms),
    ):
        if within_ms is not None:
            found.append(_in_time(name, getattr(latencies, name), within_ms))
    return found


def _at_least(name: str, count: int, least: int | None) -> list[Verdict]:
    if least is None:
        return []
    return [_verdict(f"{name} >= {least}", [f"{count} {name}"] if count < least else [])]


def _in_time(name: str, samples_ms: Sequence[float], within_ms: int) -> Verdict:
    slow = [f"{ms:.0f} ms" for ms in samples_ms if ms > within_ms]
    return _verdict(f"{name} within {written_duration(within_ms)}", slow)


def not_stuck(
    history: History, hosts: Sequence[str], stuck_max: int, ownerless: Sequence[str] = ()
) -> Verdict:
    """Of what was promised, at most so much lies unacked on these hosts.

    What is for the queues in `ownerless` does not count: who should have it is away.
    """
    promised = set(dots(p for p in history.publications if p.is_promised))
    settled = set(dots(history.acks)) | set(dots(history.dropped)) | set(dots(history.excused))
    delayed = (p for p in history.publications if p.delay_ms)
    rest = (p for p in delayed if p.at_s + p.delay_ms / 1000 > history.now_s)
    settled |= set(dots(rest))  # nobody may have them yet
    where: dict[Dot, str] = {}
    for held in history.held:
        if held.host in hosts and held.key.queue not in ownerless:
            where |= dict.fromkeys(dots([held]), held.host)
    stuck = sorted(dot for dot in where if dot in promised and dot not in settled)
    violations = [f"{dot} lies on {where[dot]}" for dot in stuck] if len(stuck) > stuck_max else []
    return _verdict(f"stuck <= {stuck_max}", violations)


def no_tick_missed(phase: str, history: History, ownerless: Sequence[str]) -> Verdict:
    """Every tick of a schedule has come, where the queue has an owner."""
    return _verdict(f"{phase}: no tick is missed", missed_ticks(history, ownerless))


def totals(counted: Summary) -> Totals:
    """The counts, for an outcome."""
    return Totals(
        attempted=counted.attempted,
        committed=counted.acknowledged,
        delivered=counted.delivered,
        lost=counted.lost,
        duplicated=counted.duplicated,
        unexpected=counted.unexpected,
        recovered=counted.recovered,
        stuck=counted.stuck,
    )


# --------------------------------------------------------------------------------------- latencies


def measured(history: History, observer: Observer | None) -> Latencies:
    """Every time that the history and the observer tell."""
    heals = [
        (heal.equal_at_s or history.now_s) - heal.at_s
        for heal in history.heals
        if not heal.disturbed
        and (heal.equal_at_s is not None or history.now_s - heal.at_s > HEAL_WITHIN_S)
    ]
    return Latencies(
        detection=tuple(observer.detection_ms) if observer else (),
        convergence=tuple(observer.convergence_ms) if observer else (),
        failover=tuple(_failovers(history, observer.ownership)) if observer else (),
        heal=tuple(seconds * 1000 for seconds in heals),
        delivery=tuple(_deliveries(history)) if observer else (),
    )


def _deliveries(history: History) -> Iterable[float]:
    first: dict[Dot, float] = {}
    for delivery in history.deliveries:
        for dot in dots([delivery]):
            first.setdefault(dot, delivery.at_s)
    for publication in history.publications:
        for dot in dots([publication]):
            if dot in first:
                yield (first[dot] - publication.at_s) * 1000 - publication.delay_ms


def _failovers(history: History, ownership: Sequence[Ownership]) -> Iterable[float]:
    """From the end of an owner until somebody else pushes from its queue."""
    for end in history.process_ends:
        for owned in ownership:
            if owned.node != end.process.host or not owned.from_s <= end.at_s <= owned.to_s:
                continue
            taken_over = _next_push(history.pushes, owned, end.at_s)
            if taken_over is not None:
                yield (taken_over - end.at_s) * 1000


def _next_push(pushes: Sequence[Pushed], owned: Ownership, after_s: float) -> float | None:
    """The next push of the queue, if it is another's."""
    for push in pushes:
        if push.at_s > after_s and push.key.queue == owned.queue:
            return push.at_s if push.owner.host != owned.node else None
    return None


def _verdict(name: str, violations: list[str]) -> Verdict:
    shown = violations[:SHOWN_MAX]
    if len(violations) > SHOWN_MAX:
        shown.append(f"and {len(violations) - SHOWN_MAX} more")
    return Verdict(name, not violations, tuple(shown))
