"""Schedules on real nodes: on disk, known to all, and told by the calendar."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from p2pmq import BodyTooLargeError, UsageError
from p2pmq.core.packets.scheduling import SCHEDULE_BODY_BYTES_MAX
from p2pmq.node.cron import checked_cron, next_tick
from tests.node.kit import mesh, node, take, until

NOON = int(datetime(2026, 2, 28, 12, tzinfo=UTC).timestamp())


async def test_a_schedule_is_known_to_all_and_outlives_a_restart(tmp_path: Path) -> None:
    async with mesh("a", "b") as (a, b):
        made = await a.schedule("nightly", "30  4 * * *", "jobs", {"do": "it"}, priority=3)
        assert (made.cron, made.body, made.ttl) == ("30 4 * * *", {"do": "it"}, None)
        await until(lambda: len(b.schedules()) == 1)
        assert b.schedules()[0].next_at == made.next_at
        await b.unschedule("nightly")
        await until(lambda: a.schedules() == [])
    async with node("alone", store="disk", data_dir=tmp_path) as alone:
        await alone.schedule("hourly", "@hourly", "jobs", b"raw", ttl=60)
    async with node("alone", store="disk", data_dir=tmp_path) as alone:
        (info,) = alone.schedules()
        assert (info.cron, info.queue, info.body, info.ttl) == ("@hourly", "jobs", b"raw", 60.0)


async def test_a_tick_becomes_a_message_of_the_queue() -> None:
    async with node("alone") as alone:
        alone._machine._clock.wall_offset_ms -= alone._machine._clock.wall_ms % 60_000 + 100
        await alone.schedule("minutely", "* * * * *", "jobs", "do it")
        (message,) = await take(alone.consume("jobs"), 1)
        assert message.body == "do it"


async def test_what_cannot_be_is_refused() -> None:
    async with node("alone") as alone:
        with pytest.raises(UsageError, match="schedule name"):
            await alone.schedule("", "* * * * *", "jobs")
        with pytest.raises(UsageError, match="five fields"):
            await alone.schedule("n", "* * * * * *", "jobs")
        with pytest.raises(UsageError, match="priority"):
            await alone.schedule("n", "* * * * *", "jobs", priority=10)
        with pytest.raises(BodyTooLargeError):
            await alone.schedule("n", "* * * * *", "jobs", bytes(SCHEDULE_BODY_BYTES_MAX + 1))


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("* * * * *", datetime(2026, 2, 28, 12, 1, tzinfo=UTC)),
        ("30 4 * * *", datetime(2026, 3, 1, 4, 30, tzinfo=UTC)),
        ("0 0 29 2 *", datetime(2028, 2, 29, tzinfo=UTC)),
        ("@weekly", datetime(2026, 3, 1, tzinfo=UTC)),
        ("@yearly", datetime(2027, 1, 1, tzinfo=UTC)),
        ("30 2 29 3 *", datetime(2026, 3, 29, 2, 30, tzinfo=UTC)),  # an hour that Europe leaves out
    ],
)
def test_the_next_tick_is_found_in_utc(cron: str, expected: datetime) -> None:
    assert next_tick(cron, NOON) == int(expected.timestamp())
    assert checked_cron(cron, NOON) == cron


@pytest.mark.parametrize(
    "cron", ["", "* * * *", "* * * * * *", "60 * * * *", "0 0 30 2 *", "@never"]
)
def test_what_never_ticks_has_no_next_one(cron: str) -> None:
    assert next_tick(cron, NOON) is None
    with pytest.raises(UsageError, match="cannot be used"):
        checked_cron(cron, NOON)


def test_a_moment_that_no_calendar_has_is_no_error() -> None:
    assert next_tick("* * * * *", 2**60) is None
