"""Healing: the lost are tried for ever, and never by everybody at once."""

from __future__ import annotations

import random

import pytest

from p2pmq.config import SwimConfig
from p2pmq.core.healing import STRANGERS_MAX, Healing, Strangers
from p2pmq.core.membership import Member, MemberState, Roster
from tests.core.swim_mesh import node_id_of, rumour_of

CONFIG = SwimConfig()


def roster_of(alive: int, lost: int) -> Roster:
    """A roster with so many others."""
    roster = Roster(rumour_of(0))
    for number in range(1, alive + lost + 1):
        state = MemberState.ALIVE if number <= alive else MemberState.DEAD
        roster.add(Member(rumour_of(number), state, 0), [])
    return roster


def test_nobody_is_tried_while_nobody_is_lost() -> None:
    healing = Healing(roster_of(5, 0), CONFIG, random.Random(1))
    assert [healing.pick() for _ in range(10)] == [[]] * 10


def test_all_of_the_lost_are_tried_in_turn() -> None:
    healing = Healing(roster_of(9, 10), CONFIG, random.Random(1))
    tried = [member.node_id for _ in range(4) for member in healing.pick()]
    assert len(set(tried)) == 10
    assert len(tried) == 12


def test_one_turn_tries_nobody_twice_and_no_more_than_the_fanout() -> None:
    healing = Healing(roster_of(0, 2), CONFIG, random.Random(1))
    for _ in range(10):
        picked = healing.pick()
        assert 1 <= len(picked) <= 2
        assert len(set(picked)) == len(picked)


@pytest.mark.parametrize("alive", [20, 100, 400])
def test_the_tries_for_one_lost_member_do_not_grow_with_the_mesh(alive: int) -> None:
    rng = random.Random(7)
    healing = Healing(roster_of(alive - 1, 1), CONFIG, rng)
    tries = sum(len(healing.pick()) for _ in range(alive * 20)) / 20
    assert 5 < tries < 11


def test_a_member_that_is_back_is_not_tried() -> None:
    roster = roster_of(1, 2)
    healing = Healing(roster, CONFIG, random.Random(1))
    healing.pick()
    back = next(iter(roster.lost()))
    roster.become(back, MemberState.ALIVE, 2, 10)
    assert all(back not in healing.pick() for _ in range(20))


def test_a_lone_node_tries_fast_at_first_and_then_at_the_usual_pace() -> None:
    healing = Healing(roster_of(0, 3), CONFIG, random.Random(1))
    intervals = [healing.interval_ms() for _ in range(12)]
    assert intervals[0] < 2_000
    assert all(0.75 * 15_000 <= interval <= 1.25 * 15_000 for interval in intervals[5:])


def test_strangers_are_tried_with_growing_pauses_and_given_up() -> None:
    strangers = Strangers()
    assert strangers.note(node_id_of(1))
    assert not strangers.note(node_id_of(1))
    waits = [strangers.next_try_ms(node_id_of(1)) for _ in range(6)]
    assert waits == [1_000, 2_000, 4_000, 8_000, 16_000, None]
    assert node_id_of(1) not in strangers
    assert strangers.next_try_ms(node_id_of(2)) is None


def test_strangers_are_bounded() -> None:
    strangers = Strangers()
    noted = [strangers.note(node_id_of(number)) for number in range(STRANGERS_MAX + 5)]
    assert noted.count(True) == STRANGERS_MAX
    strangers.forget(node_id_of(0))
    assert strangers.note(node_id_of(1_000))
