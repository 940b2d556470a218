"""When a message is wanted: a delay or a moment, checked, as what remains of it."""

from __future__ import annotations

from datetime import datetime

from p2pmq.errors import UsageError

DELAY_S_MAX = 366 * 86_400
"""A year: a delay is no calendar."""


def delay_ms_of(delay: float | None, at: datetime | float | None, wall_s: float) -> int:
    """What `delay=` or `at=` ask for, in ms from now; a moment that is past is now.

    Raises UsageError for both at once, a naive datetime, and what is no time or too long.
    """
    if delay is None and at is None:
        return 0
    if delay is not None and at is not None:
        raise UsageError("give delay= (seconds from now) or at= (a moment), not both")
    if isinstance(at, datetime):
        if at.utcoffset() is None:
            raise UsageError(
                f"at={at!r} has no time zone, so it names no moment: give an aware datetime "
                "(for example datetime.now(UTC) + timedelta(hours=1)), or seconds since 1970"
            )
        at = at.timestamp()
    if at is not None:
        left_s = max(0.0, at - wall_s) if at == at else at  # noqa: PLR0124  only NaN is not itself
    else:
        assert delay is not None
        left_s = delay
    if not 0 <= left_s <= DELAY_S_MAX:
        named = f"delay={delay!r}" if delay is not None else f"at={at!r}"
        raise UsageError(
            f"{named} cannot be: a message may wait from 0 to {DELAY_S_MAX:,} s (a year); "
            "at= as a number is in seconds since 1970"
        )
    return round(left_s * 1000)
