"""Consumers and their owner over a link that loses packets and breaks, against what users see."""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from p2pmq.config import Timing
from p2pmq.core.consuming import ATTACH_RETRY_MS, RENEW_MS, Consuming
from p2pmq.core.effects import Deliver, Effect, Notify, Persist, Send
from p2pmq.core.events import (
    BatchDurable,
    DrainRequested,
    GivenBack,
    SettleDurable,
    SettleRequested,
    SubscribeRequested,
)
from p2pmq.core.ids import NodeId, Run
from p2pmq.core.owner import Owner
from p2pmq.core.packets.delivering import (
    Attach,
    Attached,
    Delivery,
    Detach,
    Segment,
    Settle,
    Settled,
)
from p2pmq.core.packets.publishing import Publish, RunField
from p2pmq.core.packets.registry import Packet
from p2pmq.core.records import Space
from tests.core.kit import (
    KEY,
    S1,
    A,
    B,
    Disk,
    Dot,
    View,
    batch_of,
    dots_of,
    packets,
    rooms_of,
    runs_of,
)

TIMING = Timing()
ME = b"consumer"


def subscribe(
    consuming: Consuming, now: int, prefetch: int = 5, consumer: bytes = ME
) -> list[Effect]:
    return consuming.on_subscribe(SubscribeRequested(consumer, KEY, prefetch, 30_000), now)


def delivery(attachment: int, number: int, first: int, count: int, attempt: int = 1) -> Delivery:
    segment = Segment(batch_of(S1, first, count), attempt)
    return Delivery(*KEY, ME, attachment, number, (segment,))


def given(effects: list[Effect]) -> set[Dot]:
    return {
        dot
        for effect in effects
        if isinstance(effect, Deliver)
        for segment in effect.segments
        for dot in dots_of([segment.batch.run])
    }


def ack(consuming: Consuming, now: int, *runs: Run) -> list[Effect]:
    return consuming.on_settle(SettleRequested(ME, KEY, acks=runs), now)


# ------------------------------------------------------------------------------ one rule a test


def test_a_drained_consumer_names_what_is_in_hand_and_asks_for_nothing_more() -> None:
    consuming = Consuming(lambda _: A, TIMING)
    subscribe(consuming, 0)
    assert given(consuming.on_delivery(A, delivery(1, 1, first=1, count=4), 0))
    (attach,) = packets(consuming.on_drain(DrainRequested(ME, (Run(S1, 3, 4),)), 10))
    assert isinstance(attach, Attach)
    assert (attach.attachment, attach.limit) == (2, 0)
    assert attach.holding == (RunField(S1, 1, 2),)
    (settle,) = packets(ack(consuming, 20, Run(S1, 1, 1)))
    assert isinstance(settle, Settle)
    assert settle.limit == 0
    assert given(consuming.on_delivery(A, delivery(1, 2, first=5, count=1), 30)) == set()
    assert consuming.on_drain(DrainRequested(b"stranger", ()), 40) == []


def test_a_consumer_attaches_and_is_given_what_comes() -> None:
    consuming = Consuming(lambda _key: A, TIMING)
    (attach,) = packets(subscribe(consuming, 0))
    assert isinstance(attach, Attach)
    assert (attach.attachment, attach.limit, attach.holding) == (1, 5, ())
    assert given(consuming.on_delivery(A, delivery(1, 1, 1, 3), 1)) == dots_of([Run(S1, 1, 3)])


def test_an_unanswered_attach_is_said_again_under_the_same_number() -> None:
    """Else an owner whose answers take longer than our patience could never reach us."""
    consuming = Consuming(lambda _key: A, TIMING)
    subscribe(consuming, 0)
    (again,) = packets(consuming.on_timeout(ATTACH_RETRY_MS))
    assert isinstance(again, Attach)
    assert again.attachment == 1
    assert given(consuming.on_delivery(A, delivery(1, 1, 1, 3), 3_000))


def test_a_hole_in_the_numbers_makes_it_attach_anew_naming_what_it_holds() -> None:
    consuming = Consuming(lambda _key: A, TIMING)
    subscribe(consuming, 0)
    consuming.on_delivery(A, delivery(1, 1, 1, 2), 1)
    effects = consuming.on_delivery(A, delivery(1, 3, 4, 1), 2)
    (attach,) = packets(effects)
    assert isinstance(attach, Attach)
    assert (attach.attachment, attach.limit) == (2, 3)
    assert attach.holding == (RunField(S1, 1, 2),)
    assert not given(effects)


