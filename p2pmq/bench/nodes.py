"""The three roles on the side of p2pmq: an owner, a publisher and a consumer, each one node.

The owner is a full node with its store on disk. The others are leaves, which
own nothing: every message crosses two sockets and one disk.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from p2pmq.bench.bodies import Bodies, Tally
from p2pmq.bench.plan import LATENCY_RATE, PHASE_TIMEOUT_S, BenchmarkError, Mode
from p2pmq.node.node import Node

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from p2pmq.bench.line import Line
    from p2pmq.node.message import Message, MessageBatch

PUBLISHING_TASKS = 512
"""How many tasks await `publish()` at once in mode SINGLE."""
SINGLE_PREFETCH = 2_048
TICK_S = 0.001
"""Loops round their timers to milliseconds; less would spin."""


def run(role: str, options: dict[str, Any], line: Line) -> None:
    """Play "owner", "publisher" or "consumer" until told to stop."""
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
    if role == "owner":
        node = Node("owner", mesh=options["mesh"], mdns=False, data_dir=options["data_dir"])
    else:
        node = Node(
            role,
            mesh=options["mesh"],
            mdns=False,
            store="memory",
            leaf=True,
            seeds=[options["owner"]],
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
        case "publish":
            started_ns = time.monotonic_ns()
            await publish(node, command["queue"], command)
            line.reply(started_ns=started_ns, ended_ns=time.monotonic_ns())
        case "consume":
            await consume(node, command["queue"], command, line)
        case other:
            raise BenchmarkError(f"the worker knows no command {other!r}: a bug of the benchmark")


# -- the publisher --


async def publish(node: Node, queue: str, command: dict[str, Any]) -> None:
    """Publish `count` messages of `size` bytes; every one is committed on return."""
    bodies, count = Bodies(command["size"]), command["count"]
    match Mode(command["mode"]):
        case Mode.BATCH:
            await node.publish_many(queue, bodies.numbered(count))
        case Mode.SINGLE:
            rest = bodies.numbered(count)

            async def keep_publishing() -> None:
                for body in rest:
                    await node.publish(queue, body)

            async with asyncio.TaskGroup() as group:
                for _ in range(PUBLISHING_TASKS):
                    group.create_task(keep_publishing())
        case Mode.LATENCY:
            await publish_steadily(node, queue, bodies, count)


async def publish_steadily(node: Node, queue: str, bodies: Bodies, count: int) -> None:
    """Publish at LATENCY_RATE, whether or not what went before is confirmed."""

    async def publish_one(number: int) -> None:
        await node.publish(queue, bodies.stamped(number))

    begin = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
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
