"""A node whose disk is full refuses what is new, says why, serves what it has, and recovers."""

import secrets
from pathlib import Path

import pytest

from tests.processes.kit import Mesh, Service, running
from tests.store.scene import small_disk

QUEUE = "orders"
QUEUES = tuple(f"orders-{number}" for number in range(20))
DISK = "24m"
BALLAST_BYTES = 12 * 1024 * 1024
BODY_BYTES = 64 * 1024
AT_ONCE = 16
TIMES_MAX = 60
"""More than fit on the disk."""


def lay_ballast(disk: Path) -> Path:
    """Take up some of the disk; deleted, it is room again."""
    ballast = disk / "ballast"
    ballast.write_bytes(secrets.token_bytes(BALLAST_BYTES))
    return ballast


async def publish_some(service: Service, queue: str, within_s: float) -> str:
    """Publish some large messages; why they were not committed."""
    facts = {"queue": queue, "times": AT_ONCE, "size": BODY_BYTES, "within_s": within_s}
    error: str = (await service.ask("published_some", "publish_some", **facts))["error"]
    return error


@pytest.mark.slow
async def test_a_full_disk_refuses_the_new_serves_the_old_and_recovers(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", DISK) as disk:
        ballast = lay_ballast(disk)
        mesh = Mesh(tmp_path, (), replicas=1)
        mesh.add("depot", data_dir=str(disk / "depot"))
        shop = mesh.add("shop", leaf=True)
        async with running(mesh):
            errors = [await publish_some(shop, QUEUE, 3)]
            while not errors[-1]:
                assert len(errors) < TIMES_MAX, "the disk should be full"
                errors.append(await publish_some(shop, QUEUE, 3))
            assert "the owner's disk is full" in errors[-1]
            old = mesh.books.acknowledged
            assert len(old) == AT_ONCE * (len(errors) - 1) > 0, "what was confirmed before it"

            shop.tell("consume", queue=QUEUE, prefetch=10)
            await mesh.until(lambda: old.keys() <= mesh.books.got.keys(), "the old is served")

            ballast.unlink()
            books = await mesh.drain([QUEUE])
            assert books.got.keys() == books.attempted.keys(), "the refused was kept and came too"
            assert await publish_some(shop, QUEUE, 60) == ""
            books = await mesh.drain([QUEUE])
            await mesh.stop_all()
            assert not books.duplicated
            assert not books.unexpected


@pytest.mark.slow
async def test_a_full_disk_that_holds_one_copy_of_three_stops_nobody(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", DISK) as disk:
        ballast = lay_ballast(disk)
        mesh = Mesh(tmp_path, ("ant", "bee"), replicas=3)
        mesh.add("depot", data_dir=str(disk / "depot"))
        shop = mesh.add("shop", leaf=True)
        async with running(mesh):
            owners = (await shop.ask("asked", "ask", queues=QUEUES))["owners"]
            queue = next(queue for queue in QUEUES if owners[queue] != "depot")
            for _ in range(TIMES_MAX // 3):
                assert await publish_some(shop, queue, 60) == ""
            ballast.unlink()
            shop.tell("consume", queue=queue, prefetch=10)
            books = await mesh.drain([queue])
            await mesh.stop_all()
            assert not books.duplicated
            assert not books.unexpected
