"""Four workers share a queue of four partitions; one customer's changes go one after another."""

import asyncio
from typing import NamedTuple

import p2pmq


class Change(NamedTuple):
    """A change of a customer's account."""

    customer: str
    amount: int


CHANGES = [Change(f"customer-{number % 3}", number) for number in range(12)]


async def main() -> None:
    """Publish changes of three accounts, and process them four at a time."""
    done: dict[str, list[int]] = {}
    at_work: set[str] = set()
    most = 0
    finished = asyncio.Event()
    async with p2pmq.Node("bank", mesh="example-keys", store="memory", mdns=False) as node:

        @node.handler("changes", concurrency=4)
        async def on_change(message: p2pmq.Message) -> None:
            nonlocal most
            customer, amount = message.body
            assert customer not in at_work, "one change of a customer at a time"
            at_work.add(customer)
            most = max(most, len(at_work))
            await asyncio.sleep(0.01)
            at_work.remove(customer)
            done.setdefault(customer, []).append(amount)
            if sum(map(len, done.values())) == len(CHANGES):
                finished.set()

        await node.declare("changes", partitions=4)  # a customer's are all in one of them
        await node.publish_many("changes", CHANGES, key=lambda change: change.customer)
        await finished.wait()
    for customer, amounts in sorted(done.items()):
        print(customer, amounts)
    print("customers served side by side:", most)


asyncio.run(main())
