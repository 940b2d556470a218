"""Attachments that one side takes to stand and the other does not, and deliveries that were lost.

Nothing but the renewal tells of them: there is no later packet that would show a hole.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2pmq.config import Timing
from p2pmq.core.consuming import ATTACH_RETRY_MS, PATIENCE_MS_MAX, RENEW_MS, Consuming
from p2pmq.core.delivery import SILENCE_MS, Bearer
from p2pmq.core.effects import Counted, Deliver, Effect, Notify, Persist, Send
from p2pmq.core.events import (
    BatchDurable,
    Confirmation,
    SettleDurable,
    SettleRequested,
    SubscribeRequested,
)
from p2pmq.core.ids import NodeId
from p2pmq.core.packets.delivering import Attach, Attached, Delivery, Detach, Settle, Settled
from p2pmq.core.packets.publishing import Moved, Publish
from p2pmq.core.packets.registry import Packet
from tests.core.kit import KEY, S1, A, B, Dot, View, batch_of, dots_of, rooms_of, runs_of
from tests.core.machine_mesh import MachineMesh, Node

OWNER, HOME = A, B
CONSUMER = b"consumer"


class Rig:
    """An owner and a consumer's node, whose packets arrive at once, are lost, or are held back."""

    def __init__(self) -> None:
        self.now = 10_000
        self.owner = rooms_of(OWNER, 1, View(OWNER)).owner
        self.consuming = Consuming(lambda _key: OWNER, Timing())
        self.lose: tuple[type[Packet], ...] = ()
        self.hold: tuple[type[Packet], ...] = ()
        self.held: list[tuple[NodeId, Packet]] = []
        self.sent: list[Packet] = []
        self.counts: list[str] = []
        self.given: set[Dot] = set()
        self._seq = 1

    # -- what happens --

    def subscribe(self, prefetch: int = 5) -> None:
        request = SubscribeRequested(CONSUMER, KEY, prefetch, 600_000)
        self.take(HOME, self.consuming.on_subscribe(request, self.now))

    def unsubscribe(self) -> None:
        self.take(HOME, self.consuming.on_unsubscribe(CONSUMER, self.now))

    def publish(self, count: int) -> None:
        packet = Publish(*KEY, 0, batch_of(S1, self._seq, count))
        self._seq += count
        self.take(OWNER, self.owner.on_publish(OWNER, packet, self.now))

    def ack_all(self) -> None:
        acks = tuple(runs_of(self.given))
        request = SettleRequested(CONSUMER, KEY, acks=acks)
        self.take(HOME, self.consuming.on_settle(request, self.now))

    def run(self, duration_ms: int, step_ms: int = 100) -> None:
        for _ in range(duration_ms // step_ms):
            self.now += step_ms
            self.take(HOME, self.consuming.on_timeout(self.now))
            self.take(OWNER, self.owner.on_timeout(self.now))

    def run_slowly(self, duration_ms: int, transit_ms: int) -> None:
        """Let time pass, while what is to be held back takes so long to arrive."""
        due: list[tuple[int, tuple[NodeId, Packet]]] = []
        for _ in range(duration_ms // 500):
            due += [(self.now + transit_ms, one) for one in self.held]
            self.held.clear()
            self.run(500)
            while due and due[0][0] <= self.now:
                self._arrive(*due.pop(0)[1])

    def let_through(self) -> None:
        held, self.held = self.held, []
        for target, packet in held:
            self._arrive(target, packet)

    # -- what they do --

    def take(self, node: NodeId, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(_, packet):
                    self._send(HOME if node == OWNER else OWNER, packet)
                case Persist(then=BatchDurable() as then):
                    self.take(OWNER, self.owner.on_batch_durable(then, self.now))
                case Persist(then=SettleDurable() as then):
                    self.take(OWNER, self.owner.on_settle_durable(then))
                case Notify(Counted() as counted):
                    self.counts.append(counted.what)
                case Deliver(_, _, segments):
                    self.given |= dots_of(segment.batch.run for segment in segments)

    def _send(self, target: NodeId, packet: Packet) -> None:
        self.sent.append(packet)
        if isinstance(packet, self.hold):
            self.held.append((target, packet))
        elif not isinstance(packet, self.lose):
            self._arrive(target, packet)

    def _arrive(self, target: NodeId, packet: Packet) -> None:
        owner, consuming, now = self.owner, self.consuming, self.now
        match packet:
            case Attach():
                self.take(target, owner.on_attach(HOME, packet, now))
            case Detach():
                self.take(target, owner.on_detach(HOME, packet, now))
            case Settle():
                self.take(target, owner.on_settle(HOME, packet, now))
            case Attached():
                self.take(target, consuming.on_attached(OWNER, packet, now))
            case Delivery():
                self.take(target, consuming.on_delivery(OWNER, packet, now))
            case Settled():
                self.take(target, consuming.on_settled(packet, now))
            case Moved():
                self.take(target, consuming.on_moved(KEY, now))

    # -- what is so --

    def all_of(self, kind: type[Packet]) -> list[Packet]:
        return [packet for packet in self.sent if type(packet) is kind]

    @property
    def attachments(self) -> int:
        """How often the consumer has attached anew."""
        return max(p.attachment for p in self.sent if isinstance(p, Attach))

    @property
    def known(self) -> list[Bearer]:
        """Whom the owner takes to be attached."""
        return list(self.owner.deliveries[KEY].consumers)


@pytest.fixture
def rig() -> Rig:
    made = Rig()
    made.subscribe()
    return made


# -------------------------------------------------------------------------------- lost deliveries


def test_a_lost_last_delivery_with_no_credit_left_comes_again(rig: Rig) -> None:
    rig.lose = (Delivery,)
    rig.publish(5)
    rig.lose = ()
    rig.run(2 * RENEW_MS + ATTACH_RETRY_MS)
    assert rig.given == {(S1, seq) for seq in range(1, 6)}
    assert rig.counts == ["delivery_lost"]
    assert rig.attachments == 2


def test_after_it_came_again_the_credit_is_whole(rig: Rig) -> None:
    rig.lose = (Delivery,)
    rig.publish(5)
    rig.lose = ()
    rig.run(2 * RENEW_MS + ATTACH_RETRY_MS)
    rig.ack_all()
    rig.publish(5)
    assert len(rig.given) == 10


def test_renewals_and_their_answers_may_be_lost_too(rig: Rig) -> None:
    rig.lose = (Delivery,)
    rig.publish(5)
    for lost in (Attach, Attached):
        rig.lose = (lost,)
        rig.run(3 * RENEW_MS)
        assert not rig.given
    rig.lose = ()
    rig.run(2 * RENEW_MS + ATTACH_RETRY_MS)
    assert len(rig.given) == 5


def test_an_attachment_that_stands_is_asked_after_and_otherwise_left_alone(rig: Rig) -> None:
    rig.publish(2)
    rig.ack_all()
    rig.run(60_000)
    assert rig.attachments == 1
    assert len(rig.all_of(Attach)) <= 2 + 60_000 // RENEW_MS
    assert len(rig.all_of(Attached)) == len(rig.all_of(Attach))
    rig.publish(5)
    assert len(rig.given) == 7


def test_a_consumer_that_is_slow_to_process_is_not_taken_for_one_that_misses(rig: Rig) -> None:
    rig.publish(9)
    rig.run(40_000)
    assert len(rig.given) == 5
    assert (rig.attachments, rig.counts) == (1, [])


# --------------------------------------------------------------------------------- slow bulk lanes


def test_a_delivery_that_is_slower_than_one_renewal_costs_nothing(rig: Rig) -> None:
    rig.hold = (Delivery,)
    rig.run(2 * RENEW_MS - 1_000)
    rig.publish(5)
    rig.run(RENEW_MS)
    rig.let_through()
    rig.hold = ()
    rig.run(4 * RENEW_MS)
    assert len(rig.given) == 5
    assert (rig.attachments, rig.counts) == (1, [])


def test_answers_that_are_duplicated_do_not_make_a_delivery_lost(rig: Rig) -> None:
    rig.hold = (Delivery,)
    rig.publish(5)
    answer = Attached(*KEY, CONSUMER, 1, number=1)
    for _ in range(5):
        assert rig.consuming.on_attached(OWNER, answer, rig.now) == []
    rig.let_through()
    assert len(rig.given) == 5


def test_a_stream_of_slow_deliveries_that_moves_on_is_never_given_up(rig: Rig) -> None:
    rig.subscribe(prefetch=100)
    rig.hold = (Delivery,)
    for _ in range(20):
        rig.publish(1)
    for _ in range(20):
        rig.run(RENEW_MS - 500)
        rig._arrive(*rig.held.pop(0))
    assert "delivery_lost" not in rig.counts
    assert len(rig.given) == 20


def test_patience_grows_until_the_largest_message_passes_the_slowest_link(rig: Rig) -> None:
    """Else what takes longer than two renewals is given up and sent again for ever."""
    rig.hold = (Delivery,)
    takes_ms = 70_000
    rig.publish(1)
    rig.run_slowly(400_000, takes_ms)
    assert rig.given == {(S1, 1)}
    given_up = rig.counts.count("delivery_lost")
    assert 1 <= given_up <= 20
    rig.ack_all()
    rig.publish(1)
    rig.run_slowly(takes_ms + 1_000, takes_ms)
    assert len(rig.given) == 2
    assert rig.counts.count("delivery_lost") == given_up, "it has learnt"


def test_patience_has_an_end() -> None:
    consuming = Consuming(lambda _key: OWNER, Timing())
    now = 0
    consuming.on_subscribe(SubscribeRequested(CONSUMER, KEY, 5, 60_000), now)
    for attachment in range(1, 20):
        answer = Attached(*KEY, CONSUMER, attachment, number=1)
        assert consuming.on_attached(OWNER, answer, now) == []
        now += PATIENCE_MS_MAX
        (counted, attach) = consuming.on_attached(OWNER, answer, now)
        assert counted == Notify(Counted("delivery_lost"))
        assert isinstance(attach, Send)
        late = Delivery(*KEY, CONSUMER, attachment, 1, ())
        assert consuming.on_delivery(OWNER, late, now) == [Notify(Counted("delivery_stale"))]


def test_real_losses_do_not_make_it_patient(rig: Rig) -> None:
    for _ in range(6):
        rig.lose = (Delivery,)
        rig.publish(5)
        rig.lose = ()
        before = len(rig.given)
        rig.run(2 * RENEW_MS + ATTACH_RETRY_MS)
        assert len(rig.given) == before + 5
        rig.ack_all()


# -------------------------------------------------------------------- what only one side remembers


def test_a_renewal_that_the_owner_does_not_know_leads_to_a_new_attachment(rig: Rig) -> None:
    rig.publish(2)
    rig.owner.on_node_gone(HOME, rig.now)
    assert rig.known == []
    rig.run(RENEW_MS + ATTACH_RETRY_MS)
    assert len(rig.all_of(Moved)) == 1
    assert rig.attachments == 2
    assert rig.known == [Bearer(HOME, CONSUMER)]
    rig.publish(2)
    assert len(rig.given) == 4, "what it held it did not get twice"


def test_a_renewal_of_an_older_attachment_changes_nothing(rig: Rig) -> None:
    old = next(packet for packet in rig.sent if isinstance(packet, Attach))
    rig.take(HOME, rig.consuming.on_peer_connected(OWNER, rig.now))
    assert rig.attachments == 2
    rig.take(OWNER, rig.owner.on_attach(HOME, replace(old, renewal=True), rig.now))
    rig.run(RENEW_MS)
    rig.publish(1)
    assert len(rig.given) == 1


@pytest.mark.parametrize("held", [0, 3])
def test_a_consumer_whose_end_was_lost_is_asked_and_dropped(rig: Rig, held: int) -> None:
    if held:
        rig.publish(held)
    rig.lose = (Detach,)
    rig.unsubscribe()
    assert rig.known == [Bearer(HOME, CONSUMER)]
    rig.lose = ()
    rig.run(2 * SILENCE_MS)
    assert rig.known == []
    assert not rig.owner.deliveries[KEY].leases, "what it held is free"


def test_the_question_and_its_answer_may_be_lost_too(rig: Rig) -> None:
    rig.lose = (Detach,)
    rig.unsubscribe()
    for lost in (Attached, Detach):
        rig.lose = (lost,)
        rig.run(2 * SILENCE_MS)
        assert rig.known
    rig.lose = ()
    rig.run(2 * SILENCE_MS)
    assert rig.known == []


def test_a_silent_consumer_that_is_there_keeps_what_it_holds(rig: Rig) -> None:
    rig.publish(3)
    rig.lose = (Attach,)
    rig.run(55_000)
    assert rig.known == [Bearer(HOME, CONSUMER)]
    assert rig.owner.deliveries[KEY].leases.count == 3
    assert not rig.all_of(Detach)


def test_with_nobody_attached_nobody_is_asked(rig: Rig) -> None:
    rig.unsubscribe()
    rig.run(2 * SILENCE_MS)
    assert rig.owner.next_deadline() is None


# ------------------------------------------------------------------------------- in whole machines


def bound(mesh: MachineMesh) -> tuple[Node, Node]:
    """The owner of the only queue, and another node."""
    mesh.run(3_000)
    (key,) = mesh.keys
    machine = mesh.nodes[0].machine
    assert machine is not None
    owner = next(n for n in mesh.nodes.values() if n.node_id == machine.owner_of(key))
    return owner, next(node for node in mesh.nodes.values() if node is not owner)


def consumers_at(mesh: MachineMesh, owner: Node) -> list[Bearer]:
    assert owner.machine is not None
    return list(owner.machine.owner.deliveries[mesh.keys[0]].consumers)


@pytest.mark.parametrize("seed", range(3))
def test_a_restart_soon_after_a_long_pause_leaves_no_consumers_behind(seed: int) -> None:
    """The link outlived the pause, so that nothing but the boot number tells of the restart."""
    mesh = MachineMesh(seed, nodes=3, queues=1)
    owner, other = bound(mesh)
    mesh.subscribe(other, mesh.keys[0], 10)
    mesh.run(1_000)
    other.paused_until = mesh.now + 30_000
    mesh.run(29_000)
    assert owner.machine is not None
    assert not owner.machine.swim.is_alive(other.node_id)
    mesh.run(20_000)
    assert owner.machine.swim.is_alive(other.node_id)
    assert len(consumers_at(mesh, owner)) == 1, "it has attached anew"
    mesh.crash(other.number)
    mesh.start(other.number)
    mesh.run(1_000)
    assert owner.machine.swim.is_alive(other.node_id)
    assert consumers_at(mesh, owner) == []


def test_what_a_lost_goodbye_held_goes_to_others_in_time() -> None:
    mesh = MachineMesh(5, nodes=3, queues=1)
    owner, other = bound(mesh)
    (key,) = mesh.keys
    mesh.calm = True
    consumer = mesh.subscribe(other, key, 10)
    mesh.run(1_000)
    mesh.loss = 1.0
    mesh.unsubscribe(other, consumer)
    mesh.run(100)
    mesh.loss = 0.0
    assert len(consumers_at(mesh, owner)) == 1
    mesh.run(2 * SILENCE_MS)
    assert consumers_at(mesh, owner) == []
    mesh.subscribe(other, key, 10)
    mesh.publish(owner, key, 5, Confirmation.COMMITTED)
    mesh.run(1_000)
    assert len(mesh.acked) == 5
