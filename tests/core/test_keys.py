"""Turns of ordering keys: one message of a key at a time, and nothing waits that need not.

The machine lets publishers, consumers, owners and time do what they may. Its model knows where
each dot is, and not how turns are kept: only whom a message must not pass, and what must go out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from p2pmq.core.delivery import Bearer, PartitionDelivery
from p2pmq.core.dots import DotSet
from p2pmq.core.effects import Effect, Persist, Send
from p2pmq.core.events import BatchDurable
from p2pmq.core.hlc import HybridClock
from p2pmq.core.ids import SEQ_MAX, Run
from p2pmq.core.packets.delivering import Attach, Delivery, Nack
from p2pmq.core.packets.publishing import NO_KEY, Batch, RunField
from p2pmq.core.partition import Partition
from p2pmq.core.records import Space
from tests.core.kit import KEY, S1, S2, A, B, C, Disk, Dot, batch_of, dots_of, runs_of

if TYPE_CHECKING:
    from collections.abc import Iterable

CONSUMERS = [Bearer(A, b"consume1"), Bearer(A, b"consume2"), Bearer(B, b"consume3")]
VISIBILITY_MS = 1_000
K1, K2, K3 = b"key-hash", b"key2hash", b"key3hash"


def keyed(session: bytes, first: int, *keys: bytes, priority: int = 0) -> Batch:
    """Messages from `first` on with these keys."""
    batch = batch_of(session, first, len(keys))
    return replace(batch, keys=b"".join(keys), priority=priority)


class Owner:
    """A partition on its disk, what is committed of it, and the delivery by its owner."""

    def __init__(self) -> None:
        self.now = 1_000
        self.disk = Disk()
        self.partition = Partition(KEY, HybridClock())
        self.unproven: list[Run] = []
        self.condemned: set[Dot] = set()
        self.delivery = PartitionDelivery(self.partition, 0, self.committed)
        self.attachments = 0

    def committed(self, run: Run) -> list[Run]:
        """As `looked_after.deliverable` has it."""
        waiting = [part.first for part in self.unproven if part.session == run.session]
        last = min([run.last, *(first - 1 for first in waiting)])
        if last < run.first:
            return []
        return DotSet(runs_of(self.condemned)).missing(run._replace(last=last))

    def take(self, batch: Batch, *, proven: bool = True) -> None:
        """A batch comes, and is durable; if `proven`, it is on enough disks."""
        effects, _ = self.partition.append(batch, self.now, C)
        for effect in effects:
            assert isinstance(effect, Persist)
            self.disk.apply(effect.records)
            assert isinstance(effect.then, BatchDurable)
            stored = self.partition.on_durable(effect.then.number)
            assert stored is not None
            self.unproven.append(stored.run)
        if proven:
            self.prove(batch.session)

    def prove(self, session: bytes) -> None:
        """All batches of a session are on enough disks."""
        first = min((run.first for run in self.unproven if run.session == session), default=0)
        self.unproven = [run for run in self.unproven if run.session != session]
        for free in self.committed(Run(session, first, SEQ_MAX)) if first else ():
            for part, number in self.partition.pending.overlap(free):
                self.delivery.add(part, number)

    def attach(self, bearer: Bearer, limit: int, holding: Iterable[Dot] = ()) -> None:
        """A consumer attaches, holding these dots."""
        self.attachments += 1
        held = tuple(RunField(*run) for run in runs_of(holding))
        packet = Attach(*KEY, bearer.consumer, self.attachments, limit, VISIBILITY_MS, held)
        assert self.delivery.attach(bearer.node_id, packet, self.now)

    def remove(self, *dots: Dot) -> None:
        """They are acked, or expire, or are buried."""
        removed, records = self.partition.remove(runs_of(dots))
        self.disk.apply(records)
        self.condemned -= set(dots)
        self.delivery.forget(removed)

    def fail_over(self) -> None:
        """Another owner takes up what the disk holds, and knows no more."""
        self.partition = Partition(KEY, HybridClock())
        self.partition.recover(self.disk.of_space(Space.PARTITION), self.disk.recovered().seen)
        self.condemned.clear()
        self.delivery = PartitionDelivery(self.partition, 0, self.committed)

    def pump(self) -> list[tuple[Bearer, Dot, int]]:
        """What is pushed now, in order: to whom, and for the how-manieth time."""
        return [
            (Bearer(peer, packet.consumer), dot, segment.attempt)
            for peer, packet in map(packet_of, self.delivery.pump(self.now))
            for segment in packet.segments
            for dot in sorted(dots_of([segment.batch.run]))
        ]

    def pushed(self) -> list[Dot]:
        return [dot for _, dot, _ in self.pump()]

    def nack(self, bearer: Bearer, dot: Dot, attempt: int, delay_ms: int = 0) -> None:
        self.delivery.nack(bearer, Nack(*dot, dot[1], attempt, delay_ms), self.now)


def packet_of(effect: Effect) -> tuple[bytes, Delivery]:
    assert isinstance(effect, Send)
    assert isinstance(effect.packet, Delivery)
    return effect.peer, effect.packet


# ---------------------------------------------------------------------------- one story at a time

X = CONSUMERS[0]


def attached(limit: int = 100) -> Owner:
    owner = Owner()
    owner.attach(X, limit)
    return owner


def test_the_next_of_a_key_goes_out_when_the_one_before_is_acked_and_other_keys_at_once() -> None:
    owner = attached()
    owner.take(keyed(S1, 1, K1, K2, K1, NO_KEY, K2, K3))
    assert owner.pushed() == [(S1, 1), (S1, 2), (S1, 4), (S1, 6)]
    owner.remove((S1, 2))
    assert owner.pushed() == [(S1, 5)]
    owner.remove((S1, 1))
    assert owner.pushed() == [(S1, 3)]


def test_messages_of_different_keys_side_by_side_go_out_as_one_run() -> None:
    owner = attached()
    owner.take(keyed(S1, 1, K1, K2, K3, K1, NO_KEY, NO_KEY))
    [effect] = owner.delivery.pump(owner.now)
    runs = [segment.batch.run for segment in packet_of(effect)[1].segments]
    assert runs == [Run(S1, 1, 3), Run(S1, 5, 6)]


def test_one_key_is_in_order_over_batches_and_publishers() -> None:
    owner = attached()
    for batch in (keyed(S1, 1, K1, K1), keyed(S2, 1, K1), keyed(S1, 3, K1)):
        owner.now += 5
        owner.take(batch)
    went = []
    while dots := owner.pushed():
        went += dots
        owner.remove(*dots)
    assert went == [(S1, 1), (S1, 2), (S2, 1), (S1, 3)]


def test_a_message_that_is_given_back_keeps_its_key_and_holds_up_no_other() -> None:
    owner = attached()
    owner.take(keyed(S1, 1, K1, K1, K2, K2))
    assert owner.pushed() == [(S1, 1), (S1, 3)]
    owner.nack(X, (S1, 1), 1, delay_ms=500)
    owner.remove((S1, 3))
    assert owner.pushed() == [(S1, 4)]
    owner.now += 500
    owner.delivery.on_timeout(owner.now)
    assert owner.pump() == [(X, (S1, 1), 2)]
    owner.remove((S1, 1))
    assert owner.pushed() == [(S1, 2)]


def test_a_visibility_timeout_and_the_end_of_a_consumer_do_not_free_the_key() -> None:
    owner = attached(limit=1)
    owner.take(keyed(S1, 1, K1, K1))
    assert owner.pushed() == [(S1, 1)]
    owner.now += VISIBILITY_MS
    owner.delivery.on_timeout(owner.now)
    owner.attach(CONSUMERS[1], 1)
    assert owner.pump() == [(CONSUMERS[1], (S1, 1), 2)]
    owner.delivery.detach(CONSUMERS[1])
    owner.attach(CONSUMERS[2], 1)
    assert owner.pump() == [(CONSUMERS[2], (S1, 1), 3)]


def test_a_message_that_becomes_a_dead_letter_holds_its_key_until_it_is_gone() -> None:
    owner = attached()
    owner.take(keyed(S1, 1, K1, K1))
    assert owner.pushed() == [(S1, 1)]
    nack = Nack(S1, 1, 1, 1, rejected=True)
    owner.delivery.nack(X, nack, owner.now)
    owner.condemned.add((S1, 1))
    assert owner.pushed() == []
    owner.remove((S1, 1))
    assert owner.pushed() == [(S1, 2)]


def test_what_expires_while_it_waits_strands_nothing() -> None:
    owner = attached(limit=2)
    owner.take(keyed(S1, 1, K1, K1, K1, K1))
    assert owner.pushed() == [(S1, 1)]
    owner.attach(CONSUMERS[1], 1)
    owner.remove((S1, 2))
    owner.remove((S1, 1))
    owner.remove((S1, 3))  # it held the key already, and was not pushed yet
    assert owner.pushed() == [(S1, 4)]


def test_a_higher_priority_of_the_key_goes_before_what_waits() -> None:
    owner = attached()
    owner.take(keyed(S1, 1, K1, K1))
    assert owner.pushed() == [(S1, 1)]
    owner.take(keyed(S1, 3, K1, priority=9))
    assert owner.pushed() == []
    owner.remove((S1, 1))
    assert owner.pushed() == [(S1, 3)]


def test_a_new_owner_leaves_the_key_to_the_consumer_that_says_what_it_holds() -> None:
    owner = attached()
    owner.take(keyed(S1, 1, K1, K1, K2))
    assert owner.pushed() == [(S1, 1), (S1, 3)]
    owner.fail_over()
    owner.attach(X, 100, {(S1, 1), (S1, 3)})
    assert owner.pushed() == []
    owner.remove((S1, 1))
    assert owner.pushed() == [(S1, 2)]


def test_of_several_that_hold_a_key_after_a_split_none_goes_out_beside_another() -> None:
    owner = attached()
    owner.take(keyed(S1, 1, K1, K1, K1))
    owner.fail_over()
    owner.attach(X, 100, {(S1, 1)})
    owner.attach(CONSUMERS[1], 100, {(S1, 2)})
    owner.delivery.detach(CONSUMERS[1])
    assert owner.pushed() == []
    owner.remove((S1, 1))
    assert owner.pushed() == [(S1, 2)]
    owner.remove((S1, 2))
    assert owner.pushed() == [(S1, 3)]


def test_what_is_parked_again_and_again_does_not_gather() -> None:
    """Each proof of an earlier message makes what comes after it ready once more."""
    owner = attached(limit=10_000)
    owner.take(keyed(S1, 1, K1))
    for seq in range(2, 3_000):
        owner.take(keyed(S1, seq, K1))
    owner.pump()
    for _ in range(3):
        owner.unproven.append(Run(S1, 2, 2))
        owner.prove(S1)
        owner.pump()
    assert owner.delivery._keys._parked_count <= 2 * 3_000 + 1_024 + 3_000


# -------------------------------------------------------------------------------------- the machine


@dataclass
class Model:
    """Where each dot is, beside those that are pending and ready."""

    keys: dict[Dot, bytes] = field(default_factory=dict)
    priorities: dict[Dot, int] = field(default_factory=dict)
    pending: list[Dot] = field(default_factory=list)
    leased: dict[Dot, tuple[Bearer, int]] = field(default_factory=dict)
    delayed: dict[Dot, int] = field(default_factory=dict)
    limits: dict[Bearer, int] = field(default_factory=dict)
    delivered: set[Dot] = field(default_factory=set)
    """By anybody, ever."""
    turns: dict[bytes, set[Dot]] = field(default_factory=dict)
    """Of each key those that this owner has let out, or that consumers brought back to it."""
    brought: set[bytes] = field(default_factory=set)
    """Keys of which several were out at once, when consumers brought them back."""

    def forget(self, dot: Dot) -> None:
        self.pending.remove(dot)
        self.leased.pop(dot, None)
        self.delayed.pop(dot, None)
        key = self.keys[dot]
        self.turns.get(key, set()).discard(dot)
        if not self.turns.get(key):
            self.brought.discard(key)


class KeysMachine(RuleBasedStateMachine):
    """One partition whose messages have keys, or none."""

    def __init__(self) -> None:
        super().__init__()
        self.owner = Owner()
        self.model = Model()
        self.next_seq = {S1: 1, S2: 1}

    # -- what happens --

    @rule(
        session=st.sampled_from([S1, S2]),
        keys=st.lists(st.sampled_from([K1, K1, K2, K3, NO_KEY]), min_size=1, max_size=6),
        priority=st.sampled_from([0, 0, 0, 5]),
        proven=st.sampled_from([True, True, False]),
        plain=st.sampled_from([False, False, False, True]),
    )
    def publish(
        self, session: bytes, keys: list[bytes], priority: int, proven: bool, plain: bool
    ) -> None:
        first = self.next_seq[session]
        self.next_seq[session] += len(keys)
        batch = keyed(session, first, *keys, priority=priority)
        if plain:
            batch, keys = replace(batch, keys=b""), [NO_KEY] * len(keys)
        for dot, key in zip(sorted(dots_of([batch.run])), keys, strict=True):
            self.model.keys[dot], self.model.priorities[dot] = key, priority
            self.model.pending.append(dot)
        self.owner.take(batch, proven=proven)
        self.pump()

    @rule(session=st.sampled_from([S1, S2]))
    def prove(self, session: bytes) -> None:
        self.owner.prove(session)
        self.pump()

    @rule(bearer=st.sampled_from(CONSUMERS), prefetch=st.sampled_from([1, 2, 5, 50]))
    def attach(self, bearer: Bearer, prefetch: int) -> None:
        """It is a new consumer: what the former one held is free again."""
        self.owner.attach(bearer, prefetch)
        self.drop(bearer)
        self.model.limits[bearer] = prefetch
        self.pump()

    @rule(bearer=st.sampled_from(CONSUMERS))
    def detach(self, bearer: Bearer) -> None:
        self.owner.delivery.detach(bearer)
        self.drop(bearer)
        self.model.limits.pop(bearer, None)
        self.pump()

    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        if self.model.leased:
            self.remove(data.draw(st.sampled_from(sorted(self.model.leased))))

    @rule(data=st.data())
    def ack_elsewhere_or_expire(self, data: st.DataObject) -> None:
        waiting = [dot for dot in self.model.pending if dot not in self.model.leased]
        if waiting:
            self.remove(data.draw(st.sampled_from(waiting)))

    @rule(data=st.data(), delay=st.sampled_from([0, 0, 300, 2_000]))
    def nack(self, data: st.DataObject, delay: int) -> None:
        if self.model.leased:
            dot = data.draw(st.sampled_from(sorted(self.model.leased)))
            bearer, attempt = self.model.leased.pop(dot)
            self.owner.nack(bearer, dot, attempt, delay)
            if delay:
                self.model.delayed[dot] = self.owner.now + delay
            self.pump()

    @rule(data=st.data())
    def reject(self, data: st.DataObject) -> None:
        if self.model.leased:
            dot = data.draw(st.sampled_from(sorted(self.model.leased)))
            bearer, attempt = self.model.leased.pop(dot)
            nack = Nack(*dot, dot[1], attempt, rejected=True)
            self.owner.delivery.nack(bearer, nack, self.owner.now)
            self.owner.condemned.add(dot)
            self.pump()

    @rule()
    def bury(self) -> None:
        for dot in sorted(self.owner.condemned):
            self.remove(dot)

    @rule(duration=st.sampled_from([1, 300, VISIBILITY_MS, 2_500]))
    def time_passes(self, duration: int) -> None:
        """Leases that time out are known by what is not leased any more."""
        self.owner.now += duration
        self.owner.delivery.on_timeout(self.owner.now)
        still = dots_of(self.owner.delivery.leases.runs())
        self.model.leased = {d: held for d, held in self.model.leased.items() if d in still}
        self.model.delayed = {d: at for d, at in self.model.delayed.items() if at > self.owner.now}
        self.pump()

    @rule(data=st.data())
    def fail_over(self, data: st.DataObject) -> None:
        """Another owner; consumers say what they hold, and may hold what was never leased here."""
        self.owner.fail_over()
        held = {dot: bearer for dot, (bearer, _) in self.model.leased.items()}
        if self.model.pending:
            more = data.draw(st.lists(st.sampled_from(self.model.pending), max_size=2))
            bearer = data.draw(st.sampled_from(CONSUMERS))
            held = dict.fromkeys(more, bearer) | held
        model = self.model
        model.leased, model.delayed, model.turns, model.brought = {}, {}, {}, set()
        limits, model.limits = model.limits, {}
        for bearer in CONSUMERS:
            holding = {dot for dot, holder in held.items() if holder == bearer}
            comes = bool(holding) or data.draw(st.booleans())
            if bearer not in limits or not comes:
                continue
            self.owner.attach(bearer, limits[bearer], holding)
            model.limits[bearer] = limits[bearer]
            for dot in sorted(holding):
                model.leased[dot] = bearer, 1
                self.let_out(dot)
        self.pump()

    # -- what is checked --

    def pump(self) -> None:
        model = self.model
        first = []
        for bearer, dot, attempt in self.owner.pump():
            key = model.keys[dot]
            assert dot in model.pending
            assert dot not in model.leased
            assert dot not in model.delayed
            assert model.limits[bearer] > 0
            model.limits[bearer] -= 1
            if key != NO_KEY:
                beside = [other for other in model.leased if model.keys[other] == key]
                assert not beside, f"{dot} went out beside {beside}, which has its key"
                if key not in model.brought:
                    turns = model.turns.get(key, set())
                    assert turns <= {dot}, f"{dot} went out before {turns} was done"
            if dot not in model.delivered:
                first.append(dot)
            model.leased[dot] = bearer, attempt
            self.let_out(dot)
        for dot in first:  # packets to two consumers are in no order
            self.check_order(dot, model.keys[dot])
        if any(model.limits.values()):
            self.check_nothing_waits_in_vain()

    def check_order(self, dot: Dot, key: bytes) -> None:
        earlier = [
            other
            for other in self.model.pending
            if other[0] == dot[0] and other[1] < dot[1] and other not in self.model.delivered
            if self.model.keys[other] == key
            if self.model.priorities[other] >= self.model.priorities[dot]
        ]
        assert not earlier, f"{dot} was delivered first before {earlier} of its publisher and key"

    def check_nothing_waits_in_vain(self) -> None:
        model = self.model
        busy = [*model.leased, *model.delayed, *self.owner.condemned]
        committed = {
            dot for dot in model.pending if self.owner.committed(Run(dot[0], dot[1], dot[1]))
        }
        brought = {dot for turns in model.turns.values() for dot in turns} - committed
        """Consumers held them, and this owner has yet to learn that they are on enough disks."""
        keys = {model.keys[dot] for dot in (*busy, *brought)} - {NO_KEY}
        idle = [dot for dot in sorted(committed - set(busy)) if model.keys[dot] not in keys]
        assert not idle, f"{idle} might go out, and did not"

    # -- helpers --

    def let_out(self, dot: Dot) -> None:
        key = self.model.keys[dot]
        self.model.delivered.add(dot)
        if key != NO_KEY:
            turns = self.model.turns.setdefault(key, set())
            turns.add(dot)
            if len(turns) > 1:
                self.model.brought.add(key)

    def remove(self, dot: Dot) -> None:
        self.model.forget(dot)
        self.owner.remove(dot)
        self.pump()

    def drop(self, bearer: Bearer) -> None:
        for dot in [d for d, (holder, _) in self.model.leased.items() if holder == bearer]:
            del self.model.leased[dot]

    def teardown(self) -> None:
        """Who takes and acks everything gets everything."""
        self.bury()
        for session in (S1, S2):
            self.owner.prove(session)
        self.attach(X, 10_000)
        for _ in range(len(self.model.pending) + 1):
            self.time_passes(2_500)
            for dot in sorted(self.model.leased):
                self.remove(dot)
        assert not self.model.pending, f"never delivered: {self.model.pending}"


def test_keys_take_turns_whatever_happens() -> None:
    run_state_machine_as_test(
        KeysMachine, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )
