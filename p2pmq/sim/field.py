"""A field of membership machines alone: for meshes too large to run as whole nodes.

The machines are the real ones. What a node has around them is made small: the
network carries packets as objects, loses and delays them, and opens a link
(with a Hello each way) before the first packet to a peer; disks forget.
Bytes are those of the real codec, counted only while `counting` is set.

Invariant: all follows from the seed; time is in whole milliseconds.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from p2pmq.config import LAN, SwimConfig
from p2pmq.core.effects import Counted, Learn, MemberNotice, Notify, Send
from p2pmq.core.membership import MemberState
from p2pmq.core.packets.membership import Rumour
from p2pmq.core.swim import Swim
from p2pmq.wire.codec import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from p2pmq.core.effects import Effect
    from p2pmq.core.ids import NodeId
    from p2pmq.core.packets.registry import Packet

LATENCY_MS = (1, 2)
"""Uniform between these two."""
LOOK_MS = 50
"""`run_until` looks so often, if not told otherwise."""


@dataclass(slots=True)
class Machine:
    """One machine, and the little that it has around it."""

    own: Rumour
    swim: Swim
    up: bool = True
    side: int = 0
    slow_ms: int = 0
    """Every packet comes so much later."""
    wake_at: int | None = None
    addresses: dict[NodeId, None] = field(default_factory=dict)
    """Whom it could dial."""
    links: dict[NodeId, None] = field(default_factory=dict)


@dataclass(slots=True)
class Sent:
    """What was sent while `counting` was set."""

    packets: int = 0
    bytes: int = 0


class Field:
    """Machines by number, their clock, and the network between them."""

    def __init__(self, seed: int, config: SwimConfig = LAN, loss: float = 0.0) -> None:
        self.now = 0
        self.loss = loss
        self.counting = False
        self.sent = Sent()
        self.machines: list[Machine] = []
        self.deaths: dict[NodeId, list[int]] = {}
        """Of each member that some machine took for dead: when each did so, in ms."""
        self.counts: dict[str, int] = {}
        self.events = 0
        self._config = config
        self._rng = random.Random(f"field {seed}")
        self._of: dict[NodeId, Machine] = {}
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    # -- machines --

    def add(self, seeds: Iterable[Machine] = (), delay_ms: int = 0) -> Machine:
        """One more machine starts, and dials its seeds after a while."""
        number = len(self.machines)
        node_id = self._rng.randbytes(8)
        own = Rumour(
            node_id, MemberState.ALIVE, 1, name=f"node-{number}",
            addresses=(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:7171",),
            boot=1, store_id=self._rng.randbytes(8), zone=f"zone-{number % 3}",
        )  # fmt: skip
        swim = Swim(own, "field", self._config, random.Random(self._rng.getrandbits(64)))
        machine = self._of[node_id] = Machine(own, swim)
        self.machines.append(machine)
        self._carry_out(machine, swim.start((), 0, self.now))
        for seed in seeds:
            self._at(self.now + delay_ms, self._connect, (machine, seed, None))
        return machine

    def crash(self, machine: Machine) -> None:
        """End a machine's process, without a word."""
        machine.up = False
        self._unlink(machine)

    def split(self, *sides: Iterable[Machine]) -> None:
        """Let packets pass only within a side; who is named in none is on side 0."""
        for number, side in enumerate(sides):
            for machine in side:
                machine.side = number
        for machine in self.machines:
            for peer in list(machine.links):
                if self._of[peer].side != machine.side:
                    del machine.links[peer]

    def heal(self) -> None:
        """Let every packet pass again."""
        for machine in self.machines:
            machine.side = 0

    @property
    def up(self) -> list[Machine]:
        """The machines that run."""
        return [machine for machine in self.machines if machine.up]

    # -- what they believe --

    def agree(self) -> bool:
        """Whether every running machine holds all running ones for alive, and no others."""
        up = self.up
        count = len(up)
        ids = [machine.own.node_id for machine in up]
        return all(m.swim.alive_count == count for m in up) and all(
            m.swim.is_alive(node_id) for m in up for node_id in ids
        )

    def all_know(self, newcomer: Machine) -> bool:
        """Whether every running machine holds this one for alive."""
        node_id = newcomer.own.node_id
        return all(machine.swim.is_alive(node_id) for machine in self.up)

    def none_knows(self, gone: Machine) -> bool:
        """Whether no running machine holds this one for alive."""
        node_id = gone.own.node_id
        return not any(machine.swim.is_alive(node_id) for machine in self.up)

    # -- time --

    def run(self, duration_ms: int) -> None:
        """Let time pass."""
        self.run_until(lambda: False, duration_ms, look_ms=duration_ms)

    def run_until(
        self, reached: Callable[[], bool], within_ms: int, look_ms: int = LOOK_MS
    ) -> int | None:
        """Let time pass until a condition holds; how long that took, or None if it never did."""
        start, end, heap = self.now, self.now + within_ms, self._heap
        while self.now < end:
            look = min(self.now + look_ms, end)
            while heap and heap[0][0] <= look:
                self.now, _, act, given = heapq.heappop(heap)
                self.events += 1
                act(*given)
            self.now = look
            if reached():
                return self.now - start
        return None

    def _at(self, at: int, act: Callable[..., None], given: tuple[Any, ...]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, act, given))

    # -- the network --

    def _send(self, sender: Machine, peer: NodeId, packet: Packet) -> None:
        target = self._of.get(peer)
        if target is None:
            return
        if self.counting:
            self.sent.packets += 1
            self.sent.bytes += sum(map(len, encode(packet)))
        if peer in sender.links:
            self._transmit(sender, target, packet)
        elif peer in sender.addresses and sender.side == target.side:
            self._at(self.now + 2 * LATENCY_MS[1], self._connect, (sender, target, packet))

    def _transmit(self, sender: Machine, target: Machine, packet: Packet) -> None:
        if self.loss and self._rng.random() < self.loss:
            return
        at = self.now + self._rng.randint(*LATENCY_MS) + target.slow_ms
        self._at(at, self._arrive, (sender, target, packet))

    def _connect(self, dialler: Machine, target: Machine, packet: Packet | None) -> None:
        if not (dialler.up and target.up and dialler.side == target.side):
            return
        if target.own.node_id not in dialler.links:
            dialler.links[target.own.node_id] = target.links[dialler.own.node_id] = None
            self._greet(target, dialler)
            self._greet(dialler, target)
        if packet is not None:
            self._transmit(dialler, target, packet)

    def _greet(self, machine: Machine, peer: Machine) -> None:
        own = peer.own
        effects = machine.swim.on_connected(
            own.node_id, own.boot, own.name, own.addresses, own.weight == 0, self.now
        )
        self._carry_out(machine, effects)

    def _arrive(self, sender: Machine, target: Machine, packet: Packet) -> None:
        if target.up and sender.side == target.side:
            peer = sender.own.node_id
            effects = target.swim.on_contact(peer, self.now)
            effects += target.swim.on_packet(peer, packet, self.now)
            self._carry_out(target, effects)

    def _unlink(self, machine: Machine) -> None:
        for peer in machine.links:
            self._of[peer].links.pop(machine.own.node_id, None)
        machine.links.clear()

    # -- effects --

    def _carry_out(self, machine: Machine, effects: list[Effect]) -> None:
        for effect in effects:
            kind = type(effect)
            if kind is Send:
                self._send(machine, effect.peer, effect.packet)  # type: ignore[union-attr]  # kind says so
            elif kind is Learn:
                if effect.addresses:  # type: ignore[union-attr]  # as above
                    machine.addresses[effect.peer] = None  # type: ignore[union-attr]  # as above
                else:
                    machine.addresses.pop(effect.peer, None)  # type: ignore[union-attr]  # as above
            elif kind is Notify:
                self._note(effect.notice)  # type: ignore[union-attr]  # as above
        deadline = machine.swim.next_deadline()
        if deadline is not None and (machine.wake_at is None or deadline < machine.wake_at):
            machine.wake_at = deadline
            self._at(max(deadline, self.now), self._wake, (machine, deadline))

    def _note(self, notice: object) -> None:
        if isinstance(notice, MemberNotice):
            if notice.state == MemberState.DEAD:
                self.deaths.setdefault(notice.node_id, []).append(self.now)
        elif isinstance(notice, Counted):
            self.counts[notice.what] = self.counts.get(notice.what, 0) + notice.count

    def _wake(self, machine: Machine, at: int) -> None:
        if machine.up and machine.wake_at == at:
            machine.wake_at = None
            self._carry_out(machine, machine.swim.on_timeout(self.now))


def formed(
    count: int, seed: int, config: SwimConfig = LAN, loss: float = 0.0, within_ms: int = 300_000
) -> tuple[Field, int]:
    """A field of so many that know one another, and how long that took from a cold start, in ms.

    All start within a second, and dial the first one. Raises TimeoutError if they never agree.
    """
    made = Field(seed, config, loss)
    first = made.add()
    spread = random.Random(f"starts {seed}")
    for _ in range(count - 1):
        made.add((first,), delay_ms=spread.randrange(1_000))
    took_ms = made.run_until(made.agree, within_ms)
    if took_ms is None:
        raise TimeoutError(f"{count} machines did not agree within {within_ms / 1000:g} s")
    return made, took_ms
