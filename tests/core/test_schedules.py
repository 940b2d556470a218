"""Schedules: a map of what is published again and again, the same on every node that hears."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest

from p2pmq.core import schedules as module
from p2pmq.core.effects import Done, Notify, Persist, Refused, Resolve, Send
from p2pmq.core.events import ScheduleDurable, ScheduleRequested
from p2pmq.core.packets.scheduling import (
    SCHEDULES_TOLD_MAX,
    ScheduleBuckets,
    ScheduleDigest,
    ScheduleRecord,
    ScheduleRecords,
)
from p2pmq.core.schedules import Schedules

if TYPE_CHECKING:
    from p2pmq.core.effects import Effect

A, B = (bytes([n]) * 8 for n in (1, 2))
NOBODY = bytes(8)
NIGHTLY = ScheduleRecord("nightly", 0, NOBODY, "30 4 * * *", "jobs", b"do it")


def made(own_id: bytes = A, *peers: bytes) -> Schedules:
    return Schedules(own_id, lambda: peers, Random(1))


def say(schedules: Schedules, record: ScheduleRecord, wall_ms: int) -> list[Effect]:
    """Make or remove one, and let the write become durable."""
    (persist,) = schedules.on_schedule(ScheduleRequested(record, 7), wall_ms)
    assert isinstance(persist, Persist)
    assert isinstance(persist.then, ScheduleDurable)
    return schedules.on_durable(persist.then)


def meet(one: Schedules, one_id: bytes, other: Schedules, other_id: bytes) -> list[int]:
    """Let the two compare until nothing is on its way; how many records each packet had."""
    ends = {one_id: one, other_id: other}
    on_way = [(one_id, e) for e in one.on_peer_connected(other_id, 1_000)]
    on_way += [(other_id, e) for e in other.on_peer_connected(one_id, 1_000)]
    told: list[int] = []
    while on_way:
        sender, effect = on_way.pop(0)
        if not isinstance(effect, Send):
            continue
        receiver = ends[effect.peer]
        match effect.packet:
            case ScheduleDigest():
                answers = receiver.on_digest(sender, effect.packet, 10_000)
            case ScheduleBuckets():
                answers = receiver.on_buckets(sender, effect.packet)
            case ScheduleRecords():
                told.append(len(effect.packet.records))
                answers = receiver.on_records(effect.packet)
            case _:
                raise AssertionError(effect.packet)
        on_way += [(effect.peer, answer) for answer in answers]
    return told


def test_the_same_schedule_again_changes_nothing_and_another_replaces_it() -> None:
    schedules = made(A, B)
    seen: list[tuple[str, ScheduleRecord | None]] = []
    schedules.on_change = lambda name, record: seen.append((name, record))
    done, told = say(schedules, NIGHTLY, 1)
    assert done == Resolve(7, Done())
    assert isinstance(told, Send)
    (first,) = schedules.in_force()
    assert say(schedules, NIGHTLY, 99) == [Resolve(7, Done())]
    assert schedules.in_force() == [first]
    say(schedules, replace(NIGHTLY, body=b"other"), 100)
    (second,) = schedules.in_force()
    assert second.stamp > first.stamp
    assert seen == [("nightly", first), ("nightly", second)]


def test_what_was_removed_does_not_come_back_with_who_was_away() -> None:
    here, away = made(A), made(B)
    say(here, NIGHTLY, 5)
    meet(here, A, away, B)
    assert len(away.in_force()) == 1
    say(here, ScheduleRecord("nightly", 0, NOBODY, removed=True), 6)
    meet(here, A, away, B)
    assert here.in_force() == away.in_force() == []
    assert here.records() == away.records()


def test_what_this_node_does_not_know_of_is_removed_as_well() -> None:
    here, away = made(A), made(B)
    say(away, NIGHTLY, 5)
    say(here, ScheduleRecord("nightly", 0, NOBODY, removed=True), 9)
    meet(here, A, away, B)
    assert away.in_force() == []


def test_a_large_map_is_told_in_packets_that_stay_small() -> None:
    here, away = made(A), made(B)
    for number in range(40):
        say(here, replace(NIGHTLY, name=f"n{number}"), number)
    told = meet(here, A, away, B)
    assert away.records() == here.records()
    assert sum(told) == 40
    assert max(told) <= SCHEDULES_TOLD_MAX


def test_the_number_of_names_is_bounded_and_removed_ones_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SCHEDULES_MAX", 1)
    schedules = made()
    say(schedules, NIGHTLY, 1)
    say(schedules, ScheduleRecord("nightly", 0, NOBODY, removed=True), 2)
    other = replace(NIGHTLY, name="other")
    (refused,) = schedules.on_schedule(ScheduleRequested(other, 8), 3)
    assert refused == Resolve(8, Refused(module.FULL))
    told = replace(other, stamp=1, author=B)
    (counted,) = schedules.on_records(ScheduleRecords((told,)))
    assert isinstance(counted, Notify)
    say(schedules, NIGHTLY, 4)
    assert [record.name for record in schedules.in_force()] == ["nightly"]


def test_on_a_full_disk_what_held_before_holds_on() -> None:
    schedules = made()
    (persist,) = schedules.on_schedule(ScheduleRequested(NIGHTLY, 8), 3)
    assert isinstance(persist, Persist)
    assert isinstance(persist.then, ScheduleDurable)
    assert schedules.on_write_refused(persist.then) == [Resolve(8, Refused(module.DISK_FULL))]
    assert schedules.records() == []
    assert schedules.next_deadline() is None
