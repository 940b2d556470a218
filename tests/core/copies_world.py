"""One partition and its homes: owners and replicas that crash, err and lose packets.

Every home has the real rooms (owner, partition, replication) on a disk of plain dicts. What is
under way may be lost, repeated and overtaken; what is not written yet is lost by a crash; each
home believes what it is told of who is alive, so that two may own at once. A user publishes, is
delivered to and acks; what is promised to it is checked after every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from p2pmq.config import Replication as Copying
from p2pmq.core import events
from p2pmq.core.copies import Contact
from p2pmq.core.effects import Counted, Effect, Notify, Persist, Send
from p2pmq.core.hlc import HybridClock
from p2pmq.core.ids import NodeId, PartitionKey, Run
from p2pmq.core.owner import Owner
from p2pmq.core.ownership import Ownership
from p2pmq.core.packets import delivering, publishing, replicating
from p2pmq.core.packets.publishing import RunField
from p2pmq.core.partition import Partition
from p2pmq.core.records import BatchStored, RecoveredBatch, Space, StoredBodies
from p2pmq.core.replica import Replica
from p2pmq.core.replication import Replication
from tests.core.kit import KEY, S1, S2, Disk, Dot, Name, batch_of, dots_of, runs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from p2pmq.core.packets.publishing import Batch
    from p2pmq.core.packets.registry import Packet

USER = b"node-usr"
CONSUMER = b"consumer"
VISIBILITY_MS = 60_000


class Beliefs(Ownership):
    """The homes of every partition, in order, and which of them one node believes alive."""

    def __init__(self, homes: tuple[NodeId, ...], wanted: int) -> None:
        super().__init__(Copying(len(homes), wanted))
        self.homes = homes
        self.wanted = wanted
        self.alive = set(homes)

    def owner_of(self, key: PartitionKey) -> NodeId | None:
        del key
        return next((home for home in self.homes if home in self.alive), None)

    def homes_of(self, key: PartitionKey) -> tuple[tuple[NodeId, ...], int]:
        del key
        return self.homes, self.wanted

    def is_alive(self, node_id: NodeId) -> bool:
        return node_id in self.alive


@dataclass
class Home:
    """One home replica. `damaged` are the places on its disk that cannot be read."""

    node_id: NodeId
    beliefs: Beliefs
    skew_ms: int = 0
    disk: Disk = field(default_factory=Disk)
    writes: list[Persist] = field(default_factory=list)
    damaged: set[tuple[int, int]] = field(default_factory=set)
    given: set[Dot] = field(default_factory=set)
    merged_at: dict[NodeId, int] = field(default_factory=dict)
    unreadable: list[Run] = field(default_factory=list)

    def start(self, now: int) -> list[Effect]:
        self.writes.clear()
        self.given.clear()
        self.merged_at.clear()
        self.disk.boot += 1
        self.owner = Owner(self.node_id, HybridClock(), self.beliefs.owner_of)
        self.owner.clock.wall_offset_ms = self.skew_ms
        self.replication = Replication(self.node_id, self.disk.boot, self.owner, self.beliefs)
        self.owner.use(self.replication)
        self.owner.recover(self.disk.recovered(), self.disk.of_space(Space.PARTITION), now)
        return self.change(now)

    def change(self, now: int) -> list[Effect]:
        effects = self.replication.on_placement_changed(now)
        effects += self.owner.on_placement_changed(now)
        if not self.owner.owns(KEY):
            self.given.clear()
        return effects

    @property
    def partition(self) -> Partition:
        return self.owner.partition(KEY)

    @property
    def owns(self) -> bool:
        return self.owner.owns(KEY)

    @property
    def replica(self) -> Replica:
        return self.replication.replica

    def receive(self, peer: NodeId, packet: Packet, now: int) -> list[Effect]:
        owner, replication, replica = self.owner, self.replication, self.replica
        handlers: dict[type[Packet], Callable[..., list[Effect]]] = {
            publishing.Publish: owner.on_publish,
            delivering.Attach: owner.on_attach,
            delivering.Settle: owner.on_settle,
            replicating.Replicate: replica.on_replicate,
            replicating.Replicated: replication.on_replicated,
            replicating.Compare: replica.on_compare,
            replicating.Compared: replication.on_compared,
            replicating.Fetch: lambda peer, packet, _now: replica.on_fetch(peer, packet),
            replicating.Supply: replication.on_supply,
            replicating.Offer: replication.on_offer,
        }
        return handlers[type(packet)](peer, packet, now)

    def on_timeout(self, now: int) -> list[Effect]:
        return self.owner.on_timeout(now) + self.replication.on_timeout(now)

    def write(self, now: int) -> list[Effect]:
        """The first write becomes durable."""
        write = self.writes.pop(0)
        self.disk.apply(write.records)
        new = {record.number for record in write.records if isinstance(record, BatchStored)}
        self.damaged = {place for place in self.damaged if place[0] not in new}
        match write.then:
            case events.BatchDurable():
                return self.owner.on_batch_durable(write.then, now)
            case events.SettleDurable():
                return self.owner.on_settle_durable(write.then)
            case events.ReplicaDurable():
                return self.replica.on_durable(write.then, now)
            case events.SupplyDurable():
                return self.replication.on_supply_durable(write.then, now)
        return []

    def refuse(self) -> list[Effect]:
        """The first write finds the disk full."""
        write = self.writes.pop(0)
        match write.then:
            case events.BatchDurable():
                return self.owner.on_batch_refused(write.then)
            case events.ReplicaDurable() | events.SupplyDurable():
                return self.replica.on_write_refused(write.then, write.records)
        raise AssertionError(write)

    def read(self, batch: Batch) -> Batch | None:
        """The batch with its bodies at hand; None if some of them are damaged."""
        where = batch.bodies
        if not isinstance(where, StoredBodies):
            return batch
        damaged = self.damaged if where.key == KEY else set()
        bad = [at for at in range(where.start, where.stop) if (where.number, at) in damaged]
        if bad:
            firsts = [batch.first + at - where.start for at in bad]
            self.unreadable += [Run(batch.session, seq, seq) for seq in firsts]
            return None
        for write in self.writes:
            for record in write.records:
                if not isinstance(record, BatchStored):
                    continue
                if (record.key, record.number) == (where.key, where.number):
                    bodies = record.batch.bodies.part(where.start, where.stop)
                    return replace(batch, bodies=bodies)
        if Name(Space.PARTITION, where.key, where.number) not in self.disk.batches:
            return None  # acked, and so deleted, since the packet was made
        return self.disk.read(batch)

    def on_disk(self) -> tuple[set[Dot], set[Dot]]:
        """(seen, pending) as a restart would find it."""
        again = Partition(KEY, HybridClock())
        again.recover(self.stored(), [s for s in self.disk.recovered().seen if s.key == KEY])
        return dots_of(again.seen.runs()), dots_of(again.pending.runs())

    def stored(self) -> list[RecoveredBatch]:
        return [found for found in self.disk.of_space(Space.PARTITION) if found.key == KEY]

    def readable(self) -> set[Dot]:
        """The pending dots on disk whose bodies are whole."""
        return {
            (found.batch.session, seq)
            for found in self.stored()
            for low, high in found.alive
            for seq in range(low, high + 1)
            if (found.number, seq - found.batch.first) not in self.damaged
        }


class World:
    """The homes, the packets under way between them and the user, and what it was promised."""

    def __init__(self, homes: int, wanted: int = 0, *, orderly: bool = False) -> None:
        """`orderly`: links keep order and break as a whole; then publishers' order is kept, too."""
        self.orderly = orderly
        self.now = 10_000
        self.step = 0
        self.ids = tuple(b"node-%03d" % number for number in range(homes))
        self.wanted = wanted or homes // 2 + 1
        self.way: list[tuple[NodeId, NodeId, Packet]] = []
        self.sent: dict[bytes, list[tuple[int, int]]] = {S1: [], S2: []}
        self.next_seq = {S1: 1, S2: 1}
        self.confirmed: set[Dot] = set()
        self.confirmed_at: dict[Dot, tuple[NodeId, int]] = {}
        self.acked: set[Dot] = set()
        self.confirmed_with: dict[Dot, int] = {}
        """On how many homes its owner wanted a message when it confirmed it."""
        self.settled: dict[Dot, int] = {}
        self.settled_with: dict[Dot, int] = {}
        self.settles: dict[int, set[Dot]] = {}
        self.held: set[Dot] = set()
        self.delivered: set[Dot] = set()
        self.hurt: set[Dot] = set()
        """Messages of which a copy was damaged; they may come anew, and so later."""
        self.restamped: set[Dot] = set()
        """Messages that a full disk refused once: those after them may have been taken."""
        self.attachment = 0
        self.deliveries = 0
        self.sent_elsewhere: list[tuple[NodeId, Packet]] = []
        self.duplicates_counted = 0
        self.homes: dict[NodeId, Home] = {}
        for node_id in self.ids:
            home = self.homes[node_id] = self.home_of(node_id)
            self.take(home, home.start(self.now))

    def home_of(self, node_id: NodeId) -> Home:
        return Home(node_id, Beliefs(self.ids, self.wanted))

    # -- effects --

    def take(self, home: Home, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Persist():
                    home.writes.append(effect)
                case Send(peer, packet):
                    self.send(home, peer, packet)
                case Notify(Counted("duplicates_after_heal", count)):
                    self.duplicates_counted += count
        while home.unreadable:
            run = home.unreadable.pop(0)
            self.take(home, home.owner.on_unreadable(KEY, run, self.now))

    def send(self, home: Home, peer: NodeId, packet: Packet) -> None:
        match packet:
            case delivering.Delivery():
                self.on_delivery(home, packet)
            case publishing.Confirm(runs=runs) if peer == USER:
                self.on_confirm(home, runs)
            case delivering.Settled(number=number):
                for dot in self.settles[number]:
                    self.settled.setdefault(dot, self.step)
                    self.settled_with.setdefault(dot, home.beliefs.wanted)
            case replicating.Replicate() | replicating.Supply():
                batches = [home.read(batch) for batch in packet.batches]
                at_hand = tuple(batch for batch in batches if batch is not None)
                if len(at_hand) == len(batches):
                    self.way.append((home.node_id, peer, replace(packet, batches=at_hand)))
            case _ if peer in self.homes:
                self.way.append((home.node_id, peer, packet))
            case _ if peer != USER:
                self.sent_elsewhere.append((peer, packet))

    def on_confirm(self, home: Home, runs: Iterable[RunField]) -> None:
        dots = dots_of(Run(run.session, run.first, run.last) for run in runs)
        self.confirmed |= dots
        wanted = home.beliefs.wanted
        for dot in dots:
            self.confirmed_at.setdefault(dot, (home.node_id, self.step))
            self.confirmed_with[dot] = max(self.confirmed_with.get(dot, 0), wanted)
        for session, batches in self.sent.items():
            self.sent[session] = [
                (first, count)
                for first, count in batches
                if not dots_of([Run(session, first, first + count - 1)]) <= self.confirmed
            ]
        for dot in dots - self.acked - self.hurt:
            holders = sum(dot in home.on_disk()[1] for home in self.homes.values())
            assert holders >= wanted, f"{dot} was confirmed with {holders} copies"

    def on_delivery(self, home: Home, packet: delivering.Delivery) -> None:
        batches = [home.read(segment.batch) for segment in packet.segments]
        lost = None in batches  # the consumer sees the hole, and attaches anew
        for segment, batch in zip(packet.segments, batches, strict=True):
            for dot in sorted(dots_of([segment.batch.run])):
                self.check_delivery(home, dot, first=segment.attempt == 1)
                home.given.add(dot)
                if not lost:
                    self.deliveries += 1
                    self.delivered.add(dot)
                    self.held.add(dot)
            if batch is not None:
                assert batch.bodies == batch_of(*batch.run[:2], batch.count).bodies
        if lost:
            self.attach(home.node_id)

    def check_delivery(self, home: Home, dot: Dot, *, first: bool) -> None:
        assert home.owns
        assert home.replication.is_active(KEY)
        copies = home.replication._copies[KEY]
        assert not copies.unproven.overlap(Run(*dot, dot[1])), f"{dot} is not on enough disks"
        if dot in self.settled:
            merged = [
                at
                for node_id, at in home.merged_at.items()
                if copies.homes[node_id].contact is Contact.MERGED
            ]
            # Who was merged with before the ack may have learned of it since, from another owner.
            known = [at for at in merged if at > self.settled[dot]]
            enough = len(self.ids) - self.settled_with[dot] + 1
            assert len(known) + 1 < enough, f"{dot} was acked on enough homes, and comes back"
        if not first or not self.orderly:
            return
        delivery = home.owner.deliveries[KEY]
        for m in range(1, dot[1]):
            earlier = (dot[0], m)
            if earlier in self.hurt | self.restamped | self.delivered | home.given:
                continue
            by, at = self.confirmed_at.get(earlier, (home.node_id, 0))
            if by != home.node_id and any(merged < at for merged in home.merged_at.values()):
                continue  # confirmed by a second owner, of which this one cannot know yet
            if not home.partition.pending.overlap(Run(*earlier, m)):
                continue
            touched = delivery.attempts.overlap(Run(*earlier, m))
            touched_ = [x for _, x in delivery.leases.overlap(Run(*earlier, m)) if x.attempt > 1]
            assert touched or touched_ or self.held_by_expectation(home, earlier), (
                f"{dot} is first delivered before {earlier}"
            )

    def held_by_expectation(self, home: Home, dot: Dot) -> bool:
        """Whether the dot is leased without having been delivered from here."""
        delivery = home.owner.deliveries[KEY]
        leased = bool(delivery.leases.overlap(Run(*dot, dot[1])))
        return leased and not delivery.given_of([Run(*dot, dot[1])])

    # -- what happens --

    def publish(self, session: bytes, count: int, to: NodeId) -> None:
        if len(self.sent[session]) < 3:
            self.sent[session].append((self.next_seq[session], count))
            self.next_seq[session] += count
            self.publish_last(session, to)

    def publish_last(self, session: bytes, to: NodeId) -> None:
        batches = self.sent[session]
        previous = batches[-2][0] + batches[-2][1] - 1 if len(batches) > 1 else 0
        packet = publishing.Publish(*KEY, previous, batch_of(session, *batches[-1]))
        self.way.append((USER, to, packet))

    def publish_again(self, session: bytes, to: NodeId) -> None:
        previous = 0
        for first, count in self.sent[session]:
            packet = publishing.Publish(*KEY, previous, batch_of(session, first, count))
            self.way.append((USER, to, packet))
            previous = first + count - 1

    def attach(self, to: NodeId, limit: int = 20) -> None:
        self.attachment += 1
        holding = tuple(RunField(*run) for run in runs_of(self.held))
        packet = delivering.Attach(*KEY, CONSUMER, self.attachment, limit, VISIBILITY_MS, holding)
        self.way.append((USER, to, packet))

    def ack(self, to: NodeId, pick: int, count: int) -> None:
        dots = sorted(self.held)[pick % (len(self.held) or 1) :][:count]
        self.settle(to, dots)

    def settle(self, to: NodeId, dots: Iterable[Dot]) -> None:
        runs = runs_of(dots)
        if not runs:
            return
        self.held -= dots_of(runs)
        self.acked |= dots_of(runs)
        number = len(self.settles) + 1
        self.settles[number] = dots_of(runs)
        acks = tuple(RunField(*run) for run in runs)
        self.way.append((USER, to, delivering.Settle(*KEY, CONSUMER, 1, number, 20, acks)))

    def settle_again(self, to: NodeId) -> None:
        for number, dots in self.settles.items():
            if not dots <= set(self.settled):
                acks = tuple(RunField(*run) for run in runs_of(dots))
                self.way.append((USER, to, delivering.Settle(*KEY, CONSUMER, 1, number, 20, acks)))

    def arrive(self, at: int) -> None:
        source, target, packet = self.way.pop(at)
        home = self.homes[target]
        self.take(home, home.receive(source, packet, self.now))

    def first_of_a_link(self, pick: int) -> int:
        """A packet that nothing on its way from the same to the same node overtakes."""
        links = [(source, target) for source, target, _ in self.way]
        return links.index(links[pick % len(links)])

    def break_link(self, one: NodeId, other: NodeId) -> None:
        """What was on it is lost; both notice the new one."""
        pair = {one, other}
        self.way = [packet for packet in self.way if set(packet[:2]) != pair]
        if len(pair) == 2:
            self.notice(one, other)

    def write(self, node_id: NodeId) -> None:
        home = self.homes[node_id]
        if home.writes:
            self.take(home, home.write(self.now))

    def refuse(self, node_id: NodeId) -> None:
        home = self.homes[node_id]
        batches = [
            record.batch.run
            for write in home.writes[:1]
            for record in write.records
            if isinstance(record, BatchStored)
        ]
        if batches:
            self.restamped |= dots_of(batches)
            self.take(home, home.refuse())

    def crash(self, node_id: NodeId) -> None:
        home = self.homes[node_id]
        self.way = [packet for packet in self.way if packet[0] != node_id or not self.orderly]
        self.take(home, home.start(self.now))
        for other in self.ids:
            if other != node_id:
                if self.orderly:
                    self.break_link(node_id, other)
                else:
                    self.notice(node_id, other)

    def notice(self, one: NodeId, other: NodeId) -> None:
        """There is a new link between the two."""
        for mine, peer in ((one, other), (other, one)):
            home = self.homes[mine]
            self.take(home, home.replication.on_peer_connected(peer, self.now))

    def look(self, node_id: NodeId, other: NodeId, *, alive: bool) -> None:
        """A home changes its mind about another."""
        home = self.homes[node_id]
        if node_id == other or (other in home.beliefs.alive) == alive:
            return
        if alive:
            home.beliefs.alive.add(other)
        else:
            home.beliefs.alive.discard(other)
            home.merged_at.pop(other, None)
        self.take(home, home.change(self.now))

    def want(self, node_id: NodeId, copies: int) -> None:
        """A home learns that other settings were declared."""
        home = self.homes[node_id]
        home.beliefs.wanted = copies
        self.take(home, home.change(self.now))

    def damage(self, node_id: NodeId, pick: int) -> None:
        """A body on a disk goes bad, if it is not one of the last two copies."""
        home = self.homes[node_id]
        spare = [
            (found.number, seq - found.batch.first, (found.batch.session, seq))
            for found in home.stored()
            for low, high in found.alive
            for seq in range(low, high + 1)
            if (found.number, seq - found.batch.first) not in home.damaged
            and sum((found.batch.session, seq) in x.readable() for x in self.homes.values())
            > self.wanted
        ]
        if spare:
            number, position, dot = spare[pick % len(spare)]
            home.damaged.add((number, position))
            self.hurt.add(dot)

    def pass_time(self, duration: int) -> None:
        self.now += duration
        for home in self.homes.values():
            self.take(home, home.on_timeout(self.now))

    # -- what always holds --

    def check(self) -> None:
        self.step += 1
        holding: dict[Dot, int] = {}
        done: dict[Dot, int] = {}
        for home in self.homes.values():
            self.note_merges(home)
            partition = home.partition
            memory = (dots_of(partition.seen.runs()), dots_of(partition.pending.runs()))
            disk = home.on_disk()
            assert dots_of(partition.unacked.runs()) == memory[1]
            for seen, pending in (memory, disk):
                assert pending <= seen
                assert seen - pending <= self.acked, "seen, not here, and never acked"
            assert not memory[0] & dots_of(partition.appending.runs())
            for dot in disk[1]:
                holding[dot] = holding.get(dot, 0) + 1
            for dot in disk[0] - disk[1]:
                done[dot] = done.get(dot, 0) + 1
        for dot in self.confirmed - self.acked:
            least = 1 if dot in self.hurt else self.confirmed_with[dot]
            assert holding.get(dot, 0) >= least, f"{dot} was confirmed and is lost"
        for dot in self.settled:
            least = self.settled_with[dot]
            assert done.get(dot, 0) >= least, f"the ack of {dot} is not where it was said"

    def note_merges(self, home: Home) -> None:
        copies = home.replication._copies.get(KEY)
        if copies is None:
            home.merged_at.clear()
            return
        for other in copies.homes.values():
            if other.contact is not Contact.MERGED:
                home.merged_at.pop(other.node_id, None)
            else:
                home.merged_at.setdefault(other.node_id, self.step)

    # -- the end --

    def drain(self, rounds: int = 5_000) -> None:
        """Everything under way arrives, in order, and every write is made."""
        for _ in range(rounds):
            for node_id in self.ids:
                while self.homes[node_id].writes:
                    self.write(node_id)
                    self.check()
            if not self.way:
                return
            self.arrive(0)
            self.check()
        raise AssertionError("it never comes to rest")

    def heal(self) -> None:
        """All agree, nothing is lost any more: in the end all homes are the same, and empty."""
        self.way.clear()
        for node_id in self.ids:
            for other in self.ids:
                self.look(node_id, other, alive=True)
            self.want(node_id, self.wanted)
        owner = self.ids[0]
        for turn in range(60):
            self.drain()
            self.pass_time(1_000)
            for session in (S1, S2):
                self.publish_again(session, owner)
            if turn >= 10:
                if turn % 5 == 0:
                    self.attach(owner, 1_000)
                self.drain()
                self.settle_again(owner)
                self.settle(owner, sorted(self.held))
        self.drain()
        states = [
            (sorted(dots_of(h.partition.seen.runs())), sorted(dots_of(h.partition.pending.runs())))
            for h in self.homes.values()
        ]
        assert all(state == states[0] for state in states), "homes differ"
        assert not any(self.sent.values()), "never confirmed"
        assert not states[0][1], "never delivered"
        copies = self.homes[owner].replication._copies.get(KEY)
        if copies is None:
            return  # nothing ever came
        assert not copies.unproven
        for home in copies.homes.values():
            assert home.contact is Contact.MERGED
            left = (home.unanswered, home.to_push, home.acks_to_push)
            assert not any(left), left
            under_way = (home.fetching, home.number, home.unanswered_bytes)
            assert not any(under_way), under_way
