"""The judge of schedules: a tick that is doubled or left out is noticed."""

from __future__ import annotations

import hashlib
from itertools import count

import pytest

from p2pmq.core import firing
from p2pmq.core.ids import PartitionKey, Run, Session
from p2pmq.core.packets.scheduling import ScheduleRecord
from p2pmq.sim import simulate
from p2pmq.sim.history import Acked, Entry, Fault, Fired, Held, History, Process, Scheduled
from p2pmq.sim.judging import no_tick_missed
from p2pmq.sim.mesh import Mesh
from p2pmq.sim.runner import play
from p2pmq.sim.scenario_file import parsed
from p2pmq.sim.ticks import GRACE_S, missed_ticks, ticks_come_once

A, B = Process("a", 1), Process("b", 1)
KEY = PartitionKey("jobs", 0)
MADE = Scheduled(1, "nightly", "jobs", "* * * * *")


def fired(second: int, session: Session = b"sessions", owner: Process = A) -> Fired:
    return Fired(second, owner, KEY, Run(session, second + 1, second + 1), (0,))


def acked(second: int) -> Acked:
    return Acked(second, B, b"consumer", KEY, Run(b"sessions", second + 1, second + 1))


def history(*entries: Entry, now_s: float) -> History:
    made = History(entries)
    made.now_s = now_s
    return made


def test_a_tick_that_two_owners_publish_under_one_name_is_one() -> None:
    assert ticks_come_once(history(MADE, fired(60), fired(60, owner=B), now_s=70)) == []


def test_a_tick_under_two_names_is_two_messages() -> None:
    twice = history(MADE, fired(60), fired(60, b"others!!", B), now_s=70)
    (found,) = ticks_come_once(twice)
    assert "second 60 of a day is 2 messages in 'jobs', of 1 schedules" in found.text
    twice.add(MADE)  # another schedule of the same queue
    assert ticks_come_once(twice) == []


def test_a_tick_that_nobody_published_is_missed_when_it_is_time() -> None:
    made = history(MADE, fired(60), acked(60), now_s=120 + GRACE_S - 1)
    assert missed_ticks(made) == []
    made.now_s += 1
    assert missed_ticks(made) == ["'jobs' missed the tick at 120 s"]
    assert missed_ticks(made, ["jobs"]) == []
    assert not no_tick_missed("safety", made, []).ok
    made.add(Fault(3, "clock", ("a",), ""))
    assert missed_ticks(made) == []


def test_a_tick_that_was_published_and_is_nowhere_is_missed() -> None:
    made = history(MADE, fired(60), now_s=110)
    assert missed_ticks(made) == ["'jobs' missed the tick at 60 s"]
    made.held = [Held("a", "partition", KEY, Run(b"sessions", 61, 61))]
    assert missed_ticks(made) == []


SCHEDULED = """\
duration = "20s"
[nodes]
names = ["a", "b", "c"]
replicas = 3
[declared]
queues = "jobs"
schedule = "* * * * *"
[consumers]
on = "all"
queues = "jobs"
[[faults]]
at = "9s"
what = "crash"
hosts = "owner of jobs"
for = "5s"
"""
"""The owner is away when it is time: the tick comes ten seconds after the begin."""


def failures(seed: int) -> list[str]:
    outcome = play(parsed(SCHEDULED), seed, observes=False)
    assert not outcome.error
    return [verdict.name for verdict in outcome.verdicts if not verdict.ok]


def test_a_tick_while_the_owner_is_away_is_made_up_for() -> None:
    assert failures(1) == []


def test_without_making_up_for_what_was_missed_a_tick_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(firing, "MISSED_S", 0)
    assert failures(1) == ["safety: no tick is missed"]


def test_without_one_name_for_a_tick_two_sides_make_two_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(mesh: Mesh) -> None:
        a, _, _ = await mesh.start("a", "b", "c")
        await a.declare("jobs", replicas=3, min_copies=1)
        await a.schedule("nightly", "* * * * *", "jobs")
        await mesh.run_for(seconds=30)
        mesh.isolate(a.owner_of("jobs") or "")
        await mesh.run_for(seconds=60)
        mesh.heal()
        await mesh.settle()
        assert mesh.history.fired

    def names(mesh: Mesh) -> list[str]:
        return [violation.check for violation in ticks_come_once(mesh.history)]

    with simulate(1) as sim:
        sim.run(story)
        assert names(sim.mesh) == []
    numbers = count()

    def anew(_record: ScheduleRecord, _day: int) -> Session:
        return hashlib.blake2b(b"%d" % next(numbers), digest_size=8).digest()

    monkeypatch.setattr(firing, "tick_session", anew)
    with simulate(1) as sim:
        sim.run(story)
        assert names(sim.mesh) == ["ticks_come_once"]
