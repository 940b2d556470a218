"""Everything that can go wrong, as calls on the mesh: networks, processes, disks, clocks.

Each fault is noted in the history, with when it ended, so that the checker can
tell what it explains. `heal` ends all faults of the network; a process or a
disk is mended by the call opposite to the one that broke it.

Invariant: a fault is open in the history exactly while it is in force.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from p2pmq.core.dots import DotSet
from p2pmq.sim.history import Excused, Fault, Heal
from p2pmq.sim.host import HostState
from p2pmq.sim.network import Conditions
from p2pmq.sim.refuse import SimulationUsageError
from p2pmq.sim.views import differing_views, running

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from p2pmq.core.ids import PartitionKey, Run
    from p2pmq.sim.host import Ground, Host

    Names = str | Iterable[str]

NETWORK = ("cut", "link", "flap")
"""Kinds of faults that `heal` ends."""
WATCH_HEAL_S = 0.25
HEAL_WITHIN_S = 60.0
"""A split of any age heals within this (section 4 of the design)."""
TAIL = "before the tail"
"""The name of a disk's snapshot."""
_NOTHING = DotSet()


class Faults:
    """The mesh's half that breaks and mends."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._hosts: dict[str, Host] = {}
        self._flaps: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._groups: list[list[str]] | None = None
        self._healing: asyncio.Task[None] | None = None

    # -- the network: who reaches whom --

    def partition(self, *groups: Names) -> None:
        """Cut all paths between hosts of different groups; hosts named in none are one more.

        It replaces any earlier partition, bridge or cut; latencies and losses stay.
        """
        named = [self._names(group) for group in groups]
        listed = [name for group in named for name in group]
        if len(set(listed)) != len(listed):
            raise SimulationUsageError("a host in two groups", "name each once (or use bridge)")
        self._groups = named
        self._apply_partition()
        self._end_faults("cut")  # what was cut before is as this one says now
        shown = " | ".join(",".join(group) for group in named)
        self._begin("cut", listed, f"partition {shown}")
        self._ground.history.faults[-1].sides = tuple(map(tuple, named))

    def _apply_partition(self) -> None:
        group_of = {name: n for n, group in enumerate(self._groups or ()) for name in group}
        for a in self._hosts:
            for b in self._hosts:
                if a != b:
                    together = group_of.get(a, -1) == group_of.get(b, -1)
                    (self._ground.network.mend if together else self._ground.network.cut)(a, b)

    def isolate(self, *names: str) -> None:
        """Cut each of these hosts off from all others."""
        self.partition(*({name} for name in names))

    def one_way(self, source: Names, target: Names) -> None:
        """Let nothing through from `source` to `target`; the other direction stays."""
        for a, b in self._pairs(source, target):
            self._ground.network.cut(a, b)
        self._begin("cut", [*self._names(source), *self._names(target)], "one-way cut")

    def cut(self, a: Names, b: Names) -> None:
        """Cut the paths between two (groups of) hosts, in both directions."""
        for x, y in self._pairs(a, b):
            self._ground.network.cut(x, y)
            self._ground.network.cut(y, x)
        self._begin("cut", [*self._names(a), *self._names(b)], "cut")

    def bridge(self, a: Names, middle: str, b: Names) -> None:
        """Two halves that only `middle` can reach, both of them."""
        self.partition([*self._names(a), *self._names(b), middle])
        self.cut(a, b)

    def ring_of_majorities(self) -> None:
        """Each host reaches a majority, and no two the same one (as Jepsen's majorities-ring).

        With five hosts or more; hosts stand in a ring in the order of their start.
        """
        names = list(self._hosts)
        reach = len(names) // 4 + (len(names) % 4 > 1)
        if 2 * reach + 1 <= len(names) // 2 or 2 * reach + 1 >= len(names):
            raise SimulationUsageError(
                f"ring_of_majorities() of {len(names)} hosts", "start five hosts or more"
            )
        self._mend_cuts()
        for at, name in enumerate(names):
            for step in range(reach + 1, len(names) - reach):
                self._ground.network.cut(name, names[(at + step) % len(names)])
        self._end_faults("cut")
        self._begin("cut", names, "ring of majorities")

    def flap(self, a: Names, b: Names, *, every: float = 5.0) -> None:
        """Cut and mend the paths between two (groups of) hosts by turns, each `every` seconds."""
        pair = (",".join(self._names(a)), ",".join(self._names(b)))
        if pair in self._flaps:
            self._flaps.pop(pair).cancel()
        self._flaps[pair] = self._ground.loop.create_task(self._flap(a, b, every))
        self._begin("flap", [*self._names(a), *self._names(b)], f"flapping every {every:g} s")

    async def _flap(self, a: Names, b: Names, every: float) -> None:
        is_cut = False
        while True:
            is_cut = not is_cut
            change = self._ground.network.cut if is_cut else self._ground.network.mend
            for x, y in self._pairs(a, b):
                change(x, y)
                change(y, x)
            await asyncio.sleep(every)

    def heal(self) -> None:
        """The network is whole again: no cut, no flapping, no loss, plain latency."""
        for task in self._flaps.values():
            task.cancel()
        self._flaps.clear()
        self._groups = None
        self._ground.network.default = Conditions()
        self._ground.network.heal()
        self._finish(*NETWORK)

    def _mend_cuts(self) -> None:
        self._groups = None
        for a in self._hosts:
            for b in self._hosts:
                if a != b:
                    self._ground.network.mend(a, b)

    # -- the network: what it does to packets --

    def latency(
        self, ms: tuple[float, float], source: Names | None = None, target: Names | None = None
    ) -> None:
        """How long packets take: uniform between these two, in milliseconds.

        Here and below: from `source` to `target`, each a host or several; None is every host.
        """
        low, high = ms
        if not 0 <= low <= high:
            raise SimulationUsageError(f"latency({ms})", "give (least, most) in milliseconds")
        self._change("latency", source, target, latency_ms=ms)

    def loss(self, share: float, source: Names | None = None, target: Names | None = None) -> None:
        """The share of packets that are lost."""
        self._change("loss", source, target, loss=_share("loss", share))

    def duplicate(
        self, share: float, source: Names | None = None, target: Names | None = None
    ) -> None:
        """The share of packets that come twice."""
        self._change("duplicate", source, target, duplicate=_share("duplicate", share))

    def reorder(
        self,
        share: float,
        source: Names | None = None,
        target: Names | None = None,
        *,
        ms: float = 50.0,
    ) -> None:
        """The share of packets that take up to `ms` longer, and are overtaken."""
        self._change("reorder", source, target, reorder=_share("reorder", share), reorder_ms=ms)

    def corrupt(
        self, share: float, source: Names | None = None, target: Names | None = None
    ) -> None:
        """The share of packets of which one bit is flipped."""
        self._change("corrupt", source, target, corrupt=_share("corrupt", share))

    def rate(
        self,
        bytes_per_s: float | None,
        source: Names | None = None,
        target: Names | None = None,
    ) -> None:
        """How many bytes a second pass, for each connection; None: no limit."""
        if bytes_per_s is not None and bytes_per_s <= 0:
            raise SimulationUsageError(f"rate({bytes_per_s})", "give bytes per second above 0")
        self._change("rate", source, target, bytes_per_s=bytes_per_s)

    def _change(
        self, what: str, source: Names | None, target: Names | None, **changes: object
    ) -> None:
        network = self._ground.network
        sources = list(self._hosts) if source is None else self._names(source)
        targets = list(self._hosts) if target is None else self._names(target)
        if source is None and target is None:  # for hosts that join later, too
            network.change_default(**changes)
        for a in sources:
            for b in targets:
                if a != b:
                    network.change(a, b, **changes)
        value = ", ".join(f"{name}={value}" for name, value in changes.items())
        self._begin("link", [*sources, *targets], f"{what}: {value}")

    # -- processes --

    def crash(self, *names: str) -> None:
        """Kill the processes, as SIGKILL does: what was not synced may or may not be on disk."""
        for name in names:
            self.host(name).kill(unsynced_may_survive=True)
            self._begin("down", [name], f"{name} crashed")

    def power_cut(self, *names: str) -> None:
        """Cut the power of these hosts at once: what was not synced is lost."""
        for name in names:
            self.host(name).kill(unsynced_may_survive=False)
            self._begin("down", [name], f"power cut on {name}")

    def pause(self, *names: str) -> None:
        """Stop the processes, as SIGSTOP does, with the tasks that run there by `mesh.run`."""
        for name in names:
            self.host(name).pause()
            self._begin("pause", [name], f"{name} paused")

    def resume(self, *names: str) -> None:
        """Let paused processes go on."""
        for name in names:
            self.host(name).resume()
            self._finish("pause", host=name)

    # -- disks --

    def wipe(self, name: str) -> None:
        """A new, empty disk in the place of the old one; the node must be down."""
        host = self._down(name, "wipe")
        self._excuse(self._only_on(host), f"the disk of {name} was wiped")
        host.disk.wipe()
        self._note("disk", [name], f"disk of {name} wiped")

    def snapshot(self, name: str) -> None:
        """Remember what is on the disk, to roll back to."""
        self.host(name).disk.snapshot()

    def roll_back(self, name: str) -> None:
        """The disk is as it was at `snapshot` (a restored backup); the node must be down."""
        host = self._down(name, "roll_back")
        before = self._only_on(host)
        host.disk.roll_back()
        self._excuse([*before, *self._only_on(host)], f"the disk of {name} was rolled back")
        self._note("disk", [name], f"disk of {name} rolled back")

    def cut_file(self, name: str) -> None:
        """The store's file is cut short: the node, which must be down, cannot start on it.

        A `wipe` (its directory is moved away) lets it start again.
        """
        host = self._down(name, "cut_file")
        self._excuse(self._only_on(host), f"the store of {name} was cut short")
        host.disk.cut_file()
        self._note("disk", [name], f"store of {name} cut short")

    async def torn_tail(self, name: str, within: float = 0.2) -> None:
        """The disk lies for so many seconds; then the power fails, and the tail is torn off.

        What it said it had synced in that time is gone, unless the host went down before.
        """
        host = self.host(name)
        host.disk.snapshot(TAIL)
        process = host.process
        await asyncio.sleep(within)
        if host.state is not HostState.DOWN and host.process == process:
            self.power_cut(name)
            before = self._only_on(host)
            host.disk.roll_back(TAIL)
            self._excuse([*before, *self._only_on(host)], f"the tail of {name}'s disk was torn")
            self._note("disk", [name], f"tail of {name}'s disk torn off")

    def flip_bit(self, name: str) -> bool:
        """Flip one bit in a stored body; False if none is stored there."""
        damaged = self.host(name).disk.flip_bit()
        if damaged is not None:
            key, run = damaged
            gone = [(key, p) for p in self._elsewhere(name).get(key, _NOTHING).missing(run)]
            self._excuse(gone, f"a bit was flipped on the disk of {name}")
            self._note("disk", [name], f"bit flipped on {name}")
        return damaged is not None

    def disk_failing(self, name: str, *, failing: bool = True) -> None:
        """Every sync fails (EIO), until told otherwise: the node stops."""
        self.host(name).disk.failing = failing
        self._set("failing disk", name, value=failing)

    def disk_full(self, name: str, *, full: bool = True) -> None:
        """No message fits on the disk any more (ENOSPC), until told otherwise."""
        self.host(name).disk.full = full
        self._set("full disk", name, value=full)

    def slow_disk(self, name: str, sync_ms: tuple[float, float] = (200.0, 1_000.0)) -> None:
        """How long a sync takes: uniform between these two; (0.5, 3) is the default."""
        self.host(name).disk.sync_ms = sync_ms
        self._note("disk", [name], f"{name} syncs in {sync_ms} ms")

    # -- clocks --

    def clock_skew(self, name: str, seconds: float) -> None:
        """Set the wall clock of a host wrong by so much."""
        self.host(name).clock.skew_s = seconds
        self._note("clock", [name], f"clock of {name} is {seconds:+g} s off")

    def clock_jump(self, name: str, seconds: float) -> None:
        """Move the wall clock of a host, forward or (negative) back."""
        self.host(name).clock.skew_s += seconds
        self._note("clock", [name], f"clock of {name} jumped by {seconds:+g} s")

    def clock_drift(self, name: str, share: float) -> None:
        """Let the wall clock of a host run too fast by this share (negative: too slow)."""
        self.host(name).clock.set_drift(share)
        self._note("clock", [name], f"clock of {name} drifts by {share:+g}")

    # -- within --

    def host(self, name: str) -> Host:
        """A host by its name."""
        found = self._hosts.get(name)
        if found is None:
            known = ", ".join(self._hosts) or "none so far"
            raise SimulationUsageError(f"{name!r}, which is no host,", f"the hosts are: {known}")
        return found

    def _names(self, names: Names) -> list[str]:
        listed = [names] if isinstance(names, str) else sorted(names)
        for name in listed:
            self.host(name)
        return listed

    def _pairs(self, a: Names, b: Names) -> Iterator[tuple[str, str]]:
        return ((x, y) for x in self._names(a) for y in self._names(b) if x != y)

    def _down(self, name: str, what: str) -> Host:
        host = self.host(name)
        if host.state is not HostState.DOWN:
            raise SimulationUsageError(f'{what}("{name}") under a running node', "crash it first")
        return host

    def _only_on(self, host: Host) -> list[tuple[PartitionKey, Run]]:
        """The dots that a disk holds, or knows to be acked, and no other disk does."""
        elsewhere = self._elsewhere(host.name)
        return [
            (key, part)
            for key, dots in host.disk.known().items()
            for run in dots.runs()
            for part in elsewhere.get(key, _NOTHING).missing(run)
        ]

    def _elsewhere(self, name: str) -> dict[PartitionKey, DotSet]:
        """What the disks of all other hosts hold, or know to be acked."""
        found: dict[PartitionKey, DotSet] = {}
        for other in self._hosts.values():
            if other.name != name:
                for key, dots in other.disk.known().items():
                    found[key] = found[key].union(dots) if key in found else dots
        return found

    def _excuse(self, known: Iterable[tuple[PartitionKey, Run]], reason: str) -> None:
        now_s = self._ground.loop.time()
        for found in known:
            self._ground.history.add(Excused(now_s, *found, reason))

    def _begin(self, kind: str, hosts: Iterable[str], text: str) -> None:
        history, now_s = self._ground.history, self._ground.loop.time()
        names = tuple(dict.fromkeys(hosts))
        history.add(Fault(now_s, kind, names, text))
        self._ground.trace.add("fault", text, ",".join(names))
        self._stop_watching()

    def _note(self, kind: str, hosts: Iterable[str], text: str) -> None:
        """A fault of one moment."""
        self._begin(kind, hosts, text)
        self._ground.history.faults[-1].until_s = self._ground.loop.time()
        self._watch_heal()

    def _set(self, kind: str, name: str, *, value: bool) -> None:
        if value:
            self._begin(kind, [name], f"{kind} on {name}")
        else:
            self._finish(kind, host=name)

    def _finish(self, *kinds: str, host: str | None = None) -> None:
        self._end_faults(*kinds, host=host)
        self._ground.trace.add("mend", ",".join(kinds), host or "")
        self._watch_heal()

    def _end_faults(self, *kinds: str, host: str | None = None) -> None:
        for fault in self._ground.history.faults:
            if fault.until_s is None and fault.kind in kinds and host in (None, *fault.hosts):
                fault.until_s = self._ground.loop.time()

    # -- how long views take to be equal again --

    def _watch_heal(self) -> None:
        self._stop_watching()
        faults = self._ground.history.faults
        if all(f.until_s is not None or f.kind == "down" for f in faults):
            heal = Heal(self._ground.loop.time())
            self._ground.history.add(heal)
            self._healing = self._ground.loop.create_task(self._watch(heal))

    async def _watch(self, heal: Heal) -> None:
        while True:
            hosts = list(self._hosts.values())
            lines = differing_views(hosts, self._ground.network)
            heal.differing = "; ".join(lines)
            now_s = self._ground.loop.time()
            if not lines:
                heal.equal_at_s = now_s
                return
            if now_s > heal.at_s + HEAL_WITHIN_S or not running(hosts):
                return
            await asyncio.sleep(WATCH_HEAL_S)

    def _stop_watching(self) -> None:
        if self._healing is not None and not self._healing.done():
            self._healing.cancel()
            self._ground.history.heals[-1].disturbed = True


def _share(what: str, share: float) -> float:
    if not 0 <= share <= 1:
        raise SimulationUsageError(f"{what}({share})", "give a share from 0 to 1")
    return share
