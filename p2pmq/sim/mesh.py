"""The mesh: what a test of a service holds in its hand.

It starts nodes, breaks what is between and beneath them (`faults`), lets
virtual time pass, waits until the mesh has come to rest, and checks that what
happened is what was promised (`checks`).

Invariant: everything that it does follows from the seed and the calls made.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from p2pmq.core.packets.registry import PROTOCOL_VERSION, PROTOCOL_VERSION_MIN
from p2pmq.sim.checks import SimulationCheckError, broken_promises, summary
from p2pmq.sim.faults import Faults
from p2pmq.sim.history import Held, History
from p2pmq.sim.host import Ground, Host, HostState, NodeOptions
from p2pmq.sim.network import SimNetwork
from p2pmq.sim.refuse import SimulationError, SimulationUsageError
from p2pmq.sim.seeds import seeds
from p2pmq.sim.trace import Trace
from p2pmq.sim.views import differing_views, failed_tasks, running, unfinished_work

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from p2pmq.config import Config
    from p2pmq.node.node import Node
    from p2pmq.sim.checks import Summary
    from p2pmq.sim.host import Service
    from p2pmq.sim.hostloop import MeshLoop

__all__ = ["Mesh", "SimulationSettleError", "seeds"]

_T = TypeVar("_T")

OWN_VERSIONS = (PROTOCOL_VERSION_MIN, PROTOCOL_VERSION)
POLL_S = 0.1
RESTS_S = 1.0
"""A mesh has settled when it was at rest for so long: what was on its way has arrived."""
FORMS_WITHIN_S = 60.0


class SimulationSettleError(SimulationError):
    """The mesh did not come to rest in time. `unsettled` has a line for each reason."""

    def __init__(self, waited_s: float, unsettled: list[str], replay: str) -> None:
        listed = "".join(f"\n  {line}" for line in unsettled)
        super().__init__(
            f"the mesh did not settle in {waited_s:g} s of virtual time; heal what is broken, let "
            f"consumers ack, or give it longer. Still under way:{listed}\n{replay}"
        )
        self.unsettled = unsettled


class Mesh(Faults):
    """A simulated mesh. Times are virtual seconds; names are those of hosts and their nodes.

    With pytest it is the fixture `mesh`; without, `simulate` makes one.

    >>> from p2pmq.sim import simulate
    >>> async def scenario(mesh):
    ...     one, *others = await mesh.start("a", "b", "c")
    ...     mesh.partition(["a"], ["b", "c"])
    ...     receipt = await one.publish("jobs", "wash up", confirm="stored")
    ...     await mesh.run_for(minutes=10)
    ...     mesh.heal()
    ...     async for message in others[0].consume("jobs"):
    ...         async with message:
    ...             break
    ...     await mesh.settle()
    ...     mesh.check()  # nothing lost, nothing twice
    ...     return receipt.committed, message.body
    >>> with simulate(seed=7) as sim:
    ...     sim.run(scenario)
    (False, 'wash up')
    """

    def __init__(self, loop: MeshLoop, seed: int, *, keep_trace: bool = False) -> None:
        self.seed = seed
        self.replay = f"replay it with p2pmq.sim.simulate(seed={seed})"
        """What to say to whoever wants to see a failure again."""
        self.history = History()
        self.trace = Trace(loop, keep=keep_trace)
        self.network = SimNetwork(loop, self.chance("network"), self.trace)
        ground = Ground(loop, self.network, self.trace, self.history, self.chance, self._addresses)
        super().__init__(ground)
        self.random = self.chance("scenario")
        """Chance for the test itself: it follows from the seed, and disturbs no other draw."""
        self._loop = loop

    def chance(self, purpose: str) -> random.Random:
        """A generator of its own for each purpose, so that a new draw shifts no other."""
        return random.Random(f"{self.seed}: {purpose}")

    # -- nodes come and go --

    async def start(
        self,
        *names: str,
        zone: str | Mapping[str, str] = "",
        leaf: bool | Mapping[str, bool] = False,
        weight: int | Mapping[str, int] = 1,
        config: Config | Mapping[str, Config] | None = None,
        versions: Mapping[str, tuple[int, int]] | None = None,
        named: Mapping[str, str] | None = None,
        together: bool = True,
    ) -> list[Node]:
        """Start nodes on new hosts, and wait until all nodes see each other.

        An option is for all of them, or a mapping from name to value. They start at once, or
        (`together=False`) one after the other. `versions` are the protocol versions that a node
        speaks, the least and the most. `named`: nodes' names that are not their hosts'.
        """
        for name in names:
            if name in self._hosts:
                raise SimulationUsageError(
                    f'start("{name}"), which was started before,', f'await mesh.restart("{name}")'
                )
            options = NodeOptions(
                "sim",
                zone=_of(zone, name, default=""),
                leaf=_of(leaf, name, default=False),
                weight=_of(weight, name, default=1),
                config=_of(config, name, default=None),
                versions=(versions or {}).get(name, OWN_VERSIONS),
                name=(named or {}).get(name, ""),
            )
            self._hosts[name] = Host(name, self._ground, options)
            self.network.add_host(name)
        if self._groups is not None:
            self._apply_partition()
        if together:
            await asyncio.gather(*(self.host(name).boot() for name in names))
        else:
            for name in names:
                await self.host(name).boot()
        await self._formed()
        return [self.host(name).node for name in names]

    async def join(self, name: str, *, zone: str = "", leaf: bool = False) -> Node:
        """One more node joins; returns when all nodes see each other."""
        self._note("join", [name] if name in self._hosts else [], f"{name} joins")
        (node,) = await self.start(name, zone=zone, leaf=leaf)
        return node

    async def restart(self, name: str) -> Node:
        """Start a node that is down again, with its disk; one that runs is stopped first."""
        host = self.host(name)
        if host.state is not HostState.DOWN:
            await self.stop(name)
        self._ground.trace.add("restart", name, "")
        node = await host.boot()
        self._finish("down", host=name)
        return node

    async def upgrade(self, name: str, versions: tuple[int, int]) -> Node:
        """Start a node again as one that speaks these protocol versions, the least and the most."""
        host = self.host(name)
        if host.state is not HostState.DOWN:
            await self.stop(name)
        host.options = replace(host.options, versions=versions)
        return await self.restart(name)

    async def stop(self, name: str) -> None:
        """Stop a node in good order; it keeps its place and its disk."""
        host = self.host(name)
        if host.state is HostState.PAUSED:
            self.resume(name)
        self._begin("down", [name], f"{name} stopped")
        await host.stop()

    async def leave(self, name: str, timeout: float | None = None) -> None:  # noqa: ASYNC109  Node.leave's
        """A node leaves for good: it hands over its queues, and its host is gone."""
        host = self.host(name)
        self._begin("leave", [name], f"{name} leaves")
        await host.run(host.node.leave(timeout))
        await host.stop()
        self._finish("leave", host=name)

    async def churn(self, *names: str, every: float, down: float = 5.0, times: int = 1) -> None:
        """Crash one of the nodes and restart it after `down` seconds, `times` times.

        Which one is drawn; the next goes down `every` seconds after the last.
        """
        for _ in range(times):
            name = self.random.choice(names or tuple(self._hosts))
            if self.host(name).state is HostState.UP:
                self.crash(name)
                await asyncio.sleep(down)
                await self.restart(name)
            await asyncio.sleep(max(0.0, every - down))

    async def _formed(self) -> None:
        deadline = self._loop.time() + FORMS_WITHIN_S
        while lines := differing_views(list(self._hosts.values()), self.network):
            if self._loop.time() >= deadline:
                raise SimulationSettleError(FORMS_WITHIN_S, lines, self.replay)
            await asyncio.sleep(POLL_S)

    def _addresses(self) -> list[str]:
        return [host.address for host in self._hosts.values()]

    # -- what the test holds --

    def node(self, name: str) -> Node:
        """The node that runs on a host now."""
        return self.host(name).node

    @property
    def nodes(self) -> list[Node]:
        """The nodes that run now, in the order in which their hosts were first started."""
        return [host.node for host in running(list(self._hosts.values()))]

    @property
    def names(self) -> list[str]:
        """All hosts, in the order in which they were first started."""
        return list(self._hosts)

    def is_up(self, name: str) -> bool:
        """Whether a node runs on the host, and is not paused."""
        return self.host(name).state is HostState.UP

    def run(self, name: str, coroutine: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run the user's own code as part of a host's process: it is paused and dies with it."""
        return self.host(name).run(coroutine)

    def serve(self, name: str, service: Service) -> None:
        """Run `service(node)` as part of the host's process, now and again after each restart."""
        host = self.host(name)
        host.services.append(service)
        if host.state is not HostState.DOWN:
            host.begin(service)

    @property
    def now(self) -> float:
        """Virtual seconds since the start."""
        return self._loop.time()

    # -- time --

    async def run_for(
        self, *, seconds: float = 0, minutes: float = 0, hours: float = 0, days: float = 0
    ) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(seconds + 60 * minutes + 3_600 * hours + 86_400 * days)

    async def settle(self, timeout: float = 180.0) -> None:  # noqa: ASYNC109  virtual time
        """Wait until the mesh is at rest, as far as it is connected.

        That is: every running node sees those that it can reach, and no others; outboxes are
        empty; settles are confirmed; partitions lie with their owners; and a queue with consumers
        is empty, but for what is not due yet. Raises SimulationSettleError: it says what is not so.
        """
        deadline = self._loop.time() + timeout
        rests_since: float | None = None
        while True:
            hosts = list(self._hosts.values())
            lines = differing_views(hosts, self.network) + unfinished_work(hosts)
            now = self._loop.time()
            if lines:
                rests_since = None
                if now >= deadline:
                    raise SimulationSettleError(timeout, lines + failed_tasks(hosts), self.replay)
            elif rests_since is None:
                rests_since = now
            elif now - rests_since >= RESTS_S:
                return
            await asyncio.sleep(POLL_S)

    # -- the verdict --

    def check(self, *, duplicates_max: int | None = None, stuck_max: int | None = None) -> None:
        """Compare what happened with what is promised: see `checks`.

        `duplicates_max` bounds the deliveries beyond a message's first; None bounds nothing, but
        each must be explained. `stuck_max` bounds the promised messages that nobody acked yet.
        Raises SimulationCheckError, which lists every breach.
        """
        self.take_stock()
        violations = broken_promises(self.history, duplicates_max, stuck_max)
        if violations:
            raise SimulationCheckError(violations, self.seed, self.replay)

    def summary(self) -> Summary:
        """Counts of lost, duplicated, unexpected, recovered and stuck messages, after Jepsen."""
        self.take_stock()
        return summary(self.history)

    def take_stock(self) -> None:
        """Enter in the history what lies where now."""
        history = self.history
        history.now_s = self._loop.time()
        history.held = [
            Held(host.name, space.name.lower(), key, run)
            for host in self._hosts.values()
            for space, key, run in host.disk.alive()
        ]
        history.taken_for_acked = [
            Held(host.name, "partition", key, run)
            for host in self._hosts.values()
            for key, run in host.disk.taken_for_acked()
        ]
        history.outboxes = {
            host.process: host.machine.outbox.messages + host.machine.settling.tied
            for host in self._hosts.values()
            if host.machine is not None
        }

    def end(self) -> None:
        """Kill what runs. The history and the trace stay."""
        for task in [*self._flaps.values(), *([self._healing] if self._healing else [])]:
            task.cancel()
        for host in self._hosts.values():
            if host.state is not HostState.DOWN:
                host.kill(unsynced_may_survive=True)
        # The guards freeze what exists before the next run, so that a cycle would stay for ever.
        self._ground.addresses = list
        self._ground.chance = random.Random


def _of(option: Any, name: str, *, default: Any) -> Any:  # noqa: ANN401  any option
    return option.get(name, default) if isinstance(option, dict) else option
