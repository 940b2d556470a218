"""A node whose disk is full refuses what is new, says why, serves what it has, and recovers."""

import secrets
from pathlib import Path

import pytest

from tests.processes.kit import Mesh, Service, running
from tests.store.scene import small_disk

QUEUES = ("orders",)
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


async def publish_some(service: Service, timeout_s: float) -> str:
    """Publish some large messages; why they were not committed."""
    error: str = (
        await service.ask(
            "published_some",
            "publish_some",
            queue=QUEUES[0],
            times=AT_ONCE,
            size=BODY_BYTES,
            timeout=timeout_s,
        )
    )["error"]
    return error


@pytest.mark.slow
async def test_a_full_disk_refuses_the_new_serves_the_old_and_recovers(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", DISK) as disk:
        ballast = lay_ballast(disk)
        mesh = Mesh(tmp_path, (), replicas=1)
        mesh.add("depot", data_dir=str(disk / "depot"))
        shop = mesh.add("shop", leaf=True)
        async with running(mesh):
            errors = [await publish_some(shop, 3)]
            while not errors[-1]:
                assert len(errors) < TIMES_MAX, "the disk should be full"
                errors.append(await publish_some(shop, 3))
            assert "the owner's disk is full" in errors[-1]
            old = mesh.books.acknowledged
            assert len(old) == AT_ONCE * (len(errors) - 1) > 0, "what was confirmed before it"

            shop.tell("consume", queue=QUEUES[0], prefetch=10)
            await mesh.until(lambda: old.keys() <= mesh.books.got.keys(), "the old is served")

            ballast.unlink()
            books = await mesh.drain(QUEUES)
            assert books.got.keys() == books.attempted.keys(), "the refused was kept and came too"
            assert await publish_some(shop, 60) == ""
            books = await mesh.drain(QUEUES)
            await mesh.stop_all()
            assert not books.duplicated
            assert not books.unexpected


@pytest.mark.slow
async def test_one_full_disk_of_three_copies_stops_nobody(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", DISK) as disk:
        ballast = lay_ballast(disk)
        mesh = Mesh(tmp_path, ("ant", "bee"), replicas=3)
        mesh.add("depot", data_dir=str(disk / "depot"))
        shop = mesh.add("shop", leaf=True)
        async with running(mesh):
            for _ in range(TIMES_MAX // 3):
                assert await publish_some(shop, 60) == ""
            ballast.unlink()
            shop.tell("consume", queue=QUEUES[0], prefetch=10)
            books = await mesh.drain(QUEUES)
            await mesh.stop_all()
            assert not books.duplicated
            assert not books.unexpected
