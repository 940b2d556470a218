"""A simulated host: a disk, a clock, and one run after another of a node's process.

What survives a process is the disk and the clock; everything else (ports,
tasks, what the node held in memory) is made anew at the next boot.

Invariant: at most one process runs on a host.
"""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from p2pmq.core.packets.registry import PROTOCOL_VERSION, PROTOCOL_VERSION_MIN
from p2pmq.errors import ClosedNodeError
from p2pmq.node.node import Node
from p2pmq.sim.disk import SimDisk
from p2pmq.sim.gauges import EVERY, levels
from p2pmq.sim.history import Process, ProcessEnded
from p2pmq.sim.hostloop import HOST, HostLoop
from p2pmq.sim.refuse import SimulationUsageError
from p2pmq.sim.world import SimWorld, WallClock

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine

    from p2pmq.config import Config
    from p2pmq.core.packets.registry import Packet
    from p2pmq.sim.history import History
    from p2pmq.sim.hostloop import MeshLoop
    from p2pmq.sim.network import SimNetwork
    from p2pmq.sim.trace import Trace
    from p2pmq.sim.watch import WatchedMachine

    Service = Callable[[Node], Coroutine[Any, Any, None]]

_T = TypeVar("_T")


class HostState(Enum):
    """Whether a process runs."""

    DOWN = "down"
    UP = "up"
    PAUSED = "paused"


@dataclass(slots=True)
class Ground:
    """What all hosts of a simulation stand on."""

    loop: MeshLoop
    network: SimNetwork
    trace: Trace
    history: History
    chance: Callable[[str], random.Random]
    """A generator of its own for each purpose, all from the one seed."""
    addresses: Callable[[], list[str]]


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What `Node` is given on a host."""

    mesh: str
    zone: str = ""
    leaf: bool = False
    weight: int = 1
    config: Config | None = None
    versions: tuple[int, int] = (PROTOCOL_VERSION_MIN, PROTOCOL_VERSION)
    name: str = ""
    """The node's; empty: that of its host."""


@dataclass(slots=True)
class _Run:
    """One run of the host's process."""

    node: Node
    world: SimWorld
    host_loop: HostLoop
    context: contextvars.Context
    tasks: dict[asyncio.Task[Any], None] = field(default_factory=dict)


