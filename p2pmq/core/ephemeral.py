"""Ephemeral: the rooms of topics and requests, which store nothing, behind one door.

They share the interests: who answers to a name is interested in a topic of
the library's own. They follow who is alive, and not who owns what.

Invariant: a call that waits for a responder is looked at whenever one may
have become known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2pmq.core import events
from p2pmq.core.calling import Calling
from p2pmq.core.emitting import Emitting
from p2pmq.core.interests import Interests
from p2pmq.core.packets import emitting, requesting
from p2pmq.core.responding import Responding

if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from random import Random

    from p2pmq.core.effects import Effect
    from p2pmq.core.ids import NodeId, Session
    from p2pmq.core.packets.membership import Rumour
    from p2pmq.core.packets.registry import Packet


class Ephemeral:
    """What passes between nodes without a trace. `roster` has every member that is not gone."""

    def __init__(
        self,
        own: Rumour,
        session: Session,
        roster: Container[NodeId],
        responder_wait_ms: int,
        rng: Random,
    ) -> None:
        self.interests = Interests(own.boot)
        self._emitting = Emitting(session, self.interests, roster)
        self._responding = Responding(own.node_id, self.interests, roster)
        self._calling = Calling(
            own.node_id,
            session,
            self.interests,
            self._responding.answers,
            responder_wait_ms,
            rng,
        )
        self._there: tuple[list[NodeId], list[NodeId]] = ([], [])

    def event_table(self) -> dict[type, Callable[[Any, int], list[Effect]]]:
        """What the user asks for, by event."""
        return {
            events.InterestsRequested: self.interests.on_requested,
            events.EmitRequested: lambda e, _now: self._emitting.on_emit(e),
            events.CallRequested: self._calling.on_call,
            events.CallCancelled: lambda e, _now: self._calling.on_cancel(e),
            events.RespondRequested: self._on_respond_requested,
            events.RespondEnded: lambda e, _now: self._responding.on_respond_ended(e),
            events.RequestHandled: self._responding.on_handled,
        }

    def packet_table(self) -> dict[type[Packet], Callable[[NodeId, Any, int], list[Effect]]]:
        """What peers say, by packet."""
        return {
            emitting.Interests: self._on_interests,
            emitting.InterestsChanged: self._on_interests_changed,
            emitting.InterestsKnown: self.interests.on_known,
            emitting.Emit: self._emitting.on_packet,
            requesting.Request: self._responding.on_request,
            requesting.Reply: lambda peer, p, _now: self._calling.on_reply(peer, p),
            requesting.RequestFailed: self._calling.on_failed,
            requesting.RequestCancelled: lambda peer, p, _now: self._responding.on_cancelled(
                peer, p
            ),
        }

    def _on_interests(self, peer: NodeId, packet: emitting.Interests, now: int) -> list[Effect]:
        effects = self.interests.on_interests(peer, packet, now)
        return effects + self._calling.on_learned(now)

    def _on_interests_changed(
        self, peer: NodeId, packet: emitting.InterestsChanged, now: int
    ) -> list[Effect]:
        effects = self.interests.on_changed(peer, packet, now)
        return effects + self._calling.on_learned(now)

    def _on_respond_requested(self, event: events.RespondRequested, now: int) -> list[Effect]:
        self._responding.on_respond(event)
        return self._calling.on_learned(now)

    # -- members and time --

    def on_roster(self, alive: list[NodeId], roster: list[NodeId], now: int) -> list[Effect]:
        """The members that are alive now, beside this node, and all that are on the roster."""
        if (alive, roster) == self._there:
            return []  # something else has changed, as mostly
        self._there = (alive, roster)
        living = dict.fromkeys(alive)
        self._emitting.on_roster()
        effects = self.interests.on_roster(living, roster, now)
        effects += self._calling.on_roster(living)
        return effects + self._responding.on_roster(living)

    def on_peer_connected(self, peer: NodeId, now: int, *, restarted: bool) -> list[Effect]:
        """A link is up; with a process that is new, what the old one had under way has ended."""
        effects = self.interests.on_peer_connected(peer, now, restarted=restarted)
        if restarted:
            effects += self._calling.on_restarted(peer)
            effects += self._responding.on_restarted(peer)
        return effects

    def next_deadline(self) -> int | None:
        """When `on_timeout` is due."""
        first = self.interests.next_deadline()
        for room in (self._calling, self._responding):
            at = room.next_deadline()
            if at is not None and (first is None or at < first):
                first = at
        return first

    def on_timeout(self, now: int) -> list[Effect]:
        """Do what is due."""
        effects = self.interests.on_timeout(now)
        effects += self._calling.on_timeout(now)
        return effects + self._responding.on_timeout(now)
