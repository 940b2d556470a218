"""Interests: every node comes to know what the others want, whatever is lost on the way."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from p2pmq.core.effects import Effect, Notify, Send
from p2pmq.core.events import InterestsRequested
from p2pmq.core.interests import MATCHES_MAX, RETRY_MS, RETRY_MS_MAX, Interests
from p2pmq.core.packets.emitting import PATTERNS_MAX, InterestsChanged, InterestsKnown
from p2pmq.core.packets.emitting import Interests as Whole
from tests.core.kit import A, B, C, packets

if TYPE_CHECKING:
    from p2pmq.core.packets.registry import Packet

BOOT = 3 << 32


def made(*peers: bytes, boot: int = 3) -> Interests:
    interests = Interests(boot)
    interests.on_roster(peers, peers, 0)
    return interests


def want(interests: Interests, *patterns: str, now: int = 0) -> list[Effect]:
    return interests.on_requested(InterestsRequested(patterns), now)


def hear(interests: Interests, peer: bytes, packet: Packet, now: int = 0) -> list[Effect]:
    """What comes of a packet."""
    match packet:
        case Whole():
            return interests.on_interests(peer, packet, now)
        case InterestsChanged():
            return interests.on_changed(peer, packet, now)
        case InterestsKnown():
            return interests.on_known(peer, packet, now)
    raise AssertionError(packet)


def test_the_first_interest_is_told_whole_and_the_next_as_a_change() -> None:
    interests = made(B)
    assert interests.version == 0
    assert packets(want(interests, "a.*")) == [Whole(BOOT + 1, ("a.*",))]
    changed = interests.on_requested(InterestsRequested(("b",), ("a.*",)), 1)
    assert packets(changed) == [InterestsChanged(BOOT + 2, ("b",), ("a.*",))]


def test_who_does_not_answer_is_told_again_ever_less_often_and_who_does_is_left_alone() -> None:
    interests = made(B, C)
    want(interests, "a")
    hear(interests, C, InterestsKnown(interests.version), 10)
    waits: list[int] = []
    now = 0
    for _ in range(12):
        deadline = interests.next_deadline()
        assert deadline is not None
        waits.append(deadline - now)
        now = deadline
        assert interests.on_timeout(now) == [Send(B, Whole(BOOT + 1, ("a",)))]
    assert waits[0] == RETRY_MS
    assert waits == sorted(waits)
    assert waits[-1] == RETRY_MS_MAX
    hear(interests, B, InterestsKnown(interests.version), now)
    assert interests.next_deadline() is None


def test_a_change_whose_forerunner_was_lost_is_asked_for_as_a_whole() -> None:
    interests = made(B)
    hear(interests, B, Whole(BOOT + 1, ("a",)))
    asked = hear(interests, B, InterestsChanged(BOOT + 3, ("c",)))
    assert asked == [Send(B, InterestsKnown(BOOT + 1, wanted=True))]
    assert interests.match("a") == (B,)
    assert hear(interests, B, InterestsChanged(BOOT + 4, ("d",))) == [], "asked once for all"
    assert interests.on_timeout(RETRY_MS) == asked, "and again"
    hear(interests, B, Whole(BOOT + 4, ("d",)))
    assert (interests.match("a"), interests.match("d")) == ((), (B,))
    assert interests.next_deadline() is None


def test_a_packet_that_shows_a_newer_version_makes_it_asked_for() -> None:
    interests = made(B)
    hear(interests, B, Whole(BOOT + 1, ("a",)))
    assert interests.on_version(B, BOOT + 1, 5) == []
    assert interests.on_version(B, BOOT + 2, 5) == [
        Send(B, InterestsKnown(BOOT + 1, wanted=True)),
    ]
    assert interests.on_version(C, 9, 5) == [], "of a stranger nothing is kept"


def test_who_wants_all_gets_it_but_not_again_and_again_at_once() -> None:
    interests = made(B)
    want(interests, "a")
    wanted = InterestsKnown(0, wanted=True)
    assert hear(interests, B, wanted, 1_000) == [Send(B, Whole(BOOT + 1, ("a",)))]
    assert hear(interests, B, wanted, 1_000) == []
    assert packets(hear(interests, B, wanted, 1_000 + RETRY_MS)) == [Whole(BOOT + 1, ("a",))]


def test_an_older_whole_that_comes_late_changes_nothing() -> None:
    interests = made(B)
    hear(interests, B, Whole(BOOT + 2, ("new",)))
    answer = hear(interests, B, Whole(BOOT + 1, ("old",)))
    assert answer == [Send(B, InterestsKnown(BOOT + 2))]
    assert interests.patterns_of(B) == ("new",)


def test_the_dead_match_nothing_and_are_asked_when_they_are_back() -> None:
    interests = made(B, C)
    hear(interests, B, Whole(BOOT + 1, ("a",)))
    hear(interests, C, Whole(7, ("a", ">")))
    assert interests.match("a") == tuple(sorted((B, C)))
    assert interests.on_roster([C], [B, C], 10) == []
    assert interests.match("a") == (C,)
    assert interests.on_roster([B, C], [B, C], 20) == [
        Send(B, InterestsKnown(0, wanted=True)),
    ]
    hear(interests, B, Whole(BOOT + 1, ("a",)))
    assert interests.match("a") == tuple(sorted((B, C)))


def test_of_who_is_off_the_roster_nothing_is_kept() -> None:
    interests = made(B)
    hear(interests, B, Whole(BOOT + 1, ("a",)))
    interests.on_roster([], [], 10)
    assert interests.match("a") == ()
    assert interests.on_roster([B], [B], 20) == [], "it is new"


def test_who_returns_is_told_anew_for_it_may_have_dropped_what_it_knew() -> None:
    interests = made(B)
    want(interests, "a")
    hear(interests, B, InterestsKnown(interests.version))
    interests.on_roster([], [B], 1_000)
    assert packets(interests.on_roster([B], [B], 2_000)) == [Whole(BOOT + 1, ("a",))]


def test_a_new_process_has_none_of_the_interests_of_the_old_one_and_knows_none_of_ours() -> None:
    interests = made(B)
    want(interests, "mine")
    hear(interests, B, InterestsKnown(interests.version))
    hear(interests, B, Whole(BOOT + 1, ("a",)))
    told = interests.on_peer_connected(B, 5_000, restarted=True)
    assert packets(told) == [Whole(BOOT + 1, ("mine",))]
    assert interests.match("a") == ()
    hear(interests, B, InterestsKnown(interests.version))
    assert interests.on_peer_connected(B, 6_000, restarted=False) == [], "it knows"


@pytest.mark.parametrize("bad", ["a..b", "x>", ">.x", "a\nb"])
def test_what_is_no_pattern_is_dropped_with_its_packet(bad: str) -> None:
    interests = made(B)
    assert isinstance(hear(interests, B, Whole(BOOT + 1, ("a", bad)))[0], Notify)
    assert interests.patterns_of(B) == ()
    hear(interests, B, Whole(BOOT + 1, ("a",)))
    assert isinstance(hear(interests, B, InterestsChanged(BOOT + 2, (bad,), ("a",)))[0], Notify)
    assert interests.match("a") == (B,)


def test_changes_upon_changes_do_not_add_up_beyond_what_one_node_may_have() -> None:
    interests = made(B)
    hear(interests, B, Whole(BOOT + 1, ("a",)))
    for number in range(10):
        many = tuple(f"p.{number}.{at}" for at in range(PATTERNS_MAX // 2))
        removed = tuple(f"none.{at}" for at in range(PATTERNS_MAX))
        hear(interests, B, InterestsChanged(BOOT + 2 + number, many, removed))
    assert len(interests.patterns_of(B)) <= PATTERNS_MAX


def test_of_strangers_nothing_is_kept_and_nothing_answered() -> None:
    interests = made(B)
    for packet in (Whole(1, ("a",)), InterestsChanged(1, ("a",))):
        assert isinstance(hear(interests, C, packet)[0], Notify)
    assert hear(interests, C, InterestsKnown(1, wanted=True)) == []
    assert interests.match("a") == ()


def test_remembered_matches_are_bounded_and_never_stale() -> None:
    interests = made(B)
    for number in range(MATCHES_MAX + 10):
        interests.match(f"t.{number}")
    assert len(interests._matches) <= MATCHES_MAX
    hear(interests, B, Whole(BOOT + 1, ("t.5",)))
    assert interests.match("t.5") == (B,)
    hear(interests, B, InterestsChanged(BOOT + 2, (), ("t.5",)))
    assert interests.match("t.5") == ()


class Weather:
    """Three nodes over a network that loses, repeats and delays, until it is calm."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.ids = (A, B, C)
        self.rooms = {node: Interests(1) for node in self.ids}
        self.own: dict[bytes, set[str]] = {node: set() for node in self.ids}
        self.now = 0
        self.calm = False
        self._on_way: list[tuple[int, bytes, bytes, Packet]] = []

    def others(self, node: bytes) -> list[bytes]:
        return [other for other in self.ids if other != node]

    def carry(self, source: bytes, effects: list[Effect]) -> None:
        rng = self.rng
        for effect in effects:
            if isinstance(effect, Send) and (self.calm or rng.random() > 0.4):
                for _ in range(1 if self.calm or rng.random() > 0.2 else 2):
                    delay = 1 if self.calm else rng.randint(1, 400)
                    self._on_way.append((self.now + delay, source, effect.peer, effect.packet))

    def pass_time(self, ms: int) -> None:
        self.now += ms
        due = sorted((p for p in self._on_way if p[0] <= self.now), key=lambda p: p[0])
        self._on_way = [p for p in self._on_way if p[0] > self.now]
        for _, source, target, packet in due:
            self.carry(target, hear(self.rooms[target], source, packet, self.now))
        for node, room in self.rooms.items():
            self.carry(node, room.on_timeout(self.now))

    def see(self, node: bytes, alive: list[bytes]) -> None:
        """The node takes these for alive, and the others for dead."""
        self.carry(node, self.rooms[node].on_roster(alive, self.others(node), self.now))

    def toggle(self, node: bytes, pattern: str) -> None:
        added = () if pattern in self.own[node] else (pattern,)
        removed = () if added else (pattern,)
        self.own[node] ^= {pattern}
        request = InterestsRequested(added, removed)
        self.carry(node, self.rooms[node].on_requested(request, self.now))

    def storm(self) -> None:
        """One thing happens."""
        rng = self.rng
        node, chance = rng.choice(self.ids), rng.random()
        if chance < 0.3:
            self.toggle(node, rng.choice(("a", "b.*", "c.>", "d")))
        elif chance < 0.5:
            self.see(node, [other for other in self.others(node) if rng.random() < 0.7])
        self.pass_time(rng.randint(1, 300))


@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_lost_repeated_or_late_everybody_knows_in_the_end(seed: int) -> None:
    weather = Weather(seed)
    for node in weather.ids:
        weather.see(node, weather.others(node))
    for _ in range(120):
        weather.storm()
    weather.calm = True
    for node in weather.ids:
        weather.see(node, weather.others(node))
    for _ in range(400):
        weather.pass_time(100)
    for node, room in weather.rooms.items():
        for other in weather.others(node):
            assert set(room.patterns_of(other)) == weather.own[other]
        assert room.next_deadline() is None, "and then there is quiet"
