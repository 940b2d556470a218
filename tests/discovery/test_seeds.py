"""Static seeds: sighted at start, and again and again."""

import asyncio
import itertools
import selectors
import socket
from collections.abc import Mapping

import pytest

from p2pmq.discovery.base import Sighting
from p2pmq.discovery.seeds import SeedDiscovery
from p2pmq.errors import UsageError
from tests.discovery.kit import Sightings, announcement, rng


class VirtualSelector(selectors.SelectSelector):
    """Waits for nothing: the time that the loop would have waited has passed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0
        return list(super().select(0))


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time."""

    def __init__(self) -> None:
        self.clock = VirtualSelector()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


async def test_seeds_are_sighted_at_start_and_again() -> None:
    found = Sightings()
    seeds = SeedDiscovery(["10.0.0.1:7070", "[::1]:7071"], rng=rng(), retry_ms=5)
    await seeds.start(announcement(), found)
    await found.until("10.0.0.1:7070", times=3)
    await found.until("[::1]:7071", times=3)
    await seeds.close()
    assert found.addresses() == {"10.0.0.1:7070", "[::1]:7071"}
    assert {sighting.source for sighting in found.all} == {"seed"}


def test_on_virtual_time_a_seed_is_sighted_every_five_seconds_jittered_by_a_quarter() -> None:
    loop = VirtualLoop()
    times: dict[str, list[float]] = {"10.0.0.1:7070": [], "10.0.0.2:7070": []}

    def found(sighting: Sighting) -> None:
        times[sighting.address].append(loop.time())

    async def run_for_an_hour() -> None:
        seeds = SeedDiscovery(list(times), rng=rng())
        await seeds.start(announcement(), found)
        hour_s = 3_600
        await asyncio.sleep(hour_s)
        await seeds.close()

    try:
        loop.run_until_complete(run_for_an_hour())
    finally:
        loop.close()
    for moments in times.values():
        pauses = [later - earlier for earlier, later in itertools.pairwise(moments)]
        assert moments[0] == 0
        assert 3_600 / 6.25 <= len(moments) <= 3_600 / 3.75 + 1
        assert all(3.74 < pause < 6.26 for pause in pauses)
        assert max(pauses) - min(pauses) > 1
    assert times["10.0.0.1:7070"] != times["10.0.0.2:7070"]


async def test_nothing_is_sighted_after_close() -> None:
    found = Sightings()
    seeds = SeedDiscovery(["10.0.0.1:7070"], rng=rng(), retry_ms=1)
    await seeds.start(announcement(), found)
    await found.until("10.0.0.1:7070")
    await seeds.close()
    seen = len(found.all)
    other = SeedDiscovery(["10.0.0.2:7070"], rng=rng(), retry_ms=1)
    await other.start(announcement(), later := Sightings())
    await later.until("10.0.0.2:7070", times=20)
    await other.close()
    assert len(found.all) == seen
    await seeds.close()


async def test_a_failing_callback_does_not_stop_the_retries() -> None:
    found = Sightings()
    errors: list[object] = []

    def fail_once(sighting: Sighting) -> None:
        found(sighting)
        if found.count(sighting.address) == 1:
            raise RuntimeError(sighting.address)

    def remember(_loop: asyncio.AbstractEventLoop, context: Mapping[str, object]) -> None:
        errors.append(context["exception"])

    asyncio.get_running_loop().set_exception_handler(remember)
    seeds = SeedDiscovery(["10.0.0.1:7070"], rng=rng(), retry_ms=1)
    await seeds.start(announcement(), fail_once)
    await found.until("10.0.0.1:7070", times=3)
    await seeds.close()
    assert [str(error) for error in errors] == ["10.0.0.1:7070"]


async def test_the_nodes_own_address_is_passed_over() -> None:
    found = Sightings()
    seeds = SeedDiscovery(["10.0.0.1:7070", "10.0.0.2:7070"], rng=rng(), retry_ms=1)
    await seeds.start(announcement("10.0.0.1:7070"), found)
    await found.until("10.0.0.2:7070", times=3)
    await seeds.close()
    assert found.addresses() == {"10.0.0.2:7070"}


async def test_a_seed_that_is_a_name_goes_to_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        assert host == "bank"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.9", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    found = Sightings()
    seeds = SeedDiscovery(["10.0.0.1:7070", "bank:7070"], rng=rng(), retry_ms=5)
    await seeds.start(announcement(), found)
    await found.until("10.0.0.1:7070", times=2)
    await found.until("10.0.0.9:7070", times=2)
    await seeds.close()
    assert Sighting("10.0.0.9:7070", "dns") in found.all


def test_a_malformed_seed_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="port is missing"):
        SeedDiscovery(["10.0.0.1:7070", "bank"], rng=rng())
