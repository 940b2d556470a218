"""The runner: plays a scenario with a seed, and tells the outcome.

First comes the *safety* phase: the workload and every fault, then all is
mended, and nothing that was promised may be lost. If the scenario asks for it,
the *liveness* phase follows: everything fails again, a core is healed, the rest
stays broken, and the core must converge and drain its queues.

Invariant: the same scenario and seed give the same trace hash.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from p2pmq.errors import RequestTimeoutError
from p2pmq.node.cron import next_tick
from p2pmq.sim.chaos import chaos_faults
from p2pmq.sim.history import Fault
from p2pmq.sim.judging import (
    checked,
    expected,
    measured,
    no_tick_missed,
    not_stuck,
    totals,
)
from p2pmq.sim.loop import WALL_EPOCH_S
from p2pmq.sim.mesh import POLL_S, RESTS_S
from p2pmq.sim.observer import Observer
from p2pmq.sim.outcome import Band, Outcome, Verdict
from p2pmq.sim.replaying import replay_problems
from p2pmq.sim.resting import has_homes_here, has_resting, under_way, without_owner
from p2pmq.sim.simulation import simulate
from p2pmq.sim.ticks import GRACE_S
from p2pmq.sim.timetable import Timetable, options_of
from p2pmq.sim.units import written_duration
from p2pmq.sim.views import running
from p2pmq.sim.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pmq.node.node import Node
    from p2pmq.node.settings import Settings
    from p2pmq.sim.host import Host
    from p2pmq.sim.mesh import Mesh
    from p2pmq.sim.scenario import Liveness, Scenario

RETAINING_S = 1.0
"""Until every owner knows what it is to retain."""
EVENTS_MAX = 200_000_000
"""A run that goes on for ever ends here."""


@dataclass(frozen=True, slots=True)
class Label:
    """What a run is called: the scenario's name, and the command that replays it."""

    scenario: str = "scenario"
    replay: str = ""


