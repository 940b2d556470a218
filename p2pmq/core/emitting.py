"""Emitting: events from where they happen straight to who is interested, at most once.

Nothing is stored and nothing is sent again: an event that is lost is lost. The
events of a process to another node are numbered, so that what a network
repeats, or brings too late, is known and dropped: events of one node come in
the order in which it emitted them. A process that has ended sends no more,
for its connections are closed when the next one has said Hello.

Invariant: the events of one process that are passed on have rising numbers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from p2pmq.core.effects import Counted, Emitted, Notify, Send
from p2pmq.core.packets.emitting import Emit
from p2pmq.core.packets.publishing import Batch
from p2pmq.core.topics import is_topic

if TYPE_CHECKING:
    from collections.abc import Container

    from p2pmq.core.effects import Effect
    from p2pmq.core.events import EmitRequested
    from p2pmq.core.ids import NodeId, Session
    from p2pmq.core.interests import Interests


class Emitting:
    """What this node emits, and what comes to it. `roster` has every member that is not gone."""

    def __init__(self, session: Session, interests: Interests, roster: Container[NodeId]) -> None:
        self._session = session
        self._interests = interests
        self._roster = roster
        self._next: dict[NodeId, int] = {}
        self._heard: dict[NodeId, tuple[Session, int]] = {}

    def on_emit(self, event: EmitRequested) -> list[Effect]:
        """Send the events to whoever is interested; neighbours with the same takers go together."""
        topics = event.topics
        whole = Batch(self._session, 1, len(topics), event.size, event.bodies)
        takers = [self._interests.match(topic) for topic in topics]
        effects: list[Effect] = []
        start = 0
        for at in range(1, len(topics) + 1):
            if at < len(topics) and takers[at] == takers[start]:
                continue
            if takers[start]:
                part = whole.part(start + 1, at)
                effects += [
                    Send(peer, self._numbered(peer, topics[start:at], part))
                    for peer in takers[start]
                ]
            start = at
        return effects

    def _numbered(self, peer: NodeId, topics: tuple[str, ...], part: Batch) -> Emit:
        first = self._next.get(peer, 1)
        self._next[peer] = first + part.count
        return Emit(topics, replace(part, first=first), self._interests.version)

    def on_packet(self, peer: NodeId, packet: Emit, now: int) -> list[Effect]:
        """Events came: pass on what is new."""
        batch = packet.batch
        if peer not in self._roster:
            return [Notify(Counted("emits_of_strangers", batch.count))]
        if len(packet.topics) != batch.count or not all(map(is_topic, packet.topics)):
            text = f"{peer.hex()} emits to what is no topic"
            return [Notify(Counted("emits_malformed", batch.count, text))]
        session, last = self._heard.get(peer, (batch.session, 0))
        if batch.session == session and batch.first <= last:
            return [Notify(Counted("emits_repeated", batch.count))]
        self._heard[peer] = (batch.session, batch.last)
        effects: list[Effect] = [Emitted(peer, packet.topics, batch.bodies)]
        return effects + self._interests.on_version(peer, packet.interests, now)

    def on_roster(self) -> None:
        """Forget the numbers of who is off the roster."""
        for peer in [peer for peer in self._heard if peer not in self._roster]:
            del self._heard[peer]
        for peer in [peer for peer in self._next if peer not in self._roster]:
            del self._next[peer]
