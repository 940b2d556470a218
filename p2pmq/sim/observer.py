"""The observer of a run: looks at the mesh now and then, and remembers what changed.

What a history of events does not hold is seen from outside: who owns which
queue, when a death was noticed, when all views were equal, what each node
sent. Times are as exact as the observer's step.

Invariant: it only reads, and draws nothing, so that a run is the same with it and without.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pmq.sim.host import HostState
from p2pmq.sim.outcome import Ownership, Presence, Sample
from p2pmq.sim.views import differing_views, running

if TYPE_CHECKING:
    from typing import Literal

    from p2pmq.sim.host import Host
    from p2pmq.sim.mesh import Mesh

    State = Literal["up", "down", "paused"]

STEP_S = 0.1
STEPS_MAX = 3_000
"""In a long run, or a large mesh, it looks less often."""
SAMPLES = 120
"""Of traffic, for each node."""


@dataclass(slots=True)
class _Watch:
    """Something has begun; it ends when the observer sees it."""

    since_s: float
    host: str = ""


class Observer:
    """One observer of one mesh."""

    def __init__(self, mesh: Mesh, seconds: float) -> None:
        self._mesh = mesh
        self._step_s = max(STEP_S, seconds / STEPS_MAX, len(mesh.names) / 100)
        self._interval_s = max(1.0, seconds / SAMPLES)
        self._sampled_s = mesh.now
        self._sent: dict[str, tuple[int, int]] = {}
        self._owns: dict[tuple[str, str], float] = {}
        self._states: dict[str, tuple[State, float]] = {}
        self._faults_seen = 0
        self._undetected: list[_Watch] = []
        self._unequal: list[_Watch] = []
        self.ownership: list[Ownership] = []
        self.presence: list[Presence] = []
        self.traffic: list[Sample] = []
        self.detection_ms: list[float] = []
        self.convergence_ms: list[float] = []
        self.convergence_s: list[float] = []

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(self._step_s)

    def look(self) -> None:
        """See what is different from the last look."""
        hosts = [self._mesh.host(name) for name in self._mesh.names]
        self._see_states(hosts)
        self._see_owners(hosts)
        self._see_faults(hosts)
        if self._mesh.now - self._sampled_s >= self._interval_s:
            self._sample(hosts)

    def end(self) -> None:
        """The run is over: what is still so ends now."""
        self.look()
        hosts = [self._mesh.host(name) for name in self._mesh.names]
        if self._mesh.now > self._sampled_s:
            self._sample(hosts)
        now_s = self._mesh.now
        for (queue, node), since_s in self._owns.items():
            self.ownership.append(Ownership(queue, node, since_s, now_s))
        for name, (state, since_s) in self._states.items():
            self.presence.append(Presence(name, state, since_s, now_s))
        self._owns.clear()
        self._states.clear()

    def _see_states(self, hosts: list[Host]) -> None:
        now_s = self._mesh.now
        for host in hosts:
            state: State = host.state.value
            if host.state is HostState.UP and host.machine is None:
                state = "down"  # it is about to start
            before = self._states.get(host.name)
            if before is None or before[0] != state:
                if before is not None:
                    self.presence.append(Presence(host.name, *before, now_s))
                self._states[host.name] = (state, now_s)

    def _see_owners(self, hosts: list[Host]) -> None:
        now_s = self._mesh.now
        owns = {
            (key.queue, host.name): now_s
            for host in hosts
            if host.state is not HostState.DOWN and host.machine is not None
            for key in host.machine.owner.partitions
            if host.machine.owner.owns(key)
        }
        for (queue, node), since_s in list(self._owns.items()):
            if (queue, node) not in owns:
                self.ownership.append(Ownership(queue, node, since_s, now_s))
                del self._owns[queue, node]
        self._owns = owns | self._owns

    def _see_faults(self, hosts: list[Host]) -> None:
        faults = self._mesh.history.faults
        for fault in faults[self._faults_seen :]:
            self._unequal.append(_Watch(fault.at_s))
            if fault.kind in ("down", "pause"):
                self._undetected += [_Watch(fault.at_s, name) for name in fault.hosts]
        self._faults_seen = len(faults)
        if self._undetected:
            self._see_detections(hosts)
        if self._unequal and not differing_views(hosts, self._mesh.network):
            now_s = self._mesh.now
            self.convergence_ms += [(now_s - watch.since_s) * 1000 for watch in self._unequal]
            self.convergence_s.append(now_s)
            self._unequal.clear()

    def _see_detections(self, hosts: list[Host]) -> None:
        left: list[_Watch] = []
        for watch in self._undetected:
            host = self._mesh.host(watch.host)
            if host.state is HostState.UP:
                continue  # it is back before anybody noticed
            node_id = host.disk.contents.node_id
            others = [h.machine for h in running(hosts) if h.machine is not None]
            if any(not machine.swim.is_alive(node_id) for machine in others):
                self.detection_ms.append((self._mesh.now - watch.since_s) * 1000)
            else:
                left.append(watch)
        self._undetected = left

    def _sample(self, hosts: list[Host]) -> None:
        now_s = self._mesh.now
        interval_s = now_s - self._sampled_s
        for host in hosts:
            sent = self._mesh.network.traffic[host.name]
            packets, size = self._sent.get(host.name, (0, 0))
            self._sent[host.name] = (sent.packets, sent.bytes)
            self.traffic.append(
                Sample(
                    host.name,
                    now_s,
                    interval_s,
                    (sent.packets - packets) / interval_s,
                    (sent.bytes - size) / interval_s,
                )
            )
        self._sampled_s = now_s
