"""The outbox against an owner that loses packets, confirms late, refuses, restarts and moves."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from p2pmq.config import OutboxPolicy
from p2pmq.core import outbox as outbox_module
from p2pmq.core.effects import (
    Effect,
    Notify,
    OutboxChanged,
    Overflowed,
    Persist,
    Published,
    Resolve,
    Send,
)
from p2pmq.core.events import Confirmation, OutboxDurable, WriteRefused
from p2pmq.core.ids import NodeId, Run
from p2pmq.core.packets.publishing import (
    REFUSED_DISK_FULL,
    Confirm,
    Gap,
    Moved,
    Publish,
    PublishRefused,
    RunField,
)
from p2pmq.core.packets.registry import Packet
from p2pmq.core.records import BatchStored, Space, StoredBodies
from p2pmq.core.streams import WINDOW_BATCHES
from p2pmq.runtime.lanes import BULK_QUEUE_MAX
from tests.core.kit import KEY, A, B, Dot, Texts, dots_of, packets, writes
from tests.core.outbox_rig import LIMITS, TIMING, Overflow, Rig, published, sent

# ------------------------------------------------------------------------------ one rule a test


def test_a_batch_goes_to_the_owner_and_its_confirm_resolves_it() -> None:
    rig = Rig()
    (packet,) = packets(rig.publish(3))
    assert isinstance(packet, Publish)
    assert (packet.previous, packet.batch.first, packet.batch.count) == (0, 1, 3)
    (outcome,) = published(rig.confirm(rig.outbox.session, 1, 3))
    assert (outcome.copies, outcome.owner, outcome.timed_out) == (1, A, False)
    assert (rig.outbox.messages, rig.outbox.bytes_in_memory) == (0, 0)


def test_a_confirm_of_part_of_a_batch_is_none() -> None:
    rig = Rig()
    rig.publish(3)
    assert not published(rig.confirm(rig.outbox.session, 1, 2))
    assert rig.outbox.messages == 3


def test_each_batch_names_the_unconfirmed_one_before_it() -> None:
    rig = Rig()
    rig.publish(2)
    (second,) = packets(rig.publish(1))
    rig.confirm(rig.outbox.session, 1, 2)
    (third,) = packets(rig.publish(1))
    rig.confirm(rig.outbox.session, 3, 3)
    rig.confirm(rig.outbox.session, 4, 4)
    (fourth,) = packets(rig.publish(1))
    found = [p.previous for p in (second, third, fourth) if isinstance(p, Publish)]
    assert found == [2, 3, 0]


def test_no_more_than_the_window_is_out_but_one_large_batch_is() -> None:
    rig = Rig()
    assert sent(rig.publish(1, size=500))
    assert not sent(rig.publish(1, size=60))
    assert not sent(rig.publish(1, size=60))
    session = rig.outbox.session
    assert sent(rig.confirm(session, 1, 1)) == [Run(session, 2, 2)]
    assert sent(rig.confirm(session, 2, 2)) == [Run(session, 3, 3)]


def test_stored_is_resolved_when_the_batch_is_on_disk() -> None:
    rig = Rig(owner=None)
    effects = rig.publish(2, Confirmation.STORED)
    assert not published(effects)
    (outcome,) = published(rig.write(effects))
    assert (outcome.stored, outcome.copies, outcome.timed_out) == (True, 0, False)
    assert rig.outbox.bytes_in_memory == 0
    assert rig.outbox.messages == 2


def test_without_an_owner_everything_goes_to_disk_at_once() -> None:
    rig = Rig(owner=None)
    effects = rig.publish(1, Confirmation.NONE)
    assert len(writes(effects)) == 1
    assert not packets(effects)


def test_publishing_to_a_silent_owner_makes_nothing_due_at_once() -> None:
    rig = Rig()
    rig.publish(1, Confirmation.NONE)
    rig.now += 100_000
    rig.outbox.on_timeout(rig.now)
    rig.publish(1, Confirmation.NONE)
    deadline = rig.outbox.next_deadline()
    assert deadline is not None
    assert deadline >= rig.now + TIMING.spill_ms


def test_what_no_owner_confirms_goes_to_disk_and_is_sent_again() -> None:
    rig = Rig()
    rig.publish(1, Confirmation.NONE)
    rig.now += TIMING.spill_ms
    assert len(writes(rig.outbox.on_timeout(rig.now))) == 1
    rig.now += TIMING.resend_ms - TIMING.spill_ms
    assert sent(rig.outbox.on_timeout(rig.now)) == [Run(rig.outbox.session, 1, 1)]


def test_a_wait_ends_at_its_time_and_the_message_stays() -> None:
    rig = Rig()
    rig.publish(1, timeout_ms=700)
    rig.now += 700
    effects = rig.outbox.on_timeout(rig.now)
    (outcome,) = published(effects)
    assert outcome.timed_out
    assert rig.outbox.messages == 1
    rig.write(effects)
    assert not published(rig.confirm(rig.outbox.session, 1, 1)), "a token is resolved once"
    assert rig.outbox.messages == 0


def test_a_burst_of_gaps_makes_one_resend() -> None:
    rig = Rig()
    for _ in range(5):
        rig.publish(1)
    rig.now += 1_000
    session = rig.outbox.session
    assert len(sent(rig.outbox.on_gap(KEY, session, rig.now))) == 5
    for _ in range(4):
        assert not sent(rig.outbox.on_gap(KEY, session, rig.now + 1))
    assert len(sent(rig.outbox.on_gap(KEY, session, rig.now + 1_000))) == 5


def test_gaps_without_progress_are_answered_less_and_less_often_until_there_is_some() -> None:
    """Resends every 200 ms pushed each other's first batch out of a slow link (swarm seed 1828)."""
    rig = Rig()
    for _ in range(2):
        rig.publish(1)
    session, answered = rig.outbox.session, []
    for at in range(1_000, 9_000, 100):
        rig.now = at
        if sent(rig.outbox.on_gap(KEY, session, at)):
            answered.append(at)
    assert answered == [1_000, 1_400, 2_200, 3_800, 7_000]
    rig.confirm(session, 1, 1)
    assert sent(rig.outbox.on_gap(KEY, session, rig.now + 200))


