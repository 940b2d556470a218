"""DNS: every record of a name is a node to try, and no name waits for another."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from p2pmq.discovery import dns
from p2pmq.discovery.base import Sighting
from p2pmq.discovery.dns import DnsDiscovery
from tests.discovery.kit import DEADLINE_S, Sightings, announcement, rng, until


class FakeResolver:
    """Stands for the system's resolver: what it answers can be changed as time goes by."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str] | Exception] = {}
        self.asked: list[str] = []
        self.blocked: set[str] = set()
        self.release = threading.Event()

    def getaddrinfo(self, host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        self.asked.append(host)
        if host in self.blocked:
            self.release.wait(DEADLINE_S)
        answer = self.answers.get(host, socket.gaierror(socket.EAI_NONAME, "no such name"))
        if isinstance(answer, Exception):
            raise answer
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (ip, port, 0, 0))
            if ":" in ip
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))
            for ip in answer
        ]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeResolver]:
    fake = FakeResolver()
    monkeypatch.setattr(socket, "getaddrinfo", fake.getaddrinfo)
    yield fake
    fake.release.set()


def lines_of(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(r.levelno, r.getMessage()) for r in caplog.records if r.name == dns.__name__]


async def test_every_a_and_aaaa_record_of_a_headless_service_is_sighted(
    resolver: FakeResolver,
) -> None:
    resolver.answers["queue.default.svc"] = ["10.1.0.1", "10.1.0.2", "fd00::3", "10.1.0.1"]
    found = Sightings()
    source = DnsDiscovery(["dns+queue.default.svc:7070"], rng=rng())
    await source.start(announcement("10.1.0.2:7070"), found)
    await found.until("[fd00::3]:7070")
    await source.close()
    # Own addresses are passed over, and a record is sighted once a lookup.
    assert found.all == [Sighting("10.1.0.1:7070", "dns"), Sighting("[fd00::3]:7070", "dns")]


async def test_many_slow_names_do_not_delay_another(resolver: FakeResolver) -> None:
    slow = [f"slow{number}" for number in range(40)]
    resolver.blocked.update(slow)
    resolver.answers["quick"] = ["10.1.0.1"]
    found = Sightings()
    source = DnsDiscovery([f"{name}:1" for name in slow] + ["quick:1"], rng=rng(), retry_ms=5)
    await source.start(announcement(), found)
    await found.until("10.1.0.1:1", times=2)
    assert not resolver.release.is_set()
    await source.close()


async def test_a_name_is_looked_up_again_and_only_its_latest_records_are_sighted(
    resolver: FakeResolver,
) -> None:
    resolver.answers["queue"] = ["10.1.0.1"]
    found = Sightings()
    source = DnsDiscovery(["queue:7070"], rng=rng(), refresh_ms=5)
    await source.start(announcement(), found)
    await found.until("10.1.0.1:7070", times=2)
    resolver.answers["queue"] = ["10.1.0.2"]
    await found.until("10.1.0.2:7070")
    old = found.count("10.1.0.1:7070")
    await found.until("10.1.0.2:7070", times=5)
    await source.close()
    assert found.count("10.1.0.1:7070") == old


async def test_between_lookups_the_known_addresses_are_sighted_again(
    resolver: FakeResolver,
) -> None:
    resolver.answers["queue"] = ["10.1.0.1"]
    found = Sightings()
    source = DnsDiscovery(["queue:7070"], rng=rng(), retry_ms=5)
    await source.start(announcement(), found)
    await found.until("10.1.0.1:7070", times=5)
    await source.close()
    assert resolver.asked == ["queue"]


async def test_a_lookup_under_way_is_not_repeated(resolver: FakeResolver) -> None:
    resolver.blocked.add("queue")
    resolver.answers.update(queue=["10.1.0.1"], other=["10.1.0.2"])
    found = Sightings()
    source = DnsDiscovery(["queue:1", "other:1"], rng=rng(), refresh_ms=2, retry_ms=2)
    await source.start(announcement(), found)
    await found.until("10.1.0.2:1", times=10)
    assert resolver.asked.count("queue") == 1
    resolver.release.set()
    await found.until("10.1.0.1:1", times=2)
    await source.close()


