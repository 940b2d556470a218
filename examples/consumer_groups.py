"""Two groups get every order, and within a group one member does: a queue for each, one topic."""

import asyncio

import p2pmq

ORDERS = 6
GROUPS = ("billing", "search")


def node(name: str) -> p2pmq.Node:
    """A node that keeps its queues in memory, for the example's sake."""
    return p2pmq.Node(name, mesh="example-groups", store="memory", leaf=name != "shop")


async def member(name: str, group: str, done: asyncio.Semaphore) -> None:
    """One member of a group: it competes with the others of its group, and with nobody else."""
    async with node(name) as worker:
        async for message in worker.consume(group, prefetch=1):
            async with message:
                print(group, "took", message.topic, message.body)
            done.release()


async def main() -> None:
    """Bind both groups' queues, emit orders, and wait until each group has had all of them."""
    done = asyncio.Semaphore(0)
    async with node("shop") as shop:
        for group in GROUPS:
            await shop.bind("orders.*", queue=group)
        members = [
            asyncio.create_task(member(f"{group}-{number}", group, done))
            for group in GROUPS
            for number in (1, 2)
        ]
        for number in range(ORDERS):
            await shop.emit("orders.new", number, confirm="committed")
        for _ in range(ORDERS * len(GROUPS)):
            await done.acquire()
        for each in members:
            each.cancel()
        await asyncio.gather(*members, return_exceptions=True)


asyncio.run(main())