@dataclass
class Playing:
    """One run of a scenario on a mesh."""

    mesh: Mesh
    scenario: Scenario
    observes: bool
    verdicts: list[Verdict] = field(default_factory=list)
    observer: Observer | None = None

    def __post_init__(self) -> None:
        self.workload = Workload(self.mesh, self.scenario)
        self.timetable = Timetable(self.mesh, self.scenario, self.workload)
        self._rng = self.mesh.chance("runner")

    async def run(self) -> None:
        """From the first start to the last verdict."""
        nodes = self.scenario.nodes
        self.timetable.lay_links()
        await self.mesh.start(*nodes.first, together=not nodes.in_turn, **options_of(nodes))
        await self._declare(self.mesh.nodes[0])
        await self._schedule(self.mesh.nodes[0])
        if any(declared.retain_ms for declared in self.scenario.declared):
            await asyncio.sleep(RETAINING_S)
        watching = self._observe()
        try:
            await self._safety()
            if self.scenario.liveness is not None:
                await self._liveness(self.scenario.liveness)
        finally:
            if watching is not None:
                watching.cancel()
                with suppress(asyncio.CancelledError):
                    await watching
        if self.timetable.errors:
            texts = tuple(str(error).splitlines()[0] for error in self.timetable.errors)
            self.verdicts.append(Verdict("faults_were_carried_out", ok=False, violations=texts))

    def _observe(self) -> asyncio.Task[None] | None:
        if not self.observes:
            return None
        seconds = self.scenario.duration_ms / 1000
        if self.scenario.liveness is not None:
            seconds += self.scenario.liveness.duration_ms / 1000
        self.observer = Observer(self.mesh, seconds)
        return asyncio.ensure_future(self.observer.run())

    async def _declare(self, node: Node, *, lifted: bool = False) -> None:
        """Declare queues; lifted: where publishers wait for room, they have it."""
        for declared in self.scenario.declared:
            limit, blocks = declared.max_messages or None, declared.overflow == "block"
            if not (limit or declared.retain_ms) or (lifted and not (limit and blocks)):
                continue
            settings: Settings = {
                "max_messages": None if lifted else limit,
                "overflow": declared.overflow,  # type: ignore[typeddict-item]  # one of OVERFLOWS
                "retain": declared.retain_ms / 1000 if declared.retain_ms else None,
            }
            for queue in declared.queues:
                await node.declare(queue, **settings)

    async def _schedule(self, node: Node) -> None:
        """Make the schedules. If none ticks while the scenario lasts, wait: one is to, amid it."""
        waits_s: list[float] = []
        for declared in self.scenario.declared:
            for queue in declared.queues if declared.schedule else ():
                await node.schedule(f"ticks of {queue}", declared.schedule, queue, b"tick")
                wall_s = self.mesh.now + WALL_EPOCH_S
                tick_s = next_tick(declared.schedule, int(wall_s))
                waits_s.append(tick_s - wall_s if tick_s is not None else 0.0)
        if waits_s and min(waits_s) > self.scenario.duration_ms / 1000:
            await asyncio.sleep(min(waits_s) - self.scenario.duration_ms / 2000)

    # -- the phases --

    async def _safety(self) -> None:
        seconds = self.scenario.duration_ms / 1000
        faults = (*self.scenario.faults, *chaos_faults(self.scenario, self.mesh.chance("chaos")))
        self.workload.begin(self.timetable.present, seconds)
        await self.timetable.play(faults, seconds)
        if self.scenario.mend:
            await self.timetable.mend()
        await self._drain(self.timetable.present, "safety")

    async def _liveness(self, liveness: Liveness) -> None:
        seconds = liveness.duration_ms / 1000
        if there := running([self.mesh.host(name) for name in self.timetable.present]):
            await self._declare(there[0].node)
        self.workload.begin(self.timetable.present, seconds)
        await self.timetable.play(liveness.faults, seconds)
        core = [name for name in liveness.core if name in self.timetable.present]
        if set(core) <= set(self.scenario.nodes.leaves):
            core = self.timetable.present  # whoever could own has left meanwhile
        rest = [name for name in self.timetable.present if name not in core]
        await self.timetable.mend(core)
        for name in rest:
            if self.mesh.is_up(name) and liveness.rest != "isolated":
                (self.mesh.crash if liveness.rest == "crashed" else self.mesh.pause)(name)
        await self._drain(core, "liveness")

    # -- coming to rest --

    async def _drain(self, names: Sequence[str], phase: str) -> None:
        """These hosts must come to rest, and their queues be emptied."""
        expect = self.scenario.expect
        hosts = [self.mesh.host(name) for name in names]
        within_s = expect.settle_within_ms / 1000
        if there := running(hosts):  # nobody need consume: what waits for room gets it so
            await self._declare(there[0].node, lifted=True)
        lines = await self._settle(hosts, within_s)
        await self._until_due(hosts)
        ownerless = without_owner(hosts, self.scenario.queues)
        if not lines:
            lines = await self._consume_all(hosts, ownerless, within_s)
        if not lines:
            lines = await self._settle(hosts, within_s)
        what = f"{phase}: settled within {written_duration(expect.settle_within_ms)}"
        self.verdicts.append(Verdict(what, not lines, tuple(lines)))
        if self.mesh.history.scheduled:
            await asyncio.sleep(GRACE_S)
        self.mesh.take_stock()
        if not lines:
            await self._replay(hosts, ownerless, phase)
        self.verdicts.append(no_tick_missed(phase, self.mesh.history, ownerless))
        self.verdicts.append(not_stuck(self.mesh.history, names, expect.stuck, ownerless))

    async def _settle(self, hosts: Sequence[Host], within_s: float) -> list[str]:
        """Wait until these hosts are at rest; what is still under way when time is up."""
        deadline_s = self.mesh.now + within_s
        rests_since_s: float | None = None
        while True:
            lines = under_way(hosts, self.mesh.network)
            now_s = self.mesh.now
            if lines:
                rests_since_s = None
                if now_s >= deadline_s:
                    return lines
            elif rests_since_s is None:
                rests_since_s = now_s
            elif now_s - rests_since_s >= RESTS_S:
                return []
            await asyncio.sleep(POLL_S)

    async def _replay(self, hosts: Sequence[Host], ownerless: Sequence[str], phase: str) -> None:
        """Read again what queues retain, from anywhere."""
        for declared in self.scenario.declared:
            for queue in declared.queues if declared.retain_ms else ():
                if queue in ownerless or not has_homes_here(hosts, queue):
                    continue
                node = self._rng.choice(running(hosts)).node
                try:
                    found = [message async for message in node.replay(queue)]
                except RequestTimeoutError as error:
                    lines = [str(error)]
                else:
                    lines = replay_problems(self.mesh.history, queue, found)
                what = f"{phase}: a replay of {queue} is whole"
                self.verdicts.append(Verdict(what, not lines, tuple(lines)))

    async def _until_due(self, hosts: Sequence[Host]) -> None:
        """Wait as long as messages may rest: `drain` would go without those that are not due.

        A restart with a wrong clock lets one rest anew, but never for longer than it was to.
        """
        if any(map(has_resting, hosts)):
            longest_ms = max(publishers.delay_ms[1] for publishers in self.scenario.publishers)
            await asyncio.sleep(longest_ms / 1000)

    async def _consume_all(
        self, hosts: Sequence[Host], ownerless: Sequence[str], within_s: float
    ) -> list[str]:
        """Empty every queue that somebody owns; those that could not be emptied."""
        lines: list[str] = []
        for queue in self.scenario.queues:
            if queue in ownerless:
                continue
            node = self._rng.choice(running(hosts)).node
            try:
                async for _ in node.drain(queue, patience=within_s):
                    pass
            except RequestTimeoutError as error:
                lines.append(str(error))
        return lines


