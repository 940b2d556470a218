"""The roles on the side of p2pmq: an owner, its replicas, a publisher and a consumer.

Each is one node. Owner and replicas are full nodes with their stores on disk.
The others are leaves, which own nothing: every message crosses two sockets and
one disk, and for each further copy one socket and one disk more.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from p2pmq.bench.bodies import Bodies, Tally
from p2pmq.bench.plan import LATENCY_RATE, PHASE_TIMEOUT_S, BenchmarkError, Mode
from p2pmq.config import Config, Replication
from p2pmq.node.node import Node

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from p2pmq.bench.line import Line
    from p2pmq.node.message import Message, MessageBatch

LEAVES = ("publisher", "consumer")
PUBLISHING_TASKS = 512
"""How many tasks await `publish()` at once in mode SINGLE."""
SINGLE_PREFETCH = 2_048
TICK_S = 0.001
"""Loops round their timers to milliseconds; less would spin."""
MEET_TICK_S = 0.02


def run(role: str, options: dict[str, Any], line: Line) -> None:
    """Play "owner", "replica-2" and so on, "publisher" or "consumer" until told to stop."""
    with asyncio.Runner(loop_factory=loop_factory(uvloop=options["uvloop"])) as runner:
        runner.run(serve(role, options, line))


def loop_factory(*, uvloop: bool) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop to run on: uvloop's, if it is wanted and there."""
    if not uvloop:
        return None
    try:
        import uvloop as fast  # noqa: PLC0415  an optional dependency
    except ImportError:
        return None
    return fast.new_event_loop


async def serve(role: str, options: dict[str, Any], line: Line) -> None:
    """Start the role's node and carry out commands."""
    is_leaf = role in LEAVES
    node = Node(
        role,
        mesh=options["mesh"],
        mdns=False,
        seeds=options["seeds"],
        leaf=is_leaf,
        store="memory" if is_leaf else "disk",
        data_dir=None if is_leaf else str(Path(options["folder"]) / role),
        config=Config(replication=Replication(options["replicas"], options["min_copies"])),
    )
    async with node:
        line.reply(address=node.addresses[0])
        while (command := await asyncio.to_thread(line.receive)) is not None:
            async with asyncio.timeout(PHASE_TIMEOUT_S):
                await carry_out(node, command, line)


async def carry_out(node: Node, command: dict[str, Any], line: Line) -> None:
    """One command of the parent."""
    match command["do"]:
        case "usage":
            line.reply()
        case "meet":
            await meet(node, command["names"])
            line.reply()
        case "name_queue":
            line.reply(queue=queue_owned(node, command["prefix"]))
        case "publish":
            started_ns = time.monotonic_ns()
            await publish(node, command["queue"], command)
            line.reply(started_ns=started_ns, ended_ns=time.monotonic_ns())
        case "consume":
            await consume(node, command["queue"], command, line)
        case other:
            raise BenchmarkError(f"the worker knows no command {other!r}: a bug of the benchmark")


async def meet(node: Node, names: Sequence[str]) -> None:
    """Wait until all nodes of the benchmark are there, in this one's eyes."""
    while set(names) - {m.name for m in node.members() if m.state == "alive"}:  # noqa: ASYNC110  no event tells
        await asyncio.sleep(MEET_TICK_S)


def queue_owned(node: Node, prefix: str) -> str:
    """A name for a queue that this node owns."""
    names = (f"{prefix}-{number}" for number in count())
    return next(name for name in names if node.owner_of(name) == node.settings.name)


# -- the publisher --


async def publish(node: Node, queue: str, command: dict[str, Any]) -> None:
    """Publish `count` messages of `size` bytes; every one is committed on return."""
    bodies, messages = Bodies(command["size"]), command["count"]
    match Mode(command["mode"]):
        case Mode.BATCH:
            await node.publish_many(queue, bodies.numbered(messages))
        case Mode.SINGLE:
            rest = bodies.numbered(messages)
            wanted = node.settings.config.replication.min_copies

            async def keep_publishing() -> None:
                for body in rest:
                    receipt = await node.publish(queue, body)
                    if receipt.copies < wanted:
                        raise BenchmarkError(f"confirmed with {receipt.copies} of {wanted} copies")

            async with asyncio.TaskGroup() as group:
                for _ in range(PUBLISHING_TASKS):
                    group.create_task(keep_publishing())
        case Mode.LATENCY:
            await publish_steadily(node, queue, bodies, messages)


async def publish_steadily(node: Node, queue: str, bodies: Bodies, messages: int) -> None:
    """Publish at LATENCY_RATE, whether or not what went before is confirmed."""

    async def publish_one(number: int) -> None:
        await node.publish(queue, bodies.stamped(number))

    begin = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(messages):
            while time.monotonic() < begin + number / LATENCY_RATE:  # noqa: ASYNC110  it paces
                await asyncio.sleep(TICK_S)
            group.create_task(publish_one(number))


# -- the consumer --


async def consume(node: Node, queue: str, command: dict[str, Any], line: Line) -> None:
    """Handle and ack `count` messages; reply once when attached, once when all is confirmed."""
    mode = Mode(command["mode"])
    tally = Tally(command["count"], skip=command["skip"], timed=mode is Mode.LATENCY)
    reading = read_batches if mode is Mode.BATCH else read_messages
    reader = asyncio.create_task(reading(node, queue, tally))
    await asyncio.sleep(0)  # the reader subscribes
    line.reply()
    await reader
    await node.flush(PHASE_TIMEOUT_S)
    line.reply(
        settled_ns=time.monotonic_ns(), duplicates=tally.duplicates, **tally.percentiles_us()
    )


async def read_batches(node: Node, queue: str, tally: Tally) -> None:
    """Mode BATCH: batch by batch."""
    subscription = cast("AsyncGenerator[MessageBatch]", node.consume_batches(queue))
    async with aclosing(subscription) as batches:
        async for batch in batches:
            for body in batch.bodies:
                tally.handle(body)
            batch.ack()
            if not tally.left:
                return


async def read_messages(node: Node, queue: str, tally: Tally) -> None:
    """Modes SINGLE and LATENCY: message by message."""
    wanted = node.consume(queue, prefetch=SINGLE_PREFETCH)
    subscription = cast("AsyncGenerator[Message]", wanted)
    async with aclosing(subscription) as messages:
        async for message in messages:
            async with message:
                tally.handle(message.body)
            if not tally.left:
                return
