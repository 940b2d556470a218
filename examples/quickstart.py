"""The README's example: publish one message, consume it, ack it."""

import asyncio

import p2pmq


async def main() -> None:
    """Run a node for as long as it takes."""
    async with p2pmq.Node("billing") as node:
        receipt = await node.publish("invoices", {"id": 1})
        print("committed:", receipt.committed, "by", receipt.owner)
        async for message in node.consume("invoices", prefetch=100):
            async with message:
                print("got:", message.body)
            break


asyncio.run(main())
