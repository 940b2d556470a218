"""What is said of a mesh of two full nodes."""

from __future__ import annotations

import pytest

from p2pmq.config import Replication
from p2pmq.core.effects import Counted, Notify
from p2pmq.core.pair import PAIR_SETTLES_MS, Pair


def said_after(pair: Pair, *rosters: int) -> int:
    """How often it is said when the roster has so many full nodes, for a minute each."""
    said = 0
    now = 0
    for full_nodes in rosters:
        for _ in range(3):  # the roster also changes in other ways
            pair.on_roster(full_nodes, now)
        due = pair.next_deadline()
        now += 60_000
        if due is not None:
            assert due < now
            assert pair.on_timeout(due - 1) == []
            effects = pair.on_timeout(due)
            assert [type(effect) for effect in effects] == [Notify]
            said += len(effects)
        assert pair.on_timeout(now) == []
        assert pair.next_deadline() is None
    return said


def test_a_mesh_that_comes_to_two_full_nodes_is_told_once() -> None:
    assert said_after(Pair(Replication()), 1, 2, 2, 2) == 1


def test_it_says_what_stops_and_what_would_not() -> None:
    pair = Pair(Replication())
    pair.on_roster(2, 0)
    (effect,) = pair.on_timeout(PAIR_SETTLES_MS)
    assert isinstance(effect, Notify)
    notice = effect.notice
    assert isinstance(notice, Counted)
    assert notice.alarming
    for part in ("two full nodes", "while either node is away", "third", "min_copies=1"):
        assert part in notice.text


def test_it_is_said_again_when_a_third_node_has_left() -> None:
    assert said_after(Pair(Replication()), 2, 3, 2) == 2


def test_a_mesh_that_is_two_for_a_moment_while_it_forms_is_told_nothing() -> None:
    pair = Pair(Replication())
    for full_nodes in (1, 2):
        pair.on_roster(full_nodes, 0)
    pair.on_roster(3, PAIR_SETTLES_MS - 1)
    assert pair.on_timeout(PAIR_SETTLES_MS) == []


@pytest.mark.parametrize("full_nodes", [1, 3, 4])
def test_any_other_number_is_no_news(full_nodes: int) -> None:
    assert said_after(Pair(Replication()), full_nodes) == 0


@pytest.mark.parametrize("copies", [Replication(replicas=1), Replication(min_copies=1)])
def test_it_is_not_said_where_either_node_goes_on_alone(copies: Replication) -> None:
    assert said_after(Pair(copies), 2) == 0


def test_two_copies_are_both_needed_as_well() -> None:
    assert said_after(Pair(Replication(replicas=2)), 2) == 1
