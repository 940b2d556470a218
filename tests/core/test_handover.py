"""Handover between nodes that crash, over a link that loses and repeats, while views differ."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from p2pmq.core.deadletters import letter_session
from p2pmq.core.effects import Effect, Persist, Send
from p2pmq.core.events import BatchDurable, HandoverDurable, SettleDurable, WriteRefused
from p2pmq.core.handover import BATCHES_MAX
from p2pmq.core.ids import NodeId, PartitionKey, Run
from p2pmq.core.packets.delivering import Attach, Handover, HandoverTaken, Settle
from p2pmq.core.packets.publishing import Confirm, Moved, Publish, RunField
from p2pmq.core.packets.registry import Packet
from p2pmq.core.records import BatchStored, Space
from tests.core.kit import (
    KEY,
    S1,
    S2,
    A,
    B,
    C,
    Disk,
    Dot,
    View,
    batch_of,
    dots_of,
    rooms_of,
    runs_of,
)

USER = b"node-usr"


@dataclass
class Node:
    """An owner with its disk, and whom it takes for the partition's owner."""

    node_id: NodeId
    view: View = field(default_factory=lambda: View(A))
    disk: Disk = field(default_factory=Disk)
    writes: list[Persist] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start(0)

    def start(self, now: int) -> list[Effect]:
        self.writes.clear()
        self.disk.boot += 1
        self.rooms = rooms_of(self.node_id, self.disk.boot, self.view)
        self.owner, _, self.handovers = self.rooms
        self.owner.recover(self.disk.recovered(), self.disk.of_space(Space.PARTITION), now)
        return self.change(now)

    def change(self, now: int) -> list[Effect]:
        return self.rooms.on_placement_changed(now)

    def receive(self, peer: NodeId, packet: Packet, now: int) -> list[Effect]:
        effects: list[Effect] = []
        match packet:
            case Publish():
                effects = self.owner.on_publish(peer, packet, now)
            case Settle():
                effects = self.owner.on_settle(peer, packet, now)
            case Attach():
                effects = self.owner.on_attach(peer, packet, now)
            case Handover():
                effects = self.handovers.on_handover(peer, packet, now)
            case HandoverTaken():
                effects = self.handovers.on_taken(peer, packet, now)
            case Moved():
                effects = self.handovers.on_moved(KEY, now)
        return effects

    def write(self, now: int) -> list[Effect]:
        """The first write becomes durable."""
        write = self.writes.pop(0)
        self.disk.apply(write.records)
        match write.then:
            case BatchDurable():
                return self.owner.on_batch_durable(write.then, now)
            case SettleDurable():
                return self.owner.on_settle_durable(write.then)
            case HandoverDurable():
                return self.handovers.on_durable(write.then, now)
        return []

    def refuse(self, now: int) -> list[Effect]:
        """The first write finds the disk full."""
        write = self.writes.pop(0)
        match write.then:
            case BatchDurable():
                return self.owner.on_batch_refused(write.then)
            case SettleDurable():
                return self.owner.on_settle_refused(KEY, write.records)
            case HandoverDurable():
                return self.handovers.on_write_refused(WriteRefused(write.then, write.records))
        raise AssertionError(write)

    def pending(self) -> set[Dot]:
        partition = self.owner.partitions.get(KEY)
        return set() if partition is None else dots_of(partition.pending.runs())

    def on_disk(self) -> set[Dot]:
        found = self.disk.of_space(Space.PARTITION)
        return dots_of(Run(x.batch.session, low, high) for x in found for low, high in x.alive)


