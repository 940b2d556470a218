"""Numbers for people: percentiles of samples, and units that fit the length of a run.

Invariant: nothing is interpolated; a percentile is one of the samples.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Unit(NamedTuple):
    """A unit of virtual time."""

    name: str
    seconds: float


MILLISECONDS = Unit("ms", 0.001)
SECONDS = Unit("s", 1.0)
MINUTES = Unit("min", 60.0)
HOURS = Unit("h", 3_600.0)
DAYS = Unit("days", 86_400.0)
TEXT_MAX = 64
UNITS_MAX = 5
"""A run is told in the largest unit of which it lasts at least so many."""


class Spread(NamedTuple):
    """What is shown of a list of samples."""

    samples: int
    p50: float
    p90: float
    p99: float
    max: float


def unit_of(run_s: float) -> Unit:
    """The unit in which a run of this length is best told."""
    fitting = (u for u in (DAYS, HOURS, MINUTES) if run_s >= UNITS_MAX * u.seconds)
    return next(fitting, SECONDS)


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample that `share` (0 … 1) of all are at most (the nearest rank); samples: one or more.

    Source: the definition by nearest rank, which holds for few samples too.
    """
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(samples: Sequence[float]) -> Spread | None:
    """Median, 90th and 99th percentile and the largest; None of nothing."""
    if not samples:
        return None
    p50, p90, p99 = (percentile(samples, share) for share in (0.5, 0.9, 0.99))
    return Spread(len(samples), p50, p90, p99, max(samples))


def duration(seconds: float) -> str:
    """A length of time in words, to three digits: `4.2 ms`, `31 s`, `6.5 h`."""
    for unit in (DAYS, HOURS, MINUTES, SECONDS):
        if seconds >= 2 * unit.seconds or (unit is SECONDS and seconds >= 1):
            return f"{short(seconds / unit.seconds)} {unit.name}"
    return f"{short(seconds / MILLISECONDS.seconds)} ms"


def moment(seconds: float) -> str:
    """A moment of a run as on a clock: `0:12.5`, `3:07:30`, `2 d 4:00:00`."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    days, hours = divmod(hours, 24)
    if not days and not hours:
        return f"{minutes}:{rest:04.1f}"
    clock = f"{hours}:{minutes:02}:{int(rest):02}"
    return f"{days} d {clock}" if days else clock


def cut_short(text: str) -> str:
    """A text of at most TEXT_MAX letters: a partition of 100 nodes names them all."""
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…"


def short(number: float) -> str:
    """To three digits, with thousands parted: `0.123`, `12.3`, `12,346`."""
    if number == 0 or abs(number) >= 100:  # noqa: PLR2004  three digits before the point
        return f"{number:,.0f}"
    return f"{number:.3g}"
