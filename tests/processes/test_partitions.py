"""A queue of several partitions on real processes: its owners share it, and one is killed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from p2pmq import Node
from tests.processes.kit import PATIENCE_S, POLL_S, Mesh, running

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("ant", "bee", "cat", "dog")
QUEUE = "orders"
PARTITIONS = 8
KEYS = 20
COUNT = 4_000


def leaf(name: str, mesh: Mesh) -> Node:
    """A node of this process that owns nothing."""
    seeds = [service.address for service in mesh.services.values()]
    return Node(name, mesh=mesh.name, mdns=False, seeds=seeds, leaf=True, store="memory")


def key_of(number: int) -> str:
    return f"customer {number % KEYS}"


@pytest.mark.slow
async def test_partitions_are_owned_by_several_and_survive_one_of_them(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path, NAMES, replicas=3)
    by_key: dict[object, list[int]] = defaultdict(list)
    came: set[int] = set()

    async def consume(node: Node) -> None:
        async for message in node.consume(QUEUE, prefetch=1_000):
            async with message:
                came.add(message.body)
                by_key[message.key].append(message.body)

    async with running(mesh), leaf("shop", mesh) as shop, leaf("desk", mesh) as desk:
        consuming = asyncio.create_task(consume(desk))  # before it has more than one
        await shop.declare(QUEUE, partitions=PARTITIONS)
        owners = {shop.owner_of(QUEUE, number) for number in range(PARTITIONS)}
        assert len(owners) >= 3
        victim = min(name for name in owners if name is not None)
        half = COUNT // 2
        receipt = await shop.publish_many(QUEUE, range(half), key=key_of, timeout=PATIENCE_S)
        assert receipt.committed == half
        rest = asyncio.create_task(
            shop.publish_many(QUEUE, range(half, COUNT), key=key_of, timeout=PATIENCE_S)
        )
        await mesh[victim].kill()
        assert (await rest).committed == half
        async with asyncio.timeout(PATIENCE_S):
            while len(came) < COUNT:
                await asyncio.sleep(POLL_S)
        for key, numbers in by_key.items():
            firsts = list(dict.fromkeys(numbers))
            assert firsts == sorted(firsts), f"{key} came out of order"
        async with asyncio.timeout(PATIENCE_S):
            while (depth := await shop.depth(QUEUE)).total:
                await asyncio.sleep(POLL_S)
        assert depth.partitions == PARTITIONS
        assert depth.consumers == 1
        consuming.cancel()
        await asyncio.wait((consuming,))
        del mesh.services[victim]