class Mesh:
    """Two nodes and a user; `way` holds what is under way, in order for each direction."""

    def __init__(self) -> None:
        self.now = 10_000
        self.nodes = {node_id: Node(node_id) for node_id in (A, B)}
        self.way: list[tuple[NodeId, NodeId, Packet]] = []
        self.committed: set[Dot] = set()
        self.acked: set[Dot] = set()

    def take(self, node_id: NodeId, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Persist):
                self.nodes[node_id].writes.append(effect)
            elif isinstance(effect, Send):
                self.send(node_id, effect.peer, effect.packet)

    def send(self, node_id: NodeId, peer: NodeId, packet: Packet) -> None:
        match packet:
            case Confirm():
                dots = dots_of(Run(*self.run(run)) for run in packet.runs)
                self.committed |= dots
            case Handover():
                disk = self.nodes[node_id].disk
                batches = tuple(disk.read(batch) for batch in packet.batches)
                self.way.append((node_id, peer, replace(packet, batches=batches)))
            case _ if peer in self.nodes:
                self.way.append((node_id, peer, packet))

    @staticmethod
    def run(run: RunField) -> tuple[bytes, int, int]:
        return run.session, run.first, run.last

    def look(self, node_id: NodeId, owner: NodeId | None) -> None:
        node = self.nodes[node_id]
        if node.view.owner != owner:
            node.view.owner = owner
            self.take(node_id, node.change(self.now))

    def arrive(self, at: int = 0) -> None:
        source, target, packet = self.way.pop(at)
        self.take(target, self.nodes[target].receive(source, packet, self.now))

    def write_all(self) -> None:
        for node_id, node in self.nodes.items():
            while node.writes:
                self.take(node_id, node.write(self.now))

    def pass_time(self, duration: int) -> None:
        self.now += duration
        for node_id, node in self.nodes.items():
            self.take(node_id, node.owner.on_timeout(self.now))
            self.take(node_id, node.handovers.on_timeout(self.now))

    def settle(self, steps: int = 300) -> None:
        """Let everything under way arrive, and every disk write."""
        for _ in range(steps):
            while self.way or any(node.writes for node in self.nodes.values()):
                self.write_all()
                if self.way:
                    self.arrive()
            if not any(node.handovers.busy for node in self.nodes.values()):
                break
            self.pass_time(1_100)

    def publish(self, node_id: NodeId, first: int, count: int, session: bytes = S1) -> None:
        packet = Publish(*KEY, 0, batch_of(session, first, count))
        self.take(node_id, self.nodes[node_id].receive(C, packet, self.now))

    def ack(self, node_id: NodeId, run: Run) -> None:
        packet = Settle(*KEY, b"consumer", 1, 1, 0, (RunField(*run),))
        self.take(node_id, self.nodes[node_id].receive(USER, packet, self.now))


# ------------------------------------------------------------------------------ one rule a test


def test_a_partition_moves_with_everything_in_it_and_leaves_nothing_behind() -> None:
    mesh = Mesh()
    for at in range(3 * BATCHES_MAX):
        mesh.publish(A, 1 + 2 * at, 2)
    mesh.write_all()
    everything = mesh.committed.copy()
    mesh.look(B, B)
    mesh.look(A, B)
    mesh.settle()
    assert mesh.nodes[B].pending() == everything == mesh.nodes[B].on_disk()
    assert KEY not in mesh.nodes[A].owner.partitions
    assert not mesh.nodes[A].disk.batches
    assert not mesh.nodes[A].disk.seen
    assert not mesh.nodes[A].handovers.busy


def test_what_was_given_in_one_piece_is_not_taken_for_acked_by_the_next() -> None:
    """It was once: the giver deleted each piece, and then knew it as seen and not pending."""
    mesh = Mesh()
    for at in range(2 * BATCHES_MAX):
        mesh.publish(A, 1 + at, 1)
    mesh.write_all()
    mesh.look(B, B)
    mesh.look(A, B)
    acked: list[RunField] = []
    while mesh.way or any(node.writes for node in mesh.nodes.values()):
        mesh.write_all()
        if mesh.way:
            packet = mesh.way[0][2]
            acked += packet.acked if isinstance(packet, Handover) else ()
            mesh.arrive()
    assert not acked
    assert len(mesh.nodes[B].pending()) == 2 * BATCHES_MAX


def test_the_last_piece_brings_the_horizon_and_buries_nothing_of_the_same_partition() -> None:
    mesh = Mesh()
    for at in range(2 * BATCHES_MAX):
        mesh.publish(A, 1 + at, 1)
    mesh.write_all()
    given = mesh.nodes[A].owner.partition(KEY)
    horizon = max(stored.stamp for stored in given.batches.values()) + 1
    mesh.take(A, [Persist(tuple(given.retain(horizon, ())))])
    mesh.look(B, B)
    mesh.look(A, B)
    pieces = []
    while mesh.way or any(node.writes for node in mesh.nodes.values()):
        mesh.write_all()
        if mesh.way:
            packet = mesh.way[0][2]
            pieces += [packet.horizon] if isinstance(packet, Handover) else []
            mesh.arrive()
    assert pieces == [0, horizon]
    assert len(mesh.nodes[B].pending()) == 2 * BATCHES_MAX
    assert mesh.nodes[B].owner.partition(KEY).horizon == horizon


