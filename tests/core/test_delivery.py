"""Delivery and what lies under it, against a model that keeps dots one by one.

The machine lets publishers append, disks be slow, full or lost, consumers come, go and settle,
and time pass. The model does not say who must get a message; it says who must not, and that
whatever may go out does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from p2pmq.core.delivery import Bearer, PartitionDelivery
from p2pmq.core.effects import Effect, Persist, Send
from p2pmq.core.events import BatchDurable
from p2pmq.core.hlc import HybridClock
from p2pmq.core.ids import Run
from p2pmq.core.packets.delivering import Attach, Delivery, Extend, LeaseField, Nack
from p2pmq.core.packets.publishing import RunField
from p2pmq.core.partition import Partition
from p2pmq.core.records import BatchStored, Space
from tests.core.kit import KEY, S1, S2, A, B, C, Disk, Dot, batch_of, dots_of, runs_of

CONSUMERS = [Bearer(A, b"consume1"), Bearer(A, b"consume2"), Bearer(B, b"consume3")]
VISIBILITY_MS = 1_000

bearers = st.sampled_from(CONSUMERS)
numbers = st.integers(0, 1_000)


@dataclass
class Known:
    """What the model knows of an attached consumer."""

    attachment: int
    limit: int
    pushed: int = 0
    number: int = 0


@dataclass
class Held:
    bearer: Bearer
    attempt: int
    due: int


@dataclass
class Model:
    """Where each dot is: appending, ready, leased or delayed."""

    order: list[Dot] = field(default_factory=list)
    appending: dict[int, Run] = field(default_factory=dict)
    pending: set[Dot] = field(default_factory=set)
    seen: set[Dot] = field(default_factory=set)
    leased: dict[Dot, Held] = field(default_factory=dict)
    delayed: dict[Dot, int] = field(default_factory=dict)
    attempts: dict[Dot, int] = field(default_factory=dict)
    consumers: dict[Bearer, Known] = field(default_factory=dict)
    firsts: dict[tuple[Bearer, bytes], list[Dot]] = field(default_factory=dict)

    def ready(self) -> set[Dot]:
        return self.pending - set(self.leased) - set(self.delayed)

    def free(self, dot: Dot) -> None:
        self.attempts[dot] = self.leased.pop(dot).attempt


class DeliveryMachine(RuleBasedStateMachine):
    """One partition, its consumers, its disk; `self.writes` are on their way to it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000
        self.disk = Disk()
        self.writes: list[Persist] = []
        self.next_seq = {S1: 1, S2: 1}
        self.attachments = 0
        self.model = Model()
        self.partition = Partition(KEY, HybridClock())
        self.delivery = PartitionDelivery(self.partition, 0, lambda run: [run])

    @initialize()
    def begin(self) -> None:
        self.publish(S1, 3)
        self.disk_writes()

    # -- what happens --

    @rule(session=st.sampled_from([S1, S2]), count=st.integers(1, 6))
    def publish(self, session: bytes, count: int) -> None:
        batch = batch_of(session, self.next_seq[session], count)
        self.next_seq[session] += count
        self.take(self.partition.append(batch, self.now, C)[0])

    @rule(back=st.integers(1, 8), count=st.integers(1, 6))
    def publish_again(self, back: int, count: int) -> None:
        first = max(1, self.next_seq[S1] - back)
        count = min(count, self.next_seq[S1] - first)
        if count:
            again, _ = self.partition.append(batch_of(S1, first, count), self.now, C)
            lost = self.dots_lost(first, count)
            assert {
                dot
                for effect in again
                if isinstance(effect, Persist)
                for record in effect.records
                if isinstance(record, BatchStored)
                for dot in dots_of([record.batch.run])
            } == lost, "a repeat is absorbed, what never came is taken"
            self.take(again)

    def dots_lost(self, first: int, count: int) -> set[Dot]:
        come = self.model.seen | dots_of(self.model.appending.values())
        return {(S1, seq) for seq in range(first, first + count)} - come

    @precondition(lambda self: self.writes)
    @rule()
    def disk_writes(self) -> None:
        write = self.writes.pop(0)
        self.disk.apply(write.records)
        if isinstance(write.then, BatchDurable):
            stored = self.partition.on_durable(write.then.number)
            assert stored is not None
            run = self.model.appending.pop(write.then.number)
            assert stored.run == run
            self.model.pending |= dots_of([run])
            self.model.seen |= dots_of([run])
            self.model.order += sorted(dots_of([run]))
            self.delivery.add(stored.run, stored.number)
        self.pump()

    @precondition(lambda self: self.writes and isinstance(self.writes[0].then, BatchDurable))
    @rule()
    def disk_refuses(self) -> None:
        then = self.writes.pop(0).then
        assert isinstance(then, BatchDurable)
        self.partition.on_write_refused(then.number)
        del self.model.appending[then.number]

    @rule(bearer=bearers, prefetch=st.integers(0, 8), pick=numbers, false=st.booleans())
    def attach(self, bearer: Bearer, prefetch: int, pick: int, false: bool) -> None:
        """Attach, holding some of what it has, and (`false`) something that it has not."""
        has = [dot for dot, held in self.model.leased.items() if held.bearer == bearer]
        holding = set(has[: pick % (len(has) + 1)])
        if false and self.model.pending:
            holding.add(sorted(self.model.pending)[pick % len(self.model.pending)])
        self.attachments += 1
        runs = runs_of(holding)
        packet = Attach(
            *KEY,
            bearer.consumer,
            self.attachments,
            prefetch,
            VISIBILITY_MS,
            tuple(RunField(*run) for run in runs),
        )
        assert self.delivery.attach(bearer.node_id, packet, self.now)
        for dot in holding & self.model.pending:
            held_ = self.model.leased.get(dot)
            if held_ is not None and held_.bearer != bearer:
                continue
            self.model.delayed.pop(dot, None)
            attempt = held_.attempt if held_ is not None else self.model.attempts.get(dot, 1)
            self.model.leased[dot] = Held(bearer, attempt, self.now + VISIBILITY_MS)
        for dot in has:
            if dot not in holding:
                self.model.free(dot)
        self.model.consumers[bearer] = Known(self.attachments, prefetch)
        self.pump()

    @rule(bearer=bearers)
    def attach_late(self, bearer: Bearer) -> None:
        """An attach that was overtaken by a newer one changes nothing."""
        known = self.model.consumers.get(bearer)
        if known is not None:
            stale = Attach(*KEY, bearer.consumer, known.attachment - 1, 99, VISIBILITY_MS)
            assert not self.delivery.attach(bearer.node_id, stale, self.now)

    @rule(bearer=bearers, late=st.booleans())
    def detach(self, bearer: Bearer, late: bool) -> None:
        known = self.model.consumers.get(bearer)
        if known is None:
            return
        self.delivery.detach(bearer, known.attachment - late)
        if not late:
            self.drop(bearer)
        self.pump()

    @rule()
    def lose_a_node(self) -> None:
        self.delivery.detach_node(A)
        for bearer in CONSUMERS[:2]:
            self.drop(bearer)
        self.pump()

    def drop(self, bearer: Bearer) -> None:
        self.model.consumers.pop(bearer, None)
        for dot in [d for d, held in self.model.leased.items() if held.bearer == bearer]:
            self.model.free(dot)

    @rule(bearer=bearers, more=st.integers(0, 5))
    def allow_more(self, bearer: Bearer, more: int) -> None:
        known = self.model.consumers.get(bearer)
        if known is not None:
            self.delivery.raise_limit(bearer, known.attachment, known.limit + more)
            self.delivery.raise_limit(bearer, known.attachment - 1, known.limit + 99)
            known.limit += more
            self.pump()

    @rule(pick=numbers, length=st.integers(1, 4))
    def ack(self, pick: int, length: int) -> None:
        run = self.some_run(pick, length)
        if self.partition.is_appending([run]):
            return
        was_pending = dots_of([run]) & self.model.pending
        removed, records = self.partition.remove([run])
        assert dots_of(removed) == was_pending
        self.delivery.forget(removed)
        self.model.pending -= was_pending
        self.model.seen |= dots_of([run])
        for dot in was_pending:
            self.model.leased.pop(dot, None)
            self.model.delayed.pop(dot, None)
            self.model.attempts.pop(dot, None)
        if records:
            self.writes.append(Persist(tuple(records)))
        self.pump()

    @rule(bearer=bearers, pick=numbers, late=st.booleans(), delay=st.sampled_from([0, 0, 300]))
    def nack(self, bearer: Bearer, pick: int, late: bool, delay: int) -> None:
        dots = [d for d, held in self.model.leased.items() if held.bearer == bearer]
        if not dots:
            return
        dot = dots[pick % len(dots)]
        attempt = self.model.leased[dot].attempt - late
        if attempt:
            self.delivery.nack(bearer, Nack(*dot, dot[1], attempt, delay), self.now)
        if not late:
            self.model.free(dot)
            if delay:
                self.model.delayed[dot] = self.now + delay
        self.pump()

    @rule(bearer=bearers, pick=numbers)
    def nack_of_another(self, bearer: Bearer, pick: int) -> None:
        """A message that somebody else holds is not one's to give back, nor to extend."""
        dots = [d for d, held in self.model.leased.items() if held.bearer != bearer]
        if dots:
            dot = dots[pick % len(dots)]
            self.delivery.nack(bearer, Nack(*dot, dot[1], 99, 500), self.now)
            self.delivery.extend(bearer, Extend(*dot, dot[1], 99, 500_000), self.now)

    @rule(bearer=bearers, pick=numbers, timeout=st.sampled_from([100, 5_000]))
    def extend(self, bearer: Bearer, pick: int, timeout: int) -> None:
        dots = [d for d, held in self.model.leased.items() if held.bearer == bearer]
        if dots:
            dot = dots[pick % len(dots)]
            held = self.model.leased[dot]
            self.delivery.extend(bearer, Extend(*dot, dot[1], held.attempt, timeout), self.now)
            held.due = self.now + timeout

    @rule(duration=st.sampled_from([1, 200, 400, 1_100]))
    def time_passes(self, duration: int) -> None:
        self.now += duration
        expired = self.delivery.on_timeout(self.now)
        due = [dot for dot, held in self.model.leased.items() if held.due <= self.now]
        assert expired == len(due)
        for dot in due:
            self.model.free(dot)
        rested = [dot for dot, at in self.model.delayed.items() if at <= self.now]
        for dot in rested:
            del self.model.delayed[dot]
        deadline = self.delivery.next_deadline()
        standing = [held.due for held in self.model.leased.values()]
        standing += self.model.delayed.values()
        if standing:
            assert deadline is not None
            assert deadline <= min(standing)
        self.pump()

    @rule()
    def crash(self) -> None:
        """Lose what is not on the disk yet; recover; nobody is attached."""
        self.writes.clear()
        self.next_seq = {S1: self.next_seq[S1], S2: self.next_seq[S2]}
        self.partition = Partition(KEY, HybridClock())
        self.partition.recover(self.disk.of_space(Space.PARTITION), self.disk.recovered().seen)
        self.delivery = PartitionDelivery(self.partition, 0, lambda run: [run])
        before, self.model = self.model, Model()
        self.model.pending = dots_of(self.partition.pending.runs())
        self.model.seen = dots_of(self.partition.seen.runs())
        self.model.order = [dot for dot in before.order if dot in self.model.pending]
        assert before.pending <= self.model.pending, "what was durable came back"
        assert self.model.seen <= before.seen, "nothing is seen that never was"

    # -- helpers --

    def some_run(self, pick: int, length: int) -> Run:
        session = S1 if pick % 2 else S2
        first = 1 + pick % max(1, self.next_seq[session] - 1)
        return Run(session, first, min(first + length, max(first, self.next_seq[session] - 1)))

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            assert isinstance(effect, Persist)
            assert isinstance(effect.then, BatchDurable)
            self.writes.append(effect)
            number = effect.then.number
            self.model.appending[number] = self.partition.batches[number].run

    def pump(self) -> None:
        fresh = self.model.ready() - set(self.model.attempts)
        self.model.firsts.clear()
        effects = self.delivery.pump(self.now)
        assert all(isinstance(effect, Send) for effect in effects)
        for effect in effects:
            assert isinstance(effect, Send)
            assert isinstance(effect.packet, Delivery)
            self.on_delivery(Bearer(effect.peer, effect.packet.consumer), effect.packet)
        for session in (S1, S2):
            waiting = [dot for dot in self.model.order if dot in fresh and dot[0] == session]
            went = [dot for dots in self.model.firsts.values() for dot in dots if dot in waiting]
            assert set(went) == set(waiting[: len(went)]), "first delivered in the order published"
        has_credit = any(k.pushed < k.limit for k in self.model.consumers.values())
        assert not (has_credit and self.model.ready()), "something that may go out did not"

    def on_delivery(self, bearer: Bearer, packet: Delivery) -> None:
        known = self.model.consumers[bearer]
        assert packet.attachment == known.attachment
        assert packet.number == known.number + 1
        known.number += 1
        for segment in packet.segments:
            bodies = self.disk.read(segment.batch).bodies
            assert bodies == batch_of(*segment.batch.run[:2], segment.batch.count).bodies
            for dot in sorted(dots_of([segment.batch.run])):
                assert dot in self.model.ready(), f"{dot} went out again, or never came"
                assert segment.attempt == self.model.attempts.get(dot, 0) + 1
                self.model.leased[dot] = Held(bearer, segment.attempt, self.now + VISIBILITY_MS)
                known.pushed += 1
                assert known.pushed <= known.limit, "more than the consumer allows"
                if segment.attempt == 1:
                    self.model.firsts.setdefault((bearer, dot[0]), []).append(dot)
        for dots in self.model.firsts.values():
            places = [self.model.order.index(dot) for dot in dots]
            assert places == sorted(places), "to one consumer in the order published"

    # -- what always holds --

    @invariant()
    def every_dot_is_where_the_model_has_it(self) -> None:
        model = self.model
        assert dots_of(self.partition.pending.runs()) == model.pending
        assert dots_of(self.partition.seen.runs()) == model.seen
        assert dots_of(self.partition.appending.runs()) == dots_of(model.appending.values())
        leases = {
            dot: lease for run, lease in self.delivery.leases.items() for dot in dots_of([run])
        }
        assert {dot: (x.bearer, x.attempt, x.due) for dot, x in leases.items()} == {
            dot: (x.bearer, x.attempt, x.due) for dot, x in model.leased.items()
        }
        delays = {d: x.due for run, x in self.delivery.delays.items() for d in dots_of([run])}
        assert delays == model.delayed
        assert not set(leases) & set(delays)

    @invariant()
    def what_has_nothing_alive_takes_no_room(self) -> None:
        alive = dots_of(self.model.appending.values()) | self.model.pending
        for stored in self.partition.batches.values():
            assert dots_of([stored.run]) & alive
        if not alive:
            assert self.partition.size == 0

    def teardown(self) -> None:
        while self.writes:
            self.disk_writes()
        again = Partition(KEY, HybridClock())
        again.recover(self.disk.of_space(Space.PARTITION), self.disk.recovered().seen)
        assert dots_of(again.pending.runs()) == self.model.pending
        assert again.seen == self.partition.seen