def test_what_is_held_or_acked_and_unconfirmed_is_not_given_again() -> None:
    consuming = Consuming(lambda _key: A, TIMING)
    subscribe(consuming, 0)
    consuming.on_delivery(A, delivery(1, 1, 1, 3), 1)
    ack(consuming, 2, Run(S1, 1, 1))
    assert given(consuming.on_delivery(A, delivery(1, 2, 1, 4, attempt=1), 3)) == {(S1, 4)}


def test_a_redelivery_of_nothing_new_gives_the_user_nothing() -> None:
    consuming = Consuming(lambda _key: A, TIMING)
    subscribe(consuming, 0)
    consuming.on_delivery(A, delivery(1, 1, 1, 3), 1)
    assert consuming.on_delivery(A, delivery(1, 2, 1, 3, attempt=1), 3) == []


def test_a_later_delivery_of_what_is_held_is_given_but_not_of_what_is_acked() -> None:
    """Its time was up, and nobody else was there to get it: whoever had it may have lost it."""
    consuming = Consuming(lambda _key: A, TIMING)
    subscribe(consuming, 0)
    consuming.on_delivery(A, delivery(1, 1, 1, 3), 1)
    ack(consuming, 2, Run(S1, 2, 2))
    again = consuming.on_delivery(A, delivery(1, 2, 1, 3, attempt=2), 3)
    assert given(again) == {(S1, 1), (S1, 3)}


def test_a_later_delivery_of_what_is_held_costs_no_credit() -> None:
    consuming = Consuming(lambda _key: A, TIMING)
    subscribe(consuming, 0, prefetch=2)
    for attempt in range(1, 9):
        consuming.on_delivery(A, delivery(1, attempt, 1, 1, attempt), attempt)
    (settle,) = packets(ack(consuming, 99, Run(S1, 1, 1)))
    assert isinstance(settle, Settle)
    pushed = 8
    assert settle.limit - pushed == 2


def test_a_last_delivery_that_was_lost_shows_when_the_attachment_is_renewed() -> None:
    consuming = Consuming(lambda _key: A, TIMING)
    subscribe(consuming, 0)
    consuming.on_attached(A, Attached(*KEY, ME, 1, 0), 0)
    (renewal,) = packets(consuming.on_timeout(RENEW_MS))
    assert isinstance(renewal, Attach)
    assert (renewal.attachment, renewal.renewal) == (1, True)
    once = consuming.on_attached(A, Attached(*KEY, ME, 1, 1), RENEW_MS)
    assert not packets(once), "it may be on its way"
    twice = consuming.on_attached(A, Attached(*KEY, ME, 1, 1), 2 * RENEW_MS)
    (attach,) = packets(twice)
    assert isinstance(attach, Attach)
    assert (attach.attachment, attach.renewal) == (2, False)


def test_a_nack_names_the_latest_delivery_of_its_message() -> None:
    consuming = Consuming(lambda _key: A, TIMING)
    subscribe(consuming, 0)
    consuming.on_delivery(A, delivery(1, 1, 1, 1), 1)
    consuming.on_delivery(A, delivery(1, 2, 1, 1, attempt=2), 2)
    request = SettleRequested(ME, KEY, nacks=(GivenBack(Run(S1, 1, 1), 50),))
    (settle,) = packets(consuming.on_settle(request, 3))
    assert isinstance(settle, Settle)
    assert [(nack.attempt, nack.delay_ms) for nack in settle.nacks] == [(2, 50)]


def test_a_lost_settle_is_repeated_though_later_ones_are_confirmed() -> None:
    consuming = Consuming(lambda _key: A, TIMING)
    subscribe(consuming, 0)
    consuming.on_attached(A, Attached(*KEY, ME, 1), 0)
    consuming.on_delivery(A, delivery(1, 1, 1, 200), 0)
    ack(consuming, 0, Run(S1, 1, 1))
    repeated: list[int] = []
    for now in range(100, 4_000, 100):
        (settle,) = packets(ack(consuming, now, Run(S1, now, now)))
        assert isinstance(settle, Settle)
        consuming.on_settled(Settled(*KEY, ME, settle.number), now)
        again = packets(consuming.on_timeout(now))
        repeated += [packet.number for packet in again if isinstance(packet, Settle)]
    assert 1 in repeated


