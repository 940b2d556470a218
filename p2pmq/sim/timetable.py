"""The timetable of a scenario: carries out its faults at their times, and mends them.

Faults of the network overlap, and each may end on its own, while a mesh can
only be healed as a whole. So the list of those in force is kept here: when one
ends, the network is healed, gets the scenario's own links again, and then what
is still in force.

A fault that makes no sense at its time (a crash of a host that is down) does
nothing: random ones, and ones by several hands, meet all the time.

Invariant: at the end of `mend`, nothing that the timetable broke is broken.
"""

from __future__ import annotations

import asyncio
import heapq
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from p2pmq.config import LAN, WAN, Config, Replication, Retry
from p2pmq.errors import P2PMQError
from p2pmq.sim.host import HostState
from p2pmq.sim.mesh import SimulationSettleError
from p2pmq.sim.refuse import SimulationError, SimulationUsageError
from p2pmq.sim.scenario_sense import RING_MIN
from p2pmq.sim.selecting import Selecting, meant_before_start
from p2pmq.sim.tripwires import Tripwire

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from p2pmq.sim.mesh import Mesh
    from p2pmq.sim.scenario import FaultSpec, Nodes, Scenario
    from p2pmq.sim.workload import Workload

SYNC_MS = (0.5, 3.0)
"""How long a healthy simulated disk syncs (see SimDisk)."""
GROUPS = ("partition", "isolate", "one_way", "cut", "bridge", "ring_of_majorities", "flap")
PACKETS = ("latency", "loss", "duplicate", "reorder", "corrupt", "rate")
NETWORK = (*GROUPS, *PACKETS)
FINISH_S = 600.0
"""Longer than any start, stop or leave takes on a host that runs; virtual seconds."""
SLOW = ("stop", "restart", "join", "leave")
"""These take their time; a host does one of them after the other."""
DOWN = ("crash", "power_cut", "stop", "wipe", "roll_back", "torn_tail", "truncate")
LEAVE_S = 10.0


