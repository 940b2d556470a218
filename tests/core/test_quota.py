"""The outbox's quota: who makes room, who is refused, what is too old; and who is told."""

from __future__ import annotations

from p2pmq.config import OutboxPolicy
from p2pmq.core.effects import Counted, Effect, Notify, Overflowed
from p2pmq.core.events import Confirmation
from p2pmq.core.ids import Run
from p2pmq.core.quota import cost_of
from p2pmq.core.records import Space
from tests.core.kit import KEY, A
from tests.core.outbox_rig import Rig, published, sent

ONE = cost_of(1, 10)


def overflowed(effects: list[Effect]) -> list[tuple[str, str, int, int]]:
    """What was reported: action, reason, priority, first seq. Each is counted too."""
    notices = [effect.notice for effect in effects if isinstance(effect, Notify)]
    found = [notice for notice in notices if isinstance(notice, Overflowed)]
    counted = [(n.what, n.count) for n in notices if isinstance(n, Counted)]
    assert counted == [(f"outbox_{n.action}", n.count) for n in found]
    return [(n.action, n.reason, n.priority, n.first) for n in found]


def test_the_lowest_priority_makes_room_the_oldest_first() -> None:
    rig = Rig(owner=None, policy=OutboxPolicy(4 * ONE, overflow="drop-lowest"))
    for priority in (5, 1, 1, 0):
        rig.write(rig.publish(1, Confirmation.NONE, priority=priority))
    dropped = [overflowed(rig.publish(1, Confirmation.NONE, priority=9)) for _ in range(3)]
    assert dropped == [
        [("dropped", "outbox_full", 0, 4)],
        [("dropped", "outbox_full", 1, 2)],
        [("dropped", "outbox_full", 1, 3)],
    ]
    assert rig.outbox.quota.bytes_held == 4 * ONE


def test_a_dropped_batch_is_removed_from_the_disk_in_the_same_go() -> None:
    rig = Rig(owner=None, policy=OutboxPolicy(ONE, overflow="drop-lowest"))
    rig.write(rig.publish(1, Confirmation.STORED))
    rig.write(rig.publish(1, Confirmation.STORED, priority=1))
    (left,) = rig.disk.of_space(Space.OUTBOX)
    assert left.batch.first == 2


def test_who_finds_no_lower_priority_is_refused_and_nothing_is_dropped() -> None:
    rig = Rig(owner=None, policy=OutboxPolicy(2 * ONE, overflow="drop-lowest"))
    rig.publish(1, Confirmation.NONE, priority=3)
    rig.publish(1, Confirmation.NONE, priority=1)
    effects = rig.publish(1, priority=1)
    assert overflowed(effects) == [("refused", "outbox_full", 1, 3)]
    (outcome,) = published(effects)
    assert (outcome.gone, outcome.stored, outcome.copies) == ("refused", False, 0)
    effects = rig.publish(40, Confirmation.NONE, priority=2)
    assert [action for action, *_ in overflowed(effects)] == ["refused"], "the lower one stays"
    assert rig.outbox.messages == 2


def test_the_publisher_of_a_dropped_message_is_told_why() -> None:
    rig = Rig(owner=None, policy=OutboxPolicy(ONE, overflow="drop-lowest"))
    rig.publish(1)
    (outcome,) = published(rig.publish(1, priority=1))
    assert (outcome.first, outcome.gone, outcome.timed_out) == (1, "dropped", True)
    assert "full" in outcome.reason


def test_what_an_owner_may_have_is_not_dropped_though_the_owner_is_away_now() -> None:
    rig = Rig(policy=OutboxPolicy(ONE, age_max_ms=100, overflow="drop-lowest"))
    rig.publish(1)
    rig.owner = None
    rig.outbox.on_owner_changed(KEY, rig.now)
    assert [a for a, *_ in overflowed(rig.publish(1, Confirmation.NONE, priority=9))] == ["refused"]
    rig.now += 1_000
    assert not overflowed(rig.outbox.on_timeout(rig.now))
    assert rig.outbox.messages == 1


def test_refuse_takes_nothing_above_the_quota_and_the_next_dots_are_new() -> None:
    rig = Rig(owner=None, policy=OutboxPolicy(ONE, overflow="refuse"))
    rig.publish(1, Confirmation.NONE)
    assert overflowed(rig.publish(1, priority=9)) == [("refused", "outbox_full", 9, 2)]
    rig.owner = A
    rig.outbox.on_owner_changed(KEY, rig.now)
    rig.confirm(rig.outbox.session, 1, 1)
    assert sent(rig.publish(1)) == [Run(rig.outbox.session, 3, 3)]


def test_what_is_too_old_and_was_never_sent_is_dropped_when_its_time_comes() -> None:
    rig = Rig(owner=None, policy=OutboxPolicy(age_max_ms=700))
    rig.write(rig.publish(1, Confirmation.STORED, priority=9))
    rig.now += 500
    rig.write(rig.publish(1, Confirmation.STORED))
    deadlines = []
    for _ in range(20):
        at = rig.outbox.next_deadline()
        assert at is not None
        rig.now = max(at, rig.now)
        effects = rig.outbox.on_timeout(rig.now)
        rig.write(effects)
        deadlines += [(rig.now, *found) for found in overflowed(effects)]
        if not rig.outbox.messages:
            break
    assert deadlines == [
        (1_700, "dropped", "outbox_age", 9, 1),
        (2_200, "dropped", "outbox_age", 0, 2),
    ]
    assert not rig.disk.of_space(Space.OUTBOX)


def test_what_an_earlier_run_left_counts_for_the_quota_and_is_not_dropped() -> None:
    policy = OutboxPolicy(2 * ONE, age_max_ms=100, overflow="drop-lowest")
    rig = Rig(owner=None, policy=policy)
    for _ in range(2):
        rig.write(rig.publish(1, Confirmation.STORED))
    rig.boot().recover(rig.disk.of_space(Space.OUTBOX), rig.now)
    assert rig.outbox.quota.bytes_held == 2 * ONE
    assert [a for a, *_ in overflowed(rig.publish(1, Confirmation.NONE, priority=9))] == ["refused"]
    rig.now += 1_000
    assert not overflowed(rig.outbox.on_timeout(rig.now))
