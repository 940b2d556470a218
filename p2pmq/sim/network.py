"""A simulated network: connections between hosts, and everything that can go wrong on the way.

A connection is what ZeroMQ over TCP gives, with faults that TCP would hide
let through on purpose: the protocol must stand a network that loses,
repeats, delays, reorders and garbles single packets. Conditions hold for each
direction between two hosts on its own.

Invariant: all chance comes from one generator, in the order of events.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from p2pmq.sim.loop import SimLoop
    from p2pmq.sim.trace import Trace
    from p2pmq.sim.transport import SimTransport

SILENCE_S = 5.0
"""A connection whose path is cut for this long is noticed as dead (ZMTP heartbeats)."""
STALE_BACKLOG_S = 1.0
"""When a rate limit is lifted, a connection with more than this under way is begun anew."""
BACKLOG_BYTES_MAX = 4 * 1024 * 1024
"""What a slow direction holds before the sender's pipe is full."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What one direction between two hosts does to packets. Probabilities are 0 … 1."""

    latency_ms: tuple[float, float] = (0.2, 1.0)
    """Uniform between these two."""
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """Share of packets that take up to `reorder_ms` longer, and may be overtaken."""
    reorder_ms: float = 50.0
    corrupt: float = 0.0
    bytes_per_s: float | None = None
    cut: bool = False


Direction = tuple[str, str]
"""(from host, to host)."""


@dataclass(slots=True)
class Traffic:
    """What one host has sent."""

    packets: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Pipe:
    """One connection. `ends[0]` dialled; `names[i]` is the connection's number at end i."""

    ends: tuple[SimTransport, SimTransport]
    names: list[int]
    accepted: bool = False
    closed: bool = False
    arrives_s: list[float] = field(default_factory=lambda: [0.0, 0.0])
    busy_until_s: list[float] = field(default_factory=lambda: [0.0, 0.0])
    full: list[bool] = field(default_factory=lambda: [False, False])