def test_a_partition_of_which_all_is_forgotten_hands_its_horizon_over() -> None:
    mesh = Mesh()
    mesh.take(A, [Persist(tuple(mesh.nodes[A].owner.partition(KEY).retain(100, ())))])
    mesh.look(B, B)
    mesh.look(A, B)
    mesh.settle()
    assert mesh.nodes[B].owner.partition(KEY).horizon == 100
    assert KEY not in mesh.nodes[A].owner.partitions


def test_what_the_giver_missed_the_end_of_is_taken_for_dead_and_then_let_go_of() -> None:
    mesh = Mesh()
    mesh.publish(A, 1, 4)
    mesh.write_all()
    owner = mesh.nodes[B].owner
    stamp = mesh.nodes[A].owner.partition(KEY).batches[1].stamp
    mesh.take(B, [Persist(tuple(owner.partition(KEY).retain(stamp + 1, ())))])
    mesh.look(B, B)
    mesh.look(A, B)
    mesh.write_all()
    mesh.arrive()
    letters = mesh.nodes[B].rooms.replication.dead_letters
    assert letters.under_way(KEY).count == 4
    assert not mesh.nodes[B].pending()
    session = letter_session(KEY, S1)
    confirm = Confirm("orders.dlq", 0, (RunField(session, 1, 4),), 1)
    mesh.take(B, letters.on_confirm(confirm, PartitionKey("orders.dlq", 0), mesh.now))
    mesh.acked |= {(S1, seq) for seq in (1, 2, 3, 4)}
    mesh.settle()
    assert KEY not in mesh.nodes[A].owner.partitions
    assert not mesh.nodes[B].pending()
    assert owner.partition(KEY).seen.covers(Run(S1, 1, 4))


def test_an_ack_at_the_new_owner_stands_though_the_message_comes_later() -> None:
    mesh = Mesh()
    mesh.publish(A, 1, 3)
    mesh.write_all()
    mesh.look(B, B)
    mesh.ack(B, Run(S1, 2, 2))
    mesh.look(A, B)
    mesh.settle()
    assert mesh.nodes[B].pending() == {(S1, 1), (S1, 3)}


def test_acked_dots_come_along_so_that_a_late_repeat_is_known() -> None:
    mesh = Mesh()
    mesh.publish(A, 1, 2)
    mesh.write_all()
    mesh.ack(A, Run(S1, 1, 2))
    mesh.write_all()
    mesh.look(B, B)
    mesh.look(A, B)
    mesh.settle()
    mesh.publish(B, 1, 2)
    mesh.write_all()
    assert not mesh.nodes[B].pending()


def test_messages_in_flight_are_not_delivered_anew_by_the_new_owner() -> None:
    mesh = Mesh()
    mesh.publish(A, 1, 4)
    mesh.write_all()
    attach = Attach(*KEY, b"consumer", 1, 2, 30_000)
    mesh.take(A, mesh.nodes[A].receive(USER, attach, mesh.now))
    mesh.look(B, B)
    mesh.look(A, B)
    mesh.settle()
    delivery = mesh.nodes[B].owner.deliveries[KEY]
    assert dots_of(delivery.leases.runs()) == {(S1, 1), (S1, 2)}
    assert {lease.bearer.consumer for lease in delivery.leases.values()} == {b"consumer"}


def test_messages_in_flight_are_given_to_no_other_consumer_that_waits_at_the_new_owner() -> None:
    """One that had attached before the handover got them all, as their first delivery."""
    mesh = Mesh()
    mesh.publish(A, 1, 4)
    mesh.write_all()
    attach = Attach(*KEY, b"consumer", 1, 2, 30_000)
    mesh.take(A, mesh.nodes[A].receive(USER, attach, mesh.now))
    mesh.look(B, B)
    other = replace(attach, consumer=b"another!", limit=9)
    mesh.take(B, mesh.nodes[B].receive(USER, other, mesh.now))
    mesh.look(A, B)
    mesh.settle()
    leases = mesh.nodes[B].owner.deliveries[KEY].leases
    held = {lease.bearer.consumer: dots_of([run]) for run, lease in leases.items()}
    assert held == {b"consumer": {(S1, 1), (S1, 2)}, b"another!": {(S1, 3), (S1, 4)}}


