"""mDNS over the loopback interface, for real: between instances and between processes."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

import p2pmq.discovery
from p2pmq.discovery.base import Announcement, Sighting
from p2pmq.discovery.mdns import SERVICE_TYPE, MdnsDiscovery
from p2pmq.errors import UsageError
from tests.discovery import mdns_peer
from tests.discovery.kit import DEADLINE_S, Sightings, announcement, new_mesh, rng, until

pytestmark = pytest.mark.usefixtures("loopback_multicast")

Start = Callable[..., Awaitable[tuple[MdnsDiscovery, Sightings]]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start an instance that is closed after the test; by default it repeats itself never."""
    started: list[MdnsDiscovery] = []

    async def start_one(
        announce: Announcement, *, repeat_ms: int = 3_600_000
    ) -> tuple[MdnsDiscovery, Sightings]:
        found = Sightings()
        discovery = MdnsDiscovery(rng=rng(), repeat_ms=repeat_ms)
        started.append(discovery)
        await discovery.start(announce, found)
        return discovery, found

    yield start_one
    await asyncio.gather(*(discovery.close() for discovery in started))


def forget_records(discovery: MdnsDiscovery, *, but: str = "") -> None:
    """Empty the cache, but for the records of one name."""
    assert discovery._zeroconf is not None
    cache = discovery._zeroconf.zeroconf.cache
    names = [name for name in cache.names() if name != but]
    cache.async_remove_records([r for name in names for r in cache.entries_with_name(name)])


async def test_two_nodes_of_a_mesh_sight_each_other(start: Start) -> None:
    mesh = new_mesh()
    _, found_by_a = await start(announcement("127.0.0.1:7001", mesh=mesh))
    _, found_by_b = await start(announcement("127.0.0.1:7002", mesh=mesh))
    await found_by_a.until("127.0.0.1:7002")
    await found_by_b.until("127.0.0.1:7001")
    assert Sighting("127.0.0.1:7002", "mdns") in found_by_a.all
    assert found_by_a.addresses() == {"127.0.0.1:7002"}
    assert found_by_b.addresses() == {"127.0.0.1:7001"}