def test_a_new_owner_is_attached_to_and_the_former_is_told_nothing() -> None:
    """It hands over what we hold; were it told that we are gone, it would free that first."""
    owner: list[NodeId | None] = [A]
    consuming = Consuming(lambda _key: owner[0], TIMING)
    subscribe(consuming, 0)
    consuming.on_delivery(A, delivery(1, 1, 1, 2), 1)
    owner[0] = B
    effects = consuming.on_placement_changed(2)
    assert [type(packet) for packet in packets(effects)] == [Attach]
    assert [effect.peer for effect in effects if isinstance(effect, Send)] == [B]
    stale = consuming.on_delivery(A, delivery(1, 2, 3, 1), 3)
    assert not given(stale)
    assert [type(packet) for packet in packets(stale)] == [Detach]


def test_while_the_owner_is_away_acks_are_kept_and_said_when_it_is_back() -> None:
    owner: list[NodeId | None] = [A]
    consuming = Consuming(lambda _key: owner[0], TIMING)
    subscribe(consuming, 0)
    consuming.on_delivery(A, delivery(1, 1, 1, 2), 1)
    owner[0] = None
    consuming.on_placement_changed(2)
    assert not packets(ack(consuming, 3, Run(S1, 1, 2)))
    assert consuming.unconfirmed == 1
    owner[0] = A
    kinds = [type(packet) for packet in packets(consuming.on_placement_changed(4))]
    assert kinds == [Settle, Attach]


def test_what_the_new_owner_refused_as_none_yet_is_said_again_once_it_has_us() -> None:
    """Not a second later: it would deliver what it does not know to be acked."""
    consuming = Consuming(lambda _key: A, TIMING)
    subscribe(consuming, 0)
    consuming.on_delivery(A, delivery(1, 1, 1, 2), 1)
    ack(consuming, 2, Run(S1, 1, 2))
    consuming.on_moved(KEY, 3)
    (again,) = packets(consuming.on_attached(A, Attached(*KEY, ME, 1), 4))
    assert isinstance(again, Settle)
    assert not packets(consuming.on_attached(A, Attached(*KEY, ME, 1), 5))


def test_a_consumer_that_ends_says_its_acks_until_they_are_confirmed() -> None:
    consuming = Consuming(lambda _key: A, TIMING)
    subscribe(consuming, 0)
    consuming.on_delivery(A, delivery(1, 1, 1, 2), 1)
    ack(consuming, 2, Run(S1, 1, 1))
    assert [type(p) for p in packets(consuming.on_unsubscribe(ME, 3))] == [Detach]
    (again,) = packets(consuming.on_timeout(2_000))
    assert isinstance(again, Settle)
    consuming.on_settled(Settled(*KEY, ME, again.number), 2_001)
    assert consuming.unconfirmed == 0
    assert not packets(consuming.on_timeout(10_000))


def test_a_delivery_after_the_end_is_answered_with_a_detach() -> None:
    consuming = Consuming(lambda _key: A, TIMING)
    subscribe(consuming, 0)
    consuming.on_unsubscribe(ME, 1)
    effects = consuming.on_delivery(A, delivery(1, 1, 1, 1), 2)
    assert not given(effects)
    assert [type(packet) for packet in packets(effects)] == [Detach]


# --------------------------------------------------------------------------------- the machine

OWNER = b"node-own"


@dataclass
class User:
    """What one consumer's user has in hands, and has said."""

    prefetch: int
    held: dict[Dot, int] = field(default_factory=dict)
    acked: set[Dot] = field(default_factory=set)