def test_no_more_batches_are_out_than_a_link_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2 * WINDOW_BATCHES <= BULK_QUEUE_MAX, "a resend must not push out its own first batch"
    monkeypatch.setattr(outbox_module, "WINDOW_BATCHES", 4)
    rig = Rig()
    for _ in range(8):
        rig.publish(1)
    rig.now += 1_000
    session = rig.outbox.session
    assert len(sent(rig.outbox.on_gap(KEY, session, rig.now))) == 4
    assert sent(rig.confirm(session, 1, 3)) == [Run(session, seq, seq) for seq in (5, 6, 7)]


def test_a_new_owner_gets_the_unconfirmed_from_the_first_on() -> None:
    rig = Rig()
    rig.publish(1)
    rig.publish(1)
    rig.confirm(rig.outbox.session, 1, 1)
    rig.publish(1)
    rig.owner = B
    effects = rig.outbox.on_owner_changed(KEY, rig.now)
    assert [effect.peer for effect in effects if isinstance(effect, Send)] == [B, B]
    assert sent(effects) == [Run(rig.outbox.session, 2, 2), Run(rig.outbox.session, 3, 3)]


def test_after_a_refusal_the_batch_is_kept_on_disk_and_tried_later() -> None:
    rig = Rig()
    rig.publish(1)
    refused = PublishRefused(*KEY, rig.outbox.session, 1, REFUSED_DISK_FULL)
    effects = rig.outbox.on_refused(refused, KEY, rig.now, "its disk is full")
    assert writes(effects)
    assert not sent(effects)
    deadline = rig.outbox.next_deadline()
    assert deadline is not None
    rig.now = deadline
    assert sent(rig.outbox.on_timeout(rig.now))


def test_an_own_disk_that_is_full_is_tried_again() -> None:
    rig = Rig(owner=None)
    (write,) = writes(rig.publish(1, Confirmation.STORED, timeout_ms=60_000))
    effects = rig.outbox.on_write_refused(WriteRefused(write.then, write.records), rig.now)
    assert not published(effects)
    retried: list[Effect] = []
    while not writes(retried):
        deadline = rig.outbox.next_deadline()
        assert deadline is not None
        assert deadline < rig.now + 5_000
        rig.now = max(rig.now, deadline)
        retried = rig.outbox.on_timeout(rig.now)
    (outcome,) = published(rig.write(retried))
    assert outcome.stored


