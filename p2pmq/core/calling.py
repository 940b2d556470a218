"""Calling: requests of this node, from the call to the reply, or to why there is none.

A request goes to one responder: of those known, the one that has the fewest of
this node's, this node itself before others, else by lot. It is sent at most
once, but for a responder that said that it did not take it; then another may.
Whoever is silent may have acted on it, so that the caller is told, and nothing
is sent again.

Invariant: every call ends once: by a reply, an error, its deadline, or its
cancellation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from p2pmq.core.effects import Counted, Notify, NotReplied, Replied, Resolve, Send
from p2pmq.core.packets.publishing import Batch
from p2pmq.core.packets.requesting import (
    FAILED_NOBODY,
    FAILED_OVERLOADED,
    Reply,
    Request,
    RequestCancelled,
    RequestFailed,
)
from p2pmq.core.timers import Timers
from p2pmq.core.topics import responder_topic

if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from random import Random

    from p2pmq.core.effects import Effect
    from p2pmq.core.events import CallCancelled, CallRequested
    from p2pmq.core.ids import NodeId, Session
    from p2pmq.core.interests import Interests
    from p2pmq.core.packets.publishing import Bodies

CALLS_MAX = 16_384
"""Requests of one node under way, with their bodies."""
TRIES_MAX = 3
"""Responders that one request is offered to, where each says that it did not take it: in an
overload each further one would only add to it."""
NOT_TAKEN = (FAILED_OVERLOADED, FAILED_NOBODY)
"""With these reasons a responder says that it has done nothing, and never will."""


@dataclass(slots=True)
class Call:
    """One request that has no answer yet."""

    token: int
    responder: str
    bodies: Bodies
    size: int
    deadline: int
    waits_until: int
    """So long it waits for a responder to become known."""
    peer: NodeId | None = None
    """Who has it …"""
    number: int = 0
    """… under this number."""
    tried: dict[NodeId, None] = field(default_factory=dict)
    overloaded: NodeId | None = None
    """The last that refused it for having too much to do."""


class Calling:
    """The calls of this node. `answers_here` says whether it has a responder of a name itself."""

    def __init__(
        self,
        own_id: NodeId,
        session: Session,
        interests: Interests,
        answers_here: Callable[[str], bool],
        wait_ms: int,
        rng: Random,
    ) -> None:
        self._own_id = own_id
        self._session = session
        self._interests = interests
        self._answers_here = answers_here
        self._wait_ms = wait_ms
        self._rng = rng
        self._calls: dict[int, Call] = {}
        self._numbers: dict[int, Call] = {}
        self._waiting: dict[int, Call] = {}
        """Calls that no responder is known for, by token."""
        self._outstanding: dict[NodeId, int] = {}
        self._next_number = 1
        self._timers: Timers[int] = Timers()

    # -- the user's calls --

    def on_call(self, event: CallRequested, now: int) -> list[Effect]:
        """A new request."""
        if len(self._calls) >= CALLS_MAX:
            return [Resolve(event.token, NotReplied("overloaded", self._own_id))]
        deadline = now + event.timeout_ms
        waits_until = min(now + self._wait_ms, deadline)
        call = Call(event.token, event.responder, event.bodies, event.size, deadline, waits_until)
        self._calls[call.token] = call
        return self._send(call, now)

    def on_cancel(self, event: CallCancelled) -> list[Effect]:
        """Whoever made the request waits for it no more."""
        call = self._calls.get(event.token)
        if call is None:
            return []
        cancelled = self._cancelled(call)
        self._take_out(call)
        return cancelled

    def _cancelled(self, call: Call) -> list[Effect]:
        """What tells the responder."""
        if call.peer is None:
            return []
        return [Send(call.peer, RequestCancelled(self._session, call.number))]

    # -- choosing and sending --

    def _send(self, call: Call, now: int) -> list[Effect]:
        """Send it to a responder that has not refused it; or wait for one; or give up."""
        peer = self._choose(call)
        if peer is None:
            if call.overloaded is not None:
                return self._end(call, NotReplied("overloaded", call.overloaded))
            if now >= call.waits_until:
                return self._end(call, NotReplied("nobody"))
            self._waiting[call.token] = call
            self._timers.set(call.token, call.waits_until)
            return []
        self._waiting.pop(call.token, None)
        call.peer, call.number = peer, self._next_number
        call.tried[peer] = None
        self._next_number += 1
        self._numbers[call.number] = call
        self._outstanding[peer] = self._outstanding.get(peer, 0) + 1
        self._timers.set(call.token, call.deadline)
        batch = Batch(
            self._session, call.number, 1, call.size, call.bodies, ttl_ms=call.deadline - now
        )
        return [Send(peer, Request(call.responder, batch, self._interests.version))]

    def _choose(self, call: Call) -> NodeId | None:
        known = self._interests.match(responder_topic(call.responder))
        able = [peer for peer in known if peer not in call.tried]
        here = self._own_id not in call.tried and self._answers_here(call.responder)
        if not able:
            return self._own_id if here else None
        outstanding = self._outstanding
        least = min(outstanding.get(peer, 0) for peer in able)
        if here and outstanding.get(self._own_id, 0) <= least:
            return self._own_id
        return self._rng.choice([peer for peer in able if outstanding.get(peer, 0) == least])

    def on_learned(self, now: int) -> list[Effect]:
        """Something is known of other nodes, or of this one, that was not before."""
        effects: list[Effect] = []
        for call in list(self._waiting.values()):
            effects += self._send(call, now)
        return effects

    # -- answers --

    def on_reply(self, peer: NodeId, packet: Reply) -> list[Effect]:
        """The answer."""
        batch = packet.batch
        call = self._of(peer, batch.session, batch.first)
        if call is None or batch.count != 1:
            return [Notify(Counted("replies_stale"))]
        return self._end(call, Replied(batch.bodies))

    def on_failed(self, peer: NodeId, packet: RequestFailed, now: int) -> list[Effect]:
        """There is none; if the request was not taken, another responder may have it."""
        call = self._of(peer, packet.session, packet.number)
        if call is None:
            return [Notify(Counted("replies_stale"))]
        if packet.reason not in NOT_TAKEN:
            return self._end(call, NotReplied("raised", peer, packet.kind, packet.text))
        if packet.reason == FAILED_OVERLOADED:
            call.overloaded = peer
        self._let_go(call)
        if now >= call.deadline:
            return self._end(call, NotReplied("timeout", peer))
        if len(call.tried) < TRIES_MAX:
            return self._send(call, now)
        reason: Literal["nobody", "overloaded"] = "overloaded" if call.overloaded else "nobody"
        return self._end(call, NotReplied(reason, call.overloaded))

    def _of(self, peer: NodeId, session: Session, number: int) -> Call | None:
        """The call that a peer may answer."""
        call = self._numbers.get(number)
        if call is None or session != self._session or call.peer != peer:
            return None
        return call

    # -- members and time --

    def on_roster(self, alive: Container[NodeId]) -> list[Effect]:
        """Whoever is not alive answers no more, and may have acted on what it had or not."""
        return self._lose([p for p in self._outstanding if p != self._own_id and p not in alive])

    def on_restarted(self, peer: NodeId) -> list[Effect]:
        """A new process of the peer's knows nothing of what the old one had."""
        return self._lose([peer])

    def _lose(self, peers: list[NodeId]) -> list[Effect]:
        effects: list[Effect] = []
        for peer in peers:
            for call in [call for call in self._numbers.values() if call.peer == peer]:
                effects += self._end(call, NotReplied("gone", peer))
        return effects

    def next_deadline(self) -> int | None:
        """When a call's time is up, or its wait for a responder."""
        return self._timers.next_deadline()

    def on_timeout(self, now: int) -> list[Effect]:
        """End what has waited long enough."""
        effects: list[Effect] = []
        while (token := self._timers.pop_due(now)) is not None:
            call = self._calls[token]
            if call.peer is None:
                effects += self._end(call, NotReplied("nobody"))
            else:
                effects += self._cancelled(call)
                effects += self._end(call, NotReplied("timeout", call.peer))
        return effects

    # -- the end of a call --

    def _end(self, call: Call, outcome: Replied | NotReplied) -> list[Effect]:
        self._take_out(call)
        return [Resolve(call.token, outcome)]

    def _take_out(self, call: Call) -> None:
        self._let_go(call)
        self._waiting.pop(call.token, None)
        self._timers.clear(call.token)
        del self._calls[call.token]

    def _let_go(self, call: Call) -> None:
        """Its responder has it no more."""
        if call.peer is None:
            return
        del self._numbers[call.number]
        self._outstanding[call.peer] -= 1
        if not self._outstanding[call.peer]:
            del self._outstanding[call.peer]
        call.peer = None