class ConsumingMachine(RuleBasedStateMachine):
    """An owner on its disk, consumers on two nodes; each direction of a link is a queue."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 10_000
        self.disk = Disk()
        self.writes: list[Persist] = []
        self.owner_up = True
        self.queues: dict[tuple[NodeId, NodeId], list[Packet]] = {}
        self.nodes = {node: Consuming(self.owner_of, TIMING) for node in (A, B)}
        self.users: dict[tuple[NodeId, bytes], User] = {}
        self.next_seq = 1
        self.subscribed = 0
        self.acked: set[Dot] = set()
        self.confirmed: set[Dot] = set()
        self.owner = self.new_owner()

    def owner_of(self, _key: object) -> NodeId | None:
        return OWNER if self.owner_up else None

    def new_owner(self) -> Owner:
        self.disk.boot += 1
        rooms = rooms_of(OWNER, self.disk.boot, View(OWNER))
        self.owner = owner = rooms.owner
        owner.recover(self.disk.recovered(), self.disk.of_space(Space.PARTITION), self.now)
        self.take(OWNER, rooms.on_placement_changed(self.now))
        return owner

    # -- what happens --

    @rule(count=st.integers(1, 6))
    def publish(self, count: int) -> None:
        if self.owner_up:
            publish = Publish(*KEY, 0, batch_of(S1, self.next_seq, count))
            self.next_seq += count
            self.take(OWNER, self.owner.on_publish(A, publish, self.now))

    @precondition(lambda self: len(self.users) < 3)
    @rule(node=st.sampled_from([A, B]), prefetch=st.integers(1, 6))
    def subscribe(self, node: NodeId, prefetch: int) -> None:
        self.subscribed += 1
        consumer = b"consume%d" % self.subscribed
        self.users[node, consumer] = User(prefetch)
        request = SubscribeRequested(consumer, KEY, prefetch, 2_000)
        self.take(node, self.nodes[node].on_subscribe(request, self.now))

    @rule(pick=st.integers(0, 9), count=st.integers(1, 4), what=st.sampled_from("aaan"))
    def settle(self, pick: int, count: int, what: str) -> None:
        holders = [who for who, user in self.users.items() if user.held]
        if not holders:
            return
        node, consumer = who = holders[pick % len(holders)]
        user = self.users[who]
        dots = list(user.held)[:count]
        for dot in dots:
            del user.held[dot]
        runs = tuple(runs_of(dots))
        if what == "a":
            user.acked |= set(dots)
            self.acked |= set(dots)
            request = SettleRequested(consumer, KEY, acks=runs)
        else:
            request = SettleRequested(
                consumer, KEY, nacks=tuple(GivenBack(run, 300) for run in runs)
            )
        self.take(node, self.nodes[node].on_settle(request, self.now))

    @rule(pick=st.integers(0, 9))
    def unsubscribe(self, pick: int) -> None:
        if self.users:
            node, consumer = who = list(self.users)[pick % len(self.users)]
            del self.users[who]
            self.take(node, self.nodes[node].on_unsubscribe(consumer, self.now))

    @precondition(lambda self: any(self.queues.values()))
    @rule(pick=st.integers(0, 9), lost=st.integers(0, 9))
    def packet_comes(self, pick: int, lost: int) -> None:
        ways = [way for way, queue in self.queues.items() if queue]
        source, target = ways[pick % len(ways)]
        packet = self.queues[source, target].pop(0)
        if not lost or (target == OWNER and not self.owner_up):
            return
        self.receive(source, target, packet)

    @rule(node=st.sampled_from([A, B]))
    def reconnect(self, node: NodeId) -> None:
        self.queues[node, OWNER] = []
        self.queues[OWNER, node] = []
        if self.owner_up:
            self.take(node, self.nodes[node].on_peer_connected(OWNER, self.now))

    @rule(duration=st.sampled_from([10, 400, 1_200, 2_100]))
    def time_passes(self, duration: int) -> None:
        self.now += duration
        if self.owner_up:
            self.take(OWNER, self.owner.on_timeout(self.now))
        for node, consuming in self.nodes.items():
            self.take(node, consuming.on_timeout(self.now))

    @precondition(lambda self: self.writes)
    @rule()
    def disk_writes(self) -> None:
        write = self.writes.pop(0)
        self.disk.apply(write.records)
        match write.then:
            case BatchDurable():
                self.take(OWNER, self.owner.on_batch_durable(write.then, self.now))
            case SettleDurable():
                self.take(OWNER, self.owner.on_settle_durable(write.then))

    @rule()
    def owner_crashes(self) -> None:
        self.writes.clear()
        self.owner_up = False
        for way in list(self.queues):
            self.queues[way] = []
        for node, consuming in self.nodes.items():
            self.take(node, consuming.on_placement_changed(self.now))

    @precondition(lambda self: not self.owner_up)
    @rule()
    def owner_returns(self) -> None:
        self.owner_up = True
        self.new_owner()
        for node, consuming in self.nodes.items():
            self.take(node, consuming.on_placement_changed(self.now))

    # -- what comes of it --

    def receive(self, source: NodeId, target: NodeId, packet: Packet) -> None:
        if target == OWNER:
            match packet:
                case Attach():
                    self.take(OWNER, self.owner.on_attach(source, packet, self.now))
                case Detach():
                    self.take(OWNER, self.owner.on_detach(source, packet, self.now))
                case Settle():
                    self.take(OWNER, self.owner.on_settle(source, packet, self.now))
            return
        consuming = self.nodes[target]
        match packet:
            case Attached():
                self.take(target, consuming.on_attached(OWNER, packet, self.now))
            case Delivery():
                self.take(target, consuming.on_delivery(OWNER, packet, self.now))
            case Settled():
                self.on_settled(consuming, packet)
                self.take(target, consuming.on_settled(packet, self.now))

    def on_settled(self, consuming: Consuming, packet: Settled) -> None:
        subscription = consuming._subscriptions.get(packet.consumer)
        for settle in subscription.settles if subscription is not None else ():
            if settle.number == packet.number:
                dots = dots_of(Run(run.session, run.first, run.last) for run in settle.acks)
                assert not dots & self.alive_on_disk(), "confirmed before it was durable"
                self.confirmed |= dots

    def alive_on_disk(self) -> set[Dot]:
        found = self.disk.of_space(Space.PARTITION)
        return dots_of(Run(x.batch.session, low, high) for x in found for low, high in x.alive)

    def take(self, node: NodeId, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(peer, packet):
                    self.send(node, peer, packet)
                case Persist():
                    self.writes.append(effect)
                case Deliver(consumer, _, segments):
                    self.on_deliver((node, consumer), segments)
                case Notify():
                    pass
                case _:
                    raise AssertionError(effect)

    def send(self, node: NodeId, peer: NodeId, packet: Packet) -> None:
        if isinstance(packet, Delivery):
            dots = dots_of(segment.batch.run for segment in packet.segments)
            assert not dots & self.confirmed, "delivered after its ack was confirmed"
            assert dots <= self.alive_on_disk(), "delivered before it was durable"
        self.queues.setdefault((node, peer), []).append(packet)

    def on_deliver(self, who: tuple[NodeId, bytes], segments: tuple[Segment, ...]) -> None:
        user = self.users[who]
        assert segments
        for segment in segments:
            for dot in sorted(dots_of([segment.batch.run])):
                assert segment.attempt > user.held.get(dot, 0), "one delivery given twice"
                assert dot not in user.acked, "given again to one who has acked it"
                user.held[dot] = segment.attempt
        assert len(user.held) <= user.prefetch

    # -- what always holds --

    @invariant()
    def a_consumer_counts_as_held_what_its_user_holds(self) -> None:
        for (node, consumer), user in self.users.items():
            subscription = self.nodes[node]._subscriptions[consumer]
            assert dots_of(subscription.holding.runs()) == set(user.held)

    def teardown(self) -> None:
        """The link is good again, and users ack all they get: everything is settled."""
        if not self.owner_up:
            self.owner_returns()
        if not self.users:
            self.subscribe(B, 5)
        published = {(S1, seq) for seq in range(1, self.next_seq)}
        for _ in range(60):
            while self.writes or any(self.queues.values()):
                while self.writes:
                    self.disk_writes()
                if any(self.queues.values()):
                    self.packet_comes(0, 1)
                for user in self.users.values():
                    if user.held:
                        self.settle(0, 100, "a")
            self.time_passes(1_200)
            if self.settled():
                break
        assert self.settled()
        assert not self.alive_on_disk()
        assert self.acked <= published
        partition = self.owner.partition(KEY)
        assert dots_of(partition.seen.runs()) <= self.acked | self.confirmed

    def settled(self) -> bool:
        pending = any(partition.pending for partition in self.owner.partitions.values())
        return not (pending or any(node.unconfirmed for node in self.nodes.values()))


def test_consumers_and_owner_agree_in_the_end_whatever_is_lost() -> None:
    run_state_machine_as_test(
        ConsumingMachine, settings=settings(max_examples=70, stateful_step_count=50)
    )
