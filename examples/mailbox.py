"""A node sends to one that is away, and ends; the other finds its mail when it comes."""

import asyncio
import tempfile
from pathlib import Path

import p2pmq


async def main() -> None:
    """Send to "depot" before it is there."""
    with tempfile.TemporaryDirectory() as directory:

        def node(name: str) -> p2pmq.Node:
            return p2pmq.Node(name, mesh="example", data_dir=str(Path(directory, name)))

        async with node("shop"), node("bank"):
            async with node("clerk") as clerk:
                receipt = await clerk.send("depot", "open at nine", ttl=3600)
                print(f"kept on {receipt.copies} disks while depot is away")
            async with node("depot") as depot:
                async for message in depot.inbox():
                    async with message:
                        print("depot reads:", message.body)
                    break


asyncio.run(main())
