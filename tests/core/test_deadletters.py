"""Dead letters: published under another dot, committed, and only then gone from where they were."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2pmq.core.deadletters import (
    HELD_BYTES_MAX,
    RESEND_MAX_MS,
    RESEND_MS,
    UNDER_WAY_MAX,
    letter_session,
)
from p2pmq.core.effects import Buried, Effect, Notify, Persist, Send
from p2pmq.core.events import BatchDurable
from p2pmq.core.ids import NodeId, PartitionKey, Run
from p2pmq.core.names import dead_letters_of
from p2pmq.core.packets.publishing import Batch, Confirm, Death, Publish, RunField
from p2pmq.core.partition import Partition
from tests.core.kit import KEY, S1, A, B, C, View, batch_of, rooms_of

LETTERS = PartitionKey("orders.dlq", 0)
REASON = Death("no-reason", error="none", failures=3)


class Elsewhere(View):
    """This node, A, owns every queue but those of dead letters."""

    letters: NodeId | None = B

    def owner_of(self, key: PartitionKey) -> NodeId | None:
        return self.letters if key == LETTERS else A


class Desk:
    """The dead letters of one owner, and what its view says of who owns their queue."""

    def __init__(self, key: PartitionKey = KEY) -> None:
        self.key = key
        self.view = Elsewhere(A)
        self.owner, self.replication, _ = rooms_of(A, 1, self.view)
        self.letters = self.replication.dead_letters
        self.replication.copies(key, 0)

    @property
    def partition(self) -> Partition:
        return self.owner.partition(self.key)

    def store(self, first: int, count: int = 4) -> Run:
        self.partition.append(batch_of(S1, first, count), 0, A)
        number = self.partition.next_number - 1
        self.owner.on_batch_durable(BatchDurable(self.key, number), 0)
        return Run(S1, first, first + count - 1)

    def condemn(self, *runs: Run, now: int = 0) -> list[Effect]:
        return self.letters.condemn(self.key, runs, REASON, now)

    def bury(self, *batches: Batch, now: int = 0) -> list[Effect]:
        return self.letters.bury(self.key, batches, REASON, now)

    def confirm(self, first: int, last: int, now: int = 0) -> list[Effect]:
        run = RunField(letter_session(self.key, S1), first, last)
        return self.letters.on_confirm(Confirm(*LETTERS, (run,), 2), LETTERS, now)

    def wait(self, now: int) -> list[Effect]:
        return self.letters.on_timeout(now)


def published(effects: list[Effect]) -> list[tuple[NodeId, Batch]]:
    return [
        (effect.peer, effect.packet.batch)
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.packet, Publish)
    ]


def told(effects: list[Effect]) -> list[Buried]:
    notices = [effect.notice for effect in effects if isinstance(effect, Notify)]
    return [notice for notice in notices if isinstance(notice, Buried)]


def test_a_letter_is_published_under_another_session_with_its_reason_and_no_stamp() -> None:
    desk = Desk()
    run = desk.store(1)
    ((to, batch),) = published(desk.condemn(run))
    assert to == B
    assert batch.run == Run(letter_session(KEY, S1), 1, 4)
    assert batch.dead == (replace(REASON, dead_queue="orders"),)
    assert (batch.stamp, batch.ttl_ms) == (0, 0)


def test_two_owners_write_the_same_letter_and_two_partitions_do_not() -> None:
    assert letter_session(KEY, S1) == letter_session(PartitionKey("orders", 0), S1)
    others = {
        letter_session(PartitionKey("orders", 1), S1),
        letter_session(PartitionKey("order", 0), S1),
        letter_session(KEY, b"session2"),
        S1,
    }
    assert len(others) == 4
    assert letter_session(KEY, S1) not in others


def test_the_original_stays_undelivered_until_all_of_the_letter_is_committed() -> None:
    desk = Desk()
    run = desk.store(1)
    desk.condemn(run)
    assert desk.replication.deliverable(KEY, run) == []
    assert desk.confirm(1, 3) == []
    assert desk.partition.pending.count == 4
    effects = desk.confirm(4, 4)
    assert told(effects) == [Buried(KEY, (run,), REASON.reason, "orders.dlq")]
    assert any(isinstance(effect, Persist) for effect in effects)
    assert desk.partition.pending.count == 0
    assert desk.partition.seen.covers(run)
    assert desk.letters.next_deadline() is None


def test_what_its_publisher_sent_after_a_condemned_message_is_delivered() -> None:
    desk = Desk()
    desk.store(1)
    desk.condemn(Run(S1, 2, 3))
    assert desk.replication.deliverable(KEY, Run(S1, 1, 4)) == [Run(S1, 1, 1), Run(S1, 4, 4)]


def test_an_unconfirmed_letter_is_said_again_each_time_later() -> None:
    desk = Desk()
    desk.condemn(desk.store(1))
    now, waits = 0, []
    for _ in range(7):
        due = desk.letters.next_deadline()
        assert due is not None
        waits.append(due - now)
        now = due
        assert len(published(desk.wait(now))) == 1
    assert waits[:3] == [RESEND_MS, 2 * RESEND_MS, 4 * RESEND_MS]
    assert waits[-1] == RESEND_MAX_MS


def test_it_goes_to_whoever_owns_the_dead_letter_queue_now() -> None:
    desk = Desk()
    desk.condemn(desk.store(1))
    desk.view.letters = None
    assert published(desk.letters.on_placement_changed(10)) == []
    desk.view.letters = C
    ((to, _),) = published(desk.letters.on_placement_changed(20))
    assert to == C
    assert desk.letters.on_placement_changed(30) == [], "it was just sent"


def test_whoever_owns_no_more_leaves_it_to_the_next_owner() -> None:
    desk = Desk()
    desk.condemn(desk.store(1))
    desk.owner._owner_of = lambda _key: B
    assert desk.letters.on_placement_changed(10) == []
    assert desk.letters.next_deadline() is None
    assert desk.confirm(1, 4) == []
    assert desk.partition.pending.count == 4


def test_a_message_that_a_consumer_acks_meanwhile_makes_no_letter() -> None:
    desk = Desk()
    run = desk.store(1)
    desk.condemn(run)
    removed, _ = desk.partition.remove([Run(S1, 1, 1)])
    desk.owner.forget(KEY, removed)
    ((_, batch),) = published(desk.wait(RESEND_MS))
    assert batch.run[1:] == (2, 4), "the rest is a letter of its own"
    assert not desk.replication._copies[KEY].condemned.overlap(Run(S1, 1, 1))


def test_so_many_letters_are_under_way_and_the_rest_waits_its_turn() -> None:
    desk = Desk()
    runs = [desk.store(first, 1) for first in range(1, 2 * UNDER_WAY_MAX + 1)]
    sent = [batch.first for _, batch in published(desk.condemn(*runs))]
    assert len(sent) == UNDER_WAY_MAX
    assert desk.letters.under_way(KEY).count == UNDER_WAY_MAX
    while desk.partition.pending:
        first = sent.pop(0)
        sent += [batch.first for _, batch in published(desk.confirm(first, first))]
        assert desk.letters.under_way(KEY).count <= UNDER_WAY_MAX
    assert desk.letters.next_deadline() is None


def test_bodies_that_lie_nowhere_here_are_bounded_and_one_always_has_room() -> None:
    desk = Desk()
    large = [batch_of(S1, first, 1, size=HELD_BYTES_MAX) for first in (1, 2)]
    assert [b.first for _, b in published(desk.bury(*large))] == [1]
    assert [b.first for _, b in published(desk.bury(*large))] == []
    desk.confirm(1, 1)
    assert [b.first for _, b in published(desk.bury(large[1]))] == [2]


def test_what_is_not_here_is_acked_here_once_its_letter_is_committed() -> None:
    desk = Desk()
    batch = replace(batch_of(S1, 1, 4), stamp=5)
    ((_, letter),) = published(desk.bury(batch))
    assert letter.bodies == batch.bodies
    assert not desk.partition.seen
    desk.confirm(1, 4)
    assert desk.partition.acked().covers(batch.run)


def test_what_is_buried_twice_at_once_is_sent_once() -> None:
    desk = Desk()
    batch = replace(batch_of(S1, 1, 4), stamp=5)
    assert len(published(desk.bury(batch))) == 1
    assert published(desk.bury(batch)) == []


def test_it_waits_for_a_publishers_repeat_that_is_just_being_written() -> None:
    desk = Desk()
    desk.bury(replace(batch_of(S1, 1, 4), stamp=5))
    desk.partition.append(batch_of(S1, 1, 4), 0, A)
    assert desk.confirm(1, 4, now=50) == []
    desk.owner.on_batch_durable(BatchDurable(KEY, 1), 60)
    due = desk.letters.next_deadline()
    assert due is not None
    assert told(desk.wait(due))
    assert not desk.partition.pending


def test_a_damaged_body_of_a_letter_is_found_where_it_lies() -> None:
    desk = Desk()
    run = desk.store(1)
    desk.condemn(run)
    assert desk.letters.original_of(KEY, Run(letter_session(KEY, S1), 2, 2)) == Run(S1, 2, 2)
    assert desk.letters.original_of(KEY, Run(S1, 2, 2)) == Run(S1, 2, 2)


@pytest.mark.parametrize(
    ("queue", "why"),
    [("orders.dlq", "no dead-letter queue of their own"), ("q" * 252, "256 bytes")],
)
def test_where_there_is_no_queue_for_it_a_message_is_dropped_and_that_is_said(
    queue: str, why: str
) -> None:
    key = PartitionKey(queue, 0)
    desk = Desk(key)
    desk.view.letters = A
    runs = [desk.store(1), desk.store(5)]
    assert published(desk.condemn(*runs)) == []
    notices = told(desk.wait(0))
    assert sorted(run for notice in notices for run in notice.runs) == runs
    for notice in notices:
        assert (notice.key, notice.reason, notice.into) == (key, REASON.reason, "")
        assert why in notice.why
    assert not desk.partition.pending
    assert desk.letters.next_deadline() is None


def test_the_longest_name_that_has_a_dead_letter_queue() -> None:
    assert dead_letters_of("q" * 251) == ("q" * 251 + ".dlq", "")
    assert dead_letters_of("é" * 126)[0] == ""