class SimNetwork:
    """All hosts, the paths between them, and the connections that stand."""

    def __init__(self, loop: SimLoop, rng: random.Random, trace: Trace) -> None:
        self.loop = loop
        self.trace = trace
        self.default = Conditions()
        self.traffic: dict[str, Traffic] = {}
        self._rng = rng
        self._directions: dict[Direction, Conditions] = {}
        self._listening: dict[str, SimTransport] = {}
        self._pipes: dict[int, Pipe] = {}
        self._next_pipe = 1

    # -- conditions --

    def conditions(self, source: str, target: str) -> Conditions:
        """What holds from one host to another."""
        return self._directions.get((source, target), self.default)

    def set_conditions(self, source: str, target: str, conditions: Conditions) -> None:
        """Change one direction from now on."""
        was_cut = self.conditions(source, target).cut
        self._directions[source, target] = conditions
        if conditions.cut and not was_cut:
            self.loop.call_later(SILENCE_S, self._notice_silence, source, target)

    def change(self, source: str, target: str, **changes: object) -> None:
        """Change some of one direction's conditions."""
        changed = replace(self.conditions(source, target), **changes)  # type: ignore[arg-type]  # checked by the dataclass's own fields
        self.set_conditions(source, target, changed)

    def change_default(self, **changes: object) -> None:
        """Change some of the conditions of all directions that have none of their own."""
        self.default = replace(self.default, **changes)  # type: ignore[arg-type]  # as above

    def cut(self, source: str, target: str) -> None:
        """Let nothing through in one direction."""
        self.change(source, target, cut=True)

    def mend(self, source: str, target: str) -> None:
        """Let packets through in one direction again; its other conditions stay."""
        self.change(source, target, cut=False)

    def heal(self) -> None:
        """Every direction is as the default again."""
        self._directions.clear()

    @property
    def has_cuts(self) -> bool:
        """Whether some direction is cut."""
        return self.default.cut or any(c.cut for c in self._directions.values())

    def is_cut(self, a: str, b: str) -> bool:
        """Whether the path between two hosts is cut in one direction or both."""
        return self.conditions(a, b).cut or self.conditions(b, a).cut

    def _notice_silence(self, source: str, target: str) -> None:
        """Heartbeats have not come through for a while: connections on the path are dead."""
        if not self.conditions(source, target).cut:
            return
        for pipe in list(self._pipes.values()):
            hosts = {pipe.ends[0].host: None, pipe.ends[1].host: None}
            if source in hosts and target in hosts:
                self.close(pipe)

    # -- hosts --

    def add_host(self, host: str) -> None:
        """A host is on the network."""
        self.traffic.setdefault(host, Traffic())

    def listen(self, address: str, transport: SimTransport) -> None:
        """A host's process listens."""
        self._listening[address] = transport
        self.add_host(transport.host)

    def stop_listening(self, address: str) -> None:
        """… and no more."""
        self._listening.pop(address, None)

    # -- connections --

    def connect(self, dialler: SimTransport, name: int, address: str) -> bool:
        """Open a connection now, if somebody listens there and both directions are open."""
        target = self._listening.get(address)
        if target is None or self.is_cut(dialler.host, target.host):
            return False
        pipe = Pipe((dialler, target), [name, target.new_name()])
        number = self._next_pipe
        self._next_pipe += 1
        self._pipes[number] = pipe
        dialler.pipes[name] = (pipe, 0)
        target.pipes[pipe.names[1]] = (pipe, 1)
        return True

    def close(self, pipe: Pipe, *, by: SimTransport | None = None) -> None:
        """End a connection; the ends that did not close it hear of it."""
        if pipe.closed:
            return
        pipe.closed = True
        self._pipes = {number: p for number, p in self._pipes.items() if p is not pipe}
        for end, transport in enumerate(pipe.ends):
            transport.pipes.pop(pipe.names[end], None)
            if transport is not by:
                self.loop.call_soon(transport.lost, pipe.names[end])

    def carry(self, pipe: Pipe, end: int, frames: Sequence[bytes]) -> bool:
        """Send a packet from one end to the other; False: the direction's backlog is full."""
        source, target = pipe.ends[end].host, pipe.ends[1 - end].host
        conditions = self.conditions(source, target)
        size = sum(map(len, frames))
        now = self.loop.time()
        delay = self._rng.uniform(*conditions.latency_ms) / 1000
        if conditions.bytes_per_s is not None:
            backlog_s = max(0.0, pipe.busy_until_s[end] - now)
            if backlog_s * conditions.bytes_per_s > BACKLOG_BYTES_MAX:
                pipe.full[end] = True
                self.loop.call_later(backlog_s / 2, self._make_writable, pipe, end)
                return False
            pipe.busy_until_s[end] = now + backlog_s + size / conditions.bytes_per_s
            delay += pipe.busy_until_s[end] - now
        elif pipe.busy_until_s[end] > now + STALE_BACKLOG_S:
            self.close(pipe)  # what crept along the slow link is lost with its connection
            return True
        traffic = self.traffic[source]
        traffic.packets += 1
        traffic.bytes += size
        self._send(pipe, end, list(frames), conditions, now + delay)
        return True

    def _send(
        self, pipe: Pipe, end: int, frames: list[bytes], conditions: Conditions, arrives_s: float
    ) -> None:
        """Draw what happens to one packet on the way."""
        rng = self._rng
        if conditions.cut or (conditions.loss and rng.random() < conditions.loss):
            return
        if conditions.corrupt and rng.random() < conditions.corrupt:
            frames = self._garbled(frames)
        if conditions.reorder and rng.random() < conditions.reorder:
            arrives_s += rng.uniform(0, conditions.reorder_ms) / 1000
        else:
            arrives_s = pipe.arrives_s[end] = max(arrives_s, pipe.arrives_s[end])
        self.loop.call_at(arrives_s, self._arrive, pipe, end, frames)
        if conditions.duplicate and rng.random() < conditions.duplicate:
            later_s = arrives_s + rng.uniform(0, conditions.reorder_ms) / 1000
            self.loop.call_at(later_s, self._arrive, pipe, end, frames)

    def _garbled(self, frames: list[bytes]) -> list[bytes]:
        """One byte of one frame changed."""
        which = self._rng.randrange(len(frames))
        frame = bytearray(frames[which])
        if frame:
            frame[self._rng.randrange(len(frame))] ^= 1 << self._rng.randrange(8)
        return [*frames[:which], bytes(frame), *frames[which + 1 :]]

    def _arrive(self, pipe: Pipe, end: int, frames: list[bytes]) -> None:
        source, target = pipe.ends[end], pipe.ends[1 - end]
        if pipe.closed or self.conditions(source.host, target.host).cut:
            return
        self.trace.add("packet", source.host, target.host, frames)
        target.arrived(pipe.names[1 - end], frames, accept=end == 0 and not pipe.accepted)
        if end == 0:
            pipe.accepted = True

    def _make_writable(self, pipe: Pipe, end: int) -> None:
        if pipe.full[end] and not pipe.closed:
            pipe.full[end] = False
            pipe.ends[end].writable(pipe.names[end])
