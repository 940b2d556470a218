"""SRV records: the extra that brings hosts and ports."""

import asyncio
import importlib
import socket
import sys
from types import ModuleType
from typing import Any, cast

import pytest

from p2pmq.discovery.dns import DnsDiscovery
from p2pmq.discovery.seeds import SeedDiscovery
from p2pmq.discovery.srv import load_service_lookup
from p2pmq.errors import UsageError
from tests.discovery.kit import Sightings, announcement, rng

SERVICE = "_p2pmq._tcp.example.org"


class FakeDnsError(Exception):
    """What the fake library raises."""


class FakeRecord:
    """One SRV record."""

    def __init__(self, priority: int, weight: int, port: int, target: str) -> None:
        self.priority, self.weight, self.port, self.target = priority, weight, port, target


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> list[FakeRecord]:
    """Put a fake of the library in place; what the test puts into the list is its answer."""
    answer: list[FakeRecord] = []

    async def resolve(name: str, rdtype: str, *, search: bool) -> list[FakeRecord]:
        if not answer:
            raise FakeDnsError
        assert (name, rdtype, search) == (SERVICE, "SRV", True)
        return answer

    resolver: Any = ModuleType("dns.asyncresolver")
    resolver.resolve = resolve
    errors: Any = ModuleType("dns.exception")
    errors.DNSException = FakeDnsError
    monkeypatch.setitem(sys.modules, "dns", ModuleType("dns"))
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", resolver)
    monkeypatch.setitem(sys.modules, "dns.exception", errors)
    return answer


def test_without_the_library_a_usage_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    with pytest.raises(UsageError, match=r"pip install 'p2pmq\[dns\]'") as caught:
        SeedDiscovery([f"srv+{SERVICE}"], rng=rng())
    assert f"srv+{SERVICE}" in str(caught.value)


def test_without_the_library_all_other_seeds_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    SeedDiscovery(["10.0.0.1:7070", "bank:7070", "dns+bank:7070"], rng=rng())


async def test_hosts_and_ports_come_best_first_and_once(records: list[FakeRecord]) -> None:
    records += [
        FakeRecord(20, 0, 7072, "c.example.org."),
        FakeRecord(10, 1, 7071, "b.example.org."),
        FakeRecord(10, 9, 7070, "a.example.org."),
        FakeRecord(10, 9, 7070, "a.example.org."),
        FakeRecord(0, 0, 0, "."),
    ]
    look_up = load_service_lookup(f"srv+{SERVICE}")
    assert await look_up(SERVICE) == [
        ("a.example.org", 7070),
        ("b.example.org", 7071),
        ("c.example.org", 7072),
    ]


async def test_the_librarys_errors_and_a_refusing_record_are_failed_lookups(
    records: list[FakeRecord],
) -> None:
    look_up = load_service_lookup(f"srv+{SERVICE}")
    with pytest.raises(OSError, match="FakeDnsError"):
        await look_up(SERVICE)
    records.append(FakeRecord(0, 0, 0, "."))
    with pytest.raises(OSError, match="name no host"):
        await look_up(SERVICE)


async def test_every_host_of_a_service_is_sighted_and_a_bad_one_stops_none(
    records: list[FakeRecord], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    records += [
        FakeRecord(10, 0, 7070, "a.example.org."),
        FakeRecord(10, 0, 7071, "gone.example.org."),
        FakeRecord(10, 0, 7072, "c.example.org."),
    ]
    hosts = {"a.example.org": "10.1.0.1", "c.example.org": "fd00::3"}

    def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if host not in hosts:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (hosts[host], port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    found = Sightings()
    source = DnsDiscovery([f"srv+{SERVICE}"], rng=rng(), retry_ms=5)
    await source.start(announcement(), found)
    await found.until("10.1.0.1:7070", times=2)
    await found.until("[fd00::3]:7072", times=2)
    assert not caplog.records
    await source.close()


class NameServer(asyncio.DatagramProtocol):
    """A name server on loopback that answers every question with one SRV record."""

    def __init__(self) -> None:
        self.message: Any = importlib.import_module("dns.message")
        self.rrset: Any = importlib.import_module("dns.rrset")
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self.transport is not None
        query = self.message.from_wire(data)
        answer = self.message.make_response(query)
        name = query.question[0].name
        answer.answer.append(self.rrset.from_text(name, 30, "IN", "SRV", "1 2 7070 localhost."))
        self.transport.sendto(answer.to_wire(), addr)


async def test_the_real_library_asks_a_real_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = pytest.importorskip("dns.asyncresolver", reason="the extra [dns] is not installed")
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        NameServer, local_addr=("127.0.0.1", 0)
    )
    configured = resolver.Resolver(configure=False)
    configured.nameservers = ["127.0.0.1"]
    configured.port = transport.get_extra_info("sockname")[1]
    monkeypatch.setattr(resolver, "default_resolver", configured)
    look_up = load_service_lookup(f"srv+{SERVICE}")
    assert await look_up(SERVICE) == [("localhost", 7070)]
    transport.close()
