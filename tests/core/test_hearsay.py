"""Hearsay: which rumours are believed, of whom, and from whom."""

from __future__ import annotations

import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from p2pmq.config import SwimConfig
from p2pmq.core.effects import Effect, Persist, Send
from p2pmq.core.gossip import RumourQueue
from p2pmq.core.hearsay import INCARNATION_MAX, Hearsay, Teller
from p2pmq.core.membership import Member, MemberState, Roster, SwimTimers
from p2pmq.core.packets.membership import Gossip, Rumour
from p2pmq.core.probe import ProbeOrder
from p2pmq.core.records import IncarnationSaved
from p2pmq.core.suspicion import Awareness
from tests.core.swim_mesh import node_id_of, rumour_of

S = MemberState


def teller_of(
    number: int = 9, *, introduces: bool = True, accuses: bool = True, buries: bool = True
) -> Teller:
    return Teller(node_id_of(number), introduces, accuses, buries, spreads=True)


class Bench:
    """The rules with what they work on; member 1 lives, at incarnation 3."""

    def __init__(self) -> None:
        config = SwimConfig()
        self.roster = Roster(rumour_of(0))
        self.queue = RumourQueue()
        self.timers: SwimTimers = SwimTimers()
        order = ProbeOrder(self.roster, config, random.Random(1))
        self.hearsay = Hearsay(
            self.roster, config, order, self.queue, self.timers, Awareness(config)
        )
        self.one = Member(rumour_of(1, incarnation=3), S.ALIVE, 0)
        self.roster.add(self.one, [])

    def hear(self, rumour: Rumour, teller: Teller | None = None, now: int = 10) -> list[Effect]:
        out: list[Effect] = []
        self.hearsay.hear((rumour,), teller or teller_of(), now, out)
        return out

    def say(self, state: MemberState, incarnation: int, teller: Teller | None = None) -> S:
        """What is believed of member 1 after a rumour."""
        self.hear(Rumour(node_id_of(1), state, incarnation, node_id_of(8)), teller)
        return self.one.state

    def hold(self, state: MemberState) -> None:
        """Hold member 1 in a state."""
        if state is S.UNMET:
            self.roster.become(self.one, S.UNMET, 3, 0)
        elif state is not S.ALIVE:
            self.say(state, 3)


@pytest.mark.parametrize(
    ("held", "state", "incarnation", "then"),
    [
        (S.ALIVE, S.SUSPECT, 2, S.ALIVE),
        (S.ALIVE, S.SUSPECT, 3, S.SUSPECT),
        (S.ALIVE, S.DEAD, 3, S.DEAD),
        (S.SUSPECT, S.ALIVE, 3, S.SUSPECT),
        (S.SUSPECT, S.ALIVE, 4, S.ALIVE),
        (S.SUSPECT, S.UNMET, 4, S.ALIVE),
        (S.SUSPECT, S.SUSPECT, 4, S.SUSPECT),
        (S.DEAD, S.SUSPECT, 3, S.DEAD),
        (S.DEAD, S.ALIVE, 3, S.DEAD),
        (S.DEAD, S.ALIVE, 4, S.ALIVE),
        (S.DEAD, S.SUSPECT, 4, S.SUSPECT),
        (S.DEAD, S.UNMET, 4, S.UNMET),
        (S.UNMET, S.ALIVE, 3, S.ALIVE),
        (S.UNMET, S.ALIVE, 2, S.UNMET),
        (S.UNMET, S.DEAD, 3, S.DEAD),
        (S.ALIVE, S.LEFT, 3, S.LEFT),
        (S.ALIVE, S.LEFT, 2, S.ALIVE),
        (S.DEAD, S.FORGOTTEN, 3, S.FORGOTTEN),
        (S.ALIVE, S.FORGOTTEN, 3, S.ALIVE),
    ],
)
def test_the_newer_or_else_the_worse_news_wins(
    held: MemberState, state: MemberState, incarnation: int, then: MemberState
) -> None:
    bench = Bench()
    bench.hold(held)
    assert bench.one.state is held
    assert bench.say(state, incarnation) is then


@pytest.mark.parametrize("state", [S.SUSPECT, S.DEAD])
def test_one_that_is_held_dead_accuses_nobody_but_the_accused_is_told(state: MemberState) -> None:
    bench = Bench()
    rumour = Rumour(node_id_of(1), state, 3, node_id_of(8))
    out = bench.hear(rumour, teller_of(accuses=False, buries=False))
    assert bench.one.state is S.ALIVE
    assert out == [Send(node_id_of(1), Gossip((rumour,)))]
    assert bench.hear(rumour, teller_of(accuses=False, buries=False), now=20) == []


def test_a_death_in_a_list_of_states_is_told_to_the_dead_and_confirms_a_suspicion() -> None:
    bench = Bench()
    lister = teller_of(buries=False)
    assert bench.say(S.DEAD, 3, lister) is S.ALIVE
    bench.say(S.SUSPECT, 3)
    before = bench.timers.next_deadline()
    for number in range(20, 30):  # a mesh in which confirmations count
        bench.hear(rumour_of(number))
    bench.hear(rumour_of(1, state=S.ALIVE, incarnation=4))
    bench.say(S.SUSPECT, 4)
    alone = bench.timers.next_deadline()
    bench.say(S.DEAD, 4, lister)
    confirmed = bench.timers.next_deadline()
    assert bench.one.state is S.SUSPECT
    assert before is not None
    assert alone is not None
    assert confirmed is not None
    assert confirmed < alone


