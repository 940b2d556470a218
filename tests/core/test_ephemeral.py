"""The rooms of topics and requests together: two nodes that talk, with nothing between them."""

from __future__ import annotations

from random import Random

from p2pmq.core import events
from p2pmq.core.effects import Effect, Emitted, Handle, Replied, Resolve, Send
from p2pmq.core.ephemeral import Ephemeral
from p2pmq.core.membership import MemberState
from p2pmq.core.packets.membership import Rumour
from tests.core.kit import S1, S2, A, B, Texts

BODY = Texts(("?",))


class Two:
    """A and B, whose packets arrive at once."""

    def __init__(self) -> None:
        roster = dict.fromkeys((A, B))
        self.rooms = {
            node: Ephemeral(
                Rumour(node, MemberState.ALIVE, 1, boot=1), session, roster, 500, Random(1)
            )
            for node, session in ((A, S1), (B, S2))
        }
        self.seen: list[tuple[bytes, Effect]] = []
        for node, other in ((A, B), (B, A)):
            self.take(node, self.rooms[node].on_roster([other], [other], 0))

    def feed(self, node: bytes, event: object, now: int = 0) -> None:
        self.take(node, self.rooms[node].event_table()[type(event)](event, now))

    def take(self, node: bytes, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                target = self.rooms[effect.peer]
                handler = target.packet_table()[type(effect.packet)]
                self.take(effect.peer, handler(node, effect.packet, 0))
            else:
                self.seen.append((node, effect))


def test_an_event_reaches_who_wants_it_and_then_there_is_nothing_left_to_do() -> None:
    two = Two()
    two.feed(B, events.InterestsRequested(("a.*",)))
    two.feed(A, events.EmitRequested(("a.1",), BODY, 1))
    assert two.seen == [(B, Emitted(A, ("a.1",), BODY))]
    assert [room.next_deadline() for room in two.rooms.values()] == [None, None]


def test_a_call_that_waits_is_sent_when_a_responder_becomes_known() -> None:
    two = Two()
    two.feed(A, events.CallRequested("work", BODY, 1, 5_000, token=-1))
    assert two.rooms[A].next_deadline() == 500
    two.feed(B, events.RespondRequested("work", 1, 0))
    two.feed(B, events.InterestsRequested(("$r.work",)))
    ((node, handle),) = two.seen
    assert node == B
    assert isinstance(handle, Handle)
    assert two.rooms[B].next_deadline() == 5_000
    two.feed(B, events.RequestHandled(handle.job_id, Texts(("!",)), 1))
    assert two.seen[1:] == [(A, Resolve(-1, Replied(Texts(("!",)))))]


def test_a_roster_that_has_not_changed_is_not_looked_at_again() -> None:
    two = Two()
    two.feed(B, events.InterestsRequested(("a",)))
    assert two.rooms[B].on_roster([A], [A], 10) == []
    two.rooms[B].on_roster([], [A], 1_000)
    assert two.rooms[B].on_roster([A], [A], 2_000) != [], "who returns is told anew"
