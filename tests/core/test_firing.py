"""Firing: ticks of schedules, each under a dot that follows from what it is a tick of."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p2pmq.core.effects import Counted, Notify, Send
from p2pmq.core.firing import DAY_S, MISSED_S, RESEND_MS, Firing, tick_session
from p2pmq.core.hlc import COUNTER_BITS, HybridClock
from p2pmq.core.ids import PartitionKey, Run
from p2pmq.core.packets.publishing import Batch, Confirm, Publish, RunField
from p2pmq.core.packets.registry import ITEMS_MAX
from p2pmq.core.packets.scheduling import ScheduleRecord
from tests.core.kit import A, B, Texts

if TYPE_CHECKING:
    from p2pmq.core.effects import Effect

START_S = 1_700_000_040
"""A full minute, on some day."""
KEY = PartitionKey("jobs", 0)


def record(
    stamp_s: int = START_S - 3_600,
    *,
    cron: str = "60",
    ttl_ms: int = 0,
    priority: int = 0,
    removed: bool = False,
) -> ScheduleRecord:
    stamp = stamp_s * 1000 << COUNTER_BITS
    terms = (b"do it", 0, ttl_ms, priority, removed)
    return ScheduleRecord("nightly", stamp, B, cron, "jobs", *terms)


class EverySoManySeconds:
    """A clockwork whose cron is a number of seconds; "never" never ticks."""

    def next_tick(self, cron: str, after_s: int) -> int | None:
        if cron == "never":
            return None
        return (after_s // int(cron) + 1) * int(cron)

    def bodies(self, record: ScheduleRecord) -> Texts:
        return Texts((record.body.decode(),))


class Partition:
    def __init__(self) -> None:
        self.seen = self
        self.dots: set[tuple[bytes, int]] = set()

    def covers(self, run: Run) -> bool:
        return (run.session, run.first) in self.dots


class Owner:
    """As much of the owner's part as firing asks of it."""

    def __init__(self) -> None:
        self.owned = True
        self.there = Partition()

    def owns(self, key: PartitionKey) -> bool:
        assert key == KEY
        return self.owned

    def partition(self, key: PartitionKey) -> Partition:
        assert key == KEY
        return self.there


class Copies:
    def __init__(self) -> None:
        self.alone = False

    def copies(self, _key: PartitionKey, _now: int) -> tuple[None, list[Effect]]:
        return None, []

    def is_alone(self, _key: PartitionKey) -> bool:
        return self.alone


class Place:
    """Firing on one node, with a wall clock that may be set."""

    def __init__(self, *records: ScheduleRecord, wall_s: int = START_S) -> None:
        self.owner, self.copies, self.clock = Owner(), Copies(), HybridClock()
        self.firing = Firing(A, self.owner, self.copies, self.clock)  # type: ignore[arg-type]  # as much as it asks for
        self.firing.clockwork = EverySoManySeconds()
        self.now = 0
        self.clock.wall_offset_ms = wall_s * 1000
        for one in records:
            self.firing.on_change(one.name, one)

    def at(self, seconds: float) -> list[Batch]:
        """Let time be so many seconds after the start: what is published."""
        return published(self.effects_at(seconds))

    def effects_at(self, seconds: float) -> list[Effect]:
        self.now = self.clock.now = round(seconds * 1000)
        return self.firing.on_timeout(self.now)

    def confirm(self, batch: Batch) -> None:
        run = RunField(batch.session, batch.first, batch.last)
        self.owner.there.dots.add((batch.session, batch.first))
        self.firing.on_confirm(Confirm("jobs", 0, (run,), 1))


def published(effects: list[Effect]) -> list[Batch]:
    packets = [effect.packet for effect in effects if isinstance(effect, Send)]
    assert all(isinstance(p, Publish) and p.previous == 0 and p.queue == "jobs" for p in packets)
    return [packet.batch for packet in packets if isinstance(packet, Publish)]


def seconds_of(batches: list[Batch]) -> list[int]:
    """Which ticks these are, in seconds after the start."""
    return [batch.first - 1 - START_S % DAY_S for batch in batches]