class Host:
    """One host of the mesh, by its node's name."""

    def __init__(self, name: str, ground: Ground, options: NodeOptions) -> None:
        self.name = name
        self.options = options
        self.address = f"{name}:7171"
        self.disk = SimDisk(name, ground.chance(f"disk of {name}"), ground.trace)
        self.clock = WallClock(ground.loop)
        self.state = HostState.DOWN
        self.failed_tasks: list[str] = []
        """Tasks of the user's that ended in an error, with the error."""
        self.services: list[Service] = []
        """What runs on the node from each of its starts on."""
        self.tripwires: list[Callable[[Packet], None]] = []
        """Who is told of each packet that the node sends; they must not touch it at once."""
        self._ground = ground
        self._rng = ground.chance(f"processes on {name}")
        self._run: _Run | None = None
        self._sent = 0

    def _on_sent(self, packet: Packet) -> None:
        for tripwire in self.tripwires:
            tripwire(packet)
        self._sent += 1
        if self._sent % EVERY == 0:
            self._read_gauges()

    def _read_gauges(self) -> None:
        """Note what the node's buffers hold, where it is more than ever."""
        run, peaks = self._run, self._ground.history.peaks
        if run is None or run.world.watched is None:
            return
        limits = run.node.settings.config.limits
        for what, held, limit in levels(run.world.watched, run.node._links, limits):  # noqa: SLF001  nobody else asks
            if held > peaks.get((self.name, what), (0, 0))[0]:
                peaks[self.name, what] = (held, limit)

    # -- what runs --

    @property
    def node(self) -> Node:
        """The node that runs here now."""
        return self._running().node

    @property
    def machine(self) -> WatchedMachine | None:
        """The running node's protocol, if it has started."""
        return self._run.world.watched if self._run is not None else None

    @property
    def process(self) -> Process:
        """The process that runs here now, or the last one."""
        return Process(self.name, self.disk.processes)

    def _running(self) -> _Run:
        if self._run is None:
            raise SimulationUsageError(
                f"the node of {self.name!r}, which does not run,",
                f'await mesh.restart("{self.name}") first',
            )
        return self._run

    # -- life --

    async def boot(self) -> Node:
        """Start a process; returns when its node has started, and its services with it."""
        if self._run is not None:
            raise SimulationUsageError(
                f"a second process on {self.name!r}", "stop or crash the first one"
            )
        ground, options = self._ground, self.options
        context = contextvars.copy_context()
        context.run(HOST.set, self.name)
        host_loop = HostLoop(ground.loop, context)
        world = SimWorld(
            network=ground.network,
            disk=self.disk,
            host_loop=host_loop,
            clock=self.clock,
            rng=self._rng,
            address=self.address,
            addresses=ground.addresses,
            history=ground.history,
            versions=options.versions,
            on_sent=self._on_sent,
        )
        node = Node(
            options.name or self.name,
            mesh=options.mesh,
            zone=options.zone,
            leaf=options.leaf,
            weight=options.weight,
            config=options.config,
            world=world,
        )
        run = self._run = _Run(node, world, host_loop, context)
        self.state = HostState.UP
        try:
            await self.run(node.start())
        except BaseException as error:
            if self._run is not run:  # it was killed meanwhile, which cancelled its start
                raise ClosedNodeError(self.name, "killed while it started") from error
            self.kill(unsynced_may_survive=True)
            raise
        for service in self.services:
            self.begin(service)
        return node

    async def stop(self) -> None:
        """End the process in good order."""
        run = self._running()
        await self.run(run.node.close())
        self._end(run, unsynced_may_survive=True)

    def kill(self, *, unsynced_may_survive: bool) -> None:
        """End the process as SIGKILL does, or as a power cut does."""
        self._end(self._running(), unsynced_may_survive=unsynced_may_survive)

    def _end(self, run: _Run, *, unsynced_may_survive: bool) -> None:
        self._ground.history.add(ProcessEnded(self._ground.loop.time(), self.process))
        # Who does it may be one of the host's own tasks: it goes on to its next await.
        for task in run.tasks:
            task.cancel()
        run.world.kill(unsynced_may_survive=unsynced_may_survive)
        run.node.abort()
        run.host_loop.drop()
        self._ground.loop.resume_host(self.name)  # only so that cancelled tasks can end
        self._run = None
        self.state = HostState.DOWN

    def pause(self) -> None:
        """Stop the process as SIGSTOP does."""
        run = self._running()
        run.host_loop.pause()
        self._ground.loop.pause_host(self.name)
        self.state = HostState.PAUSED

    def resume(self) -> None:
        """Let it go on."""
        run = self._running()
        self.state = HostState.UP
        self._ground.loop.resume_host(self.name)
        run.host_loop.resume()

    # -- the user's own code --

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run a coroutine as a task of the process: it is paused and dies with it."""
        run = self._running()
        task = self._ground.loop.create_task(coroutine, context=run.context.copy())
        run.tasks[task] = None
        task.add_done_callback(self._on_done)
        return task

    def begin(self, service: Service) -> None:
        """Run a service on the node that runs now."""
        task = self.run(service(self.node))
        task.set_name(getattr(service, "__qualname__", type(service).__qualname__))

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        if self._run is not None:
            self._run.tasks.pop(task, None)
        if not task.cancelled() and (error := task._exception) is not None:  # noqa: SLF001  exception() would mark it as retrieved, and a loss would go unseen
            self.failed_tasks.append(f"{task.get_name()} on {self.name}: {error!r}")
