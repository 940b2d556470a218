"""A random story: a mesh, a workload and faults, all drawn from the seed.

First everything may fail (*safety*: nothing that is promised may be lost),
then everything is mended (*liveness*: the mesh must come to rest, and every
message be delivered).

Invariant: it draws from `mesh.random` alone, and what came later from generators of its own.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

from p2pmq.config import Config, Replication
from p2pmq.core.packets.publishing import PRIORITY_MAX
from p2pmq.errors import (
    ClosedNodeError,
    NotBoundError,
    NotCommittedError,
    NotDeclaredError,
    NotScheduledError,
    OutboxFullError,
    QueueFullError,
    RequestTimeoutError,
    StaleReceiptError,
    StoreFullError,
)
from p2pmq.sim.host import HostState

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.node.message import Message
    from p2pmq.node.node import Node
    from p2pmq.sim.mesh import Mesh

GIVEN_UP = (
    ClosedNodeError,
    NotBoundError,
    NotCommittedError,
    NotDeclaredError,
    NotScheduledError,
    OutboxFullError,
    QueueFullError,
    RequestTimeoutError,
    StaleReceiptError,
    StoreFullError,
)
"""What a service must expect of a mesh in which everything fails."""

CONFIRMS: tuple[Literal["committed", "stored", "none"], ...] = (
    "committed",
    "committed",
    "stored",
    "none",
)

DELAY_S_MAX = 20.0
PARTITIONS = 4
RAISED_EVERY_S = 5.0
"""Some are due while everything fails, some only after that."""
REPLICAS_DECLARED_MAX = 4
"""One more than most of the meshes' first settings: homes come and go by it."""


IDS = 20
KEYS = ("a", "b", "c", "d", "e")


class _Terms(TypedDict):
    """What a publish of a story asks for."""

    confirm: Literal["committed", "stored", "none"]
    priority: int
    delay: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """How large a story is, and what may happen in it. Times are virtual seconds."""

    nodes_min: int = 3
    nodes_max: int = 5
    queues: int = 3
    replicas: tuple[int, ...] = (1, 2, 3)
    """How many copies are kept: one of these."""
    replace_after_ms: tuple[int, ...] = (600_000, 5_000)
    """How long a home may be away before a stand-in is given its copies: one of these."""
    seconds: float = 30.0
    publish_every_s: float = 0.5
    urgent: float = 0.1
    """Share of publishes with a priority."""
    delayed: float = 0.1
    """Share of publishes with a delay."""
    scheduled: float = 0.1
    """Share of stories in which each queue has a schedule with a tick every minute."""
    named: float = 0.1
    """Share of publishes of one message with an id, which others may have had."""
    keyed: float = 0.2
    """Share of publishes with ordering keys, one of KEYS for each message."""
    calm_s: tuple[float, float] = (0.5, 6.0)
    """Between two faults."""
    faults: tuple[str, ...] = (
        "crash", "power", "restart", "pause", "partition", "one_way", "flap", "isolate",
        "loss", "duplicate", "reorder", "corrupt", "latency", "rate", "slow_disk", "full_disk",
        "clock", "drift", "heal", "heal",
    )  # fmt: skip
    consuming: float = 0.7
    """Share of nodes that consume."""
    slow: float = 0.3
    """Share of messages that take a while."""
    given_back: float = 0.05
    """Share of messages that a consumer nacks."""
    mended: float = 0.5
    """Chance that a node which is down or paused comes back instead of the next fault."""
    forgotten: float = 0.0
    """Share of messages that a consumer never settles."""
    declared_every_s: float = 0.0
    """How often, on each node, a queue is declared with other copies; 0: never."""
    limited: float = 0.2
    """Chance that one of the queues holds only a few messages."""
    partitioned: float = 0.25
    """Chance that queues get more partitions now and then, up to PARTITIONS."""
    settle_s: float = 240.0


