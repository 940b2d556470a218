"""Verdicts and latencies are told from a history as it was; a broken one fails."""

from __future__ import annotations

from p2pmq.core.ids import PartitionKey, Run
from p2pmq.sim.checks import duplicates_are_explained, summary
from p2pmq.sim.history import (
    Delivered,
    Entry,
    Heal,
    Held,
    History,
    Outcome,
    Process,
    ProcessEnded,
    Publication,
    Pushed,
    Subscription,
)
from p2pmq.sim.judging import checked, expected, measured, not_stuck, totals
from p2pmq.sim.mesh import Mesh
from p2pmq.sim.observer import Observer
from p2pmq.sim.outcome import Latencies, Ownership
from p2pmq.sim.scenario import Expect

KEY = PartitionKey("orders", 0)
SESSION = b"12345678"
CONSUMER = b"consumer"
A, B = Process("a", 1), Process("b", 1)


def published(at_s: float, first: int, last: int, outcome: Outcome) -> Publication:
    run = Run(SESSION, first, last)
    digests = tuple(range(first, last + 1))
    publication = Publication(at_s, A, KEY, run, outcome.value, digests, first)
    publication.outcome = outcome
    return publication


def delivered(at_s: float, first: int, last: int, attempt: int = 1) -> Delivered:
    run = Run(SESSION, first, last)
    return Delivered(at_s, B, CONSUMER, KEY, run, attempt, tuple(range(first, last + 1)))


def test_every_check_is_a_verdict_and_a_breach_is_told() -> None:
    history = History([published(1, 1, 30, Outcome.COMMITTED)])
    verdicts = {verdict.name: verdict for verdict in checked(history)}
    assert not verdicts["committed_is_kept"].ok
    assert len(verdicts["committed_is_kept"].violations) == 21  # the last says how many more
    assert verdicts["stored_is_kept"].ok


def test_only_expectations_that_were_named_are_judged() -> None:
    history = History([published(1, 1, 3, Outcome.COMMITTED), delivered(2, 1, 2)])
    counted = summary(history)

    def failing(expect: Expect) -> list[str]:
        verdicts = expected(expect, history, counted, Latencies(heal=(70_000.0,)), gave_up=2)
        return [verdict.name for verdict in verdicts if not verdict.ok]

    # Three are lost: nothing is held.
    assert failing(Expect()) == ["lost <= 0", "heal within 1m"]
    fine = Expect(lost=3, heal_within_ms=80_000)
    assert failing(fine) == []
    strict = Expect(lost=3, heal_within_ms=80_000, gave_up_max=1, delivered_min=3, committed_min=4)
    assert failing(strict) == ["gave_up <= 1", "committed >= 4", "delivered >= 3"]


def test_duplicates_are_bounded_where_a_bound_is_given() -> None:
    published_once = published(1, 1, 1, Outcome.STORED)
    history = History([published_once, delivered(2, 1, 1), delivered(3, 1, 1, 2)])
    counted = summary(history)
    verdicts = expected(Expect(lost=1, duplicates_max=0), history, counted, Latencies(), 0)
    assert [v.name for v in verdicts if not v.ok] == ["duplicates <= 0"]


def test_stuck_counts_what_these_hosts_hold_of_queues_with_an_owner() -> None:
    history = History([published(1, 1, 4, Outcome.COMMITTED)])
    history.held = [Held("a", "partition", KEY, Run(SESSION, 1, 2))]
    history.held += [Held("b", "partition", KEY, Run(SESSION, 3, 4))]
    verdict = not_stuck(history, ["a"], 0)
    assert not verdict.ok
    assert len(verdict.violations) == 2
    assert not_stuck(history, ["a"], 2).ok
    assert not_stuck(history, ["a"], 0, ["orders"]).ok


def test_totals_are_those_of_the_summary() -> None:
    history = History([published(1, 1, 3, Outcome.COMMITTED), delivered(2, 1, 3)])
    counted = totals(summary(history))
    assert (counted.attempted, counted.committed, counted.delivered) == (3, 3, 3)


async def test_latencies_are_those_of_the_history(mesh: Mesh) -> None:
    await mesh.start("a")
    observer = Observer(mesh, 10)
    observer.ownership = [Ownership("orders", "a", 0, 5)]
    history = History(
        [
            published(1, 1, 2, Outcome.COMMITTED),
            delivered(1.5, 1, 1),
            ProcessEnded(4.9, A),
            Pushed(9.9, B, KEY, Run(SESSION, 2, 2), 1),
            delivered(10, 2, 2),
            Heal(20, equal_at_s=21.5),
            Heal(30, disturbed=True),
            Heal(40),
        ]
    )
    history.now_s = 110
    found = measured(history, observer)
    assert [round(ms) for ms in found.delivery] == [500, 9_000]
    assert [round(ms) for ms in found.failover] == [5_000]
    assert [round(ms) for ms in found.heal] == [1_500, 70_000]


def test_a_visibility_timeout_counts_from_the_push() -> None:
    entries: list[Entry] = [
        Subscription(0, B, CONSUMER, KEY, 10, 3.0),
        published(1, 1, 1, Outcome.STORED),
        Pushed(3.116, A, KEY, Run(SESSION, 1, 1), 1),
        delivered(3.2, 1, 1),
        Pushed(6.116, A, KEY, Run(SESSION, 1, 1), 2),
        delivered(6.117, 1, 1, 2),
    ]
    assert duplicates_are_explained(History(entries)) == []
    entries[4:] = [Pushed(6.0, A, KEY, Run(SESSION, 1, 1), 2), delivered(6.1, 1, 1, 2)]
    assert len(duplicates_are_explained(History(entries))) == 1
