"""Each check of a history: a broken one fails it, a good one does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from p2pmq.core.ids import PartitionKey, Run
from p2pmq.sim import SimulationCheckError, Violation, checks
from p2pmq.sim.features import every_group_gets_it
from p2pmq.sim.history import (
    AckConfirmed,
    Acked,
    ConsumerEnded,
    Delivered,
    Dropped,
    Emitted,
    Entry,
    Excused,
    Fault,
    Fetched,
    Heal,
    Held,
    History,
    Nacked,
    Outcome,
    Process,
    ProcessEnded,
    Publication,
    Pushed,
    Returned,
    Subscription,
    Taken,
    Unread,
)

SHOP, BANK, DEPOT = Process("shop", 1), Process("bank", 1), Process("depot", 1)
KEY = PartitionKey("orders", 0)
SESSION = b"sessions"
CONSUMER, OTHER = b"consumer", b"consum-2"
Check = Callable[[History], list[Violation]]


def run(first: int, last: int | None = None) -> Run:
    return Run(SESSION, first, last if last is not None else first)


def published(
    first: int, last: int | None = None, outcome: Outcome = Outcome.COMMITTED, at_s: float = 1
) -> Publication:
    dots = run(first, last)
    digests = tuple(range(dots.first, dots.last + 1))
    return Publication(at_s, SHOP, KEY, dots, "committed", digests, first, outcome)


def delivered(
    first: int, last: int | None = None, at_s: float = 2, consumer: bytes = CONSUMER
) -> Delivered:
    dots = run(first, last)
    digests = tuple(range(dots.first, dots.last + 1))
    return Delivered(at_s, DEPOT, consumer, KEY, dots, 1, digests)


def acked(first: int, last: int | None = None, at_s: float = 3) -> Acked:
    return Acked(at_s, DEPOT, CONSUMER, KEY, run(first, last))


def pushed(first: int, at_s: float = 2, attempt: int = 1, owner: Process = BANK) -> Pushed:
    return Pushed(at_s, owner, KEY, run(first), attempt)


def keyed(push: Pushed, key: bytes = b"key-hash") -> Pushed:
    return push._replace(keys=key * push.run.length)


def subscribed(prefetch: int = 10, consumer: bytes = CONSUMER) -> Subscription:
    return Subscription(0, DEPOT, consumer, KEY, prefetch, 30)


def confirmed(first: int, at_s: float = 3, by: str = "bank") -> AckConfirmed:
    return AckConfirmed(at_s, CONSUMER, KEY, run(first), by)


def delayed(first: int, delay_ms: int) -> Publication:
    return replace(published(first), delay_ms=delay_ms)


def history(*entries: Entry, held: Run | None = None, now_s: float = 100) -> History:
    made = History(entries)
    made.now_s = now_s
    if held is not None:
        made.held = [Held("bank", "partition", KEY, held)]
    return made


def test_an_empty_history_and_a_good_one_break_no_promise() -> None:
    assert checks.broken_promises(History(), 0, 0) == []
    good = history(subscribed(), published(1, 3), delivered(1, 3), acked(1, 3))
    assert checks.broken_promises(good, 0, 0) == []


BROKEN: dict[str, tuple[Check, History]] = {
    "a committed message that is nowhere": (
        checks.committed_is_kept,
        history(published(1, 2), acked(1), held=None),
    ),
    "a stored message that is nowhere": (
        checks.stored_is_kept,
        history(published(1, outcome=Outcome.STORED)),
    ),
    "a timed-out message that was stored and is nowhere": (
        checks.stored_is_kept,
        history(replace(published(1, outcome=Outcome.TIMED_OUT), stored=True)),
    ),
    "a message that came though it was reported as dropped": (
        checks.dropped_is_not_delivered,
        history(published(1), Dropped(1, SHOP, KEY, run(1), "outbox_full: dropped"), delivered(1)),
    ),
    "a body that was never published": (
        checks.nothing_unexpected,
        history(published(1), delivered(2)),
    ),
    "another body than was published": (
        checks.nothing_unexpected,
        history(published(1), delivered(1)._replace(digests=(99,))),
    ),
    "a delivery repeated in calm": (
        checks.duplicates_are_explained,
        history(subscribed(), published(1), delivered(1), delivered(1, at_s=4, consumer=OTHER)),
    ),
    "a delivery repeated before its visibility timeout": (
        checks.duplicates_are_explained,
        history(subscribed(), published(1), delivered(1), delivered(1, at_s=31)),
    ),
    "an owner that pushes the second before the first": (
        checks.order_is_kept,
        history(Taken(1, BANK, KEY, run(1, 2)), pushed(2), pushed(1, at_s=3)),
    ),
    "an owner that pushes the second of a key before the first": (
        checks.order_is_kept,
        history(Taken(1, BANK, KEY, run(1, 2), keys=b"key-hash" * 2), pushed(2), pushed(1, at_s=3)),
    ),
    "a delayed message that is pushed before it is due": (
        checks.delayed_is_not_early,
        history(delayed(1, 2_000), pushed(1, at_s=2.9)),
    ),
    "an event of which a group got no copy": (
        every_group_gets_it,
        history(published(1), Emitted(1, "shop", 1, ("orders", "letters"))),
    ),
    "two messages of a key that are out at once": (
        checks.keys_go_one_by_one,
        history(keyed(pushed(1)), keyed(pushed(2, at_s=3)), acked(1, at_s=4)),
    ),
    "the next of a key, when the one before was given back": (
        checks.keys_go_one_by_one,
        history(
            keyed(pushed(1)), Nacked(3, DEPOT, CONSUMER, KEY, run(1)), keyed(pushed(2, at_s=5))
        ),
    ),
    "an owner that pushes what it confirmed as acked": (
        checks.acked_stays_acked,
        history(Fault(2, "cut", (), ""), confirmed(1), pushed(1, at_s=4)),
    ),
    "another owner that pushes in calm what was acked": (
        checks.acked_stays_acked,
        history(confirmed(1), pushed(1, at_s=4, owner=SHOP)),
    ),
    "a second push that claims to be the first": (
        checks.redeliveries_are_marked,
        history(pushed(1), pushed(1, at_s=5)),
    ),
    "more messages than the prefetch": (
        checks.prefetch_is_a_bound,
        history(subscribed(prefetch=2), delivered(1, 2), acked(1), delivered(3, 4)),
    ),
    "views that still differ 60 s after a heal": (
        checks.views_are_equal_after_a_heal,
        history(Heal(10, differing="shop does not see bank"), now_s=71),
    ),
    "views that were equal, but late": (
        checks.views_are_equal_after_a_heal,
        history(Heal(10, equal_at_s=71), now_s=100),
    ),
}


BROKEN |= {
    "a restarted owner that pushes what was acked on enough disks": (
        checks.acked_stays_acked,
        history(confirmed(1), ProcessEnded(3.5, SHOP), pushed(1, at_s=4, owner=SHOP)),
    ),
}


BROKEN |= {
    "an owner that was down and pushes what is acked on a majority": (
        checks.acked_stays_acked,
        history(confirmed(1), Fault(2, "down", (), "", until_s=3.5), pushed(1, at_s=4, owner=SHOP)),
    ),
}


@pytest.mark.parametrize(("check", "broken"), BROKEN.values(), ids=BROKEN)
def test_a_broken_history_fails(check: Check, broken: History) -> None:
    assert len(check(broken)) == 1
    assert check(broken)[0] in checks.broken_promises(broken)


def test_a_message_that_left_a_living_outbox_and_is_nowhere_was_dropped_silently() -> None:
    broken = history(published(1, outcome=Outcome.NOTHING))
    broken.outboxes = {SHOP: 0}
    assert checks.nothing_is_dropped_silently(broken)
    broken.outboxes = {SHOP: 1}
    assert not checks.nothing_is_dropped_silently(broken)
    broken.outboxes = {}
    assert not checks.nothing_is_dropped_silently(broken)


GOOD: dict[str, tuple[Check, History]] = {
    "kept on a disk": (checks.committed_is_kept, history(published(1, 2), held=run(1, 2))),
    "destroyed by a fault": (
        checks.committed_is_kept,
        history(published(1), Excused(1, KEY, run(1), "wiped")),
    ),
    "given up with a reason": (
        checks.committed_is_kept,
        history(published(1), Dropped(1, BANK, KEY, run(1), "damaged")),
    ),
    "dropped as the process died, and found again": (
        checks.dropped_is_not_delivered,
        history(
            published(1),
            Dropped(1, SHOP, KEY, run(1), "outbox_age: dropped"),
            ProcessEnded(1, SHOP),
            delivered(1),
        ),
    ),
    "not promised": (
        checks.stored_is_kept,
        history(published(1, outcome=Outcome.TIMED_OUT)),
    ),
    "repeated since it was given back": (
        checks.duplicates_are_explained,
        history(delivered(1), Nacked(3, DEPOT, CONSUMER, KEY, run(1)), delivered(1, at_s=4)),
    ),
    "repeated since nobody had seen it": (
        checks.duplicates_are_explained,
        history(delivered(1), Returned(3, DEPOT, CONSUMER, KEY, run(1)), delivered(1, at_s=4)),
    ),
    "repeated since its consumer ended": (
        checks.duplicates_are_explained,
        history(subscribed(), delivered(1), ConsumerEnded(3, CONSUMER), delivered(1, at_s=4)),
    ),
    "repeated after a crash": (
        checks.duplicates_are_explained,
        history(subscribed(), delivered(1), ProcessEnded(3, BANK), delivered(1, at_s=4)),
    ),
    "repeated when its visibility timeout had ended": (
        checks.duplicates_are_explained,
        history(subscribed(), delivered(1), delivered(1, at_s=32)),
    ),
    "repeated in a partition": (
        checks.duplicates_are_explained,
        history(
            subscribed(), Fault(1, "cut", (), "", until_s=1.5), delivered(1), delivered(1, at_s=4)
        ),
    ),
    "pushed late, for it was handed over": (
        checks.order_is_kept,
        history(Taken(1, BANK, KEY, run(2)), pushed(2), pushed(1, at_s=3)),
    ),
    "pushed late, for its disk was full, and it was had from another": (
        checks.order_is_kept,
        history(
            Taken(1, BANK, KEY, run(1, 2)),
            pushed(2),
            Fetched(3, BANK, KEY, run(1)),
            pushed(1, at_s=4),
        ),
    ),
    "pushed earlier, for it was more urgent": (
        checks.order_is_kept,
        history(
            Taken(1, BANK, KEY, run(1)),
            Taken(1, BANK, KEY, run(2), priority=9),
            pushed(2),
            pushed(1, at_s=3),
        ),
    ),
    "pushed when it was due, and one before that, of no delay": (
        checks.delayed_is_not_early,
        history(delayed(1, 2_000), published(2), pushed(2), pushed(1, at_s=3)),
    ),
    "pushed early, for somebody had set a clock": (
        checks.delayed_is_not_early,
        history(delayed(1, 2_000), Fault(0, "clock", ("bank",), "", 0), pushed(1)),
    ),
    "pushed later than what was published after it, for it was delayed": (
        checks.order_is_kept,
        history(delayed(1, 2_000), Taken(1, BANK, KEY, run(1, 2)), pushed(2), pushed(1, at_s=3)),
    ),
    "an event with a copy for each group": (
        every_group_gets_it,
        history(
            published(1),
            replace(published(1), key=PartitionKey("letters", 0)),
            Emitted(1, "shop", 1, ("orders", "letters")),
        ),
    ),
    "pushed earlier, for its key was free": (
        checks.order_is_kept,
        history(
            Taken(1, BANK, KEY, run(1, 2), keys=b"key-hash" + b"key2hash"),
            pushed(2),
            pushed(1, at_s=3),
        ),
    ),
    "the next of a key, after the ack of the one before": (
        checks.keys_go_one_by_one,
        history(keyed(pushed(1)), acked(1), keyed(pushed(2, at_s=3))),
    ),
    "the same of a key again": (
        checks.keys_go_one_by_one,
        history(keyed(pushed(1)), keyed(pushed(1, at_s=40, attempt=2))),
    ),
    "messages of two keys, and two without one": (
        checks.keys_go_one_by_one,
        history(keyed(pushed(1)), keyed(pushed(2), b"key2hash"), pushed(3), pushed(4)),
    ),
    "two of a key by an owner that others could not reach": (
        checks.keys_go_one_by_one,
        history(keyed(pushed(1)), Fault(3, "cut", (), ""), keyed(pushed(2, at_s=4))),
    ),
    "two of a key by the owners of two sides": (
        checks.keys_go_one_by_one,
        history(keyed(pushed(1)), keyed(pushed(2, owner=SHOP))),
    ),
    "pushed in one instant, to several consumers": (
        checks.order_is_kept,
        history(Taken(1, BANK, KEY, run(1, 2)), pushed(2), pushed(1)),
    ),
    "pushed by an owner that could not know of the ack": (
        checks.acked_stays_acked,
        history(confirmed(1), Fault(2, "cut", (), ""), pushed(1, at_s=4, owner=SHOP)),
    ),
    "pushed by one that was down, where one copy is enough and who has the ack is down": (
        checks.acked_stays_acked,
        history(
            confirmed(1)._replace(is_known=False),
            Fault(2, "down", (), "", until_s=3.5),
            pushed(1, at_s=4, owner=SHOP),
        ),
    ),
    "pushed before the ack": (checks.acked_stays_acked, history(pushed(1), confirmed(1))),
    "pushed again, and marked": (
        checks.redeliveries_are_marked,
        history(pushed(1), pushed(1, at_s=4, attempt=2)),
    ),
    "pushed anew as the first, for it could not be read and never left": (
        checks.redeliveries_are_marked,
        history(pushed(1), Unread(3, BANK, KEY, run(1)), pushed(1, at_s=4)),
    ),
    "as many as the prefetch": (
        checks.prefetch_is_a_bound,
        history(subscribed(prefetch=2), delivered(1, 2), acked(1, 2), delivered(3, 4)),
    ),
    "equal in time": (
        checks.views_are_equal_after_a_heal,
        history(Heal(10, equal_at_s=69), Heal(80), Heal(90, disturbed=True)),
    ),
}


@pytest.mark.parametrize(("check", "good"), GOOD.values(), ids=GOOD)
def test_a_history_that_can_be_explained_passes(check: Check, good: History) -> None:
    assert check(good) == []


def test_a_disk_that_has_seen_what_it_never_got_takes_it_for_acked() -> None:
    made = history(published(1, 3), acked(1), Dropped(2, BANK, KEY, run(2), "too old"))
    made.taken_for_acked = [Held("bank", "partition", KEY, run(1, 2))]
    assert checks.seen_is_never_ahead_of_bodies(made) == []
    made.taken_for_acked = [Held("bank", "partition", KEY, run(1, 3))]
    (found,) = checks.seen_is_never_ahead_of_bodies(made)
    assert "bank has seen orders/" in found.text
    assert found in checks.broken_promises(made)
    made.add(Excused(3, KEY, run(3), "wiped"))
    assert checks.seen_is_never_ahead_of_bodies(made) == []


def test_a_buffer_above_its_limit_breaks_a_promise() -> None:
    made = history()
    made.peaks = {("bank", "members"): (7, 7), ("shop", "outbox, bytes"): (11, 10)}
    (found,) = checks.broken_promises(made)
    assert found.text == "outbox, bytes of shop held 11, its limit is 10"


def test_what_was_given_back_before_anybody_saw_it_is_no_duplicate() -> None:
    made = history(published(1), delivered(1), delivered(1, at_s=4, consumer=OTHER))
    assert checks.too_many_duplicates(made, 0)
    made.add(Returned(3, DEPOT, CONSUMER, KEY, run(1)))
    assert checks.too_many_duplicates(made, 0) == []
    assert checks.summary(made).duplicated == 0


def test_bounds_are_checked_where_they_are_given() -> None:
    repeated = history(published(1), delivered(1), delivered(1), delivered(1), held=run(1))
    assert checks.too_many_duplicates(repeated, None) == []
    assert checks.too_many_duplicates(repeated, 2) == []
    assert "2 deliveries beyond the first" in checks.too_many_duplicates(repeated, 1)[0].text
    assert checks.too_many_stuck(repeated, 1) == []
    assert "on bank" in checks.too_many_stuck(repeated, 0)[0].text


def test_the_summary_counts_as_total_queue_does() -> None:
    entries: list[Entry] = [
        published(1, 4),
        published(5, outcome=Outcome.TIMED_OUT),
        published(6, outcome=Outcome.NOTHING),
        delivered(1, 2),
        delivered(2),
        delivered(5),
        delivered(7),
        acked(1, 2),
    ]
    found = checks.summary(history(*entries, held=run(3)))
    assert str(found) == (
        "6 attempted, 4 acknowledged, 4 delivered, 2 acked, 1 lost, 1 duplicated, "
        "1 unexpected, 1 recovered, 1 stuck"
    )


def test_the_error_lists_breaches_the_seed_and_how_to_replay() -> None:
    error = SimulationCheckError([Violation("c", f"v{n}") for n in range(30)], 7, "do this")
    assert "30 broken promises with seed 7" in str(error)
    assert "c: v0\n" in str(error)
    assert "and 10 more\ndo this" in str(error)
    assert isinstance(error, AssertionError)
