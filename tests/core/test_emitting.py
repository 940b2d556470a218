"""Emitting: to whom events go, in which packets, and what of them is passed on."""

from __future__ import annotations

from dataclasses import replace

from p2pmq.core.effects import Counted, Effect, Emitted, Notify, Send
from p2pmq.core.emitting import Emitting
from p2pmq.core.events import EmitRequested, InterestsRequested
from p2pmq.core.interests import Interests
from p2pmq.core.packets.emitting import Emit, InterestsKnown
from p2pmq.core.packets.emitting import Interests as Whole
from p2pmq.core.packets.publishing import Batch
from tests.core.kit import S1, S2, B, C, Texts, packets


def made(**interests: tuple[str, ...]) -> tuple[Emitting, dict[bytes, None]]:
    """B and C are members, interested in what is given."""
    room = Interests(1)
    room.on_roster([B, C], [B, C], 0)
    for name, patterns in interests.items():
        room.on_interests({"b": B, "c": C}[name], Whole(1, patterns), 0)
    roster = dict.fromkeys((B, C))
    return Emitting(S1, room, roster), roster


def request(*topics: str) -> EmitRequested:
    bodies = Texts(tuple(f"body of {topic}" for topic in topics))
    return EmitRequested(topics, bodies, 10 * len(topics))


def emit(first: int, *topics: str, session: bytes = S2) -> Emit:
    return Emit(topics, Batch(session, first, len(topics), 1, Texts(topics)))


def counted(effects: list[Effect]) -> list[tuple[str, int]]:
    return [
        (effect.notice.what, effect.notice.count)
        for effect in effects
        if isinstance(effect, Notify) and isinstance(effect.notice, Counted)
    ]


def test_events_go_to_who_is_interested_and_those_of_the_same_takers_together() -> None:
    emitting, _ = made(b=("x.*", "y"), c=("x.*",))
    sent = emitting.on_emit(request("x.1", "x.2", "nobody", "y", "x.3"))
    assert [(e.peer, e.packet) for e in sent if isinstance(e, Send)] == [
        (B, Emit(("x.1", "x.2"), Batch(S1, 1, 2, 20, Texts(("body of x.1", "body of x.2"))))),
        (C, Emit(("x.1", "x.2"), Batch(S1, 1, 2, 20, Texts(("body of x.1", "body of x.2"))))),
        (B, Emit(("y",), Batch(S1, 3, 1, 10, Texts(("body of y",))))),
        (B, Emit(("x.3",), Batch(S1, 4, 1, 10, Texts(("body of x.3",))))),
        (C, Emit(("x.3",), Batch(S1, 3, 1, 10, Texts(("body of x.3",))))),
    ]


def test_bodies_that_all_go_everywhere_are_not_taken_apart() -> None:
    emitting, _ = made(b=(">",), c=(">",))
    asked = request("x", "y")
    for packet in packets(emitting.on_emit(asked)):
        assert isinstance(packet, Emit)
        assert packet.batch.bodies is asked.bodies


def test_an_event_that_nobody_wants_is_not_sent() -> None:
    emitting, _ = made()
    assert emitting.on_emit(request("x")) == []


def test_the_senders_version_of_its_interests_travels_along() -> None:
    room = Interests(1)
    room.on_roster([B], [B], 0)
    room.on_interests(B, Whole(1, ("x",)), 0)
    room.on_requested(InterestsRequested(("z",)), 0)
    (packet,) = packets(Emitting(S1, room, {B: None}).on_emit(request("x")))
    assert isinstance(packet, Emit)
    assert packet.interests == room.version > 0
    other, _ = made()
    effects = other.on_packet(B, packet, 0)
    assert packets(effects) == [InterestsKnown(0, wanted=True)]


def test_what_comes_is_passed_on_once_in_order_and_the_rest_is_counted() -> None:
    emitting, _ = made()
    assert emitting.on_packet(B, emit(1, "x", "y"), 0) == [
        Emitted(B, ("x", "y"), Texts(("x", "y")))
    ]
    assert counted(emitting.on_packet(B, emit(1, "x", "y"), 0)) == [("emits_repeated", 2)]
    assert isinstance(emitting.on_packet(B, emit(5, "z"), 0)[0], Emitted)
    assert counted(emitting.on_packet(B, emit(3, "late"), 0)) == [("emits_repeated", 1)]
    assert isinstance(emitting.on_packet(C, emit(1, "x"), 0)[0], Emitted), "each counts by itself"


def test_a_new_process_of_the_sender_counts_anew() -> None:
    emitting, _ = made()
    emitting.on_packet(B, emit(9, "x", session=S1), 0)
    assert isinstance(emitting.on_packet(B, emit(1, "x", session=S2), 0)[0], Emitted)
    assert counted(emitting.on_packet(B, emit(1, "x", session=S2), 0)) == [("emits_repeated", 1)]


def test_events_of_strangers_and_malformed_ones_are_dropped_and_counted() -> None:
    emitting, _ = made()
    assert counted(emitting.on_packet(b"stranger", emit(1, "x"), 0)) == [("emits_of_strangers", 1)]
    for bad in (
        replace(emit(1, "x", "y"), topics=("x",)),
        emit(1, "a..b"),
        emit(1, "*"),
        emit(1, "line\nbreak"),
    ):
        assert counted(emitting.on_packet(B, bad, 0)) == [("emits_malformed", bad.batch.count)]
    assert isinstance(emitting.on_packet(B, emit(1, "x"), 0)[0], Emitted)


def test_numbers_of_who_is_off_the_roster_are_forgotten() -> None:
    emitting, roster = made(b=("x",))
    emitting.on_emit(request("x"))
    emitting.on_packet(B, emit(7, "x"), 0)
    del roster[B]
    emitting.on_roster()
    assert not emitting._next
    assert not emitting._heard