async def test_nodes_in_two_processes_sight_each_other(start: Start) -> None:
    mesh = new_mesh()
    root = Path(p2pmq.discovery.__file__).parents[2]
    peer = await asyncio.create_subprocess_exec(
        sys.executable,
        mdns_peer.__file__,
        mesh,
        "127.0.0.1:7002",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert peer.stdin is not None
    assert peer.stdout is not None
    try:
        discovery, found = await start(announcement("127.0.0.1:7001", mesh=mesh))
        await found.until("127.0.0.1:7002")
        async with asyncio.timeout(DEADLINE_S):
            assert await peer.stdout.readline() == b"127.0.0.1:7001\n"
        peer.stdin.close()
        await until(lambda: not discovery._known)  # it said goodbye
        async with asyncio.timeout(DEADLINE_S):
            assert await peer.wait() == 0
    finally:
        if peer.returncode is None:
            peer.kill()
            await peer.wait()


async def test_nodes_of_another_mesh_are_not_sighted(start: Start) -> None:
    mesh = new_mesh()
    _, found = await start(announcement("127.0.0.1:7001", mesh=mesh))
    _, found_by_other = await start(announcement("127.0.0.1:7002"))
    other, _ = await start(announcement("127.0.0.1:7003", mesh=mesh))
    await found.until("127.0.0.1:7003")
    await until(other._heard_self.is_set)
    assert found.addresses() == {"127.0.0.1:7003"}
    assert not found_by_other.all


async def test_a_node_hears_its_own_announcement_but_does_not_sight_itself(start: Start) -> None:
    discovery, found = await start(announcement("127.0.0.1:7001"))
    await until(discovery._heard_self.is_set)
    assert not found.all


async def test_two_nodes_of_one_name_are_both_sighted(start: Start) -> None:
    mesh = new_mesh()
    _, found = await start(announcement(mesh=mesh))
    await start(announcement("127.0.0.1:7001", mesh=mesh, name="bank"))
    await start(announcement("127.0.0.1:7002", mesh=mesh, name="bank"))
    await found.until("127.0.0.1:7001")
    await found.until("127.0.0.1:7002")


async def test_a_node_that_is_announced_nowhere_sights_the_others(start: Start) -> None:
    mesh = new_mesh()
    _, found_by_leaf = await start(announcement(mesh=mesh))
    _, found = await start(announcement("127.0.0.1:7002", mesh=mesh))
    await found_by_leaf.until("127.0.0.1:7002")
    assert not found.all


async def test_a_node_that_restarts_on_another_port_is_sighted_anew(start: Start) -> None:
    mesh, node_id = new_mesh(), b"0123456789abcdef"
    _, found = await start(announcement("127.0.0.1:7001", mesh=mesh))
    first, _ = await start(announcement("127.0.0.1:7002", mesh=mesh, node_id=node_id))
    await found.until("127.0.0.1:7002")
    await first.close()
    await start(announcement("127.0.0.1:7003", mesh=mesh, node_id=node_id))
    await found.until("127.0.0.1:7003")


async def test_a_node_that_was_killed_and_comes_back_on_another_port_is_sighted_anew(
    start: Start,
) -> None:
    mesh, node_id = new_mesh(), b"fedcba9876543210"
    _, found = await start(announcement("127.0.0.1:7001", mesh=mesh))
    killed, _ = await start(announcement("127.0.0.1:7002", mesh=mesh, node_id=node_id))
    await found.until("127.0.0.1:7002")
    assert killed._zeroconf is not None
    await killed._zeroconf.zeroconf._async_close()  # no goodbye
    await start(announcement("127.0.0.1:7003", mesh=mesh, node_id=node_id))
    await found.until("127.0.0.1:7003")


async def test_known_nodes_are_sighted_again_until_they_say_goodbye(start: Start) -> None:
    mesh = new_mesh()
    observer, found = await start(announcement(mesh=mesh), repeat_ms=10)
    other, _ = await start(announcement("127.0.0.1:7002", mesh=mesh))
    await found.until("127.0.0.1:7002", times=5)
    forget_records(observer, but=SERVICE_TYPE)  # as after two minutes, their TTL
    await found.until("127.0.0.1:7002", times=found.count("127.0.0.1:7002") + 3)
    await other.close()
    await until(lambda: not observer._known)


async def test_a_node_whose_records_did_not_come_along_is_asked_for_them(start: Start) -> None:
    mesh = new_mesh()
    observer, found = await start(announcement(mesh=mesh))
    await start(announcement("127.0.0.1:7002", mesh=mesh))
    await found.until("127.0.0.1:7002")
    (name,) = observer._known
    sighted = found.count("127.0.0.1:7002")
    forget_records(observer)
    observer._resolve(name)
    assert found.count("127.0.0.1:7002") == sighted
    await found.until("127.0.0.1:7002", times=sighted + 1)


async def test_all_addresses_and_ports_are_sighted_ipv6_in_brackets(start: Start) -> None:
    mesh = new_mesh()
    _, found = await start(announcement(mesh=mesh))
    await start(announcement("127.0.0.1:7002", "[::1]:7002", "127.0.0.2:7003", mesh=mesh))
    for address in ("127.0.0.1:7002", "[::1]:7002", "127.0.0.2:7003"):
        await found.until(address)
    assert len(found.addresses()) == 3


async def test_what_is_no_node_of_ours_is_passed_over(start: Start) -> None:
    mesh = new_mesh()
    _, found = await start(announcement("127.0.0.1:7001", mesh=mesh))
    stranger = AsyncZeroconf(interfaces=["127.0.0.1"])
    broadcasts = []
    for label, properties, port, host in (
        (f"a {mesh}", {}, 7002, "127.0.0.1"),
        (f"b {mesh}", {"mesh": b"\xff\xfe", "id": None}, 7003, "127.0.0.1"),
        (f"c {mesh}", {"mesh": mesh, "id": "00"}, 0, "127.0.0.1"),
        (f"d {mesh}", {"mesh": mesh, "id": "01"}, 7004, "0.0.0.0"),  # a wildcard
        (f"e {mesh}", {"mesh": mesh, "id": "02"}, 7005, "224.0.0.1"),
        (f"f {mesh}", {"mesh": mesh}, 7006, "127.0.0.1"),
    ):
        info = AsyncServiceInfo(
            SERVICE_TYPE,
            f"{label}.{SERVICE_TYPE}",
            port=port,
            addresses=[socket.inet_aton(host)],
            properties=properties,
        )
        broadcasts.append(await stranger.async_register_service(info, cooperating_responders=True))
    await found.until("127.0.0.1:7006")  # of our mesh, and who it is will be seen there
    await asyncio.gather(*broadcasts)
    assert found.addresses() == {"127.0.0.1:7006"}
    await stranger.async_close()


async def test_a_closed_source_can_be_closed_again_and_started_again(start: Start) -> None:
    mesh = new_mesh()
    discovery, _ = await start(announcement("127.0.0.1:7001", mesh=mesh))
    _, found_by_other = await start(announcement("127.0.0.1:7002", mesh=mesh))
    await found_by_other.until("127.0.0.1:7001")
    await discovery.close()
    await discovery.close()
    found = Sightings()
    await discovery.start(announcement("127.0.0.1:7003", mesh=mesh), found)
    await found.until("127.0.0.1:7002")
    await found_by_other.until("127.0.0.1:7003")


async def test_a_mesh_name_too_long_for_a_txt_record_is_refused() -> None:
    discovery = MdnsDiscovery(rng=rng())
    with pytest.raises(UsageError, match="mDNS carries 250"):
        await discovery.start(announcement(mesh="é" * 126), Sightings())
    await discovery.close()