def test_a_tick_is_published_when_its_second_begins_and_again_until_it_is_committed() -> None:
    place = Place(record(START_S, ttl_ms=5, priority=2))
    assert place.at(0) == []
    assert place.firing.next_deadline() == 60_000
    assert place.at(59.9) == []
    (tick,) = place.at(60)
    assert seconds_of([tick]) == [60]
    assert (tick.session, tick.count) == (tick_session(record(START_S), START_S // DAY_S), 1)
    assert (tick.ttl_ms, tick.priority, tick.size, tick.delay_ms) == (5, 2, 5, 0)
    assert place.firing.next_deadline() == 60_000 + RESEND_MS
    assert place.at(61) == [tick]
    place.confirm(tick)
    assert not place.firing.is_under_way(tick)
    assert place.at(119) == []
    assert seconds_of(place.at(120)) == [120]


@pytest.mark.timeout(60)
def test_a_confirm_of_everything_again_and_again_does_not_keep_the_node_busy() -> None:
    place = Place(record())
    ticks = place.at(0)
    others = [RunField(b"%08d" % number, 1, 2**63 - 1) for number in range(ITEMS_MAX - 1)]
    last = RunField(ticks[-1].session, 1, 2**63 - 1)
    place.firing.on_confirm(Confirm("jobs", 0, (*others, last), 1))
    under_way = [batch for batch in ticks if place.firing.is_under_way(batch)]
    assert under_way == [batch for batch in ticks if batch.session != last.session]


def test_who_takes_over_makes_up_for_the_last_minutes_under_the_same_dots() -> None:
    first, second = Place(record()), Place(record())
    assert seconds_of(first.at(0)) == list(range(-240, 1, 60))
    fired = [batch for batch in first.at(60) if seconds_of([batch]) == [60]]
    second.owner.owned = False
    assert second.at(0) == []
    assert second.firing.next_deadline() is None
    second.owner.owned = True
    second.now = second.clock.now = 61_000
    made_up = published(second.firing.on_world_changed(61_000))
    assert seconds_of(made_up) == list(range(-180, 61, 60))
    assert {(b.session, b.first) for b in fired} <= {(b.session, b.first) for b in made_up}


def test_what_was_seen_is_not_published_again() -> None:
    first, second = Place(record()), Place(record())
    second.owner.there = first.owner.there
    for batch in first.at(0):
        first.confirm(batch)
    assert second.at(0) == []


def test_no_tick_is_for_a_moment_before_the_schedule_was_made() -> None:
    assert seconds_of(Place(record(START_S - 70)).at(0)) == [-60, 0]
    assert Place(record(START_S + 7_200)).at(0) == []


@pytest.mark.parametrize("jump_s", [120, 290, 86_400 * 3])
def test_a_clock_that_goes_ahead_and_back_leaves_out_no_tick(jump_s: int) -> None:
    place = Place(record(START_S))
    ticks = place.at(0)
    place.clock.wall_offset_ms += jump_s * 1000
    ticks += published(place.firing.on_world_changed(place.now))
    place.clock.wall_offset_ms -= jump_s * 1000
    ticks += published(place.firing.on_world_changed(place.now))
    for batch in ticks:
        place.confirm(batch)
    for second in range(1, 601):
        for batch in place.at(second):
            place.confirm(batch)
            ticks.append(batch)
    dots = [(batch.session, batch.first) for batch in ticks]
    assert len(dots) == len(set(dots))
    assert set(range(60, 601, 60)) <= set(seconds_of(ticks))


def test_an_owner_that_reaches_too_few_homes_waits_and_makes_up_for_it() -> None:
    place = Place(record(START_S))
    place.copies.alone = True
    assert place.at(70) == []
    assert place.firing.next_deadline() == 71_000
    place.copies.alone = False
    assert seconds_of(place.at(71)) == [60]


def test_what_is_not_committed_for_long_is_given_up_and_said() -> None:
    place = Place(record(START_S))
    place.at(60)
    place.firing.on_change("nightly", record(START_S, cron="never"))
    place = Place(record(START_S))
    place.at(60)
    effects: list[Effect] = []
    for second in range(61, 60 + MISSED_S + 20):
        effects += place.effects_at(second)
    notices = [effect.notice for effect in effects if isinstance(effect, Notify)]
    told = [n for n in notices if isinstance(n, Counted) and n.what == "schedule_ticks_given_up"]
    assert [notice.alarming for notice in told] == [True]
    assert "'nightly'" in told[0].text
    assert len(place.firing._ticks) <= MISSED_S // 60 + 1


def test_a_removed_or_replaced_schedule_publishes_no_more() -> None:
    place = Place(record(START_S))
    (tick,) = place.at(60)
    place.firing.on_change("nightly", record(START_S + 60, removed=True))
    assert not place.firing.is_under_way(tick)
    assert place.at(61) == []
    assert place.at(1_000) == []
    place.firing.on_change("nightly", record(START_S + 1_000, cron="300"))
    (new,) = place.at(1_260)
    assert seconds_of([new]) == [1_260]
    assert new.session != tick.session


def test_one_that_never_ticks_and_one_that_no_clockwork_is_given_for_do_nothing() -> None:
    place = Place(record(cron="never"))
    assert place.at(0) == []
    assert place.firing.next_deadline() is None
    place = Place(record())
    place.firing.clockwork = None
    assert place.at(0) == []


class FiringMachine(RuleBasedStateMachine):
    """Two nodes own a queue by turns, or both; their clocks differ, and are set."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = Random(1)
        self.places = [Place(record(START_S)), Place(record(START_S))]
        self.places[1].owner.owned = False
        self.merged = Partition()
        for place in self.places:
            place.owner.there = self.merged
        self.second = 0
        self.fired: list[tuple[bytes, int]] = []

    def take(self, batches: list[Batch]) -> None:
        """The owner appends what is new: dots absorb the rest."""
        for batch in batches:
            dot = (batch.session, batch.first)
            if dot not in self.merged.dots:
                self.merged.dots.add(dot)
                self.fired.append(dot)
            for place in self.places:
                place.confirm(batch)

    @rule(seconds=st.integers(1, 100))
    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.second += 1
            for place in self.places:
                self.take(place.at(self.second))

    @rule(which=st.sampled_from(((True, False), (False, True), (True, True))))
    def change_owners(self, which: tuple[bool, bool]) -> None:
        for place, owned in zip(self.places, which, strict=True):
            place.owner.owned = owned
            self.take(published(place.firing.on_world_changed(place.now)))

    @rule(which=st.integers(0, 1), off_s=st.integers(-140, 140))
    def set_clock(self, which: int, off_s: int) -> None:
        place = self.places[which]
        place.clock.wall_offset_ms = (START_S + off_s) * 1000
        self.take(published(place.firing.on_world_changed(place.now)))

    @invariant()
    def no_tick_is_two_messages_and_none_is_left_out(self) -> None:
        assert len(self.fired) == len(set(self.fired))
        seconds = {seq - 1 - START_S % DAY_S for _, seq in self.fired}
        assert set(range(60, self.second - 139, 60)) <= seconds
        assert all(second <= self.second + 140 for second in seconds)


TestFiring = FiringMachine.TestCase
