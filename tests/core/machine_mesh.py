"""A mesh of whole machines in virtual time: their links, their disks and their users.

It is the core's own small simulator, with nothing of the runtime in it: packets are not encoded,
a link is a pair of queues that keep order and lose what is on them when they break. One seed is
one history. What users saw is checked while it happens, and once more when all has drained.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from p2pmq.config import Config, Limits, Replication
from p2pmq.core import events
from p2pmq.core.effects import Deliver, Persist, Published, Resolve, Send
from p2pmq.core.events import Confirmation, GivenBack
from p2pmq.core.ids import PartitionKey, Run
from p2pmq.core.machine import Machine
from p2pmq.core.membership import MemberState
from p2pmq.core.packets.delivering import Delivery, Handover, Segment, Settled
from p2pmq.core.packets.membership import Rumour
from p2pmq.core.packets.publishing import Publish
from p2pmq.core.packets.registering import QueueSettings
from p2pmq.core.packets.replicating import Replicate, Supply
from p2pmq.core.records import BatchRemoved, BatchStored, BatchTrimmed, StoredBodies
from tests.core.kit import Disk, Dot, Name, Texts, dots_of, runs_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.core.effects import Effect
    from p2pmq.core.ids import NodeId
    from p2pmq.core.packets.registry import Packet
    from p2pmq.core.records import Record

WALL_MS = 1_700_000_000_000
SILENCE_MS = 5_000
"""A link on which nothing comes through for this long is noticed as dead."""
VISIBILITY_MS = 15_000
LIMITS = Limits(publish_window_bytes=400)

Place = tuple[PartitionKey, Dot]


@dataclass(slots=True)
class User:
    """One consumer's user: what it holds, what it has acked, by settle number where sent."""

    key: PartitionKey
    prefetch: int
    held: dict[Dot, int] = field(default_factory=dict)
    acked: set[Dot] = field(default_factory=set)


@dataclass(slots=True)
class Node:
    """One node: its disk stays, its machine is new at every start."""

    number: int
    disk: Disk
    machine: Machine | None = None
    boot: int = 0
    gone: bool = False
    paused_until: int = 0
    held_back: list[events.Event] = field(default_factory=list)
    writes: list[Persist] = field(default_factory=list)
    writing: bool = False
    wake_at: int | None = None
    users: dict[bytes, User] = field(default_factory=dict)
    published: set[Place] = field(default_factory=set)
    tokens: dict[int, set[Place]] = field(default_factory=dict)

    @property
    def node_id(self) -> NodeId:
        return self.disk.node_id


def node_id_of(number: int) -> NodeId:
    return b"node%4d" % number


