"""Limits of a queue at its owner: what is refused, what is remembered, who is called, what goes."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import given, settings

from p2pmq.core.effects import Counted, Discarded, Effect, Notify, Overflowed
from p2pmq.core.events import BatchDurable, Confirmation, SettleDurable
from p2pmq.core.ids import Run
from p2pmq.core.limits import REJECTED_MS, fits
from p2pmq.core.outbox import FULL_RETRY_MS
from p2pmq.core.packets.delivering import Attach, Delivery, Settle
from p2pmq.core.packets.limiting import RoomAgain
from p2pmq.core.packets.publishing import (
    REFUSED_QUEUE_FULL,
    REFUSED_REJECTED,
    Confirm,
    Death,
    Gap,
    Publish,
    PublishRefused,
    RunField,
)
from p2pmq.core.packets.registering import (
    OVERFLOW_BLOCK,
    OVERFLOW_DROP_OLDEST,
    OVERFLOW_REJECT,
    QueueSettings,
)
from tests.core.kit import KEY, S1, S2, A, B, Disk, View, batch_of, packets, rooms_of, writes
from tests.core.outbox_rig import Rig as OutboxRig
from tests.core.outbox_rig import published, sent

ME = b"node-own"
CONSUMER = b"consumer"


class Rig:
    """An owner of one limited queue, on its disk."""

    def __init__(self, limits: QueueSettings) -> None:
        self.now = 10_000
        self.limits: QueueSettings | None = limits
        self.disk = Disk()
        self.rooms = rooms_of(ME, 1, View(ME))
        self.owner = self.rooms.owner
        self.owner.limits.settings_of = lambda _queue: self.limits
        self.settles = 0

    def publish(
        self,
        first: int,
        count: int = 1,
        *,
        previous: int = 0,
        session: bytes = S1,
        size: int | None = None,
        dead: tuple[Death, ...] = (),
    ) -> list[Effect]:
        """Publish, and let the disk write."""
        batch = batch_of(session, first, count, size=size)
        packet = Publish(*KEY, previous, replace(batch, dead=dead))
        return self.write(self.owner.on_publish(A, packet, self.now))

    def attach(self, limit: int) -> list[Effect]:
        return self.owner.on_attach(B, Attach(*KEY, CONSUMER, 1, limit, 60_000, ()), self.now)

    def ack(self, first: int, last: int, session: bytes = S1) -> list[Effect]:
        self.settles += 1
        packet = Settle(*KEY, CONSUMER, 1, self.settles, 100, (RunField(session, first, last),))
        return self.write(self.owner.on_settle(B, packet, self.now))

    def write(self, effects: list[Effect]) -> list[Effect]:
        after: list[Effect] = []
        for write in writes(effects):
            self.disk.apply(write.records)
            match write.then:
                case BatchDurable():
                    after += self.write(self.owner.on_batch_durable(write.then, self.now))
                case SettleDurable():
                    after += self.owner.on_settle_durable(write.then)
        return effects + after

    @property
    def held(self) -> list[tuple[bytes, int, int]]:
        return [(run.session, run.first, run.last) for run in self.unacked]

    @property
    def unacked(self) -> list[Run]:
        return list(self.owner.partition(KEY).unacked.runs())


def refusals(effects: list[Effect]) -> list[int]:
    return [p.reason for p in packets(effects) if isinstance(p, PublishRefused)]


def is_confirmed(effects: list[Effect]) -> bool:
    return any(isinstance(p, Confirm) for p in packets(effects))


def discarded(effects: list[Effect]) -> list[Run]:
    notices = [e.notice for e in effects if isinstance(e, Notify)]
    return [run for n in notices if isinstance(n, Discarded) for run in n.runs]


# ---------------------------------------------------------------------------- one rule a test


def test_what_does_not_fit_is_refused_whole_and_what_fits_after_it_is_taken() -> None:
    rig = Rig(QueueSettings(max_messages=5))
    assert is_confirmed(rig.publish(1, 3))
    assert refusals(rig.publish(4, 3)) == [REFUSED_QUEUE_FULL]
    assert is_confirmed(rig.publish(1, 2, session=S2))
    assert refusals(rig.publish(3, 1, session=S2)) == [REFUSED_QUEUE_FULL]


def test_bytes_count_as_long_as_their_message_is_there() -> None:
    rig = Rig(QueueSettings(max_bytes=100))
    rig.publish(1, 10, size=100)
    assert refusals(rig.publish(11, 1, size=30)) == [REFUSED_QUEUE_FULL]
    rig.attach(10)
    rig.ack(1, 3)
    assert is_confirmed(rig.publish(11, 1, size=30))
    assert refusals(rig.publish(12, 1, size=1)) == [REFUSED_QUEUE_FULL]


def test_a_repeat_of_what_was_taken_is_confirmed_although_the_queue_is_full() -> None:
    rig = Rig(QueueSettings(max_messages=2, overflow=OVERFLOW_REJECT))
    rig.publish(1, 2)
    assert is_confirmed(rig.publish(1, 2))


def test_what_is_larger_than_the_limit_goes_into_an_empty_queue_alone() -> None:
    rig = Rig(QueueSettings(max_messages=2))
    assert is_confirmed(rig.publish(1, 5))
    assert refusals(rig.publish(6)) == [REFUSED_QUEUE_FULL]


def test_who_is_refused_is_called_when_what_it_has_would_fit_the_longest_waiting_first() -> None:
    rig = Rig(QueueSettings(max_messages=4))
    rig.publish(1, 4)
    rig.publish(5, 2)
    rig.publish(1, 1, session=S2)
    rig.attach(4)
    assert [p for p in packets(rig.ack(1, 1)) if isinstance(p, RoomAgain)] == []
    assert [p for p in packets(rig.ack(2, 2)) if isinstance(p, RoomAgain)] == [RoomAgain(*KEY)]
    assert rig.owner.limits.counts()[0] == [1]
    assert [p for p in packets(rig.ack(3, 3)) if isinstance(p, RoomAgain)] == [RoomAgain(*KEY)]
    assert rig.owner.limits.counts()[0] == []


def test_a_limit_that_is_lifted_calls_everybody() -> None:
    rig = Rig(QueueSettings(max_messages=1))
    rig.publish(1)
    rig.publish(2)
    rig.limits = None
    called = packets(rig.owner.on_placement_changed(rig.now))
    assert RoomAgain(*KEY) in called


def test_a_rejection_stands_for_a_while_and_what_comes_after_it_is_taken() -> None:
    rig = Rig(QueueSettings(max_messages=2, overflow=OVERFLOW_REJECT))
    rig.publish(1, 2)
    assert refusals(rig.publish(3, previous=2)) == [REFUSED_REJECTED]
    rig.attach(2)
    rig.ack(1, 2)
    assert is_confirmed(rig.publish(4, previous=3))  # no gap: 3 is known to be gone
    assert refusals(rig.publish(3, previous=2)) == [REFUSED_REJECTED]  # its refusal was lost
    rig.now += REJECTED_MS
    assert is_confirmed(rig.publish(3))
    rig.ack(3, 4)
    assert any(isinstance(p, Gap) for p in packets(rig.publish(9, previous=8)))


def test_dead_letters_are_never_rejected_but_wait() -> None:
    rig = Rig(QueueSettings(max_messages=1, overflow=OVERFLOW_REJECT))
    rig.publish(1)
    letter = (Death("rejected", "orders"),)
    assert refusals(rig.publish(2, dead=letter)) == [REFUSED_QUEUE_FULL]


def test_the_oldest_go_but_nothing_that_somebody_holds() -> None:
    rig = Rig(QueueSettings(max_messages=3, overflow=OVERFLOW_DROP_OLDEST))
    rig.publish(1, 3)
    rig.attach(1)  # holds the first
    assert discarded(rig.publish(4, 2, previous=3)) == [Run(S1, 2, 2)]
    assert rig.held == [(S1, 1, 1), (S1, 3, 5)]
    effects = rig.publish(6, 1, previous=5)
    assert discarded(effects) == [Run(S1, 3, 3)]
    assert not any(isinstance(p, Delivery) for p in packets(effects))


def test_an_owner_that_starts_anew_finds_the_oldest_among_what_its_disk_holds() -> None:
    rig = Rig(QueueSettings(max_messages=100, overflow=OVERFLOW_DROP_OLDEST))
    for seq in range(1, 11):
        rig.publish(seq, previous=seq - 1)
    rig.limits = QueueSettings(max_messages=4, overflow=OVERFLOW_DROP_OLDEST)
    assert rig.held == [(S1, 1, 10)]
    gone = discarded(rig.owner.on_placement_changed(rig.now))
    assert gone == [Run(S1, seq, seq) for seq in range(1, 7)]
    assert rig.held == [(S1, 7, 10)]


# ------------------------------------------------------------------------------ the publisher


def refused(rig: OutboxRig, first: int, reason: int) -> PublishRefused:
    return PublishRefused(*KEY, rig.outbox.session, first, reason)


def test_an_outbox_keeps_what_a_full_queue_refuses_until_it_is_called() -> None:
    rig = OutboxRig()
    rig.publish(2)
    rig.publish(1)
    effects = rig.outbox.on_refused(refused(rig, 1, REFUSED_QUEUE_FULL), KEY, rig.now, "full")
    assert not packets(effects)
    assert rig.outbox.messages == 3
    assert sent(rig.outbox.on_room_again(KEY, rig.now)) == [
        Run(rig.outbox.session, 1, 2),
        Run(rig.outbox.session, 3, 3),
    ]
    assert not sent(rig.outbox.on_room_again(KEY, rig.now))  # it is on its way


def test_an_outbox_that_is_not_called_tries_again_by_itself_and_says_why_it_waits() -> None:
    rig = OutboxRig()
    rig.publish(1, timeout_ms=2_000)
    rig.write(rig.outbox.on_refused(refused(rig, 1, REFUSED_QUEUE_FULL), KEY, rig.now, "full"))
    (outcome,) = published(rig.outbox.on_timeout(rig.now + 2_000))
    assert (outcome.timed_out, outcome.reason, outcome.gone) == (True, "full", "")
    assert sent(rig.outbox.on_timeout(rig.now + FULL_RETRY_MS)) == [Run(rig.outbox.session, 1, 1)]


def test_an_outbox_lets_go_of_what_is_rejected_and_of_nothing_else() -> None:
    rig = OutboxRig()
    for _ in range(3):
        rig.publish(1, Confirmation.STORED)
    effects = rig.outbox.on_rejected(refused(rig, 2, REFUSED_REJECTED), KEY, rig.now)
    (outcome,) = published(effects)
    assert (outcome.first, outcome.gone, outcome.stored) == (2, "rejected", False)
    notices = [e.notice for e in effects if isinstance(e, Notify)]
    assert [n.what for n in notices if isinstance(n, Counted)] == ["publish_rejected"]
    (told,) = [n for n in notices if isinstance(n, Overflowed)]
    assert (told.action, told.reason, told.first, told.count) == ("refused", "queue_full", 2, 1)
    assert rig.outbox.messages == 2
    assert not rig.outbox.on_rejected(refused(rig, 2, REFUSED_REJECTED), KEY, rig.now)
    rig.confirm(rig.outbox.session, 1, 1)
    rig.confirm(rig.outbox.session, 3, 3)
    assert rig.outbox.messages == 0


# ------------------------------------------------------------------------------- any history


@settings(max_examples=60, deadline=None)
@given(
    limits=st.builds(
        QueueSettings,
        max_messages=st.integers(0, 12),
        max_bytes=st.sampled_from([0, 60, 200]),
        overflow=st.sampled_from([OVERFLOW_BLOCK, OVERFLOW_REJECT, OVERFLOW_DROP_OLDEST]),
    ),
    steps=st.lists(
        st.tuples(st.integers(1, 5), st.integers(1, 20), st.integers(0, 4), st.integers(0, 3)),
        max_size=30,
    ),
)
def test_the_queue_never_holds_more_than_its_limits_and_nothing_leaves_unsaid(
    limits: QueueSettings, steps: list[tuple[int, int, int, int]]
) -> None:
    """Batches come, consumers get and ack some: each message is held, acked, refused or told of."""
    rig = Rig(limits)
    rig.attach(1)
    taken: set[int] = set()
    acked: set[int] = set()
    gone: set[int] = set()
    seq = 1
    for count, size, done, more in steps:
        before = (rig.owner.partition(KEY).pending.count, rig.owner.partition(KEY).size)
        effects = rig.publish(seq, count, size=size * count)
        if is_confirmed(effects):
            taken |= set(range(seq, seq + count))
            may = limits.overflow == OVERFLOW_DROP_OLDEST or not (
                limits.max_messages or limits.max_bytes
            )
            assert may or fits(limits, before, count, size * count)
        else:
            assert refusals(effects)
        seq += count
        leased = sorted(
            at for run, _ in rig.owner.deliveries[KEY].leases.items() for at in range(*_ends(run))
        )
        for at in leased[:done]:
            rig.settles += 1
            packet = Settle(*KEY, CONSUMER, 1, rig.settles, 1 + len(acked) + more, (
                RunField(S1, at, at),
            ))  # fmt: skip
            effects += rig.write(rig.owner.on_settle(B, packet, rig.now))
            acked.add(at)
        gone |= {at for run in discarded(effects) for at in range(*_ends(run))}
        partition, delivery = rig.owner.partition(KEY), rig.owner.deliveries[KEY]
        held = {at for run in partition.unacked.runs() for at in range(*_ends(run))}
        assert taken == held | acked | gone
        assert not held & (acked | gone)
        assert partition.size == sum(s.bytes_alive for s in partition.batches.values())
        assert (partition.incoming_count, partition.incoming_size) == (0, 0)
        if limits.overflow == OVERFLOW_DROP_OLDEST and limits.max_messages:
            assert partition.pending.count - delivery.leases.count <= limits.max_messages
        elif limits.max_messages and partition.pending.count > limits.max_messages:
            assert len(partition.batches) == 1  # it came into an empty queue


def _ends(run: Run) -> tuple[int, int]:
    return run.first, run.last + 1
