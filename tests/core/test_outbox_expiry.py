"""A time to live in the outbox: what remains is sent, and what is over is dropped and said."""

from __future__ import annotations

from dataclasses import replace

from p2pmq.config import Limits, Timing
from p2pmq.core.effects import Effect, Expired, Notify, Persist, Published, Resolve
from p2pmq.core.events import Confirmation, PublishRequested
from p2pmq.core.hlc import HybridClock
from p2pmq.core.ids import NodeId, Run
from p2pmq.core.outbox import Outbox
from p2pmq.core.packets.publishing import Publish
from p2pmq.core.records import BatchRemoved, BatchStored, RecoveredBatch, Space
from tests.core.kit import KEY, A, Texts, packets

SESSION = b"session1"
WALL = 1_700_000_000_000


class Place:
    """An outbox whose owner comes and goes, on a node with a wall clock."""

    def __init__(self, owner: NodeId | None, session: bytes = SESSION, wall: int = WALL) -> None:
        self.owner = owner
        clock = HybridClock()
        clock.wall_offset_ms = wall
        self.outbox = Outbox(session, lambda _key: self.owner, Limits(), Timing(), clock=clock)

    def publish(self, ttl_ms: int, now: int, token: int = 1) -> list[Effect]:
        asked = PublishRequested(
            KEY, Texts(("x",)), 1, 10, Confirmation.COMMITTED, 900_000, token, ttl_ms=ttl_ms
        )
        return self.outbox.on_publish(asked, now)


def ttls(effects: list[Effect]) -> list[int]:
    return [p.batch.ttl_ms for p in packets(effects) if isinstance(p, Publish)]


def expired(effects: list[Effect]) -> list[Run]:
    notices = [e.notice for e in effects if isinstance(e, Notify)]
    return [run for notice in notices if isinstance(notice, Expired) for run in notice.runs]


def test_what_it_waited_in_the_outbox_is_taken_off_each_time_it_is_sent() -> None:
    place = Place(A)
    assert ttls(place.publish(60_000, now=1_000)) == [60_000]
    assert ttls(place.outbox.on_owner_changed(KEY, 21_000)) == [40_000]
    assert ttls(place.outbox.on_owner_changed(KEY, 60_999)) == [1]


def test_what_is_over_leaves_the_outbox_and_its_disk_and_its_waiter_hears_why() -> None:
    place = Place(None)
    place.publish(60_000, now=1_000)
    place.publish(0, now=1_000, token=2)
    assert expired(place.outbox.on_timeout(60_999)) == []
    effects = place.outbox.on_timeout(61_000)
    assert expired(effects) == [Run(SESSION, 1, 1)]
    (outcome,) = [e.outcome for e in effects if isinstance(e, Resolve)]
    assert isinstance(outcome, Published)
    assert (outcome.timed_out, outcome.gone, outcome.stored) == (True, "dropped", False)
    assert outcome.reason == "its time to live is over"
    records = [r for e in effects if isinstance(e, Persist) for r in e.records]
    assert records == [BatchRemoved(Space.OUTBOX, KEY, 1)]
    assert place.outbox.messages == 1


def test_the_waiter_hears_that_an_owner_may_have_delivered_what_was_sent() -> None:
    place = Place(A)
    place.publish(60_000, now=1_000)
    effects = place.outbox.on_timeout(61_000)
    assert expired(effects) == [Run(SESSION, 1, 1)]
    (outcome,) = [e.outcome for e in effects if isinstance(e, Resolve)]
    assert isinstance(outcome, Published)
    assert outcome.gone == "dropped"
    assert "may have delivered it" in outcome.reason


def test_what_comes_after_an_expired_batch_is_sent_without_asking_for_it() -> None:
    place = Place(None)
    place.publish(60_000, now=0)
    place.publish(0, now=0, token=2)
    place.outbox.on_timeout(60_000)
    place.owner = A
    (sent,) = packets(place.outbox.on_owner_changed(KEY, 60_001))
    assert isinstance(sent, Publish)
    assert (sent.previous, sent.batch.first, sent.batch.ttl_ms) == (0, 2, 0)


def test_what_remains_is_known_after_a_restart_by_the_wall_clock() -> None:
    effects = Place(None).publish(60_000, now=1_000)
    (stored,) = [
        r
        for e in effects
        if isinstance(e, Persist)
        for r in e.records
        if isinstance(r, BatchStored)
    ]
    assert stored.expires_ms == WALL + 61_000
    batch = replace(stored.batch, ttl_ms=0)
    found = RecoveredBatch(Space.OUTBOX, KEY, 1, batch, ((1, 1),), (), stored.expires_ms)
    later = Place(A, b"session2", WALL + 31_000)  # a new boot, whose `now` begins again
    assert ttls(later.outbox.recover([found], 0)) == [30_000]
    assert expired(later.outbox.on_timeout(30_000)) == [Run(SESSION, 1, 1)]
    assert later.outbox.messages == 0
