"""A mesh of Swim machines on a virtual clock: the smallest network that can go wrong.

Links are dialled by learned addresses and say Hello, packets are lost and
delayed, nodes crash, restart, pause, and are slow; groups part and meet again.
After every event the invariants of a single node are checked.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from p2pmq.config import SwimConfig
from p2pmq.core.effects import Counted, Effect, Learn, MemberNotice, Notify, Persist, Send
from p2pmq.core.ids import NodeId
from p2pmq.core.membership import Member, MemberState
from p2pmq.core.packets.membership import Rumour
from p2pmq.core.packets.registry import Packet
from p2pmq.core.records import IncarnationSaved, MemberRemoved, MemberSaved
from p2pmq.core.swim import Swim

MESH = "test"


def node_id_of(number: int) -> NodeId:
    """A readable id."""
    return b"n" + number.to_bytes(7, "big")


def rumour_of(number: int, **changes: object) -> Rumour:
    """A member's facts, as it tells them itself."""
    rumour = Rumour(
        node_id_of(number),
        MemberState.ALIVE,
        1,
        name=f"node{number}",
        addresses=(f"host{number}:7000",),
        boot=1,
        store_id=node_id_of(number),
        zone=f"zone{number % 3}",
    )
    return replace(rumour, **changes)  # type: ignore[arg-type]  # the tests name real fields


@dataclass(slots=True)
class Disk:
    """What a node's store holds of membership."""

    incarnation: int = 0
    members: dict[NodeId, Rumour] = field(default_factory=dict)
    boot: int = 0
    writes: int = 0


