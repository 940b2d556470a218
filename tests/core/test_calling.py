"""Calling: one responder, at most once, and every call ends once."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from p2pmq.core import calling as module
from p2pmq.core.calling import TRIES_MAX, Calling
from p2pmq.core.effects import Counted, Effect, Notify, NotReplied, Replied, Resolve, Send
from p2pmq.core.events import CallCancelled, CallRequested
from p2pmq.core.interests import Interests
from p2pmq.core.packets.emitting import Interests as Whole
from p2pmq.core.packets.publishing import Batch
from p2pmq.core.packets.requesting import (
    FAILED_NOBODY,
    FAILED_OVERLOADED,
    FAILED_RAISED,
    Reply,
    Request,
    RequestCancelled,
    RequestFailed,
)
from tests.core.kit import S1, S2, A, B, C, Texts

if TYPE_CHECKING:
    from collections.abc import Iterable

D = b"node-ddd"
WAIT_MS = 500


class Scene:
    """A's calls; B, C and D are members. What ended is in `outcomes`, by token."""

    def __init__(self, *responders: bytes, here: bool = False) -> None:
        self.here = here
        self.interests = Interests(1)
        self.interests.on_roster([B, C, D], [B, C, D], 0)
        self.calling = Calling(
            A, S1, self.interests, lambda name: self.here and name == "work", WAIT_MS, Random(1)
        )
        self.outcomes: dict[int, Replied | NotReplied] = {}
        self.sent: list[tuple[bytes, object]] = []
        self.counted: list[str] = []
        for peer in responders:
            self.learn(peer)

    def learn(self, peer: bytes, now: int = 0) -> None:
        self.interests.on_interests(peer, Whole(1, ("$r.work",)), now)
        self.take(self.calling.on_learned(now))

    def take(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Resolve(token, Replied() | NotReplied() as outcome):
                    assert token not in self.outcomes, "a call ends once"
                    self.outcomes[token] = outcome
                case Send(peer, packet):
                    self.sent.append((peer, packet))
                case Notify(Counted(what)):
                    self.counted.append(what)
                case _:
                    raise AssertionError(effect)

    def call(self, token: int, now: int = 0, timeout_ms: int = 1_000) -> tuple[bytes, Request]:
        """Make a call; where it went."""
        self.take(
            self.calling.on_call(CallRequested("work", Texts(("?",)), 1, timeout_ms, token), now)
        )
        return self.last()

    def last(self) -> tuple[bytes, Request]:
        if not self.sent:
            return b"", Request("none", Batch(S1, 1, 1, 0, Texts(("",))))
        peer, packet = self.sent[-1]
        assert isinstance(packet, Request)
        return peer, packet

    def reply(self, peer: bytes, request: Request, text: str = "!") -> None:
        batch = Batch(request.batch.session, request.batch.first, 1, 1, Texts((text,)))
        self.take(self.calling.on_reply(peer, Reply(batch)))

    def fail(self, peer: bytes, request: Request, reason: int, now: int = 0) -> None:
        batch = request.batch
        failed = RequestFailed(batch.session, batch.first, reason, "KeyError", "'x'")
        self.take(self.calling.on_failed(peer, failed, now))

    def is_empty(self) -> bool:
        """Whether nothing is kept of any call."""
        calling = self.calling
        kept = (calling._calls, calling._numbers, calling._waiting, calling._outstanding)
        return not any(kept) and calling.next_deadline() is None


def test_a_call_carries_its_body_its_number_and_what_is_left_of_its_time() -> None:
    scene = Scene(B)
    assert scene.call(7, now=100) == (
        B,
        Request("work", Batch(S1, 1, 1, 1, Texts(("?",)), ttl_ms=1_000)),
    )
    scene.reply(B, scene.last()[1])
    assert scene.outcomes == {7: Replied(Texts(("!",)))}
    assert scene.is_empty()


def test_the_least_loaded_is_asked_and_this_node_before_others() -> None:
    scene = Scene(B, C, D)
    asked = [scene.call(token)[0] for token in range(9)]
    assert {peer: asked.count(peer) for peer in (B, C, D)} == {B: 3, C: 3, D: 3}
    scene.here = True
    assert [scene.call(token)[0] for token in range(9, 13)] == [A] * 4
    assert scene.call(13)[0] != A


def test_chance_decides_between_equals() -> None:
    scene = Scene(B, C, D)
    first: set[bytes] = set()
    for token in range(40):
        peer, request = scene.call(token)
        first.add(peer)
        scene.reply(peer, request)
    assert first == {B, C, D}


def test_where_nobody_is_known_a_call_waits_a_moment_and_then_says_so() -> None:
    scene = Scene()
    scene.call(1)
    scene.call(2, timeout_ms=100)
    assert scene.sent == []
    assert scene.calling.next_deadline() == 100
    scene.take(scene.calling.on_timeout(100))
    scene.take(scene.calling.on_timeout(WAIT_MS))
    assert scene.outcomes == {1: NotReplied("nobody"), 2: NotReplied("nobody")}
    assert scene.is_empty()


def test_a_responder_that_becomes_known_gets_the_calls_that_waited_with_what_time_is_left() -> None:
    scene = Scene()
    scene.call(1)
    scene.learn(B, now=200)
    peer, request = scene.last()
    assert (peer, request.batch.ttl_ms) == (B, 800)
    scene.take(scene.calling.on_timeout(WAIT_MS))
    assert scene.outcomes == {}, "it waits for the answer now"


def test_silence_ends_at_the_deadline_and_the_responder_is_told() -> None:
    scene = Scene(B)
    scene.call(1)
    scene.take(scene.calling.on_timeout(1_000))
    assert scene.outcomes == {1: NotReplied("timeout", B)}
    assert scene.sent[-1] == (B, RequestCancelled(S1, 1))
    assert scene.is_empty()


def test_a_cancelled_call_does_not_resolve_and_the_responder_is_told() -> None:
    scene = Scene(B)
    scene.call(1)
    scene.take(scene.calling.on_cancel(CallCancelled(1)))
    scene.take(scene.calling.on_cancel(CallCancelled(1)))
    assert scene.sent[1:] == [(B, RequestCancelled(S1, 1))]
    assert scene.outcomes == {}
    assert scene.is_empty()
    waiting = Scene()
    waiting.call(2)
    waiting.take(waiting.calling.on_cancel(CallCancelled(2)))
    assert waiting.sent == []
    assert waiting.is_empty()


def test_who_did_not_take_it_is_passed_over_for_another_under_a_new_number() -> None:
    scene = Scene(B, C)
    first, request = scene.call(1)
    scene.fail(first, request, FAILED_NOBODY, now=300)
    second, again = scene.last()
    assert {first, second} == {B, C}
    assert (again.batch.first, again.batch.ttl_ms) == (2, 700)
    scene.reply(first, request)
    assert scene.counted == ["replies_stale"]
    scene.reply(second, again)
    assert scene.outcomes == {1: Replied(Texts(("!",)))}


def test_who_raised_or_says_what_is_not_known_here_may_have_done_something() -> None:
    for reason in (FAILED_RAISED, 99):
        scene = Scene(B, C)
        peer, request = scene.call(1)
        scene.fail(peer, request, reason)
        assert scene.outcomes == {1: NotReplied("raised", peer, "KeyError", "'x'")}
        assert len(scene.sent) == 1
        assert scene.is_empty()


def test_in_an_overload_a_call_is_offered_to_few_and_ends_with_that_error() -> None:
    scene = Scene(B, C, D, here=True)
    peer, request = scene.call(1)
    for _ in range(TRIES_MAX - 1):
        scene.fail(peer, request, FAILED_OVERLOADED)
        peer, request = scene.last()
    scene.fail(peer, request, FAILED_OVERLOADED)
    assert scene.outcomes == {1: NotReplied("overloaded", peer)}
    assert len(scene.sent) == TRIES_MAX
    alone = Scene(B)
    alone.fail(*alone.call(2), FAILED_OVERLOADED)
    assert alone.outcomes == {2: NotReplied("overloaded", B)}
    assert alone.is_empty()


def test_one_that_answers_to_the_name_no_more_is_like_nobody_and_a_new_one_is_waited_for() -> None:
    scene = Scene(B)
    scene.fail(*scene.call(1), FAILED_NOBODY, now=100)
    assert scene.outcomes == {}
    scene.learn(C, now=200)
    assert scene.last()[0] == C
    other = Scene(B)
    other.fail(*other.call(2), FAILED_NOBODY, now=WAIT_MS + 1)
    assert other.outcomes == {2: NotReplied("nobody")}


def test_whoever_dies_or_restarts_ends_its_calls_and_no_others() -> None:
    scene = Scene(B, C)
    peers = {scene.call(token)[0]: token for token in (1, 2)}
    scene.take(scene.calling.on_roster([C, D]))
    assert scene.outcomes == {peers[B]: NotReplied("gone", B)}
    scene.take(scene.calling.on_restarted(C))
    assert scene.outcomes[peers[C]] == NotReplied("gone", C)
    assert scene.is_empty()


def test_answers_of_others_of_former_processes_and_malformed_ones_are_not_taken() -> None:
    scene = Scene(B)
    _, request = scene.call(1)
    number = request.batch.first
    for peer, batch in (
        (C, Batch(S1, number, 1, 1, Texts(("lie",)))),
        (B, Batch(S2, number, 1, 1, Texts(("old",)))),
        (B, Batch(S1, number + 1, 1, 1, Texts(("other",)))),
        (B, Batch(S1, number, 2, 1, Texts(("two", "bodies")))),
    ):
        scene.take(scene.calling.on_reply(peer, Reply(batch)))
    scene.take(scene.calling.on_failed(C, RequestFailed(S1, number, FAILED_RAISED), 0))
    assert scene.outcomes == {}
    assert scene.counted == ["replies_stale"] * 5


def test_calls_under_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALLS_MAX", 2)
    scene = Scene(B)
    for token in range(3):
        scene.call(token)
    assert scene.outcomes == {2: NotReplied("overloaded", A)}


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_every_call_ends_once_and_nothing_is_kept(seed: int) -> None:
    rng = Random(seed)
    scene = Scene(B, here=True)
    now, cancelled = 0, set[int]()
    for token in range(200):
        scene.call(token, now, timeout_ms=rng.randint(1, 3_000))
        asked = [(peer, packet) for peer, packet in scene.sent if isinstance(packet, Request)]
        for _ in range(rng.randint(0, 2)):
            peer, request = rng.choice(asked or [(B, scene.last()[1])])
            if rng.random() < 0.5:
                scene.reply(peer, request)
            else:
                scene.fail(peer, request, rng.randint(1, 3), now)
        chance = rng.random()
        if chance < 0.1:
            cancelled |= {token} - scene.outcomes.keys()
            scene.take(scene.calling.on_cancel(CallCancelled(token)))
        elif chance < 0.2:
            alive = [peer for peer in (B, C, D) if rng.random() < 0.6]
            scene.interests.on_roster(alive, [B, C, D], now)
            scene.take(scene.calling.on_roster(alive))
            scene.learn(rng.choice((B, C, D)), now)
        now += rng.randint(0, 300)
        scene.take(scene.calling.on_timeout(now))
    scene.take(scene.calling.on_timeout(now + 3_000))
    assert scene.outcomes.keys() | cancelled == set(range(200))
    assert not scene.outcomes.keys() & cancelled
    assert scene.is_empty()