class Story:
    """One run of a plan."""

    def __init__(self, mesh: Mesh, plan: Plan) -> None:
        self._mesh = mesh
        self._plan = plan
        self._rng = mesh.random
        self._ended = False
        self._is_limited = False
        self._numbers = 0
        self._paused: list[str] = []
        self._wiped: dict[str, bytes] = {}
        """Hosts whose disk was wiped, and the node ids that were on them."""
        self._restarts: list[asyncio.Task[Node]] = []

    async def run(self) -> None:
        """From the first start to the verdict."""
        mesh, plan = self._mesh, self._plan
        count = self._rng.randint(plan.nodes_min, plan.nodes_max)
        names = [f"n{number}" for number in range(count)]
        copies = Replication(
            replicas=self._rng.choice(plan.replicas),
            replace_after_ms=self._rng.choice(plan.replace_after_ms),
        )
        await mesh.start(*names, config=Config(replication=copies))
        self._is_limited = self._rng.random() < plan.limited
        if self._is_limited:
            await self._limit(mesh.node(names[0]))
        self._serve(names)
        if mesh.chance("partitions").random() < plan.partitioned:
            mesh.serve(names[-1], self._raise)
        schedules = self._rng.random() < plan.scheduled
        if schedules:
            mesh.serve(names[0], self._schedule)
        end = mesh.now + plan.seconds
        while mesh.now < end:
            await mesh.run_for(seconds=self._rng.uniform(*plan.calm_s))
            self._break(self._rng.choice(plan.faults))
        self._ended = True
        await self._mend()
        if self._is_limited:  # nobody need consume from it: what waits for room gets it so
            await self._rng.choice(mesh.nodes).declare("q0")
        await mesh.settle(plan.settle_s)
        if schedules:
            await self._unschedule()
        await mesh.run_for(seconds=DELAY_S_MAX)  # then everything is due
        await self._drain()
        await mesh.settle(plan.settle_s)
        mesh.check(stuck_max=0)

    def _serve(self, names: list[str]) -> None:
        for name in names:
            self._mesh.serve(name, self._publish)
            if self._rng.random() < self._plan.consuming:
                self._mesh.serve(name, self._consume)
            if self._plan.declared_every_s:
                self._mesh.serve(name, self._declare)

    async def _drain(self) -> None:
        for number in range(self._plan.queues):
            node = self._rng.choice(self._mesh.nodes)
            async for _ in node.drain(f"q{number}", patience=self._plan.settle_s):
                pass

    async def _limit(self, node: Node) -> None:
        await node.declare(
            "q0",
            max_messages=self._rng.choice((3, 10, 40)),
            overflow=self._rng.choice(("block", "reject", "drop-oldest")),
        )

    # -- the workload --

    async def _publish(self, node: Node) -> None:
        rng = self._mesh.random
        while not self._ended:
            await asyncio.sleep(rng.expovariate(1 / self._plan.publish_every_s))
            if self._ended:
                return
            queue = f"q{rng.randrange(self._plan.queues)}"
            bodies = [self._body() for _ in range(rng.choice((1, 1, 1, 2, 20)))]
            confirm = rng.choice(CONFIRMS)
            priority = rng.randint(1, PRIORITY_MAX) if rng.random() < self._plan.urgent else 0
            id_ = f"id {rng.randrange(IDS)}" if rng.random() < self._plan.named else None
            delay = rng.uniform(0.05, DELAY_S_MAX) if rng.random() < self._plan.delayed else None
            keyed = rng.random() < self._plan.keyed
            key_of = {body: rng.choice(KEYS) if keyed else None for body in bodies}
            terms: _Terms = {"confirm": confirm, "priority": priority, "delay": delay}
            try:
                if len(bodies) == 1:
                    key = key_of[bodies[0]]
                    await node.publish(queue, bodies[0], key=key, id=id_, **terms)
                else:
                    await node.publish_many(queue, bodies, key=key_of.__getitem__, **terms)
            except GIVEN_UP:
                continue

    async def _declare(self, node: Node) -> None:
        rng = self._mesh.random
        while not self._ended:
            await asyncio.sleep(rng.expovariate(1 / self._plan.declared_every_s))
            if self._ended:
                return
            queue = f"q{rng.randrange(self._plan.queues)}"
            replicas = rng.randint(1, REPLICAS_DECLARED_MAX)
            min_copies = rng.choice((None, 1, replicas))
            try:
                await node.declare(queue, replicas=replicas, min_copies=min_copies)
            except GIVEN_UP:
                continue

    async def _raise(self, node: Node) -> None:
        """Give queues more partitions; the limited one is left alone, as it would be no more."""
        rng = self._mesh.chance(f"partitions at {self._mesh.now}")
        while not self._ended:
            await asyncio.sleep(rng.expovariate(1 / RAISED_EVERY_S))
            if self._ended:
                return
            number = rng.randrange(self._plan.queues)
            if number == 0 and self._is_limited:
                continue
            with suppress(*GIVEN_UP):  # also where they are fewer than there are
                await node.declare(f"q{number}", partitions=rng.randint(1, PARTITIONS))

    async def _schedule(self, node: Node) -> None:
        for number in range(self._plan.queues):
            try:
                await node.schedule(f"s{number}", "* * * * *", f"q{number}", "tick")
            except GIVEN_UP:
                continue

    async def _unschedule(self) -> None:
        """Take every schedule back; all is mended, so that everybody hears of it."""
        node = self._rng.choice(self._mesh.nodes)
        for number in range(self._plan.queues):
            await node.unschedule(f"s{number}")

    def _body(self) -> int:
        self._numbers += 1
        return self._numbers

    async def _consume(self, node: Node) -> None:
        rng = self._mesh.random
        queue = f"q{rng.randrange(self._plan.queues)}"
        try:
            while not self._ended:
                prefetch = rng.choice((1, 10, 100))
                messages = node.consume(queue, prefetch=prefetch, visibility_timeout=10)
                left = rng.randint(1, 200)
                async for message in messages:
                    await self._process(message)
                    left -= 1
                    if not left:
                        break  # what it still held goes back
                await messages.aclose()  # type: ignore[attr-defined]  # an async generator, as Node makes it
        except GIVEN_UP:
            return

    async def _process(self, message: Message) -> None:
        rng = self._mesh.random
        fate = rng.random()
        if fate < self._plan.slow:
            await asyncio.sleep(rng.expovariate(10))
        if fate < self._plan.forgotten and not self._ended:
            return  # its visibility timeout will end
        if fate > 1 - self._plan.given_back and not self._ended:
            message.nack(rng.choice((0, 0.5, 3)))
        else:
            message.ack()

    # -- the faults --

    def _break(self, fault: str) -> None:
        breaks: dict[str, Callable[[str], None]] = {
            "crash": self._mesh.crash,
            "power": self._mesh.power_cut,
            "restart": self._restart_clean,
            "pause": self._pause,
            "partition": self._partition,
            "one_way": lambda name: self._mesh.one_way(name, self._other(name)),
            "flap": lambda name: self._mesh.flap(name, self._other(name), every=3),
            "isolate": self._mesh.isolate,
            "wipe": self._wipe,
            "clock": lambda name: self._mesh.clock_jump(name, self._rng.uniform(-900, 900)),
            "drift": lambda name: self._mesh.clock_drift(name, self._rng.choice((-0.1, 0.01, 0.5))),
            "full_disk": self._mesh.disk_full,
            "slow_disk": lambda name: self._mesh.slow_disk(name, (5, self._rng.choice((50, 800)))),
        }
        rng, mesh = self._rng, self._mesh
        up = [name for name in mesh.names if mesh.is_up(name)]
        down = [name for name in mesh.names if mesh.host(name).state is HostState.DOWN]
        if down and rng.random() < self._plan.mended:
            self._restart(rng.choice(down))
        elif self._paused and rng.random() < self._plan.mended:
            self._resume()
        elif fault in breaks and len(up) > 1:
            breaks[fault](rng.choice(up))
        elif fault == "heal":
            self._heal()
        elif fault == "rate":
            mesh.rate(rng.choice((5_000, 50_000, 500_000)))
        elif fault == "latency":
            mesh.latency((1, rng.choice((20, 300))))
        elif fault in ("loss", "duplicate", "reorder", "corrupt"):
            share = rng.choice((0.02, 0.1, 0.3)) / (5 if fault == "corrupt" else 1)
            {
                "loss": mesh.loss,
                "duplicate": mesh.duplicate,
                "reorder": mesh.reorder,
                "corrupt": mesh.corrupt,
            }[fault](share)

    def _other(self, name: str) -> str:
        return self._rng.choice([other for other in self._mesh.names if other != name])

    def _partition(self, _: str) -> None:
        names = list(self._mesh.names)
        self._rng.shuffle(names)
        self._mesh.partition(names[: self._rng.randint(1, len(names) - 1)])

    def _wipe(self, name: str) -> None:
        """An empty disk, unless that of another is not filled again: promises bear one at a time.

        What lay on two of three disks is lost with both.
        """
        if not any(map(self._lacks, self._wiped)):
            self._wiped[name] = self._mesh.host(name).disk.contents.node_id
            self._mesh.crash(name)
            self._mesh.wipe(name)

    def _lacks(self, name: str) -> bool:
        """Whether the disk was wiped, and is not known to have been filled again."""
        contents = self._mesh.host(name).disk.contents
        own = contents.members.get(contents.node_id)
        met = own is not None and own.predecessor == self._wiped[name]
        return not met or contents.refilling

    def _pause(self, name: str) -> None:
        self._mesh.pause(name)
        self._paused.append(name)

    def _resume(self) -> None:
        name = self._paused.pop()
        if self._mesh.host(name).state is HostState.PAUSED:
            self._mesh.resume(name)

    def _restart_clean(self, name: str) -> None:
        self._restart(name)

    def _restart(self, name: str) -> None:
        self._restarts.append(asyncio.ensure_future(self._mesh.restart(name)))

    def _heal(self) -> None:
        self._mesh.heal()
        for name in self._mesh.names:
            if self._mesh.host(name).disk.full:
                self._mesh.disk_full(name, full=False)

    async def _mend(self) -> None:
        mesh = self._mesh
        self._heal()
        while self._paused:
            self._resume()
        await asyncio.gather(*self._restarts, return_exceptions=True)
        for name in mesh.names:
            mesh.host(name).disk.sync_ms = (0.5, 3.0)
            if mesh.host(name).state is HostState.DOWN:
                await mesh.restart(name)


async def random_story(mesh: Mesh, plan: Plan | None = None) -> None:
    """Tell a story that the mesh's seed decides; raises if a promise is broken."""
    await Story(mesh, plan if plan is not None else Plan()).run()
