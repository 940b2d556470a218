"""A message for later, and a job for every night: two nodes, one message for each."""

import asyncio
import tempfile
from pathlib import Path

import p2pmq


async def main() -> None:
    """Publish with a delay, and schedule a job."""
    with tempfile.TemporaryDirectory() as directory:

        def node(name: str) -> p2pmq.Node:
            return p2pmq.Node(name, mesh="example", data_dir=str(Path(directory, name)))

        async with node("shop") as shop, node("worker") as worker:
            await shop.publish("reminders", "your basket is waiting", delay=1.0)
            await shop.publish("reminders", "welcome")
            print("due later:", (await shop.depth("reminders")).scheduled)
            messages = worker.consume("reminders")
            for _ in range(2):
                message = await anext(messages)
                print("worker reads:", message.body)
                message.ack()

            # Every service may say it at its start: it is one schedule, and one message a night.
            for each in (shop, worker):
                await each.schedule("cleanup", "30 4 * * *", "jobs", {"do": "cleanup"})
            (info,) = worker.schedules()
            print(info.name, "is published into", info.queue, "at", info.cron)
            await worker.unschedule("cleanup")


asyncio.run(main())
