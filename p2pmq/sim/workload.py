"""The workload of a scenario: publishers and consumers, as services on simulated hosts.

They are a user's own code: they die and are started again with their host, and
they live with the errors that a publisher must expect.

Invariant: each draws from a generator of its own, so that one more or less
changes nothing for the others.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING
from zlib import crc32

from p2pmq.config import Timing
from p2pmq.errors import NotDeclaredError, P2PMQError
from p2pmq.sim.history import Emitted
from p2pmq.sim.refuse import SimulationError
from p2pmq.sim.selecting import meant_before_start

if TYPE_CHECKING:
    import random

    from p2pmq.node.message import Message
    from p2pmq.node.node import Node
    from p2pmq.sim.mesh import Mesh
    from p2pmq.sim.scenario import Consumers, Publishers, Scenario

LATE = 1.2
"""A late ack comes after so many visibility timeouts."""
RAISED = 0.1
"""Share of publishes before which the queue may get more partitions."""
IDS = 20
"""So many different ids there are."""
RETRY_S = 1.0
"""A consumer whose node refuses it tries again after this."""


class Workload:
    """Everybody who publishes and consumes."""

    def __init__(self, mesh: Mesh, scenario: Scenario) -> None:
        self._mesh = mesh
        self._scenario = scenario
        self.declared = {name: None for each in scenario.declared for name in each.queues}
        """Queues that have settings, which another declaration would take from them."""
        self._begun_s = 0.0
        self._until_s = 0.0
        self._phase = 0
        self._numbers = 0
        self.gave_up = 0
        """Publishes that ended in an error."""

    @property
    def is_over(self) -> bool:
        """Whether nobody publishes any more."""
        return self._mesh.now >= self._until_s

    def begin(self, hosts: list[str], seconds: float) -> None:
        """Publish for so long, on those of `hosts` that the scenario names."""
        self._phase += 1
        self._begun_s, self._until_s = self._mesh.now, self._mesh.now + seconds
        for host in hosts:
            self.serve(host, with_consumers=self._phase == 1)

    def serve(self, host: str, *, with_consumers: bool = True) -> None:
        """Start what is to run on a host; it starts again whenever the host does."""
        nodes = self._scenario.nodes
        if with_consumers:
            for number, consumers in enumerate(self._scenario.consumers):
                if host in meant_before_start(consumers.on, nodes):
                    for queue in consumers.queues:
                        consumer = _Consumer(self, consumers, queue, host, number)
                        self._mesh.serve(host, consumer.run)
        for number, publishers in enumerate(self._scenario.publishers):
            if host in meant_before_start(publishers.on, nodes):
                self._mesh.serve(host, _Publisher(self, self._mesh, publishers, host, number).run)

    def chance(self, who: str) -> random.Random:
        """A generator for one publisher or consumer."""
        return self._mesh.chance(f"{who}, phase {self._phase}")

    def next_number(self) -> int:
        """The number of the next message; no two bodies are the same."""
        self._numbers += 1
        return self._numbers

    def sleeps_s(self, start_ms: int) -> float:
        """How long to wait for a start in this phase."""
        return max(0.0, self._begun_s + start_ms / 1000 - self._mesh.now)

    def ends_s(self, stop_ms: int | None) -> float:
        """When a publisher of this phase stops."""
        if stop_ms is None:
            return self._until_s
        return min(self._until_s, self._begun_s + stop_ms / 1000)


class _Publisher:
    """One publisher; `sent` outlives its host's processes."""

    def __init__(
        self, workload: Workload, mesh: Mesh, spec: Publishers, host: str, number: int
    ) -> None:
        self._workload = workload
        self._mesh = mesh
        self._spec = spec
        self._host = host
        self._rng = workload.chance(f"publisher {number} on {host}")
        self._sent = 0
        self._stop_s = workload.ends_s(spec.stop_ms)

    async def run(self, node: Node) -> None:
        """Publish until it is time to stop."""
        await asyncio.sleep(self._workload.sleeps_s(self._spec.start_ms))
        rng, spec = self._rng, self._spec
        while spec.count is None or self._sent < spec.count:
            await asyncio.sleep(rng.uniform(*spec.every_ms) / 1000)
            if self._mesh.now >= self._stop_s:
                return
            try:
                await self._publish(node)
            except SimulationError:
                raise
            except P2PMQError:
                self._workload.gave_up += 1  # as the mesh is today, that is to be expected

    async def _publish(self, node: Node) -> None:
        rng, spec = self._rng, self._spec
        queue, confirm = rng.choice(spec.queues), rng.choice(spec.confirm)
        if spec.purges and rng.random() < spec.purges:
            await node.purge(queue)
        is_free = queue not in self._workload.declared
        if spec.partitions > 1 and is_free and rng.random() < RAISED:
            with suppress(NotDeclaredError):  # there may be more by now
                await node.declare(queue, partitions=rng.randint(2, spec.partitions))
        batch = rng.randint(*spec.batch)
        if spec.count is not None:
            batch = min(batch, spec.count - self._sent)
        bodies = [self._body() for _ in range(batch)]
        self._sent += batch
        timeout_s = None if spec.timeout_ms is None else spec.timeout_ms / 1000
        low, high = spec.priority
        priority = low if low == high else rng.randint(low, high)
        keys = [str(rng.randrange(spec.keys)) if spec.keys else None for _ in bodies]
        ttl_s = None if spec.ttl_ms is None else spec.ttl_ms / 1000
        id_ = f"id {rng.randrange(IDS)}" if spec.ids and rng.random() < spec.ids else None
        low, high = spec.delay_ms
        delay_s = rng.randint(low, high) / 1000 if high else None
        if batch == 1 and spec.emits and rng.random() < spec.emits:
            await self._emit(node, queue, bodies[0], confirm, timeout_s)
        elif batch == 1:
            await node.publish(
                queue,
                bodies[0],
                confirm=confirm,  # type: ignore[arg-type]  # one of CONFIRMS, as its kind checks
                timeout=timeout_s,
                ttl=ttl_s,
                priority=priority,
                delay=delay_s,
                key=keys[0],
                id=id_,
            )
        else:
            key_of = dict(zip(bodies, keys, strict=True))
            await node.publish_many(
                queue,
                bodies,
                confirm=confirm,  # type: ignore[arg-type]  # as above
                timeout=timeout_s,
                ttl=ttl_s,
                priority=priority,
                delay=delay_s,
                key=key_of.__getitem__,
            )

    async def _emit(
        self, node: Node, queue: str, body: bytes, confirm: str, timeout_s: float | None
    ) -> None:
        """Emit to a topic that is bound to the queue, or, as groups, to all of them."""
        queues = self._spec.queues if self._spec.groups else (queue,)
        topic = f"to.{'.'.join(queues)}"
        for one in queues:
            await node.bind(topic, queue=one)
        await node.emit(
            topic,
            body,
            confirm=confirm,  # type: ignore[arg-type]  # one of CONFIRMS, as its kind checks
            timeout=timeout_s,
        )
        host, history = self._host, self._mesh.history
        history.add(Emitted(self._mesh.now, host, crc32(body), queues))

    def _body(self) -> bytes:
        size = self._rng.randint(*self._spec.size_bytes)
        return b"%d" % self._workload.next_number() + bytes(size)