def test_every_message_is_in_exactly_one_place_whatever_happens() -> None:
    run_state_machine_as_test(
        DeliveryMachine, settings=settings(max_examples=120, stateful_step_count=50)
    )


def test_taking_up_many_batches_looks_at_each_only_a_few_times() -> None:
    """Of none it is known that it is on enough disks yet: once, that cost n² looks."""
    partition = Partition(KEY, HybridClock())
    looks = []

    def committed(run: Run) -> list[Run]:
        looks.append(run)
        return []

    for seq in range(1, 5_001):
        partition.append(batch_of(S1, seq, 1), 1_000, C)
        partition.on_durable(seq)
    delivery = PartitionDelivery(partition, 0, committed)
    assert len(looks) == 5_000
    for part, number in list(partition.pending.items()):
        delivery.add(part, number)
    assert len(looks) <= 10_000


def test_a_lease_that_another_owner_tells_of_takes_back_no_attempt_that_was_made_here() -> None:
    """It may be an older one: the fourth attempt of a node came after its seventh."""
    partition = Partition(KEY, HybridClock())
    partition.append(batch_of(S1, 1, 1), 1_000, C)
    partition.on_durable(1)
    former = PartitionDelivery(partition, 0, lambda run: [run])
    former.attempts.put(Run(S1, 1, 1), 7)
    delivery = PartitionDelivery(partition, 0, lambda run: [run])
    delivery.remember(former)
    bearer = CONSUMERS[0]
    delivery.attach(A, Attach(*KEY, bearer.consumer, 1, 10, VISIBILITY_MS), 0)
    delivery.expect(LeaseField(A, bearer.consumer, S1, 1, 1, attempt=3, remaining_ms=100), 0)
    delivery.nack(bearer, Nack(S1, 1, 1, 3, 0), 0)
    (push,) = [effect for effect in delivery.pump(0) if isinstance(effect, Send)]
    assert isinstance(push.packet, Delivery)
    assert [segment.attempt for segment in push.packet.segments] == [8]
