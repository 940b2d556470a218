"""Two sensors emit readings; a dashboard hears those that it asked for, and stores nothing."""

import asyncio

import p2pmq


def node(name: str) -> p2pmq.Node:
    """A node that keeps nothing on disk: topics need none."""
    return p2pmq.Node(name, mesh="example-topics", store="memory", leaf=name != "hub")


async def sensor(name: str, topic: str, readings: list[float]) -> None:
    """Emit the readings again and again until nobody listens any more."""
    async with node(name) as sender:
        while True:
            for reading in readings:
                await sender.emit(topic, reading)
                await asyncio.sleep(0.05)


async def main() -> None:
    """Listen until both sensors were heard."""
    async with node("hub") as hub:
        sensors = [
            asyncio.create_task(sensor("roof", "site.7.temp", [21.5, 21.6])),
            asyncio.create_task(sensor("hall", "site.7.door", [0, 1])),
        ]
        heard: set[str] = set()
        async for event in hub.subscribe("site.*.temp", "site.7.door"):
            print(event.sender, event.topic, event.body)
            heard.add(event.sender)
            if len(heard) == len(sensors):
                break
        for task in sensors:
            task.cancel()
        await asyncio.gather(*sensors, return_exceptions=True)


asyncio.run(main())
