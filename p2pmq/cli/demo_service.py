"""One service of the demo, in a process of its own: it publishes ("shop") or consumes.

It is told what to do by JSON lines on stdin and tells what happens by JSON
lines on stdout. When its stdin ends it stops: no service outlives the demo.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from p2pmq.cli.demo_tally import Ledger
from p2pmq.cli.lines import LineSplitter, read_block
from p2pmq.cli.offloop import OffLoop
from p2pmq.cli.output import put_json, set_up_logging
from p2pmq.cli.session import run_loop
from p2pmq.node.node import Node

PUBLISH_TIMEOUT_S = 600.0
TICK_S = 0.02
PREFETCH = 500
COMMAND_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What one service is; it is handed over as JSON."""

    name: str
    mesh: str
    folder: str
    services: tuple[str, ...]
    seeds: tuple[str, ...]
    mdns: bool
    debug: bool

    def as_json(self) -> str:
        """The plan as an argument of the process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ServicePlan:
        """The plan that `as_json` gave."""
        fields = json.loads(text)
        return cls(**fields | {key: tuple(fields[key]) for key in ("services", "seeds")})


async def serve(plan: ServicePlan) -> int:
    """Run the service until its stdin ends."""
    set_up_logging(logging.INFO if plan.debug else logging.ERROR)
    node = Node(
        plan.name,
        mesh=plan.mesh,
        seeds=plan.seeds,
        mdns=plan.mdns,
        data_dir=str(Path(plan.folder) / plan.name),
    )
    async with node, asyncio.TaskGroup() as tasks:
        put_json({"event": "ready", "address": node.addresses[0]})
        watching = tasks.create_task(_watch(node, plan))
        working: list[asyncio.Task[None]] = []
        async for command in _commands():
            work = _publish if command["do"] == "publish" else _consume
            working.append(tasks.create_task(work(node, plan, command)))
        for task in (watching, *working):
            task.cancel()
    return 0


async def _commands() -> AsyncIterator[dict[str, Any]]:
    reader, splitter = OffLoop(), LineSplitter(COMMAND_BYTES_MAX)
    while data := await reader.call(lambda: read_block(sys.stdin.fileno())):
        for line in splitter.feed(data):
            yield json.loads(line)


async def _watch(node: Node, plan: ServicePlan) -> None:
    """Tell once all services are there, with a queue that suits the demo; then its new owners.

    A consumer is to own it: then the kill takes the queue and one who works on it at once.
    """
    wanted = set(plan.services)
    while wanted - {m.name for m in node.members() if m.state == "alive"}:  # noqa: ASYNC110  no event tells
        await asyncio.sleep(TICK_S)
    names = ("orders" if number == 1 else f"orders-{number}" for number in count(1))
    queue = next(name for name in names if node.owner_of(name) != plan.services[0])
    owner = node.owner_of(queue)
    put_json({"event": "met", "queue": queue, "owner": owner})
    while True:
        await asyncio.sleep(TICK_S)
        found = node.owner_of(queue)
        if found not in (None, owner):
            owner = found
            put_json({"event": "owner", "queue": queue, "owner": owner})


async def _publish(node: Node, plan: ServicePlan, command: dict[str, Any]) -> None:
    """Publish the demo's messages at a steady pace; what is confirmed goes into the ledger."""
    messages = _messages_in(command["file"])
    ledger = Ledger(Path(plan.folder) / f"{plan.name}.ledger")
    loop = asyncio.get_running_loop()
    began, at = loop.time(), 0
    async with asyncio.TaskGroup() as tasks:
        while at < len(messages):
            elapsed = loop.time() - began
            until = min(len(messages), int(len(messages) * elapsed / command["seconds"]))
            if until > at:
                tasks.create_task(_publish_some(node, command["queue"], messages[at:until], ledger))
                at = until
            await asyncio.sleep(TICK_S)
    put_json({"event": "published"})


def _messages_in(file: str) -> list[bytes]:
    return Path(file).read_bytes().split(b"\n")


async def _publish_some(node: Node, queue: str, messages: Sequence[bytes], ledger: Ledger) -> None:
    await node.publish_many(queue, messages, timeout=PUBLISH_TIMEOUT_S)
    ledger.add(messages)


async def _consume(node: Node, plan: ServicePlan, command: dict[str, Any]) -> None:
    """Process messages: write each down, then ack."""
    ledger = Ledger(Path(plan.folder) / f"{plan.name}.ledger")
    async for batch in node.consume_batches(command["queue"], prefetch=PREFETCH):
        ledger.add(batch.bodies)
        batch.ack()


if __name__ == "__main__":
    sys.exit(run_loop(serve(ServicePlan.from_json(sys.argv[1]))))