class MachineMesh:
    """Nodes by number, a clock in ms, and all that happens between them."""

    def __init__(
        self,
        seed: int,
        nodes: int = 3,
        queues: int = 3,
        copies: int = 1,
        replace_after_ms: int = 600_000,
    ) -> None:
        replication = Replication(replicas=copies, replace_after_ms=replace_after_ms)
        self.config = Config(limits=LIMITS, replication=replication)
        self.rng = random.Random(seed)
        self.now = 1_000
        self.nodes: dict[int, Node] = {}
        self.keys = [PartitionKey(f"queue{number}", 0) for number in range(queues)]
        self.loss = 0.0
        self.latency_ms = (1, 3)
        self.group: dict[int, int] = {}
        self.disk_full: set[int] = set()
        self.promised: set[Place] = set()
        self.acked: set[Place] = set()
        self.confirmed: set[Place] = set()
        self.delivered: dict[Place, int] = {}
        self.resolved: set[tuple[int, int, int]] = set()
        self.calm = False
        # With copies, an owner that is cut off or paused delivers until it notices.
        self.strict = copies == 1
        self.unreadable = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._next_token = 1
        self._links: dict[tuple[int, int], int] = {}
        self._next_link = 1
        self._arrives: dict[tuple[int, int], int] = {}
        for number in range(nodes):
            self.add(number)

    # -------------------------------------------------------------------------------- the nodes

    def add(self, number: int) -> Node:
        node = self.nodes[number] = Node(number, Disk(node_id_of(number)))
        self.start(number)
        return node

    def start(self, number: int) -> None:
        node = self.nodes[number]
        node.disk.boot += 1
        node.boot = node.disk.boot
        recovered = node.disk.recovered()
        own = Rumour(
            node.node_id,
            MemberState.ALIVE,
            recovered.incarnation,
            name=f"n{number}",
            addresses=(f"n{number}:1",),
            boot=node.boot,
            store_id=b"store%3d" % number,
        )
        rng = random.Random(self.rng.getrandbits(32))
        session = b"s%03d%04d" % (number, node.boot)
        node.machine = Machine(own, "mesh", session, self.config, rng)
        node.paused_until = 0
        self.feed(node, events.Started(recovered, own.addresses, WALL_MS))
        self._look_around(number, node.boot)

    def _look_around(self, number: int, boot: int) -> None:
        """Discovery: dial everybody, now and every so often."""
        node = self.nodes[number]
        if node.machine is None or node.boot != boot:
            return
        for other in self.nodes:
            if other != number:
                self._dial(number, other, None)
        self.at(self.now + 10_000, lambda: self._look_around(number, boot))

    def crash(self, number: int) -> None:
        node = self.nodes[number]
        node.machine = None
        node.writes.clear()
        node.writing = False
        node.users.clear()
        node.tokens.clear()
        node.held_back.clear()
        node.wake_at = None
        node.published &= self.promised
        for pair in [pair for pair in self._links if number in pair]:
            self._break(pair)

    def up(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.machine is not None and not node.gone]

    def leave(self, number: int) -> None:
        """Hand everything over, then stop for good, if it works out in time."""
        node = self.nodes[number]
        token = self._token()
        node.tokens[token] = set()
        self.feed(node, events.LeaveRequested(60_000, token))
        self.at(self.now + 62_000, lambda: self._stop_for_good(number))

    def _stop_for_good(self, number: int) -> None:
        node = self.nodes[number]
        if node.machine is None:
            return
        if node.machine.owner.partitions or node.machine.outbox.messages:
            self.crash(number)  # it stays on the roster, and comes back in the end
            return
        self.crash(number)
        node.gone = True

    # ------------------------------------------------------------------------------- the clock

    def at(self, at: int, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, act))

    def run(self, duration_ms: int) -> None:
        end = self.now + duration_ms
        while self._heap and self._heap[0][0] <= end:
            at, _, act = heapq.heappop(self._heap)
            self.now = max(self.now, at)
            act()
        self.now = end

    def feed(self, node: Node, event: events.Event) -> None:
        if node.machine is None:
            return
        if node.paused_until > self.now:
            if not node.held_back:
                boot = node.boot
                self.at(node.paused_until, lambda: self._go_on(node, boot))
            node.held_back.append(event)
            return
        self.take(node, node.machine.handle(event, self.now))

    def _go_on(self, node: Node, boot: int) -> None:
        held, node.held_back = node.held_back, []
        for event in held:
            if node.boot == boot:
                self.feed(node, event)

    def _wake(self, node: Node) -> None:
        assert node.machine is not None
        deadline = node.machine.next_deadline()
        if deadline is None or (node.wake_at is not None and node.wake_at <= deadline):
            return
        node.wake_at = deadline
        boot = node.boot

        def wake() -> None:
            if node.boot == boot and node.wake_at == deadline:
                node.wake_at = None
                self.feed(node, events.TimePassed())

        self.at(max(deadline, self.now), wake)

    # ------------------------------------------------------------------------------- the effects

    def take(self, node: Node, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(peer, packet):
                    self._send(node, peer, packet)
                case Persist():
                    self._persist(node, effect)
                case Deliver(consumer, key, segments):
                    self._deliver(node, consumer, key, segments)
                case Resolve(token, outcome):
                    self._resolve(node, token, outcome)
        self._wake(node)

    def _persist(self, node: Node, write: Persist) -> None:
        records = tuple(
            replace(record, batch=node.disk.read(record.batch))
            if isinstance(record, BatchStored)
            else record
            for record in write.records
        )
        node.writes.append(replace(write, records=records))
        if not node.writing:
            self._begin_commit(node)

    def _begin_commit(self, node: Node) -> None:
        node.writing = True
        count, boot = len(node.writes), node.boot
        self.at(self.now + self.rng.randint(1, 4), lambda: self._commit(node, boot, count))

    def _commit(self, node: Node, boot: int, count: int) -> None:
        if node.boot != boot or node.machine is None:
            return
        group, node.writes = node.writes[:count], node.writes[count:]
        full = node.number in self.disk_full
        stored = [any(isinstance(r, BatchStored) for r in write.records) for write in group]
        for write, stores in zip(group, stored, strict=True):
            if not (full and stores):
                node.disk.apply(self._known(node, write))
        for write, stores in zip(group, stored, strict=True):
            if full and stores:
                self.feed(node, events.WriteRefused(write.then, write.records))
            elif write.then is not None:
                self.feed(node, write.then)
        node.writing = False
        if node.writes:
            self._begin_commit(node)

    def _known(self, node: Node, write: Persist) -> list[Record]:
        """Without records of batches that a full disk has refused, as the store has it."""
        return [
            record
            for record in write.records
            if not isinstance(record, BatchRemoved | BatchTrimmed)
            or Name(record.space, record.key, record.number) in node.disk.batches
        ]

    def _resolve(self, node: Node, token: int, outcome: object) -> None:
        name = (node.number, node.boot, token)
        assert name not in self.resolved, "a token is resolved once"
        self.resolved.add(name)
        places = node.tokens.pop(token)
        if isinstance(outcome, Published) and (outcome.copies or outcome.stored):
            self.promised |= places

    # -------------------------------------------------------------------------------- the users

    def _token(self) -> int:
        self._next_token += 1
        return self._next_token

    def publish(self, node: Node, key: PartitionKey, count: int, wanted: Confirmation) -> None:
        assert node.machine is not None
        token = self._token()
        texts = Texts(tuple(f"{token}.{at}" for at in range(count)))
        stream = node.machine.outbox._stream(key, node.machine.outbox.session)
        run = Run(stream.session, stream.next_seq, stream.next_seq + count - 1)
        places = {(key, dot) for dot in dots_of([run])}
        node.published |= places
        if wanted is not Confirmation.NONE:
            node.tokens[token] = places
        request = events.PublishRequested(key, texts, count, 20 * count, wanted, 3_000, token)
        self.feed(node, request)

    def declare(self, node: Node, queue: str, replicas: int, min_copies: int) -> int:
        """Change a queue's copies; from then on an owner that is cut off may deliver as well."""
        self.strict = False
        token = self._token()
        node.tokens[token] = set()
        settings = QueueSettings(replicas, min_copies)
        self.feed(node, events.DeclareRequested(queue, settings, token))
        return token

    def subscribe(self, node: Node, key: PartitionKey, prefetch: int) -> bytes:
        consumer = b"c%07d" % self._token()
        node.users[consumer] = User(key, prefetch)
        self.feed(node, events.SubscribeRequested(consumer, key, prefetch, VISIBILITY_MS))
        return consumer

    def unsubscribe(self, node: Node, consumer: bytes) -> None:
        del node.users[consumer]
        self.feed(node, events.UnsubscribeRequested(consumer))

    def _deliver(
        self, node: Node, consumer: bytes, key: PartitionKey, segments: tuple[Segment, ...]
    ) -> None:
        user = node.users[consumer]
        assert user.key == key
        for segment in segments:
            bodies = self._read(node, segment.batch.bodies)
            assert len(bodies.texts) == segment.batch.count
            for dot in sorted(dots_of([segment.batch.run])):
                assert segment.attempt > user.held.get(dot, 0), "one delivery given twice"
                assert dot not in user.acked or not self.strict, "given again to one who acked it"
                user.held[dot] = segment.attempt
                self.delivered[key, dot] = self.delivered.get((key, dot), 0) + 1
        assert len(user.held) <= user.prefetch
        boot, pause = node.boot, 0 if self.calm else self.rng.choice([0, 1, 20, 500, 4_000])
        dots = {dot for segment in segments for dot in dots_of([segment.batch.run])}
        self.at(self.now + pause, lambda: self._settle(node, boot, consumer, dots))

    def _settle(self, node: Node, boot: int, consumer: bytes, dots: set[Dot]) -> None:
        user = node.users.get(consumer)
        if node.boot != boot or user is None or node.machine is None:
            return
        if node.paused_until > self.now:  # the user's code is in the same process
            self.at(node.paused_until + 1, lambda: self._settle(node, boot, consumer, dots))
            return
        nacked = set() if self.calm else {dot for dot in sorted(dots) if self.rng.random() < 0.15}
        dots &= set(user.held)
        for dot in sorted(dots):
            del user.held[dot]
        user.acked |= dots - nacked
        self.acked |= {(user.key, dot) for dot in dots - nacked}
        delay = self.rng.choice([0, 0, 400, 2_000])
        request = events.SettleRequested(
            consumer,
            user.key,
            acks=tuple(runs_of(dots - nacked)),
            nacks=tuple(GivenBack(run, delay) for run in runs_of(nacked)),
        )
        self.feed(node, request)

    # ------------------------------------------------------------------------------ the network

    def _joined(self, a: int, b: int) -> bool:
        return self.group.get(a, 0) == self.group.get(b, 0)

    def split(self, group: dict[int, int]) -> None:
        self.group = group
        for pair in self._links:
            if not self._joined(*pair):
                link = self._links[pair]
                self.at(self.now + SILENCE_MS, lambda p=pair, n=link: self._silence(p, n))  # type: ignore[misc]  # mypy knows no type for a lambda's defaults

    def _silence(self, pair: tuple[int, int], link: int) -> None:
        if self._links.get(pair) == link and not self._joined(*pair):
            self._break(pair)

    def _break(self, pair: tuple[int, int]) -> None:
        del self._links[pair]
        for at, other in (pair, pair[::-1]):
            node = self.nodes[at]
            if node.machine is not None:
                self.feed(node, events.PeerDisconnected(node_id_of(other)))

    def _dial(self, a: int, b: int, packet: Packet | None) -> None:
        def connect() -> None:
            near, far = self.nodes[a], self.nodes[b]
            if near.machine is None or far.machine is None or not self._joined(a, b):
                return
            pair = (min(a, b), max(a, b))
            if pair not in self._links:
                self._links[pair] = self._next_link
                self._next_link += 1
                for node, peer in ((far, near), (near, far)):
                    name = f"n{peer.number}"
                    event = events.PeerConnected(
                        peer.node_id, peer.boot, name, (f"{name}:1",), leaf=False
                    )
                    self.feed(node, event)
            if packet is not None:
                self._transmit(a, b, packet)

        self.at(self.now + self.rng.randint(*self.latency_ms), connect)

    def _send(self, node: Node, peer: NodeId, packet: Packet) -> None:
        number = next((n for n, found in self.nodes.items() if found.node_id == peer), None)
        if number is None:
            return
        try:
            at_hand = self._at_hand(node, packet)
        except KeyError:  # as the driver does: what was deleted meanwhile is not sent
            self.unreadable += 1
            return
        if isinstance(packet, Delivery):
            key = PartitionKey(packet.queue, packet.partition)
            dots = dots_of(segment.batch.run for segment in packet.segments)
            again = {(key, dot) for dot in dots} & self.confirmed
            assert not (again and self.strict), f"{node.number} delivers {again}, which is acked"
        if (min(node.number, number), max(node.number, number)) in self._links:
            self._transmit(node.number, number, at_hand)
        else:
            self._dial(node.number, number, at_hand)

    def _at_hand(self, node: Node, packet: Packet) -> Packet:
        read = node.disk.read
        match packet:
            case Publish():
                return replace(packet, batch=read(packet.batch))
            case Delivery():
                segments = tuple(Segment(read(s.batch), s.attempt) for s in packet.segments)
                return replace(packet, segments=segments)
            case Handover() | Replicate() | Supply():
                return replace(packet, batches=tuple(map(read, packet.batches)))
        return packet

    def _read(self, node: Node, bodies: object) -> Texts:
        if isinstance(bodies, StoredBodies):
            kept = node.disk.batches[Name(bodies.space, bodies.key, bodies.number)]
            bodies = kept.batch.bodies.part(bodies.start, bodies.stop)
        assert isinstance(bodies, Texts)
        return bodies

    def _transmit(self, a: int, b: int, packet: Packet) -> None:
        pair = (min(a, b), max(a, b))
        link = self._links.get(pair)
        if link is None or not self._joined(a, b) or self.rng.random() < self.loss:
            return
        arrives = self.now + self.rng.randint(*self.latency_ms)
        arrives = self._arrives[a, b] = max(arrives, self._arrives.get((a, b), 0))
        sender = self.nodes[a].node_id

        def arrive() -> None:
            if self._links.get(pair) == link and self._joined(a, b):
                node = self.nodes[b]
                if isinstance(packet, Settled):
                    self._note_confirmed(node, packet)
                self.feed(node, events.PacketReceived(sender, packet))

        self.at(arrives, arrive)

    def _note_confirmed(self, node: Node, packet: Settled) -> None:
        """What a consumer is told to be durable must not be delivered any more."""
        if node.machine is None or node.paused_until > self.now:
            return
        subscription = node.machine.consuming._subscriptions.get(packet.consumer)
        for settle in subscription.settles if subscription is not None else ():
            if settle.number == packet.number:
                runs = [Run(run.session, run.first, run.last) for run in settle.acks]
                key = PartitionKey(packet.queue, packet.partition)
                self.confirmed |= {(key, dot) for dot in dots_of(runs)}

    # ---------------------------------------------------------------------------------- the end

    def heal(self) -> None:
        """Everything works again, and all who may come back do; every queue has a consumer."""
        self.calm = True
        self.loss = 0.0
        self.latency_ms = (1, 3)
        self.disk_full.clear()
        self.split({})
        self.run(65_000)
        for number, node in list(self.nodes.items()):
            if node.machine is None and not node.gone:
                self.start(number)
        self.run(20_000)
        self.strict = True
        for key in self.keys:
            self.subscribe(self.up()[0], key, 50)

    def drain(self, within_ms: int = 120_000) -> None:
        end = self.now + within_ms
        while self.now < end and (self.left() or self.unsettled()):
            self.run(1_000)
        self.run(2_000)

    def left(self) -> list[str]:
        """What has not drained."""
        found = []
        for node in self.up():
            machine = node.machine
            assert machine is not None
            if machine.outbox.messages or machine.outbox.bytes_in_memory:
                found.append(f"{node.number}: {machine.outbox.messages} in the outbox")
            if machine.settling.unconfirmed:
                found.append(f"{node.number}: {machine.settling.unconfirmed} settles unconfirmed")
            for key, partition in machine.owner.partitions.items():
                if partition.pending or partition.batches:
                    found.append(f"{node.number}: {partition.pending.count} in {key.queue}")
                is_home = node.node_id in machine._ownership.homes_of(key)[0]
                if partition.seen and not is_home:
                    found.append(f"{node.number}: holds {key.queue}, which is not its own")
            if node.disk.batches:
                found.append(f"{node.number}: {len(node.disk.batches)} batches on disk")
            if node.tokens:
                found.append(f"{node.number}: {len(node.tokens)} requests not resolved")
        return found

    def unsettled(self) -> list[str]:
        """Whose settings of queues are not those of the others, or not on its disk."""
        machines = [(node, node.machine) for node in self.up() if node.machine is not None]
        latest = max((machine.registry.records() for _, machine in machines), key=len)
        return [
            f"{node.number}: {machine.registry.records()}"
            for node, machine in machines
            if machine.registry.records() != latest
            or machine.registry.records() != list(node.disk.recovered().queues)
        ]

    def lost(self) -> set[Place]:
        """What was promised, or published by who lives on, and was never processed."""
        kept = self.promised | {place for node in self.up() for place in node.published}
        return kept - self.acked

    def check_inside(self) -> None:
        """The rooms' own invariants, at any moment."""
        for node in self.up():
            assert node.machine is not None
            for key, partition in node.machine.owner.partitions.items():
                pending = dots_of(partition.pending.runs())
                assert pending == dots_of(partition.unacked.runs())
                assert pending <= dots_of(partition.seen.runs())
                assert not dots_of(partition.appending.runs()) & dots_of(partition.seen.runs())
                delivery = node.machine.owner.deliveries.get(key)
                if delivery is not None:
                    leased = dots_of(delivery.leases.runs())
                    assert leased <= pending | dots_of(partition.appending.runs())
                    assert not leased & dots_of(delivery.delays.runs())
