"""The roster: counters, listing, and what is kept on disk."""

from __future__ import annotations

import pytest

from p2pmq.core import membership
from p2pmq.core.effects import Effect, Learn, Persist
from p2pmq.core.membership import Member, MemberState, Roster, Tombstone
from p2pmq.core.packets.membership import Rumour
from p2pmq.core.records import MemberRemoved, MemberSaved
from tests.core.swim_mesh import node_id_of, rumour_of


def roster_of(*numbers: int) -> tuple[Roster, list[Member]]:
    """A roster with living members."""
    roster = Roster(rumour_of(0))
    members = [Member(rumour_of(number), MemberState.ALIVE, 0) for number in numbers]
    for member in members:
        roster.add(member, [])
    return roster, members


def test_of_one_incarnation_the_worse_news_is_the_greater_number() -> None:
    assert (
        MemberState.UNMET
        < MemberState.ALIVE
        < MemberState.SUSPECT
        < MemberState.DEAD
        < MemberState.LEFT
        < MemberState.FORGOTTEN
    )


def test_the_listing_has_this_node_first_and_is_made_only_after_a_change() -> None:
    roster, (one, _) = roster_of(1, 2)
    listing = roster.listing()
    assert [rumour.node_id for rumour in listing] == [node_id_of(n) for n in (0, 1, 2)]
    assert roster.listing() is listing
    roster.become(one, MemberState.DEAD, 1, 10)
    assert roster.listing()[1].state == MemberState.DEAD


def test_facts_that_lag_behind_are_listed_as_of_their_own_incarnation() -> None:
    roster, (one,) = roster_of(1)
    roster.become(one, MemberState.DEAD, 7, 10)
    facts, verdict = one.listing()
    assert (facts.state, facts.incarnation, facts.name) == (MemberState.UNMET, 1, "node1")
    assert (verdict.state, verdict.incarnation, verdict.name) == (MemberState.DEAD, 7, "")


def test_a_new_member_is_learned_and_saved() -> None:
    roster = Roster(rumour_of(0))
    out: list[Effect] = []
    roster.add(Member(rumour_of(1), MemberState.ALIVE, 0), out)
    saved = rumour_of(1, state=MemberState.UNMET)
    assert out == [Learn(node_id_of(1), ("host1:7000",)), Persist((MemberSaved(saved),))]
    assert roster.alive_count == 2


def test_equal_facts_of_a_newer_incarnation_are_not_written() -> None:
    roster, (one,) = roster_of(1)
    version = roster.version
    out: list[Effect] = []
    roster.take_facts(one, rumour_of(1, incarnation=2), out)
    assert out == []
    assert one.facts_incarnation == 2
    assert roster.version == version


def test_new_addresses_are_learned_and_written() -> None:
    roster, (one,) = roster_of(1)
    version = roster.version
    out: list[Effect] = []
    roster.take_facts(one, rumour_of(1, incarnation=2, addresses=("moved:1",)), out)
    assert [type(effect) for effect in out] == [Learn, Persist]
    assert roster.version > version


def test_a_leaf_is_not_written() -> None:
    roster = Roster(rumour_of(0))
    out: list[Effect] = []
    leaf = Member(rumour_of(1, weight=0), MemberState.ALIVE, 0)
    roster.add(leaf, out)
    roster.drop(leaf, out)
    assert [type(effect) for effect in out] == [Learn, Learn]


def test_a_member_that_becomes_a_leaf_is_removed_from_disk() -> None:
    roster, (one,) = roster_of(1)
    out: list[Effect] = []
    roster.take_facts(one, rumour_of(1, incarnation=2, weight=0), out)
    assert out == [Persist((MemberRemoved(node_id_of(1)),))]


def test_a_buried_member_leaves_a_durable_tombstone() -> None:
    roster, (one,) = roster_of(1)
    out: list[Effect] = []
    roster.bury(one, MemberState.LEFT, 3, 10, out)
    tombstone = Rumour(node_id_of(1), MemberState.LEFT, 3)
    assert out == [Persist((MemberSaved(tombstone),))]
    assert list(roster.members) == [node_id_of(0)]
    assert tombstone in roster.listing()
    assert (roster.alive_count, roster.lost_count) == (1, 0)


def test_tombstones_are_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "TOMBSTONES_MAX", 2)
    roster = Roster(rumour_of(0))
    out: list[Effect] = []
    for number in (1, 2, 3):
        news = Rumour(node_id_of(number), MemberState.LEFT, 1)
        roster.entomb(Tombstone(news, leaf=False, now=0), out)
    assert list(roster.tombstones) == [node_id_of(2), node_id_of(3)]
    assert out == [Learn(node_id_of(1), ()), Persist((MemberRemoved(node_id_of(1)),))]
