"""A user's seconds as the core's milliseconds, checked before they can reach a packet."""

from __future__ import annotations

from p2pmq.errors import UsageError

MS_MAX = 2**42
"""139 years: the most that a packet's `Milliseconds` hold. What is longer means for ever."""


def to_ms(seconds: float, least_ms: int = 0) -> int:
    """Whole milliseconds, at the most MS_MAX; raises UsageError below `least_ms`, or for NaN."""
    if not seconds >= least_ms / 1000:
        raise UsageError(
            f"a time of {seconds} s makes no sense here: give {least_ms / 1000:g} s or more"
        )
    return round(min(seconds * 1000, MS_MAX))