class Timetable:
    """Breaks and mends one mesh."""

    def __init__(self, mesh: Mesh, scenario: Scenario, workload: Workload) -> None:
        self._mesh = mesh
        self._scenario = scenario
        self._workload = workload
        self._rng = mesh.chance("timetable")
        self._selecting = Selecting(mesh, scenario.nodes, self._rng)
        self._in_force: dict[int, Callable[[], None]] = {}
        self._numbers = count()
        self._tasks: list[asyncio.Task[None]] = []
        self._busy: dict[str, None] = {}
        self._broken_disks: dict[str, None] = {}
        self._snapshots: dict[str, None] = {}
        self._tripwires: list[Tripwire] = []
        self._is_over = True
        self.errors: list[Exception] = []
        """What went wrong that nobody could expect."""

    @property
    def present(self) -> list[str]:
        """Every host that was started and has not left."""
        return self._selecting.present

    # -- the scenario's own links --

    def lay_links(self) -> None:
        """The network as the scenario says it is in the best of times."""
        network, nodes = self._mesh.network, self._scenario.nodes
        for links in self._scenario.links:
            changes: dict[str, object] = {
                "loss": links.loss,
                "duplicate": links.duplicate,
                "reorder": links.reorder,
                "reorder_ms": float(links.late_ms),
                "corrupt": links.corrupt,
                "bytes_per_s": links.rate_bytes,
            }
            if links.latency_ms is not None:
                changes["latency_ms"] = links.latency_ms
            if not links.from_ and not links.to:
                network.change_default(**changes)
            sources = meant_before_start(links.from_ or ("all",), nodes)
            targets = meant_before_start(links.to or ("all",), nodes)
            pairs = [(a, b) for a in sources for b in targets if a != b]
            for a, b in pairs + ([(b, a) for a, b in pairs] if links.both else []):
                network.change(a, b, **changes)

    # -- the course of things --

    async def play(self, faults: Sequence[FaultSpec], seconds: float) -> None:
        """Let the faults happen at their times from now on; returns after so many seconds."""
        begun_s = self._mesh.now
        self._is_over = False
        due: list[tuple[float, int, FaultSpec, Callable[[], None] | None]] = []
        for fault in faults:
            heapq.heappush(due, (fault.at_ms / 1000, next(self._numbers), fault, None))
        while due:
            at_s, _, fault, mend = heapq.heappop(due)
            await asyncio.sleep(max(0.0, begun_s + min(at_s, seconds) - self._mesh.now))
            if at_s > seconds:
                break  # all is mended at the end
            if mend is not None:
                mend()
                continue
            undo = self.happen(fault)
            if fault.for_ms is not None and undo is not None:
                ends_s = at_s + fault.for_ms / 1000
                heapq.heappush(due, (ends_s, next(self._numbers), fault, undo))
        await asyncio.sleep(max(0.0, begun_s + seconds - self._mesh.now))
        self._is_over = True
        self._cut_tripwires()

    def _cut_tripwires(self) -> None:
        """A story in which nobody was hit is not the one that was meant."""
        for wire in self._tripwires:
            if wire.is_set:
                wire.cut()
                what = f"crash_during {wire.during!r} that hit nobody"
                todo = "let it happen while the wire is set, or name others"
                self.errors.append(SimulationUsageError(what, todo))
        self._tripwires.clear()

    async def finish(self) -> None:
        """Wait for what takes its time: restarts, joins, leaves.

        One whose host was paused amid it would never end: it is given up after FINISH_S.
        """
        while self._tasks:
            tasks, self._tasks = self._tasks, []
            await asyncio.wait(tasks, timeout=FINISH_S)
            for task in tasks:
                if not task.done():
                    task.cancel()
                elif not task.cancelled() and (error := task.exception()) is not None:
                    raise error  # a cancelled one died with its host

    async def mend(self, hosts: Sequence[str] | None = None) -> None:
        """Mend everything; or only on `hosts` and between them: then the others stay cut off."""
        self._in_force.clear()
        self._mesh.heal()
        self.lay_links()
        mended = self.present if hosts is None else list(hosts)
        others = [name for name in self.present if name not in mended]
        if others:
            self._mesh.isolate(*others)
        for name in mended:
            self._resume(name)
            self._mend_disk(name)
        await self.finish()
        await asyncio.gather(*(self._mended(name) for name in mended))

    async def _mended(self, name: str) -> None:
        """It runs again; one that has left meanwhile stays away."""
        host = self._mesh.host(name)
        if name not in self.present:
            return
        if host.state is HostState.DOWN and host.disk.cut_short:
            self._mesh.wipe(name)
        if host.state is HostState.DOWN or host.node.has_stopped:
            await self._mesh.restart(name)

    # -- faults --

    def happen(self, fault: FaultSpec) -> Callable[[], None] | None:
        """Let a fault happen now; returns what mends it."""
        if fault.what == "heal":
            self._in_force.clear()
            self._mesh.heal()
            self.lay_links()
            return None
        if fault.what in NETWORK:
            return self._break_network(fault)
        hosts = self._selecting.hosts(fault.hosts)
        if fault.what == "churn":
            self._start(self._churn(fault, hosts))
            return None
        if fault.what in ("rolling_restart", "upgrade"):
            self._start(self._roll(fault, hosts))
            return None
        if fault.what == "crash_during":
            self._set_tripwire(fault, hosts)
            return None
        if fault.what == "join":
            hosts = [name for name in fault.hosts if name not in self._mesh.names]
        undone = [self._break_host(fault, name) for name in hosts]
        mends = [undo for undo in undone if undo is not None]
        return partial(_call_all, mends) if mends else None

    def _break_network(self, fault: FaultSpec) -> Callable[[], None] | None:
        apply = self._network_call(fault)
        if apply is None:
            return None
        number = next(self._numbers)
        self._in_force[number] = apply
        apply()
        return partial(self._end, number)

    def _end(self, number: int) -> None:
        if self._in_force.pop(number, None) is None:
            return  # healed meanwhile
        self._mesh.heal()
        self.lay_links()
        for apply in list(self._in_force.values()):
            apply()

    def _network_call(self, fault: FaultSpec) -> Callable[[], None] | None:
        """What to call for a fault of the network; None: there is nobody to part."""
        mesh = self._mesh
        if fault.what in PACKETS:
            return self._packets_call(fault)
        if fault.what == "ring_of_majorities":
            return mesh.ring_of_majorities if len(mesh.names) >= RING_MIN else None
        if fault.what == "partition":
            groups = [group for group in self._selecting.groups(fault.groups) if group]
            return partial(mesh.partition, *groups) if groups else None
        if fault.what == "isolate":
            hosts = self._selecting.hosts(fault.hosts)
            return partial(mesh.isolate, *hosts) if hosts else None
        return self._paths_call(fault)

    def _paths_call(self, fault: FaultSpec) -> Callable[[], None] | None:
        mesh = self._mesh
        middle, source, target = self._selecting.groups((fault.middle, fault.from_, fault.to))
        if not source or not target:
            return None
        if fault.what == "bridge":
            return partial(mesh.bridge, source, middle[0], target) if middle else None
        if fault.what == "flap":
            return partial(mesh.flap, source, target, every=fault.every_ms / 1000)
        return partial(mesh.cut if fault.what == "cut" else mesh.one_way, source, target)

    def _packets_call(self, fault: FaultSpec) -> Callable[[], None]:
        mesh = self._mesh
        source = self._selecting.hosts(fault.from_) or None
        target = self._selecting.hosts(fault.to, source or ()) or None
        if fault.what == "latency":
            assert fault.latency_ms is not None, "checked when it was read"
            return partial(mesh.latency, fault.latency_ms, source, target)
        if fault.what == "rate":
            return partial(mesh.rate, fault.rate_bytes, source, target)
        if fault.what == "reorder":
            return partial(mesh.reorder, fault.share, source, target, ms=fault.late_ms)
        call = {"loss": mesh.loss, "duplicate": mesh.duplicate, "corrupt": mesh.corrupt}
        return partial(call[fault.what], fault.share, source, target)

    # -- faults of one host --

    def _break_host(self, fault: FaultSpec, name: str) -> Callable[[], None] | None:
        mesh, what = self._mesh, fault.what
        state = mesh.host(name).state if name in mesh.names else HostState.DOWN
        if name in self._busy and what in SLOW:
            return None
        if what in DOWN:
            return self._bring_down(fault, name, state)
        if what == "pause":
            if state is not HostState.UP:
                return None
            mesh.pause(name)
            return partial(self._resume, name)
        if what == "resume":
            self._resume(name)
        elif what == "restart":
            self._restart(name)
        elif what in ("join", "leave"):
            self._start(self._join(name) if what == "join" else self._leave(name), name)
        elif what in ("failing_disk", "full_disk", "slow_disk"):
            self._break_disk(fault, name)
            return partial(self._mend_disk, name)
        else:
            self._other(fault, name)
        return None

    def _bring_down(
        self, fault: FaultSpec, name: str, state: HostState
    ) -> Callable[[], None] | None:
        mesh, what = self._mesh, fault.what
        if what in ("stop", "torn_tail"):
            if state is HostState.DOWN:
                return None
            if what == "stop":
                self._start(mesh.stop(name), name)
            else:
                self._start(mesh.torn_tail(name, fault.late_ms / 1000))
        elif state is not HostState.DOWN:
            (mesh.power_cut if what == "power_cut" else mesh.crash)(name)
        if what == "wipe":
            mesh.wipe(name)
        elif what == "roll_back" and name in self._snapshots:
            mesh.roll_back(name)
        elif what == "truncate":
            mesh.cut_file(name)
            return partial(self._start_empty, name)
        return partial(self._restart, name)

    def _start_empty(self, name: str) -> None:
        """Whoever looks after it has moved the directory with the broken store away."""
        if self._mesh.host(name).disk.cut_short:
            self._mesh.wipe(name)
        self._restart(name)

    def _set_tripwire(self, fault: FaultSpec, hosts: list[str]) -> None:
        def crashed(name: str) -> None:
            if fault.for_ms is not None:
                self._start(self._restart_later(name, fault.for_ms / 1000), name)

        if hosts:
            wire = Tripwire(self._mesh, hosts, fault.during, fault.times, crashed)
            self._tripwires.append(wire)

    def _break_disk(self, fault: FaultSpec, name: str) -> None:
        self._broken_disks[name] = None
        if fault.what == "failing_disk":
            self._mesh.disk_failing(name)
        elif fault.what == "full_disk":
            self._mesh.disk_full(name)
        else:
            self._mesh.slow_disk(name, fault.sync_ms)

    def _mend_disk(self, name: str) -> None:
        """The disk is as new; a node that has stopped because of it stays so until its restart."""
        if name not in self._broken_disks:
            return
        del self._broken_disks[name]
        disk = self._mesh.host(name).disk
        if disk.failing:
            self._mesh.disk_failing(name, failing=False)
            self._restart(name)
        if disk.full:
            self._mesh.disk_full(name, full=False)
        if disk.sync_ms != SYNC_MS:
            self._mesh.slow_disk(name, SYNC_MS)

    def _other(self, fault: FaultSpec, name: str) -> None:
        mesh = self._mesh
        if fault.what == "snapshot":
            self._snapshots[name] = None
            mesh.snapshot(name)
        elif fault.what == "flip_bit":
            mesh.flip_bit(name)
        elif fault.what == "clock_jump":
            mesh.clock_jump(name, fault.by_ms / 1000)
        elif fault.what == "clock_drift":
            mesh.clock_drift(name, fault.drift)
        else:
            raise AssertionError(f"{fault.what} is in the table of faults, and nobody does it")

    # -- what takes its time --

    def _resume(self, name: str) -> None:
        if self._mesh.host(name).state is HostState.PAUSED:
            self._mesh.resume(name)

    def _restart(self, name: str) -> None:
        if name not in self._busy:
            self._start(self._restarted(name), name)

    async def _restarted(self, name: str) -> None:
        if name not in self._selecting.left:
            await self._mesh.restart(name)

    async def _join(self, name: str) -> None:
        with suppress(SimulationSettleError):  # amid faults it may take longer than that
            await self._mesh.start(name, **options_of(self._scenario.nodes))
        self._workload.serve(name)

    async def _leave(self, name: str) -> None:
        if self._mesh.host(name).state is HostState.UP:
            await self._mesh.leave(name, LEAVE_S)
            self._selecting.left[name] = None

    async def _churn(self, fault: FaultSpec, hosts: list[str]) -> None:
        for _ in range(fault.times):
            up = [name for name in hosts if self._mesh.is_up(name)]
            if self._is_over or not up:
                return
            name = self._rng.choice(up)
            self._mesh.crash(name)
            self._start(self._restart_later(name, fault.down_ms / 1000), name)
            await asyncio.sleep(fault.every_ms / 1000)

    async def _restart_later(self, name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self._mesh.host(name).state is HostState.DOWN:
            await self._restarted(name)

    async def _roll(self, fault: FaultSpec, hosts: list[str]) -> None:
        for name in hosts:
            if self._is_over:
                return
            if name in self._selecting.left:
                continue
            if fault.what == "upgrade":
                await self._mesh.upgrade(name, (fault.versions[0], fault.versions[1]))
            else:
                await self._mesh.restart(name)
            await asyncio.sleep(fault.every_ms / 1000)

    def _start(self, work: Coroutine[object, object, object], host: str = "") -> None:
        if host:
            self._busy[host] = None
        self._tasks.append(asyncio.ensure_future(self._tolerated(work, host)))

    async def _tolerated(self, work: Coroutine[object, object, object], host: str) -> None:
        """Faults meet: a host that starts is killed, one that leaves is cut off."""
        try:
            await work
        except SimulationError as error:
            if not host or self._mesh.host(host).state is not HostState.DOWN:
                self.errors.append(error)  # else it was killed amid it
        except P2PMQError:
            pass
        finally:
            self._busy.pop(host, None)


def _call_all(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()


def options_of(nodes: Nodes) -> dict[str, Any]:
    """What `mesh.start` is told of these nodes."""
    return {
        "zone": {name: nodes.zone_of(name) for name in nodes.all},
        "leaf": dict.fromkeys(nodes.leaves, True),
        "weight": dict(nodes.weights),
        "config": Config(
            swim=WAN if nodes.profile == "wan" else LAN,
            replication=Replication(nodes.replicas, nodes.min_copies),
            retry=Retry(nodes.max_deliveries or Retry().max_deliveries),
        ),
        "versions": {name: (least, most) for name, (least, most) in nodes.versions},
    }
