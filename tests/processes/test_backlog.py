"""A deep backlog lies on the disks of three nodes, not in their memory, and is soon open again.

`P2PMQ_TEST_PENDING=1000000 pytest -s tests/processes/test_backlog.py` takes a million messages and
some 4 GiB of disk. What it took is printed, not judged, but for the memory (docs/performance.md
has figures).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pmq import Node
from tests.processes.kit import PATIENCE_S, POLL_S, Mesh, running

NAMES = ("ant", "bee", "cat")
QUEUE = "orders"
PENDING = int(os.environ.get("P2PMQ_TEST_PENDING", "100000"))
BODY_BYTES = 1024
OWN_MIB_MAX = 300


def memory_mib(pid: int) -> tuple[float, float]:
    """What a process holds of its own, and of mapped files: the kernel takes these back at need."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {key: value.split() for key, value in (line.split(":", 1) for line in lines)}
    anonymous, shared, file = (
        int(found[key][0]) / 1024 for key in ("RssAnon", "RssShmem", "RssFile")
    )
    return anonymous + shared, file


def bodies() -> Iterator[bytes]:
    """Messages that say their number."""
    rest = b"." * (BODY_BYTES - 8)
    for number in range(PENDING):
        yield number.to_bytes(8) + rest


def leaf(name: str, mesh: Mesh) -> Node:
    """A node of this process that owns nothing."""
    seeds = [service.address for service in mesh.services.values()]
    return Node(name, mesh=mesh.name, mdns=False, seeds=seeds, leaf=True, store="memory")


def say(text: str) -> None:
    """For whoever runs it with `pytest -s`."""
    print(text)  # noqa: T201  the measurement


def look(mesh: Mesh, when: str) -> None:
    """Check and print what each node takes."""
    for service in mesh.services.values():
        own, file = memory_mib(service.pid)
        say(f"{when}: {service.name} has {own:.0f} MiB of its own, {file:.0f} MiB of files mapped")
        assert own < OWN_MIB_MAX


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
async def test_a_deep_backlog_costs_little_memory_and_is_served_soon_after_a_start(
    tmp_path: Path,
) -> None:
    mesh = Mesh(tmp_path, NAMES)
    async with running(mesh):
        look(mesh, "empty")
        async with leaf("shop", mesh) as shop:
            receipt = await shop.publish_many(QUEUE, bodies(), timeout=PATIENCE_S)
            assert receipt.committed == PENDING
            async with asyncio.timeout(PATIENCE_S):
                while (await shop.depth(QUEUE)).ready < PENDING:
                    await asyncio.sleep(POLL_S)
        look(mesh, f"{PENDING:,} pending")

        await mesh.kill_all()
        began = time.monotonic()
        await asyncio.gather(*(mesh.start(name) for name in NAMES))
        listening_s = time.monotonic() - began
        async with leaf("desk", mesh) as desk:
            messages = desk.consume_batches(QUEUE)
            async with asyncio.timeout(PATIENCE_S):
                batch = await anext(messages)
            first_s = time.monotonic() - began
            say(f"all killed, then started: they listen after {listening_s:.1f} s")
            say(f"the first message comes {first_s:.1f} s after the start")
            look(mesh, "started again")
            numbers: set[int] = set()
            async with asyncio.timeout(10 * PATIENCE_S):
                while True:
                    numbers.update(int.from_bytes(body[:8]) for body in batch.bodies)
                    batch.ack()
                    if len(numbers) == PENDING:
                        break
                    batch = await anext(messages)
            assert numbers == set(range(PENDING))
            assert await desk.flush(PATIENCE_S)
        look(mesh, "consumed")
