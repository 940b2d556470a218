"""Two services and a daemon in one process: work is shared, and outlives its owner's absence."""

import asyncio
import tempfile
from collections import Counter
from pathlib import Path

import p2pmq

JOBS = 200


async def work(node: p2pmq.Node, done: "Counter[str]", enough: asyncio.Event) -> None:
    """Take jobs until there are no more."""
    async for message in node.consume("jobs", prefetch=10):
        async with message:
            done[node.settings.name] += 1
        if done.total() == JOBS:
            enough.set()


async def main() -> None:
    """Start three nodes, publish from one, work on the other two."""
    done: Counter[str] = Counter()
    enough = asyncio.Event()
    with tempfile.TemporaryDirectory() as directory:
        nodes = [
            p2pmq.Node(name, mesh="example", data_dir=str(Path(directory, name)))
            for name in ("shop", "bank", "depot")
        ]
        for node in nodes:
            await node.start()
        shop, *workers = nodes
        tasks = [asyncio.create_task(work(node, done, enough)) for node in workers]
        receipt = await shop.publish_many("jobs", ({"job": n} for n in range(JOBS)))
        print(f"committed {receipt.committed} of {receipt.published} by {receipt.owners}")
        await enough.wait()
        print("done:", dict(sorted(done.items())))
        for node in reversed(nodes):
            await node.close()
        await asyncio.gather(*tasks)


asyncio.run(main())