def test_an_unknown_member_needs_facts_and_an_introduction() -> None:
    bench = Bench()
    two = rumour_of(2)
    bench.hear(Rumour(node_id_of(2), S.ALIVE, 1))
    bench.hear(two, teller_of(introduces=False))
    assert node_id_of(2) not in bench.roster.members
    assert bench.hearsay.disbelieved == 1
    bench.hear(two, teller_of(2, introduces=False))
    assert node_id_of(2) in bench.roster.members


@pytest.mark.parametrize("state", [S.UNMET, S.DEAD, S.ALIVE, S.SUSPECT])
def test_a_full_member_is_introduced_in_any_state_and_a_leaf_only_alive(state: MemberState) -> None:
    bench = Bench()
    bench.hear(rumour_of(2, state=state))
    bench.hear(rumour_of(3, state=state, weight=0))
    assert bench.roster.members[node_id_of(2)].state is state
    assert (node_id_of(3) in bench.roster.members) is (state is S.ALIVE)


def test_only_a_higher_incarnation_rises_from_a_tombstone() -> None:
    bench = Bench()
    bench.say(S.LEFT, 3)
    bench.hear(rumour_of(1, incarnation=3))
    assert node_id_of(1) not in bench.roster.members
    bench.hear(rumour_of(1, incarnation=4))
    assert bench.roster.members[node_id_of(1)].state is S.ALIVE
    assert bench.roster.tombstones == {}


def test_late_facts_of_an_incarnation_are_taken_without_its_state() -> None:
    bench = Bench()
    bench.say(S.SUSPECT, 5)
    bench.hear(rumour_of(1, incarnation=5, zone="moon"))
    assert bench.one.state is S.SUSPECT
    assert bench.one.zone == "moon"
    assert bench.one.facts_incarnation == 5


@pytest.mark.parametrize(
    ("rumour", "refuted"),
    [
        (rumour_of(0, state=S.SUSPECT), True),
        (rumour_of(0, state=S.LEFT), True),
        (rumour_of(0), False),
        (rumour_of(0, state=S.UNMET), False),
        (rumour_of(0, incarnation=7), True),
        (rumour_of(0, boot=9), True),
        (Rumour(node_id_of(0), S.ALIVE, 1), False),
        (rumour_of(0, state=S.DEAD, incarnation=0), False),
        (rumour_of(0, state=S.DEAD, incarnation=INCARNATION_MAX + 1), False),
    ],
)
def test_what_is_wrong_about_this_node_is_refuted_durably(rumour: Rumour, refuted: bool) -> None:
    bench = Bench()
    out = bench.hear(rumour)
    own = bench.roster.own
    assert own.state is S.ALIVE
    assert (own.incarnation == rumour.incarnation + 1) is refuted or rumour.incarnation == 0
    saved = [effect for effect in out if isinstance(effect, Persist)]
    assert saved == ([Persist((IncarnationSaved(own.incarnation),))] if refuted else [])


def test_an_absurd_incarnation_is_not_believed() -> None:
    bench = Bench()
    assert bench.say(S.DEAD, INCARNATION_MAX + 1) is S.ALIVE


rumours = st.builds(
    lambda number, state, incarnation, facts: (
        rumour_of(number, state=state, incarnation=incarnation)
        if facts
        else Rumour(node_id_of(number), state, incarnation)
    ),
    st.integers(0, 3),
    st.sampled_from(MemberState),
    st.integers(0, 4),
    st.booleans(),
)
tellers = st.builds(
    lambda number, introduces, accuses, buries: teller_of(
        number, introduces=introduces, accuses=accuses, buries=buries
    ),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


@given(st.lists(st.tuples(rumours, tellers), max_size=40))
def test_whatever_is_heard_the_books_agree_and_nothing_goes_back(
    heard: list[tuple[Rumour, Teller]],
) -> None:
    bench = Bench()
    roster = bench.roster
    highest: dict[bytes, int] = {}
    for now, (rumour, teller) in enumerate(heard):
        bench.hear(rumour, teller, now)
        assert roster.own.state is S.ALIVE
        members = list(roster.members.values())
        assert roster.alive_count == sum(member.alive for member in members)
        assert roster.lost_count == len(list(roster.lost()))
        for member in members:
            assert member.incarnation >= highest.get(member.node_id, 0)
            highest[member.node_id] = member.incarnation
            assert (member.suspicion is not None) is (member.state is S.SUSPECT)
        for node_id, tombstone in roster.tombstones.items():
            assert node_id not in roster.members
            assert tombstone.news.incarnation >= highest.get(node_id, 0)


@given(st.lists(rumours, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_rumours_does_not_matter_for_a_living_member(
    heard: list[Rumour], rng: random.Random
) -> None:
    # UNMET is no verdict: of a living member it says that the incarnation was there, of another
    # that nobody knows; so what comes of it depends on what was known when it came.
    verdicts = (S.ALIVE, S.SUSPECT, S.DEAD)
    about_one = [r for r in heard if r.node_id == node_id_of(1) and r.state in verdicts]
    benches = []
    for _ in range(2):
        bench = Bench()
        for rumour in about_one:
            bench.hear(rumour)
        benches.append((bench.one.alive, bench.one.incarnation))
        rng.shuffle(about_one)
    assert benches[0] == benches[1]
