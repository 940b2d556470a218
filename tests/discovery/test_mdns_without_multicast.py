"""mDNS where there is none, and what is announced on which interface."""

import asyncio
import logging

import pytest
from zeroconf import InterfaceChoice, NotRunningException, Zeroconf
from zeroconf.asyncio import AsyncZeroconf

from p2pmq.discovery import mdns
from p2pmq.discovery.mdns import LABEL_BYTES_MAX, SERVICE_TYPE, MdnsDiscovery
from tests.discovery.kit import Sightings, announcement, rng, until


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "error",
    [
        OSError(101, "Network is unreachable"),
        OSError(98, "Address already in use"),
        RuntimeError("No interfaces to listen on"),
        NotRunningException(),
    ],
)
async def test_without_multicast_the_source_starts_warns_once_and_yields_nothing(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: object) -> AsyncZeroconf:
        raise error

    monkeypatch.setattr(mdns, "AsyncZeroconf", refuse)
    found = Sightings()
    discovery = MdnsDiscovery(rng=rng(), silence_ms=1)
    await discovery.start(announcement("127.0.0.1:7001"), found)
    assert len(discovery._tasks) == 0
    await discovery.close()
    assert not found.all
    (warning,) = warnings(caplog)
    assert "mDNS does not work here" in warning
    assert (str(error) or "NotRunningException") in warning
    assert "seeds=" in warning


async def test_a_failure_halfway_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(AsyncZeroconf, "async_register_service", refuse)
    discovery = MdnsDiscovery(rng=rng())
    await discovery.start(announcement("127.0.0.1:7001"), Sightings())
    assert discovery._zeroconf is None
    assert len(warnings(caplog)) == 1


async def test_a_start_that_is_cancelled_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached = asyncio.Event()

    async def hang(*_: object, **__: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(AsyncZeroconf, "async_register_service", hang)
    discovery = MdnsDiscovery(rng=rng())
    starting = asyncio.create_task(
        discovery.start(announcement("127.0.0.1:7001"), Sightings()), name="start"
    )
    await reached.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert discovery._zeroconf is None


async def test_a_network_that_swallows_multicast_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def swallow(*_: object, **__: object) -> None:
        pass

    monkeypatch.setattr(Zeroconf, "async_send", swallow)
    discovery = MdnsDiscovery(rng=rng(), silence_ms=20)
    await discovery.start(announcement("127.0.0.1:7001"), Sightings())
    await until(lambda: bool(warnings(caplog)))
    await discovery.close()
    (warning,) = warnings(caplog)
    assert "not even the own announcement came back" in warning


def test_zeroconf_is_silenced_unless_somebody_chose_its_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logger = logging.getLogger("zeroconf")
    for before, after in ((logging.WARNING, logging.CRITICAL), (logging.DEBUG, logging.DEBUG)):
        monkeypatch.setattr(logger, "level", before)
        mdns._quieten_zeroconf()
        assert logger.level == after


@pytest.mark.parametrize(
    ("addresses", "announced"),
    [
        ((), {}),
        (("127.0.0.1:7070", "[::1]:7070"), {7070: ["127.0.0.1", "::1"]}),
        (("127.0.0.1:7070", "10.0.0.5:7070", "[fd00::5]:7070"), {7070: ["10.0.0.5", "fd00::5"]}),
        (("10.0.0.5:7070", "203.0.113.9:17070"), {7070: ["10.0.0.5"], 17070: ["203.0.113.9"]}),
        (("[fe80::1%eth0]:7070",), {7070: ["fe80::1"]}),
    ],
)
def test_loopback_is_announced_only_if_there_is_nothing_else(
    addresses: tuple[str, ...], announced: dict[int, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    assert mdns._announced_hosts(announcement(*addresses)) == announced
    assert not warnings(caplog)


def test_names_and_wildcards_are_not_announced_and_that_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    announce = announcement("0.0.0.0:7070", "bank:7070", "10.0.0.5:7070")
    assert mdns._announced_hosts(announce) == {7070: ["10.0.0.5"]}
    (warning,) = warnings(caplog)
    assert "not 0.0.0.0:7070, bank:7070" in warning


@pytest.mark.parametrize(
    ("interfaces", "addresses", "chosen"),
    [
        (None, ("127.0.0.1:7070", "[::1]:7070"), ["127.0.0.1"]),
        (None, ("127.0.0.1:7070", "10.0.0.5:7070"), InterfaceChoice.All),
        (None, ("bank:7070",), InterfaceChoice.All),
        (None, (), InterfaceChoice.All),
        (["10.0.0.5"], ("127.0.0.1:7070",), ["10.0.0.5"]),
    ],
)
def test_a_node_on_loopback_alone_uses_that_interface_alone(
    interfaces: list[str] | None, addresses: tuple[str, ...], chosen: object
) -> None:
    discovery = MdnsDiscovery(rng=rng(), interfaces=interfaces)
    assert discovery._choose_interfaces(announcement(*addresses)) == chosen


def test_instance_names_hold_the_node_id_and_fit_a_label_whatever_the_node_is_called() -> None:
    node_id = bytes(range(16))
    names = []
    for name in ("bank", "a.b c\n\x00é", "x" * 300, ""):
        announce = announcement("10.0.0.5:1", "10.0.0.5:2", name=name, node_id=node_id)
        names += [service.name for service in mdns._services(announce)]
    labels = [name.removesuffix(f".{SERVICE_TYPE}") for name in names]
    assert labels[0] == f"bank-{node_id.hex()}"
    assert labels[1] == f"bank-{node_id.hex()}-2"
    assert all(node_id.hex() in label and "." not in label for label in labels)
    assert all(len(label) <= LABEL_BYTES_MAX for label in labels)


def test_the_txt_record_has_mesh_node_id_and_protocol_range() -> None:
    announce = announcement("10.0.0.5:7070", mesh="shop", node_id=bytes(40))
    (service,) = mdns._services(announce)
    assert service.properties == {b"mesh": b"shop", b"id": b"00" * 40, b"versions": b"1-2"}
    assert service.port == 7070