async def test_failures_are_logged_once_for_each_change(
    resolver: FakeResolver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(dns, "FAILED_RETRY_MS", 1)
    found = Sightings()
    source = DnsDiscovery(["queue:7070"], rng=rng(), refresh_ms=2, retry_ms=2)
    await source.start(announcement(), found)
    await until(lambda: len(resolver.asked) >= 5)
    assert [level for level, _ in lines_of(caplog)] == [logging.WARNING]
    resolver.answers["queue"] = ["10.1.0.1"]
    await found.until("10.1.0.1:7070", times=5)
    assert [level for level, _ in lines_of(caplog)] == [logging.WARNING, logging.INFO]
    resolver.answers["queue"] = UnicodeError("label too long")
    asked = len(resolver.asked)
    await until(lambda: len(resolver.asked) >= asked + 5)
    sighted = found.count("10.1.0.1:7070")
    await found.until("10.1.0.1:7070", times=sighted + 3)  # a broken resolver moves no node
    await source.close()
    levels = [level for level, _ in lines_of(caplog)]
    assert levels == [logging.WARNING, logging.INFO, logging.WARNING]
    assert "queue:7070" in lines_of(caplog)[0][1]
    assert "no such name" in lines_of(caplog)[0][1]


async def test_a_failed_lookup_is_retried_soon_and_then_less_and_less(
    resolver: FakeResolver,
) -> None:
    source = DnsDiscovery(["queue:7070"], rng=rng())
    watched = dns._Watched(source._seeds[0])
    periods = []
    for failures in (0, 1, 2, 3, 5, 6, 1_000_000):
        watched.failures = failures
        periods.append(source._period_ms(watched))
    assert periods == [30_000, 1_000, 2_000, 4_000, 16_000, 30_000, 30_000]


async def test_close_waits_for_no_lookup_and_nothing_is_sighted_after_it(
    resolver: FakeResolver,
) -> None:
    resolver.blocked.add("queue")
    resolver.answers["queue"] = ["10.1.0.1"]
    found = Sightings()
    source = DnsDiscovery(["queue:7070"], rng=rng())
    await source.start(announcement(), found)
    await until(lambda: bool(resolver.asked))
    await source.close()
    assert not resolver.release.is_set()
    lookups = [t for t in threading.enumerate() if t.name == "p2pmq-dns-queue"]
    resolver.release.set()
    for thread in lookups:
        await asyncio.to_thread(thread.join, DEADLINE_S)
    await asyncio.sleep(0)
    assert not found.all
    await source.close()


async def test_a_process_out_of_threads_tries_again(
    resolver: FakeResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver.answers["queue"] = ["10.1.0.1"]
    monkeypatch.setattr(dns, "FAILED_RETRY_MS", 1)
    refused: list[threading.Thread] = []
    start: Callable[[threading.Thread], None] = threading.Thread.start

    def refuse_once(thread: threading.Thread) -> None:
        if not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_once)
    found = Sightings()
    source = DnsDiscovery(["queue:7070"], rng=rng())
    await source.start(announcement(), found)
    await found.until("10.1.0.1:7070")
    await source.close()
    assert refused


async def test_a_name_with_very_many_records_is_cut(resolver: FakeResolver) -> None:
    resolver.answers["queue"] = [f"10.1.{n // 250}.{n % 250}" for n in range(1_000)]
    found = Sightings()
    source = DnsDiscovery(["queue:7070"], rng=rng())
    await source.start(announcement(), found)
    await found.until("10.1.0.0:7070")
    await source.close()
    assert len(found.all) == dns.ADDRESSES_MAX


async def test_localhost_is_found_by_the_systems_own_resolver() -> None:
    found = Sightings()
    source = DnsDiscovery(["localhost:7070"], rng=rng())
    await source.start(announcement(), found)
    await until(lambda: bool(found.all))
    await source.close()
    assert found.addresses() <= {"127.0.0.1:7070", "[::1]:7070"}