def test_an_answer_to_an_earlier_run_of_the_giver_is_none_to_this_one() -> None:
    mesh = Mesh()
    mesh.publish(A, 1, 1)
    mesh.write_all()
    mesh.look(B, B)
    mesh.look(A, B)
    (first,) = [packet for _, _, packet in mesh.way]
    assert isinstance(first, Handover)
    mesh.way.clear()
    mesh.take(A, mesh.nodes[A].start(mesh.now))
    late = HandoverTaken(*KEY, first.transfer)
    assert not mesh.nodes[A].receive(B, late, mesh.now)
    assert mesh.nodes[A].pending() == {(S1, 1)}


def test_a_full_disk_at_the_owner_keeps_the_messages_at_the_giver() -> None:
    mesh = Mesh()
    mesh.publish(A, 1, 3)
    mesh.write_all()
    mesh.ack(A, Run(S1, 3, 3))
    mesh.write_all()
    mesh.look(B, B)
    mesh.look(A, B)
    mesh.arrive()
    mesh.take(B, mesh.nodes[B].refuse(mesh.now))
    assert mesh.nodes[A].pending() == {(S1, 1), (S1, 2)}
    mesh.pass_time(1_100)
    mesh.settle()
    assert mesh.nodes[B].pending() == {(S1, 1), (S1, 2)}
    mesh.take(B, mesh.nodes[B].start(mesh.now))
    mesh.publish(B, 3, 1)
    mesh.write_all()
    assert (S1, 3) not in mesh.nodes[B].pending(), "the ack that was refused is on disk as well"


def test_a_repeat_that_comes_while_the_first_is_written_answers_for_nothing() -> None:
    mesh = Mesh()
    mesh.publish(A, 1, 3)
    mesh.write_all()
    mesh.look(B, B)
    mesh.look(A, B)
    mesh.way *= 2
    mesh.arrive()
    mesh.arrive()
    mesh.take(B, mesh.nodes[B].refuse(mesh.now))
    mesh.settle()
    mesh.take(B, mesh.nodes[B].start(mesh.now))
    assert len(mesh.nodes[A].pending() | mesh.nodes[B].pending()) == 3


def test_an_empty_partition_that_is_not_ours_is_dropped_without_a_word() -> None:
    mesh = Mesh()
    attach = Attach(*KEY, b"consumer", 1, 2, 30_000)
    mesh.take(A, mesh.nodes[A].receive(USER, attach, mesh.now))
    mesh.way.clear()
    mesh.look(A, B)
    assert not [packet for _, _, packet in mesh.way if isinstance(packet, Handover)]
    assert not mesh.nodes[A].owner.partitions


def test_numbers_of_batches_are_not_used_again_when_a_partition_comes_back() -> None:
    """A packet that waits for its turn on a link names the bodies by batch number."""
    mesh = Mesh()
    mesh.publish(A, 1, 2)
    mesh.write_all()
    for owner in (B, A):
        for node_id in (A, B):
            mesh.look(node_id, owner)
        mesh.settle()
    (stored,) = mesh.nodes[A].owner.partitions[KEY].batches.values()
    assert stored.number == 2


def test_to_a_node_that_does_not_take_itself_for_the_owner_it_is_tried_again() -> None:
    mesh = Mesh()
    mesh.publish(A, 1, 2)
    mesh.write_all()
    mesh.look(A, B)
    mesh.arrive()
    assert [type(packet) for _, _, packet in mesh.way] == [Moved]
    mesh.look(B, B)
    mesh.settle()
    assert len(mesh.nodes[B].pending()) == 2


# --------------------------------------------------------------------------------- the machine


