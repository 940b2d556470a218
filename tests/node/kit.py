"""What the node's tests share: meshes of real nodes on loopback, and ways to await what they do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from p2pmq import Config, Message, Node, Replication, SwimConfig, Timing

PATIENCE_S = 30.0
"""Only a broken node takes this long, however slow the machine."""
POLL_S = 0.01
ROOT = Path(__file__).parents[2]
SERVICE = Path(__file__).with_name("service.py")

TIMING = Timing(drain_timeout_ms=500, join_timeout_ms=200, name_claim_ms=600)
CONFIG = Config(timing=TIMING)
WATCHFUL = Config(timing=TIMING, swim=SwimConfig(probe_interval_ms=400, probe_timeout_ms=300))
"""Finds out in some two seconds that a node was killed, not in five."""
ONE_COPY = replace(CONFIG, replication=Replication(replicas=1))
"""For what is about a queue that is on its owner's disk alone."""
WATCHFUL_ONE_COPY = replace(WATCHFUL, replication=Replication(replicas=1))


def quick(**timing: int) -> Config:
    """The tests' configuration with some of the times changed."""
    return Config(timing=replace(TIMING, **timing))


def node(name: str, **settings: Any) -> Node:  # noqa: ANN401  Node's own settings
    """A node in memory that meets nobody by itself, but for what is changed."""
    usual: dict[str, Any] = {"mesh": "test", "mdns": False, "store": "memory", "config": CONFIG}
    return Node(name, **(usual | settings))


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so that no event tells of."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(POLL_S)


async def until_async(condition: Callable[[], Any]) -> None:
    """Likewise, where asking takes an await."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(POLL_S)


def alive(of: Node) -> set[str]:
    """Whom the node sees alive."""
    return {member.name for member in of.members() if member.state == "alive"}


@contextlib.asynccontextmanager
async def mesh(*names: str, **settings: Any) -> AsyncIterator[list[Node]]:  # noqa: ANN401  as above
    """Nodes that all see each other; closed at the end in order."""
    async with contextlib.AsyncExitStack() as stack:
        nodes: list[Node] = []
        for name in names:
            seeds = nodes[0].addresses if nodes else ()
            nodes.append(await stack.enter_async_context(node(name, seeds=seeds, **settings)))
        for each in nodes:
            await until(lambda each=each: alive(each) == set(names))  # type: ignore[misc]  # bound now
        yield nodes


def queue_of(owner: str, seen_by: Node, prefix: str = "q") -> str:
    """A queue that the named node owns."""
    names = (f"{prefix}{number}" for number in range(10_000))
    return next(name for name in names if seen_by.owner_of(name) == owner)


async def take(messages: AsyncIterator[Message], count: int) -> list[Message]:
    """The next so many messages, not settled."""
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(messages) for _ in range(count)]


async def consume(
    of: Node,
    queue: str,
    count: int,
    **options: Any,  # noqa: ANN401  consume's own options
) -> list[Any]:
    """The bodies of so many messages, acked one by one."""
    bodies: list[Any] = []
    async with asyncio.timeout(PATIENCE_S):
        async for message in of.consume(queue, **options):
            async with message:
                bodies.append(message.body)
            if len(bodies) >= count:
                return bodies
    raise AssertionError("the iterator ended")


async def is_empty(of: Node, queue: str) -> bool:
    """Whether the owner counts no message any more."""
    return (await of.depth(queue)).total == 0


class Service:
    """A node in another process, which can be killed."""

    def __init__(
        self, name: str, folder: Path, seeds: Iterable[str] = (), replicas: int = 3
    ) -> None:
        plan = {
            "name": name,
            "folder": str(folder / name),
            "seeds": list(seeds),
            "replicas": replicas,
        }
        self._process = subprocess.Popen(
            [sys.executable, str(SERVICE), json.dumps(plan)],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.addresses: tuple[str, ...] = ()

    async def started(self) -> Service:
        """Wait until it runs."""
        assert self._process.stdout is not None
        read = asyncio.to_thread(self._process.stdout.readline)
        line = await asyncio.wait_for(read, PATIENCE_S)
        self.addresses = tuple(json.loads(line))
        return self

    def kill(self) -> None:
        """End it at once, as kill -9 does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@contextlib.asynccontextmanager
async def service(
    name: str, folder: Path, seeds: Iterable[str] = (), replicas: int = 3
) -> AsyncIterator[Service]:
    """A running service, killed at the end if it was not before."""
    made = Service(name, folder, seeds, replicas)
    try:
        yield await made.started()
    finally:
        made.kill()