def test_what_an_earlier_run_left_is_sent_first_to_last_from_the_disk() -> None:
    rig = Rig(owner=None)
    for _ in range(2):
        rig.write(rig.publish(2, Confirmation.STORED))
    old = rig.outbox.session
    rig.owner = A
    effects = rig.boot().recover(rig.disk.of_space(Space.OUTBOX), rig.now)
    assert sent(effects) == [Run(old, 1, 2), Run(old, 3, 4)]
    for packet in packets(effects):
        assert isinstance(packet, Publish)
        assert isinstance(packet.batch.bodies, StoredBodies)
    rig.write(rig.confirm(old, 1, 4))
    assert not rig.disk.of_space(Space.OUTBOX)
    assert rig.outbox.messages == 0


def test_publishing_while_the_owner_is_away_looks_at_no_older_batch() -> None:
    rig = Rig(owner=None)
    looked = 0
    for _ in range(300):
        rig.write(rig.publish(1, Confirmation.NONE))

    class Counting(list[object]):
        def __iter__(self) -> object:  # type: ignore[override]  # counts, and goes on
            nonlocal looked
            looked += len(self)
            return super().__iter__()

    stream = rig.outbox._streams[KEY, rig.outbox.session]
    entries = stream.entries
    assert len(entries) == 300
    deadline = rig.outbox.next_deadline()
    assert deadline is None or deadline > rig.now, "nothing is due at once"
    stream.entries = Counting(entries)  # type: ignore[assignment]  # only walked and appended to
    for _ in range(100):
        rig.publish(1, Confirmation.NONE)
    assert looked == 0


# --------------------------------------------------------------------------------- the machine


