"""Nodes on hosts of their own: they find each other, and a partition costs time, not messages."""

import time
from pathlib import Path

import pytest

from tests.hosts.kit import PORT, Hosts, NotHereError, hosts_of
from tests.processes.chaos import SECONDS, SECONDS_MAX, Chaos
from tests.processes.kit import Mesh, running

HOSTS = ("ant", "bee", "cat")
QUEUE = "orders"
QUEUES = ("orders", "mails", "scans")
CUTS = {"isolate": ("INPUT", "OUTPUT"), "deafen": ("INPUT",), "silence": ("OUTPUT",)}
PREFETCH = 50
PER_S = 50.0


def mesh_on(hosts: Hosts, folder: Path) -> Mesh:
    """A node on each host; nothing tells them of each other but mDNS."""
    # In these namespaces are only nodes of this test: no credentials are needed.
    mesh = Mesh(folder, hosts.names, replicas=3, mdns=True, listen=f"0.0.0.0:{PORT}", insecure=True)
    for host in hosts.names:
        mesh[host].wrapper = hosts.inside(host)
    return mesh


def work(mesh: Mesh) -> None:
    """Have all publish and consume."""
    for service in mesh.services.values():
        service.tell("consume", queue=QUEUE, prefetch=PREFETCH)
        service.tell("publish", queues=[QUEUE], per_s=PER_S)


async def stop_publishing(mesh: Mesh) -> None:
    """Have all stop, and wait until everything is confirmed."""
    for service in mesh.services.values():
        await service.ask("published", "stop_publishing")


@pytest.mark.slow
async def test_hosts_find_each_other_by_mdns_and_a_slow_link_makes_nobody_dead(
    tmp_path: Path,
) -> None:
    with hosts_of(*HOSTS) as hosts:
        async with running(mesh_on(hosts, tmp_path)) as mesh:
            try:
                hosts.limit("ant", 16_000)
            except NotHereError as error:
                pytest.skip(f"no rate can be limited here: {error}")
            bulk = {"queue": QUEUE, "times": 64, "size": 64 * 1024, "within_s": 60}  # on 2 MB/s
            sent = await mesh["ant"].ask("published_some", "publish_some", **bulk)
            assert sent["error"] == ""
            sent_bytes = hosts.sent_bytes("ant")
            assert sent_bytes < 6 * 64 * 64 * 1024, "two copies, and few repeats"
            mesh["bee"].tell("consume", queue=QUEUE, prefetch=PREFETCH)
            books = await mesh.drain([QUEUE])
            assert not mesh.taken_for_dead, "probes do not wait behind bulk"
            await mesh.stop_all()
    assert len(books.got) == 64
    assert not books.duplicated


@pytest.mark.slow
async def test_an_isolated_owner_holds_its_messages_while_the_others_go_on(tmp_path: Path) -> None:
    with hosts_of(*HOSTS) as hosts:
        async with running(mesh_on(hosts, tmp_path)) as mesh:
            work(mesh)
            await mesh.until(lambda: len(mesh.books.got) > 100, "there is work")
            asked = await mesh["ant"].ask("asked", "ask", queues=[QUEUE])
            alone = asked["owners"][QUEUE]
            others = [host for host in HOSTS if host != alone]

            split_at = time.monotonic()
            hosts.cut(alone, "INPUT", "OUTPUT")
            for host in others:
                await mesh[host].event("member", name=alone, state="dead")
                await mesh[alone].event("member", name=host, state="dead")
            noticed_at = time.monotonic()

            def since_noticed(host: str) -> set[str]:
                books = mesh.books
                mine = {n for n, at in books.attempted.items() if n.startswith(f"{host}-")}
                return {name for name in mine if books.attempted[name] > noticed_at}

            def delivered() -> set[str]:
                return since_noticed(others[0]) & mesh.books.got.keys()

            await mesh.until(lambda: len(delivered()) > 50, "the majority goes on")
            some = {"queue": QUEUE, "times": 5, "size": 0, "within_s": 1}
            held = await mesh[alone].ask("published_some", "publish_some", **some)
            assert "cannot reach enough of the queue's other homes" in held["error"]
            assert since_noticed(alone), "it goes on publishing"
            assert not since_noticed(alone) & mesh.books.got.keys(), "and delivers nothing new"

            before = {host: len(mesh[host].events) for host in HOSTS}
            hosts.heal(alone, "INPUT", "OUTPUT")
            healed_at = time.monotonic()
            for host in others:
                await mesh[host].event("member", after=before[host], name=alone, state="alive")
                await mesh[alone].event("member", after=before[alone], name=host, state="alive")
            print(f"healed within {time.monotonic() - healed_at:.1f} s")  # noqa: T201  shown on failure
            mesh.disturb(split_at)
            await stop_publishing(mesh)
            books = await mesh.drain([QUEUE])
            print(books)  # noqa: T201  shown on failure
            await mesh.stop_all()
    assert not books.lost
    assert not books.unexpected
    assert books.attempted.keys() == books.got.keys(), "what was held came too"
    assert not books.unexplained(mesh.disturbed)
    assert books.duplicated <= len(HOSTS) * PREFETCH, "only what was in hand at the split"


@pytest.mark.slow
@pytest.mark.timeout(SECONDS_MAX)
async def test_random_partitions_one_way_ones_and_kills_among_them_lose_nothing(
    tmp_path: Path,
) -> None:
    with hosts_of(*HOSTS) as hosts:
        async with running(mesh_on(hosts, tmp_path)) as mesh:
            chaos = Chaos(mesh, QUEUES)
            for kind, chains in CUTS.items():

                async def begin(host: str, chains: tuple[str, ...] = chains) -> None:
                    hosts.cut(host, *chains)

                async def end(host: str, chains: tuple[str, ...] = chains) -> None:
                    hosts.heal(host, *chains)

                chaos.kinds[kind] = (begin, end)
            await chaos.run(SECONDS / 2, (*CUTS, "kill"), down_max=2)
            await chaos.settle()
