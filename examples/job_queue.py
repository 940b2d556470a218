"""A job queue: typed jobs, retries with pauses, dead letters, and a redrive when it is mended."""

import asyncio
from dataclasses import dataclass

import p2pmq

WIDTHS = (100, 2_000, 300, 4_000, 500)
JOBS = len(WIDTHS)


@dataclass
class Resize:
    """Make a picture smaller."""

    picture: str
    width: int


async def main() -> None:
    """Do five jobs, of which two fail until the disk has room again."""
    disk_is_full = True
    done: list[str] = []
    all_done = asyncio.Event()
    async with p2pmq.Node("worker", mesh="example-jobs", store="memory", mdns=False) as node:
        await node.declare("jobs", max_deliveries=3, backoff=0.02, backoff_max=0.1)

        @node.handler("jobs", concurrency=2, type=Resize)
        async def on_job(message: p2pmq.Message) -> None:
            job: Resize = message.body
            if disk_is_full and job.width > 1_000:
                raise OSError("no space left on device")
            done.append(job.picture)
            if len(done) == JOBS:
                all_done.set()

        for number, width in enumerate(WIDTHS):
            job = {"picture": f"{number}.jpg", "width": width}
            await node.publish("jobs", job, id=f"resize {number}")
        while (await node.depth("jobs")).total:  # noqa: ASYNC110  nobody here is told of letters
            await asyncio.sleep(0.02)
        print("done:", sorted(done))
        for letter in await node.dead_letters("jobs"):
            death = letter.dead_letter
            assert death is not None
            print("dead:", letter.body["picture"], "after", death.failures, "times:", death.error)

        disk_is_full = False
        report = await node.redrive("jobs")
        await all_done.wait()
        print("redriven:", report.redriven, "and done:", sorted(done)[1::2])


asyncio.run(main())