class _Consumer:
    """One consumer of one queue."""

    def __init__(
        self, workload: Workload, spec: Consumers, queue: str, host: str, number: int
    ) -> None:
        self._workload = workload
        self._spec = spec
        self._queue = queue
        self._rng = workload.chance(f"consumer {number} of {queue} on {host}")
        self._late: list[asyncio.Task[None]] = []

    async def run(self, node: Node) -> None:
        """Consume for ever."""
        await asyncio.sleep(self._workload.sleeps_s(self._spec.start_ms))
        while True:
            try:
                await self._consume(node)
            except SimulationError:
                raise
            except P2PMQError:
                await asyncio.sleep(RETRY_S)  # the node has stopped, or is about to

    async def _consume(self, node: Node) -> None:
        spec = self._spec
        visibility_s = None if spec.visibility_ms is None else spec.visibility_ms / 1000
        messages = node.consume(
            self._queue,
            prefetch=spec.prefetch,
            visibility_timeout=visibility_s,
            once=spec.once,
        )
        taken = 0
        try:
            async for message in messages:
                await self._process(message)
                taken += 1
                if taken == spec.resubscribe and not self._workload.is_over:
                    return  # what it still held goes back
        finally:
            await messages.aclose()  # type: ignore[attr-defined]  # an async generator, as Node makes it

    async def _process(self, message: Message) -> None:
        """Handle a message; when nobody publishes any more, it is quick and settles everything."""
        rng, spec = self._rng, self._spec
        if spec.handler_ms[1] and not self._workload.is_over:
            await asyncio.sleep(rng.uniform(*spec.handler_ms) / 1000)
        fate = rng.random()
        if not self._workload.is_over:
            if fate < spec.late:
                task = asyncio.ensure_future(self._ack_late(message))
                self._late.append(task)
                task.add_done_callback(self._late.remove)
                return
            if fate > 1 - spec.nack:
                message.nack(rng.uniform(*spec.nack_delay_ms) / 1000)
                return
        if spec.outputs and rng.random() < spec.outputs:
            message.publish(f"{self._queue}.out", b"of " + message.body)
        message.ack()

    async def _ack_late(self, message: Message) -> None:
        visibility_ms = self._spec.visibility_ms or Timing().visibility_timeout_ms
        await asyncio.sleep(visibility_ms / 1000 * LATE)
        with suppress(P2PMQError):  # its consumer is closed, or its node is dead
            message.ack()
