"""The owner of a queue is killed with -9: another goes on by itself, and nothing is lost.

A publisher and a consumer are leaves, which live on. What it took is printed, not judged: the
machine may be slow (`pytest -s`; docs/testing.md has figures).
"""

import time
from pathlib import Path

import pytest

from tests.processes.kit import PATIENCE_S, Mesh, running

NAMES = ("ant", "bee", "cat")
QUEUE = "orders"
ARCHIVES = [f"archive-{number}" for number in range(40)]
"""Queues that nobody consumes before the owner is gone; one of them has the same owner."""


@pytest.mark.slow
async def test_a_killed_owner_is_followed_by_another_that_delivers_on(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path, NAMES, replicas=3)
    shop, desk = mesh.add("shop", leaf=True), mesh.add("desk", leaf=True)
    async with running(mesh):
        owners = (await shop.ask("asked", "ask", queues=[QUEUE, *ARCHIVES]))["owners"]
        victim = owners[QUEUE]
        archive = next(queue for queue in ARCHIVES if owners[queue] == victim)
        desk.tell("consume", queue=QUEUE, prefetch=100)
        shop.tell("publish", queues=[QUEUE, archive], per_s=200.0)
        await mesh.until(lambda: len(mesh.books.got) > 100, "the consumer has work")
        await mesh[victim].kill()
        killed_at = time.monotonic()

        def delivered_since() -> list[float]:
            books = mesh.books
            return [
                times[0] for name, times in books.got.items() if books.attempted[name] > killed_at
            ]

        await mesh.until(lambda: bool(delivered_since()), "deliveries go on")
        asked = await shop.ask("asked", "ask", queues=[QUEUE])
        heir = asked["owners"][QUEUE]
        assert heir in NAMES
        assert heir != victim
        verdict = await mesh[heir].event("member", name=victim, state="dead")
        detected_s = verdict["at"] - killed_at
        delivered_s = min(delivered_since()) - killed_at
        print(  # noqa: T201  the measurement
            f"\nfailover: detected after {1000 * detected_s:.0f} ms, "
            f"delivered {1000 * (delivered_s - detected_s):.0f} ms later"
        )
        assert delivered_s - detected_s < PATIENCE_S / 2
        desk.tell("consume", queue=archive, prefetch=100)
        await shop.ask("published", "stop_publishing")
        del mesh.services[victim]  # for good, with its disk
        await mesh.drain([QUEUE, archive])
        is_clean = mesh.taken_for_dead == {victim}  # on a very slow machine others may be, too
        await mesh.stop_all()
        books = mesh.books
    assert not books.lost
    assert not books.unexpected
    assert not books.duplicated or not is_clean, "what a living consumer holds comes once"