@dataclass(slots=True)
class Node:
    """One machine with its surroundings."""

    own: Rumour
    swim: Swim
    disk: Disk
    up: bool = True
    addresses: dict[NodeId, tuple[str, ...]] = field(default_factory=dict)
    paused_until: int = 0
    slowness_ms: int = 0
    wake_at: int | None = None
    left: bool = False
    notices: list[tuple[int, MemberNotice]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    incarnation_seen: int = 0


class SwimMesh:
    """Nodes by number, a clock in ms, and the network between them."""

    def __init__(self, seed: int = 0, config: SwimConfig | None = None) -> None:
        self.rng = random.Random(seed)
        self.config = config or SwimConfig()
        self.now = 0
        self.events = 0
        self.packets = 0
        self.nodes: dict[int, Node] = {}
        self.loss = 0.0
        self.delay_ms = (1, 5)
        self.group: dict[int, int] = {}
        self.deaf: list[int] = []
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._links: dict[tuple[int, int], tuple[int, int]] = {}
        self._numbers: dict[NodeId, int] = {}

    # -------------------------------------------------------------------------------- the nodes

    def add(
        self,
        number: int,
        *,
        seeds: Iterable[int] = (),
        disk: Disk | None = None,
        weight: int = 1,
        name: str = "",
    ) -> Node:
        """Start a node, with what its disk holds, and let it dial its seeds."""
        disk = disk or Disk()
        disk.boot += 1
        name = name or f"node{number}"
        own = rumour_of(number, boot=disk.boot, weight=weight, name=name)
        swim = Swim(own, MESH, self.config, random.Random(self.rng.randrange(2**32)))
        node = Node(own, swim, disk)
        self.nodes[number] = node
        self._numbers[own.node_id] = number
        self._carry_out(number, swim.start(disk.members.values(), disk.incarnation, self.now))
        for seed in seeds:
            if seed != number and seed in self.nodes:
                self._dial(number, seed, lambda: None)
        return node

    def add_many(self, count: int) -> None:
        """Start a mesh whose nodes know the first one."""
        for number in range(count):
            self.add(number, seeds=(0,))

    def crash(self, number: int) -> Disk:
        """Stop a node in the middle of everything."""
        node = self.nodes[number]
        node.up = False
        for pair in [pair for pair in self._links if number in pair]:
            del self._links[pair]
        return node.disk

    def restart(self, number: int) -> Node:
        """Start a crashed node again, with its disk."""
        old = self.nodes[number]
        return self.add(number, disk=old.disk, weight=old.own.weight, name=old.own.name)

    def pause(self, number: int, duration_ms: int) -> None:
        """Stop a node's process for a while (SIGSTOP): what comes waits for it."""
        self.nodes[number].paused_until = self.now + duration_ms

    def leave(self, number: int) -> None:
        """Let a node leave, and stop a moment later."""
        node = self.nodes[number]
        node.left = True
        self._carry_out(number, node.swim.leave(self.now))
        self._at(self.now + 2_000, lambda: self._stop(number, node))

    def stop(self, number: int) -> None:
        """Let a node say goodbye for now, and end its process a moment later."""
        node = self.nodes[number]
        self._carry_out(number, node.swim.stop(self.now))
        self._at(self.now + 1_000, lambda: self._stop(number, node))

    def forget(self, by: int, number: int) -> None:
        """Take a member off the roster at one node."""
        effects = self.nodes[by].swim.forget(node_id_of(number), self.now)
        self._carry_out(by, effects)

    def split(self, *groups: Iterable[int]) -> None:
        """Part the network: packets pass within a group only."""
        self.group = {number: part for part, group in enumerate(groups) for number in group}
        for pair in [pair for pair in self._links if not self._joined(*pair)]:
            del self._links[pair]

    def heal(self) -> None:
        """Every packet may pass again."""
        self.group = {}

    # ------------------------------------------------------------------------------- the clock

    def run(self, duration_ms: int) -> None:
        """Let time pass."""
        self.run_until(lambda: False, duration_ms)

    def run_until(self, reached: Callable[[], bool], within_ms: int) -> int | None:
        """Let time pass until a condition holds, looked at each 100 ms; how long it took."""
        start = self.now
        end = start + within_ms
        look = start
        heap = self._heap
        while self.now < end:
            look = min(look + 100, end)
            while heap and heap[0][0] <= look:
                at, _, act = heapq.heappop(heap)
                self.now = at
                self.events += 1
                act()
            self.now = look
            if reached():
                return self.now - start
        return None

    # --------------------------------------------------------------------------------- questions

    def up(self) -> list[int]:
        """The nodes that run and have not left."""
        return [number for number, node in self.nodes.items() if node.up and not node.left]

    def view(self, number: int) -> dict[NodeId, tuple[bool, int, str]]:
        """What a node believes: who is on the roster, alive, of which incarnation, and where."""
        swim = self.nodes[number].swim
        return {
            member.node_id: (
                member.alive,
                member.incarnation if member.alive else 0,
                member.zone,
            )
            for member in swim.roster()
        }

    def agreed(self) -> bool:
        """Whether all that run hold one another alive, and all views are equal."""
        running = self.up()
        alive = [node_id_of(number) for number in running]
        first: dict[NodeId, tuple[bool, int, str]] | None = None
        for number in running:
            swim = self.nodes[number].swim
            if swim.alive_count != len(running) or not all(map(swim.is_alive, alive)):
                return False
        for number in running:
            view = self.view(number)
            if first is None:
                first = view
            elif view != first:
                return False
        return True

    def all_hold_alive(self, number: int) -> bool:
        """Whether every other running node holds this one alive."""
        return all(
            self.nodes[other].swim.is_alive(node_id_of(number))
            for other in self.up()
            if other != number
        )

    def none_holds_alive(self, number: int) -> bool:
        """Whether no other running node holds this one alive."""
        return not any(
            self.nodes[other].swim.is_alive(node_id_of(number))
            for other in self.up()
            if other != number
        )

    def member(self, at: int, number: int) -> Member | None:
        """What one node believes of another."""
        return self.nodes[at].swim.members.get(node_id_of(number))

    def deaths(self) -> list[tuple[int, str]]:
        """Every notice of a death: when, and whose."""
        return [
            (at, notice.name)
            for node in self.nodes.values()
            for at, notice in node.notices
            if notice.state == MemberState.DEAD
        ]

    def counted(self, what: str) -> int:
        """How often something was counted, at all nodes."""
        return sum(node.counts.get(what, 0) for node in self.nodes.values())

    # -------------------------------------------------------------------------------- the network

    def _at(self, at: int, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, act))

    def _joined(self, a: int, b: int) -> bool:
        return self.group.get(a, 0) == self.group.get(b, 0)

    def _latency(self) -> int:
        low, high = self.delay_ms
        return self.rng.randint(low, high)

    def _stop(self, number: int, node: Node) -> None:
        if self.nodes[number] is node:
            self.crash(number)

    def _dial(self, a: int, b: int, then: Callable[[], None]) -> None:
        """Open a link, say Hello both ways, and go on; nothing happens if b is not there."""
        self._at(self.now + self._latency(), lambda: self._connect(a, b, then))

    def _connect(self, a: int, b: int, then: Callable[[], None]) -> None:
        near, far = self.nodes[a], self.nodes[b]
        if not (near.up and far.up and self._joined(a, b)):
            return
        pair = (min(a, b), max(a, b))
        boots = (self.nodes[pair[0]].disk.boot, self.nodes[pair[1]].disk.boot)
        if self._links.get(pair) != boots:
            self._links[pair] = boots
            self._hello(a, far)
            self._hello(b, near)
        then()

    def _hello(self, at: int, peer: Node) -> None:
        own = peer.own
        leaf = own.weight == 0
        self._handle(
            at,
            lambda swim: swim.on_connected(
                own.node_id, own.boot, own.name, own.addresses, leaf, self.now
            ),
        )

    def _send(self, a: int, peer: NodeId, packet: Packet) -> None:
        b = self._numbers.get(peer)
        if b is None:
            return
        self.packets += 1
        if self._links.get((min(a, b), max(a, b))) is not None:
            self._transmit(a, b, packet)
        elif peer in self.nodes[a].addresses:
            self._dial(a, b, lambda: self._transmit(a, b, packet))

    def _transmit(self, a: int, b: int, packet: Packet) -> None:
        if self.loss and self.rng.random() < self.loss:
            return
        sender = self.nodes[a].own.node_id
        node = self.nodes[b]

        def arrive() -> None:
            if node.up and self._joined(a, b) and b not in self.deaf:
                self._handle(b, lambda swim: self._receive(swim, sender, packet))

        self._at(self.now + self._latency() + node.slowness_ms, arrive)

    def _receive(self, swim: Swim, sender: NodeId, packet: Packet) -> list[Effect]:
        effects = swim.on_contact(sender, self.now)
        effects += swim.on_packet(sender, packet, self.now)
        return effects

    def _handle(self, number: int, event: Callable[[Swim], list[Effect]]) -> None:
        node = self.nodes[number]
        if not node.up:
            return
        if node.paused_until > self.now:
            self._at(node.paused_until, lambda: self._handle_same(number, node, event))
            return
        self._carry_out(number, event(node.swim))

    def _handle_same(self, number: int, node: Node, event: Callable[[Swim], list[Effect]]) -> None:
        if self.nodes[number] is node:
            self._handle(number, event)

    def _carry_out(self, number: int, effects: list[Effect]) -> None:
        node = self.nodes[number]
        for effect in effects:
            match effect:
                case Send(peer, packet):
                    self._send(number, peer, packet)
                case Learn(peer, addresses):
                    if addresses:
                        node.addresses[peer] = addresses
                    else:
                        node.addresses.pop(peer, None)
                case Persist(records):
                    self._persist(node, records)
                case Notify(MemberNotice() as notice):
                    node.notices.append((self.now, notice))
                case Notify(Counted(what, count)):
                    node.counts[what] = node.counts.get(what, 0) + count
                case _:
                    raise AssertionError(effect)
        self._check(node)
        self._wake(number, node)

    def _persist(self, node: Node, records: tuple[object, ...]) -> None:
        node.disk.writes += 1
        for record in records:
            match record:
                case IncarnationSaved(incarnation):
                    node.disk.incarnation = incarnation
                case MemberSaved(rumour):
                    node.disk.members[rumour.node_id] = rumour
                case MemberRemoved(node_id):
                    node.disk.members.pop(node_id, None)
                case _:
                    raise AssertionError(record)

    def _check(self, node: Node) -> None:
        own = node.swim.members[node.own.node_id]
        assert own.state is (MemberState.LEFT if node.left else MemberState.ALIVE)
        assert own.incarnation >= node.incarnation_seen
        node.incarnation_seen = own.incarnation

    def _wake(self, number: int, node: Node) -> None:
        deadline = node.swim.next_deadline()
        if deadline is None or (node.wake_at is not None and node.wake_at <= deadline):
            return
        node.wake_at = deadline
        self._at(max(deadline, self.now), lambda: self._on_wake(number, node, deadline))

    def _on_wake(self, number: int, node: Node, at: int) -> None:
        if self.nodes[number] is not node or not node.up or node.wake_at != at:
            return
        if node.paused_until > self.now:
            self._at(node.paused_until, lambda: self._on_wake(number, node, at))
            return
        node.wake_at = None
        self._carry_out(number, node.swim.on_timeout(self.now))
