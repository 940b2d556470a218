"""Several sources at once: none stops another."""

import logging

import pytest

from p2pmq.discovery.base import Announcement, Found, Sighting
from p2pmq.discovery.combined import CombinedDiscovery
from p2pmq.discovery.seeds import SeedDiscovery
from p2pmq.errors import UsageError
from tests.discovery.kit import Sightings, announcement, rng


class FailingDiscovery:
    """Fails as told to."""

    def __init__(self, *, at_start: Exception | None, at_close: Exception | None = None) -> None:
        self.at_start, self.at_close = at_start, at_close
        self.closed = 0

    async def start(self, announce: Announcement, found: Found) -> None:
        if self.at_start is not None:
            raise self.at_start

    async def close(self) -> None:
        self.closed += 1
        if self.at_close is not None:
            raise self.at_close


async def test_sightings_of_all_sources_come_through_repeats_included() -> None:
    found = Sightings()
    combined = CombinedDiscovery(
        [SeedDiscovery([f"10.0.0.{n}:7070"], rng=rng(), retry_ms=2) for n in (1, 1, 2)]
    )
    await combined.start(announcement(), found)
    await found.until("10.0.0.1:7070", times=6)
    await found.until("10.0.0.2:7070", times=3)
    await combined.close()


async def test_a_source_that_fails_to_start_is_logged_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = Sightings()
    failing = FailingDiscovery(at_start=OSError("no such device"))
    combined = CombinedDiscovery([failing, SeedDiscovery(["10.0.0.1:7070"], rng=rng(), retry_ms=2)])
    await combined.start(announcement(), found)
    await found.until("10.0.0.1:7070", times=2)
    await combined.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "no such device" in caplog.text
    assert failing.closed == 1


async def test_a_usage_error_is_raised_after_all_sources_are_closed() -> None:
    wrong = FailingDiscovery(at_start=UsageError("write it otherwise"))
    other = FailingDiscovery(at_start=None)
    combined = CombinedDiscovery([other, wrong])
    with pytest.raises(UsageError, match="write it otherwise"):
        await combined.start(announcement(), Sightings())
    assert (wrong.closed, other.closed) == (1, 1)


async def test_a_source_that_fails_to_close_is_logged_and_the_others_are_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = FailingDiscovery(at_start=None, at_close=OSError("gone"))
    other = FailingDiscovery(at_start=None)
    combined = CombinedDiscovery([failing, other])
    await combined.start(announcement(), Sightings())
    await combined.close()
    assert other.closed == 1
    assert "gone" in caplog.text


async def test_without_sources_nothing_is_found() -> None:
    found: list[Sighting] = []
    combined = CombinedDiscovery([])
    await combined.start(announcement(), found.append)
    await combined.close()
    assert not found
