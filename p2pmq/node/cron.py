"""Cron expressions: what the core needs of calendars to fire schedules, all in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cronsim import CronSim, CronSimError

from p2pmq.errors import UsageError
from p2pmq.wire.bodies import PackedBodies

if TYPE_CHECKING:
    from p2pmq.core.packets.scheduling import ScheduleRecord

FIELDS = 5
"""Minute, hour, day of the month, month, day of the week: no seconds."""
ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


class Calendar:
    """The `Clockwork` of a node."""

    def next_tick(self, cron: str, after_s: int) -> int | None:
        """The first tick after that moment; None: there is none, or it is no cron expression."""
        return next_tick(cron, after_s)

    def bodies(self, record: ScheduleRecord) -> PackedBodies:
        """The one body of a schedule."""
        formats = bytes([record.body_format]) if record.body_format else None
        return PackedBodies.from_bodies([record.body], formats)


def next_tick(cron: str, after_s: int) -> int | None:
    """The first tick after that moment, in seconds since 1970.

    None: there is none, or (another version may have told of one) it is no cron expression.
    """
    expression = ALIASES.get(cron, cron)
    if len(expression.split()) != FIELDS:
        return None
    try:
        after = datetime.fromtimestamp(after_s, UTC)
        return int(next(CronSim(expression, after)).timestamp())
    except (CronSimError, StopIteration, ValueError, OverflowError, OSError):
        return None


def checked_cron(cron: str, now_s: int) -> str:
    """The expression with single blanks. Raises UsageError where it never ticks."""
    plain = " ".join(cron.split())
    if next_tick(plain, now_s) is None:
        raise UsageError(
            f"the cron expression {cron[:80]!r} cannot be used: give five fields (minute, hour, "
            "day of the month, month, day of the week; in UTC) that some moment fits, for example "
            "'*/5 * * * *', or one of " + ", ".join(ALIASES)
        )
    return plain