class HandoverMachine(RuleBasedStateMachine):
    """The partition moves to and fro between two nodes that publish to it and ack."""

    def __init__(self) -> None:
        super().__init__()
        self.mesh = Mesh()
        self.next_seq = {A: 1, B: 1}

    @initialize()
    def begin(self) -> None:
        self.publish(A, 3)

    @rule(node_id=st.sampled_from([A, B]), count=st.integers(1, 4))
    def publish(self, node_id: NodeId, count: int) -> None:
        first = self.next_seq[node_id]
        self.next_seq[node_id] += count
        self.mesh.publish(node_id, first, count, S1 if node_id == A else S2)

    @rule(node_id=st.sampled_from([A, B]), pick=st.integers(0, 99), count=st.integers(1, 3))
    def ack(self, node_id: NodeId, pick: int, count: int) -> None:
        """Ack what is or was pending somewhere, at whoever takes itself for the owner."""
        node = self.mesh.nodes[node_id]
        committed = sorted(self.mesh.committed)
        if node.view.owner != node_id or not committed:
            return
        dots = committed[pick % len(committed) :][:count]
        for run in runs_of(dots):
            before = len(node.writes)
            self.mesh.ack(node_id, run)
            if len(node.writes) > before:
                self.acking.append((node.writes[-1], dots_of([run])))

    @property
    def acking(self) -> list[tuple[Persist, set[Dot]]]:
        found: list[tuple[Persist, set[Dot]]] = self.__dict__.setdefault("acks", [])
        return found

    @rule(node_id=st.sampled_from([A, B]), owner=st.sampled_from([A, B, B, None]))
    def look(self, node_id: NodeId, owner: NodeId | None) -> None:
        self.mesh.look(node_id, owner)

    @precondition(lambda self: self.mesh.way)
    @rule()
    def packet_comes(self) -> None:
        self.mesh.arrive()

    @precondition(lambda self: self.mesh.way)
    @rule(pick=st.integers(0, 9))
    def packet_is_lost(self, pick: int) -> None:
        self.mesh.way.pop(pick % len(self.mesh.way))

    @precondition(lambda self: self.mesh.way)
    @rule(pick=st.integers(0, 9))
    def packet_is_repeated(self, pick: int) -> None:
        self.mesh.way.append(self.mesh.way[pick % len(self.mesh.way)])

    @rule(node_id=st.sampled_from([A, B]))
    def disk_writes(self, node_id: NodeId) -> None:
        node = self.mesh.nodes[node_id]
        if node.writes:
            write = node.writes[0]
            self.mesh.take(node_id, node.write(self.mesh.now))
            self.mesh.acked |= {d for w, dots in self.acking if w is write for d in dots}

    @rule(node_id=st.sampled_from([A, B]))
    def disk_is_full(self, node_id: NodeId) -> None:
        node = self.mesh.nodes[node_id]
        if node.writes and any(isinstance(r, BatchStored) for r in node.writes[0].records):
            self.mesh.take(node_id, node.refuse(self.mesh.now))

    @rule(node_id=st.sampled_from([A, B]))
    def crash(self, node_id: NodeId) -> None:
        node = self.mesh.nodes[node_id]
        self.mesh.take(node_id, node.start(self.mesh.now))

    @rule(duration=st.sampled_from([100, 300, 1_100]))
    def time_passes(self, duration: int) -> None:
        self.mesh.pass_time(duration)

    def teardown(self) -> None:
        """All agree on the owner: it has everything that is not acked, the other has nothing."""
        mesh = self.mesh
        for node_id in (A, B):
            mesh.look(node_id, B)
        for _ in range(20):
            for node_id in (A, B):
                while mesh.nodes[node_id].writes:
                    self.disk_writes(node_id)
            mesh.settle()
            mesh.pass_time(1_100)
        pending = mesh.nodes[B].pending()
        assert mesh.committed - pending <= mesh.acked | self.acks_begun(), "lost"
        assert not mesh.acked & pending, "an ack was undone"
        assert mesh.nodes[B].on_disk() == pending
        assert not mesh.nodes[A].owner.partitions
        assert not mesh.nodes[A].disk.batches
        assert not mesh.nodes[A].disk.seen

    def acks_begun(self) -> set[Dot]:
        return {dot for _, dots in self.acking for dot in dots}


def test_nothing_is_lost_and_no_ack_undone_however_a_partition_moves() -> None:
    run_state_machine_as_test(
        HandoverMachine, settings=settings(max_examples=80, stateful_step_count=50)
    )