def play(
    scenario: Scenario,
    seed: int,
    label: Label | None = None,
    *,
    observes: bool = True,
    keep: list[str] | None = None,
) -> Outcome:
    """Play a scenario with a seed.

    `observes=False` leaves out what only a report needs, which is quicker; `keep` gets the
    lines of the trace.
    """
    label = label if label is not None else Label()
    began = time.perf_counter()
    error = ""
    with simulate(seed, events_max=EVENTS_MAX, keep_trace=keep is not None) as simulation:
        simulation.mesh.replay = f"replay it with: {label.replay}"
        playing = Playing(simulation.mesh, scenario, observes)
        try:
            simulation.run(lambda _: playing.run())
        except Exception as failure:  # noqa: BLE001  whatever it is, it is what became of the run
            error = f"{type(failure).__name__}: {failure}"
        outcome = _outcome(playing, label, error)
        if keep is not None:
            keep += simulation.mesh.trace.lines or []
    return replace(outcome, wall_s=time.perf_counter() - began)


def _outcome(playing: Playing, label: Label, error: str) -> Outcome:
    mesh, scenario, observer = playing.mesh, playing.scenario, playing.observer
    if observer is not None:
        observer.end()
    history = mesh.history
    if any(
        links.loss or links.duplicate or links.reorder or links.corrupt for links in scenario.links
    ):
        # The scenario's own links are no fault to be mended, but they explain what faults explain.
        history.add(
            Fault(0.0, "link", tuple(mesh.names), "links as the scenario has them", mesh.now)
        )
    counted = mesh.summary()  # it takes stock
    latencies = measured(history, observer)
    gave_up = playing.workload.gave_up
    verdicts = [
        *checked(history),
        *expected(scenario.expect, history, counted, latencies, gave_up),
        *playing.verdicts,
    ]
    return Outcome(
        scenario=label.scenario,
        seed=mesh.seed,
        replay=label.replay,
        trace_hash=mesh.trace.digest,
        events=mesh.network.loop.events,
        virtual_s=mesh.now,
        wall_s=0.0,
        nodes=tuple(mesh.names),
        bands=tuple(_bands(mesh)),
        ownership=tuple(sorted(observer.ownership, key=lambda o: o.from_s)) if observer else (),
        presence=tuple(sorted(observer.presence, key=lambda p: p.from_s)) if observer else (),
        convergence_s=tuple(observer.convergence_s) if observer else (),
        verdicts=tuple(verdicts),
        totals=totals(counted),
        latencies=latencies,
        traffic=tuple(observer.traffic) if observer else (),
        error=error,
    )


def _bands(mesh: Mesh) -> list[Band]:
    """The faults; one that went on in the instant in which it ended is one band."""
    bands: list[Band] = []
    for fault in sorted(mesh.history.faults, key=lambda fault: fault.at_s):
        to_s = mesh.now if fault.until_s is None else fault.until_s
        for at, band in enumerate(bands):
            same = (band.what, band.who, band.text) == (fault.kind, fault.hosts, fault.text)
            if same and band.to_s == fault.at_s and band.to_s > band.from_s:
                bands[at] = replace(band, to_s=to_s)
                break
        else:
            bands.append(Band(fault.kind, fault.hosts, fault.at_s, to_s, fault.text, fault.sides))
    return bands