class OutboxMachine(RuleBasedStateMachine):
    """One outbox, and owners of whom one holds the partition. Links are in order, but lose."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig()
        self.writes: list[Persist] = []
        self.to_owner: list[tuple[NodeId, Publish]] = []
        self.to_us: list[tuple[NodeId, Packet]] = []
        self.committed: list[Dot] = []
        self.wanted: dict[int, tuple[Confirmation, set[Dot]]] = {}
        self.resolved: set[int] = set()
        self.held = -1
        self.reported: set[Dot] = set()
        self.recovered = False

    @initialize(
        overflow=st.sampled_from(["wait", "refuse", "drop-lowest"]),
        batches=st.integers(1, 6),
        age_max_ms=st.sampled_from([0, 0, 700]),
    )
    def choose_a_policy(self, overflow: Overflow, batches: int, age_max_ms: int) -> None:
        self.policy = OutboxPolicy(batches * 800, age_max_ms, overflow)
        self.rig = Rig(policy=self.policy)

    # -- the user --

    @rule(
        count=st.integers(1, 3),
        size=st.integers(0, 120),
        wanted=st.sampled_from(list(Confirmation)),
        timeout=st.sampled_from([100, 3_000]),
        priority=st.sampled_from([0, 1, 9]),
    )
    def publish(
        self, count: int, size: int, wanted: Confirmation, timeout: int, priority: int
    ) -> None:
        effects = self.rig.publish(count, wanted, size=size, timeout_ms=timeout, priority=priority)
        token = len(self.rig.tokens)
        session = self.rig.outbox.session
        last = self.rig.outbox._streams[KEY, session].next_seq - 1
        self.wanted[token] = (wanted, dots_of([Run(session, last - count + 1, last)]))
        self.take(effects)

    # -- the owner, and the way there --

    @precondition(lambda self: self.to_owner)
    @rule(full=st.integers(0, 6))
    def owner_takes(self, full: int) -> None:
        peer, packet = self.to_owner.pop(0)
        session = packet.batch.session
        dots = sorted(dots_of([packet.batch.run]))
        if peer != self.rig.owner:
            self.to_us.append((peer, Moved(*KEY, self.rig.owner or bytes(8))))
        elif packet.previous and (session, packet.previous) not in self.committed:
            self.to_us.append((peer, Gap(*KEY, session)))
        elif not full:
            refused = PublishRefused(*KEY, session, packet.batch.first, REFUSED_DISK_FULL)
            self.to_us.append((peer, refused))
        else:
            bodies = packet.batch.bodies
            assert isinstance(bodies, Texts)
            assert len(bodies.texts) == packet.batch.count
            self.committed += [dot for dot in dots if dot not in self.committed]
            self.to_us.append((peer, Confirm(*KEY, (RunField(*packet.batch.run),), 1)))

    @precondition(lambda self: self.to_us)
    @rule()
    def answer_comes(self) -> None:
        peer, packet = self.to_us.pop(0)
        outbox, now = self.rig.outbox, self.rig.now
        match packet:
            case Confirm():
                self.take(outbox.on_confirm(packet, KEY, peer, now))
            case Gap():
                self.take(outbox.on_gap(KEY, packet.session, now))
            case PublishRefused():
                self.take(outbox.on_refused(packet, KEY, now, "full"))
            case Moved():
                self.take(outbox.on_moved(KEY, now))

    @precondition(lambda self: self.to_owner)
    @rule(pick=st.integers(0, 5))
    def lose_a_packet(self, pick: int) -> None:
        self.to_owner.pop(pick % len(self.to_owner))

    @precondition(lambda self: self.to_us)
    @rule(pick=st.integers(0, 5))
    def lose_an_answer(self, pick: int) -> None:
        self.to_us.pop(pick % len(self.to_us))

    @rule(owner=st.sampled_from([A, A, B, None]))
    def owner_changes(self, owner: NodeId | None) -> None:
        if owner != self.rig.owner:
            self.rig.owner = owner
            self.take(self.rig.outbox.on_owner_changed(KEY, self.rig.now))

    @rule()
    def reconnect(self) -> None:
        self.to_owner.clear()
        self.to_us.clear()
        if self.rig.owner is not None:
            self.take(self.rig.outbox.on_peer_connected(self.rig.owner, self.rig.now))

    # -- time, and our own disk --

    @rule(duration=st.sampled_from([1, 150, 600, 1_100]))
    def time_passes(self, duration: int) -> None:
        end = self.rig.now + duration
        while (at := self.rig.outbox.next_deadline()) is not None and at <= end:
            self.rig.now = max(self.rig.now, at)
            self.take(self.rig.outbox.on_timeout(self.rig.now))
            again = self.rig.outbox.next_deadline()
            assert again is None or again > self.rig.now, "a timer that is due at once for ever"
        self.rig.now = end

    @precondition(lambda self: self.writes)
    @rule()
    def disk_writes(self) -> None:
        write = self.writes.pop(0)
        self.rig.disk.apply(write.records)
        if isinstance(write.then, OutboxDurable):
            self.take(self.rig.outbox.on_durable(write.then, self.rig.now))

    @precondition(lambda self: self.writes and isinstance(self.writes[0].records[0], BatchStored))
    @rule()
    def disk_refuses(self) -> None:
        write = self.writes[0]
        if any(w.records[0] != write.records[0] and _same(w, write) for w in self.writes):
            return  # its removal is on its way as well: the real store skips both
        del self.writes[0]
        refused = WriteRefused(write.then, write.records)
        self.take(self.rig.outbox.on_write_refused(refused, self.rig.now))

    @rule()
    def crash(self) -> None:
        self.writes.clear()
        self.to_us.clear()
        self.wanted.clear()
        self.recovered = True
        self.reported -= self.on_disk()  # the write that removes them was cut off
        self.rig.boot()
        self.take(self.rig.outbox.recover(self.rig.disk.of_space(Space.OUTBOX), self.rig.now))

    # -- what comes of it --

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(peer, Publish() as packet):
                    assert peer == self.rig.owner
                    at_hand = replace(packet, batch=self.rig.disk.read(packet.batch))
                    self.to_owner.append((peer, at_hand))
                case Persist():
                    self.writes.append(effect)
                case Resolve(token, Published() as outcome):
                    self.on_resolved(token, outcome)
                case Notify(Overflowed(_, key, count, session=session, first=first)):
                    assert key == KEY
                    self.reported |= dots_of([Run(session, first, first + count - 1)])
                case Notify(OutboxChanged(held)):
                    self.held = held
                case Notify():
                    pass
                case _:
                    raise AssertionError(effect)

    def on_resolved(self, token: int, outcome: Published) -> None:
        assert token not in self.resolved, "a token is resolved once"
        self.resolved.add(token)
        wanted, dots = self.wanted[token]
        assert wanted is not Confirmation.NONE
        if outcome.gone:
            assert dots <= self.reported
            assert not outcome.stored
        elif outcome.copies:
            assert dots <= set(self.committed)
        elif not outcome.timed_out:
            assert wanted is Confirmation.STORED
            assert outcome.stored
            assert dots <= self.on_disk()

    def on_disk(self) -> set[Dot]:
        return dots_of(found.batch.run for found in self.rig.disk.of_space(Space.OUTBOX))

    # -- what always holds --

    @invariant()
    def what_it_counts_is_what_it_holds(self) -> None:
        outbox = self.rig.outbox
        entries = [entry for stream in outbox._streams.values() for entry in stream.entries]
        assert outbox.messages == sum(entry.batch.count for entry in entries)
        assert outbox.bytes_in_memory == sum(e.cost for e in entries if not e.durable)
        assert outbox.quota.bytes_held == sum(e.cost for e in entries)
        listed = {number for unsent in outbox.quota._unsent for number in unsent}
        untried = {entry.number for entry in entries if not entry.tried}
        lists = self.policy.overflow == "drop-lowest" or self.policy.age_max_ms
        assert listed == (untried if lists else set())
        if self.policy.overflow != "wait" and not self.recovered:
            assert outbox.quota.bytes_held <= self.policy.bytes_max

    @invariant()
    def every_message_is_confirmed_or_held_or_reported(self) -> None:
        held = dots_of(e.batch.run for s in self.rig.outbox._streams.values() for e in s.entries)
        of_this_boot = {dot for _, dots in self.wanted.values() for dot in dots}
        assert of_this_boot <= held | set(self.committed) | self.reported
        assert not held & self.reported, "reported, and held still"
        assert not set(self.committed) & self.reported, "reported, and delivered"

    @invariant()
    def the_window_is_kept_and_the_sent_are_a_prefix(self) -> None:
        for stream in self.rig.outbox._streams.values():
            assert 0 <= stream.sent <= len(stream.entries)
            out = list(stream.entries)[: stream.sent]
            assert stream.window == sum(entry.batch.size for entry in out)
            assert stream.window <= LIMITS.publish_window_bytes or stream.sent == 1
            tried = [entry.tried for entry in stream.entries]
            assert tried == sorted(tried, reverse=True), "those that were ever out are a prefix"
            assert all(tried[: stream.sent])
            firsts = [entry.batch.first for entry in stream.entries]
            assert firsts == sorted(firsts)
            idle = [e for e in stream.entries if not e.durable and not e.writing]
            assert stream.volatile == len(idle)

    @invariant()
    def each_session_is_committed_in_the_order_published(self) -> None:
        sessions = dict.fromkeys(session for session, _ in self.committed)
        for session in sessions:
            seqs = [seq for found, seq in self.committed if found == session]
            assert seqs == sorted(seqs)  # what a crash lost of confirm="none" is missing

    @invariant()
    def what_waits_has_a_timer(self) -> None:
        if self.rig.outbox.messages:
            assert self.rig.outbox.next_deadline() is not None

    def teardown(self) -> None:
        """The owner is there for good: everything that was kept is committed, all waits end."""
        self.owner_changes(A)
        kept = {dot for _, dots in self.wanted.values() for dot in dots}
        on_disk = self.on_disk()
        for _ in range(200):
            while self.writes or self.to_owner or self.to_us:
                if self.writes:
                    self.disk_writes()
                if self.to_owner:
                    self.owner_takes(1)
                if self.to_us:
                    self.answer_comes()
            if not self.rig.outbox.messages:
                break
            self.time_passes(600)
        assert not self.rig.outbox.messages
        assert self.rig.outbox.bytes_in_memory == 0
        assert (kept | on_disk) - self.reported <= set(self.committed)
        assert not self.on_disk()
        waited = {t for t, (wanted, _) in self.wanted.items() if wanted is not Confirmation.NONE}
        assert waited <= self.resolved


def _same(one: Persist, other: Persist) -> bool:
    """Whether two writes are about the same batch."""
    numbers = [getattr(write.records[0], "number", None) for write in (one, other)]
    return numbers[0] == numbers[1]


def test_everything_published_is_committed_once_and_in_order_whatever_happens() -> None:
    run_state_machine_as_test(
        OutboxMachine, settings=settings(max_examples=80, stateful_step_count=40)
    )
