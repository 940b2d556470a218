"""One node of the tests' meshes, in a process of its own, which may be killed at any moment.

It gets its plan as JSON in its argument and commands as JSON lines on stdin, tells events as JSON
lines on stdout, and ends when stdin does. What it published, what was confirmed, and what it got
it writes into its ledger at once, so that it is known after a kill -9. Times in events and in the
ledger are CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any, Literal

from p2pmq import (
    Config,
    Node,
    NotCommittedError,
    RequestTimeoutError,
    SwimConfig,
    Timing,
)
from p2pmq.config import Replication
from tests.processes.ledger import Ledger

SWIM = SwimConfig(probe_interval_ms=400, probe_timeout_ms=300, healing_interval_ms=2_000)
"""Finds out in some two seconds that a node is gone, and in as many that it is back."""
TIMING = Timing(join_timeout_ms=200, drain_timeout_ms=500)
Confirm = Literal["committed", "stored"]
CONFIRMS: tuple[Confirm, ...] = ("committed", "committed", "stored")
CONFIRM_WITHIN_S = 90.0
AT_ONCE = 5
ON_THEIR_WAY_MAX = 16
"""So many publishes of one publisher wait for their confirm."""


def tell(event: str, **facts: object) -> None:
    """Tell the test something."""
    sys.stdout.write(json.dumps({"event": event, "at": time.monotonic(), **facts}) + "\n")
    sys.stdout.flush()


class TellMembers(logging.Handler):
    """Tells what the node logs of its members, when it logs it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pick one kind of line."""
        if record.msg == "%s: member %s (%s) is %s" and isinstance(record.args, tuple):
            _, name, _, state = record.args
            tell("member", name=name, state=state)


class Service:
    """The node, and what it is told to do with it."""

    def __init__(self, node: Node, plan: dict[str, Any]) -> None:
        self._node = node
        self._plan = plan
        self._ledger = Ledger(Path(plan["ledger"]))
        self._numbers = count(1)
        self._publishers: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    async def serve(self, commands: AsyncIterator[dict[str, Any]]) -> None:
        """Do what is told, each command beside the others, until there are no more."""
        async with asyncio.TaskGroup() as tasks:
            working: set[asyncio.Task[None]] = set()
            async for command in commands:
                arguments = dict(command)
                work = getattr(self, "do_" + arguments.pop("do"))
                task = tasks.create_task(work(**arguments))
                working.add(task)
                task.add_done_callback(working.discard)
            for task in working:
                task.cancel()

    async def do_publish(self, queues: list[str], per_s: float) -> None:
        """Publish at a steady pace until told to stop; then tell that nothing is on its way."""
        on_the_way: set[asyncio.Task[str]] = set()
        for turn in count():
            if self._stopping.is_set():
                break
            if len(on_the_way) < ON_THEIR_WAY_MAX:
                queue, confirm = queues[turn % len(queues)], CONFIRMS[turn % len(CONFIRMS)]
                task = asyncio.create_task(self._publish(queue, AT_ONCE, confirm))
                on_the_way.add(task)
                task.add_done_callback(on_the_way.discard)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AT_ONCE / per_s):
                    await self._stopping.wait()
        if on_the_way:
            await asyncio.wait(on_the_way)
        tell("published")

    async def do_publish_some(self, queue: str, times: int, size: int, within_s: float) -> None:
        """Publish so many messages as one, and tell how it went."""
        error = await self._publish(queue, times, "committed", size, within_s)
        tell("published_some", error=error)

    async def do_stop_publishing(self) -> None:
        """End every `publish`."""
        self._stopping.set()

    async def _publish(
        self,
        queue: str,
        times: int,
        confirm: Confirm,
        size: int = 0,
        within_s: float = CONFIRM_WITHIN_S,
    ) -> str:
        """Publish messages, each with a name that no other has; why they were not confirmed."""
        boot = self._plan["boot"]
        names = [f"{self._plan['name']}-{boot}-{next(self._numbers)}" for _ in range(times)]
        self._ledger.add("try", names)
        bodies = [name.ljust(size).encode() for name in names]
        try:
            await self._node.publish_many(queue, bodies, confirm=confirm, timeout=within_s)
        except NotCommittedError as error:
            return str(error)
        self._ledger.add(confirm, names)
        return ""

    async def do_consume(self, queue: str, prefetch: int, work_s: float = 0.0) -> None:
        """Write messages down, work on them, ack them: what a kill leaves in hand was got."""
        async for batch in self._node.consume_batches(queue, prefetch=prefetch):
            self._ledger.add("got", [body.decode().rstrip() for body in batch.bodies])
            await asyncio.sleep(work_s)
            batch.ack()

    async def do_ask(self, queues: list[str]) -> None:
        """Tell how many messages are in these queues, and who owns them; None: nobody answers."""
        depths: dict[str, int | None] = {}
        for queue in queues:
            try:
                depths[queue] = (await self._node.depth(queue)).total
            except RequestTimeoutError:
                depths[queue] = None
        owners = {queue: self._node.owner_of(queue) for queue in queues}
        flushed = await self._node.flush(timeout=0.1)
        alive = [member.name for member in self._node.members() if member.state == "alive"]
        tell("asked", depths=depths, owners=owners, flushed=flushed, alive=alive)


async def commands_of(stdin: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """The commands until stdin ends."""
    while line := await stdin.readline():
        yield json.loads(line)


async def stdin_reader() -> asyncio.StreamReader:
    """Standard input, without a thread that would keep the process from ending."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def main(plan: dict[str, Any]) -> None:
    """Run the node of the plan."""
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("p2pmq").addHandler(TellMembers())
    node = Node(
        plan["name"],
        mesh=plan["mesh"],
        listen=plan["listen"],
        insecure=plan["insecure"],
        seeds=plan["seeds"],
        mdns=plan["mdns"],
        leaf=plan["leaf"],
        data_dir=plan["data_dir"],
        config=Config(swim=SWIM, timing=TIMING, replication=Replication(replicas=plan["replicas"])),
    )
    stdin = await stdin_reader()
    async with node:
        tell("ready", addresses=node.addresses)
        await Service(node, plan).serve(commands_of(stdin))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
