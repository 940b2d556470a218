"""Hearsay: what a node believes of what others tell it about the members.

SWIM's rules of precedence, and who may say what, so that a stale or split-off
peer does no harm:

- An accusation counts only from one that is itself held alive, a burial only
  as news, not in a list of all that the other believes. What does not count
  is told to the accused, who refutes it if it lives.
- Members unknown here are introduced by members; a stranger's word counts for
  itself alone. Who knows nobody yet believes anybody.
- Leaves are introduced only while alive: two peers must not keep the memory of
  a dead one alive by telling it to each other.

Invariant: nothing that others say makes this node's own entry suspect or dead,
and nothing brings back an incarnation that has a tombstone.
"""

from __future__ import annotations

from typing import NamedTuple

from p2pmq.config import SwimConfig
from p2pmq.core.effects import Counted, Effect, MemberNotice, Notify, Persist, Send
from p2pmq.core.gossip import RumourQueue
from p2pmq.core.ids import NodeId
from p2pmq.core.membership import (
    MEMBERS_MAX,
    NOBODY,
    Member,
    MemberState,
    Roster,
    SwimTimers,
    Timer,
    Tombstone,
)
from p2pmq.core.packets.membership import Gossip, Rumour
from p2pmq.core.probe import ProbeOrder
from p2pmq.core.records import IncarnationSaved
from p2pmq.core.suspicion import Awareness, Suspicion

TELL_INTERVAL_MS = 2_000
"""A member is told what is said of it once in this time by each who hears it."""

INCARNATION_MAX = 2**32 - 2
"""A claim above is no rumour but a fault: it could not be refuted any more."""

TOMBSTONE_LOOKS = 24
"""How many times in `tombstone_ms` an old tombstone is looked at again."""


class Teller(NamedTuple):
    """Who brings rumours, and what its word counts for."""

    node_id: NodeId
    introduces: bool
    accuses: bool
    buries: bool
    spreads: bool
    """Whether it is news for others too, not only for a node that has just come."""


class Hearsay:
    """The rules by which rumours change the roster."""

    __slots__ = (
        "_awareness",
        "_config",
        "_order",
        "_queue",
        "_roster",
        "_timers",
        "disbelieved",
        "silent",
    )

    def __init__(
        self,
        roster: Roster,
        config: SwimConfig,
        order: ProbeOrder,
        queue: RumourQueue,
        timers: SwimTimers,
        awareness: Awareness,
    ) -> None:
        self._roster = roster
        self._config = config
        self._order = order
        self._queue = queue
        self._timers = timers
        self._awareness = awareness
        self.disbelieved = 0
        self.silent = False
        """This node has said goodbye: it contradicts nothing that is said of it any more."""

    # ---------------------------------------------------------------------------------- rumours

    def hear(
        self, rumours: tuple[Rumour, ...], teller: Teller, now: int, out: list[Effect]
    ) -> None:
        """Believe of the rumours what is newer than what is known, and who may say it."""
        members = self._roster.members
        for rumour in rumours:
            member = members.get(rumour.node_id)
            if member is None:
                self._on_unknown(rumour, teller, now, out)
            elif rumour.incarnation < member.incarnation:
                if rumour.incarnation > member.facts_incarnation and rumour.name:
                    self._roster.take_facts(member, rumour, out)
            elif member is self._roster.own:
                self._on_self(rumour, out)
            elif rumour.incarnation == member.incarnation and rumour.state <= member.state:
                if rumour.state == MemberState.SUSPECT == member.state and teller.accuses:
                    self._confirm(member, rumour.accuser)
                if rumour.incarnation > member.facts_incarnation and rumour.name:
                    self._roster.take_facts(member, rumour, out)
            elif rumour.incarnation > INCARNATION_MAX:
                out.append(Notify(Counted("swim_rumours_absurd")))
            else:
                self._on_news(member, rumour, teller, now, out)

    def _on_news(
        self, member: Member, rumour: Rumour, teller: Teller, now: int, out: list[Effect]
    ) -> None:
        if rumour.name and rumour.incarnation > member.facts_incarnation:
            self._roster.take_facts(member, rumour, out)
        match rumour.state:
            case MemberState.UNMET if not member.alive:
                self._roster.become(member, MemberState.UNMET, rumour.incarnation, now)
            case MemberState.UNMET | MemberState.ALIVE:
                self._become_alive(member, rumour.incarnation, teller, now, out)
            case MemberState.SUSPECT:
                self._on_suspect(member, rumour, teller, now, out)
            case MemberState.DEAD:
                self._on_dead(member, rumour, teller, now, out)
            case MemberState.LEFT:
                self.remove(member, MemberState.LEFT, rumour.incarnation, now, out)
            case MemberState.FORGOTTEN if not member.alive:
                self.remove(member, MemberState.FORGOTTEN, rumour.incarnation, now, out)
            case _:  # forgotten by those that could not see it: it is there, and will say so
                self._tell(member, rumour, now, out)

    def _on_suspect(
        self, member: Member, rumour: Rumour, teller: Teller, now: int, out: list[Effect]
    ) -> None:
        if not teller.accuses:
            if member.alive:
                self._tell(member, rumour, now, out)
            return
        if not member.alive:  # it was there at this incarnation, of which nobody says worse
            self._become_alive(member, rumour.incarnation, teller, now, out)
        self._become_suspect(member, rumour.accuser, rumour.incarnation, now, out)

    def _on_dead(
        self, member: Member, rumour: Rumour, teller: Teller, now: int, out: list[Effect]
    ) -> None:
        if not member.alive:
            self._roster.become(member, MemberState.DEAD, rumour.incarnation, now)
        elif teller.buries:
            self.become_dead(member, rumour.accuser, rumour.incarnation, now, out)
        else:
            if member.state is MemberState.SUSPECT and teller.accuses:
                self._confirm(member, teller.node_id)
            self._tell(member, rumour, now, out)

    def _on_unknown(self, rumour: Rumour, teller: Teller, now: int, out: list[Effect]) -> None:
        tombstone = self._roster.tombstones.get(rumour.node_id)
        if tombstone is not None and rumour.incarnation <= tombstone.news.incarnation:
            return
        state = MemberState(rumour.state)
        if state >= MemberState.LEFT or not rumour.name or rumour.incarnation > INCARNATION_MAX:
            return
        if rumour.weight == 0 and state is not MemberState.ALIVE:
            return
        if not (teller.introduces or rumour.node_id == teller.node_id):
            self.disbelieved += 1
            return
        if len(self._roster.members) >= MEMBERS_MAX:
            out.append(Notify(Counted("swim_members_refused")))
            return
        alive = state is MemberState.ALIVE or state is MemberState.SUSPECT
        member = Member(rumour, MemberState.ALIVE if alive else state, now)
        self._roster.add(member, out)
        if alive:
            member.joined_ms = now
            self._announce(member, out, spreads=teller.spreads)
        if state is MemberState.SUSPECT and teller.accuses:
            self._become_suspect(member, rumour.accuser, rumour.incarnation, now, out)

    # ------------------------------------------------------------------------------ about itself

    def _on_self(self, rumour: Rumour, out: list[Effect]) -> None:
        own = self._roster.own
        if self.silent:
            return
        if rumour.incarnation > INCARNATION_MAX:
            out.append(Notify(Counted("swim_rumours_absurd")))
            return
        accused = rumour.state >= MemberState.SUSPECT
        ahead = rumour.incarnation > own.incarnation
        # Facts of an earlier life under this incarnation: the last write of it was lost.
        outdated = bool(rumour.name) and not own.same_facts(rumour)
        if accused or ahead or outdated:
            self._refute(rumour, accused=accused, out=out)

    def _refute(self, rumour: Rumour, *, accused: bool, out: list[Effect]) -> None:
        self.announce_own(rumour.incarnation, out)
        if accused:
            self._awareness.apply(1)
            out.append(Notify(Counted("swim_refutations")))

    def announce_own(self, above: int, out: list[Effect]) -> None:
        """Tell this node's facts to all, as of an incarnation above the given one.

        A peer may have driven it to the very end of what a packet can say: there it stays.
        """
        own = self._roster.own
        self._roster.raise_own(min(above, INCARNATION_MAX) + 1)
        out.append(Persist((IncarnationSaved(own.incarnation),)))
        self._queue.put(own.facts(MemberState.ALIVE))

    # ------------------------------------------------------------------------------- transitions

    def _become_alive(
        self,
        member: Member,
        incarnation: int,
        teller: Teller,
        now: int,
        out: list[Effect],
    ) -> None:
        was = member.state
        self._end_suspicion(member)
        self._roster.become(member, MemberState.ALIVE, incarnation, now)
        if was is MemberState.ALIVE or was is MemberState.SUSPECT:
            if teller.spreads:
                self._queue.put(self._alive_rumour(member))
            if was is MemberState.SUSPECT:
                self._notify(member, out)
        else:
            self._announce(member, out, spreads=teller.spreads or was is MemberState.DEAD)

    def suspect(self, member: Member, now: int, out: list[Effect]) -> None:
        """This node's own probe of the member failed."""
        own_id = self._roster.own.node_id
        if member.state is MemberState.SUSPECT:
            self._confirm(member, own_id)
        elif member.state is MemberState.ALIVE:
            self._become_suspect(member, own_id, member.incarnation, now, out)

    def _become_suspect(
        self, member: Member, accuser: NodeId, incarnation: int, now: int, out: list[Effect]
    ) -> None:
        suspicion = Suspicion(self._config, self._roster.alive_count, accuser, now)
        member.suspicion = suspicion
        member.accuser = accuser
        self._roster.become(member, MemberState.SUSPECT, incarnation, now)
        self._timers.set((Timer.SUSPICION, member.node_id), suspicion.deadline())
        self._queue.put(member.verdict())
        self._notify(member, out)

    def _confirm(self, member: Member, accuser: NodeId) -> None:
        suspicion = member.suspicion
        assert suspicion is not None, "a suspect has a suspicion"
        if suspicion.confirm(accuser):
            self._timers.set((Timer.SUSPICION, member.node_id), suspicion.deadline())
            self._queue.put(member.verdict(accuser))

    def on_suspicion_timeout(self, member: Member, now: int, out: list[Effect]) -> None:
        """Nobody refuted in time: it is dead, unless it was heard and may still refute."""
        suspicion = member.suspicion
        if suspicion is None:
            return
        last_ms = suspicion.since_ms + suspicion.max_ms
        heard = member.heard_ms > suspicion.since_ms and self._config.lifeguard
        if heard and now < last_ms:
            self._tell(member, member.verdict(), now, out)
            self._timers.set(
                (Timer.SUSPICION, member.node_id), min(last_ms, now + suspicion.min_ms)
            )
            return
        own_id = self._roster.own.node_id
        self.become_dead(member, own_id, member.incarnation, now, out)

    def become_dead(
        self, member: Member, accuser: NodeId, incarnation: int, now: int, out: list[Effect]
    ) -> None:
        """Hold a living member dead, and say so."""
        self._end_suspicion(member)
        member.accuser = accuser
        self._roster.become(member, MemberState.DEAD, incarnation, now)
        if member.leaf:
            self._timers.set((Timer.REAP, member.node_id), now + self._config.leaf_reap_ms)
        self._queue.put(member.verdict())
        self._notify(member, out)

    def remove(
        self, member: Member, state: MemberState, incarnation: int, now: int, out: list[Effect]
    ) -> None:
        """Take a member off the roster, since it left or was forgotten, and say so."""
        self._end_suspicion(member)
        self._roster.bury(member, state, incarnation, now, out)
        self._timers.set((Timer.REAP, member.node_id), now + self._config.tombstone_ms)
        self._queue.put(member.verdict(NOBODY))
        self._notify(member, out)

    def on_reap_timeout(self, node_id: NodeId, now: int, out: list[Effect]) -> None:
        """Drop a leaf that is dead for long, or a tombstone that nobody can contradict."""
        member = self._roster.members.get(node_id)
        if member is not None:
            if member.leaf and not member.alive:
                self._reap_leaf(member, now, out)
            return
        tombstone = self._roster.tombstones.get(node_id)
        if tombstone is None:
            return
        if self._may_reap(tombstone):
            self._roster.drop_tombstone(node_id, out)
            self._queue.discard(node_id)
            return
        look_ms = max(1, self._config.tombstone_ms // TOMBSTONE_LOOKS)
        self._timers.set((Timer.REAP, node_id), now + look_ms)

    def _reap_leaf(self, member: Member, now: int, out: list[Effect]) -> None:
        reap_at = member.since_ms + self._config.leaf_reap_ms
        if now < reap_at:
            self._timers.set((Timer.REAP, member.node_id), reap_at)
            return
        self._roster.drop(member, out)
        self._queue.discard(member.node_id)

    def _may_reap(self, tombstone: Tombstone) -> bool:
        """Whether nobody is away who could bring old news: at this look and at the one before.

        Leaves' tombstones need no such care: a leaf that came back by old news is reaped again.
        """
        was_quiet = tombstone.quiet
        tombstone.quiet = all(member.leaf for member in self._roster.lost())
        return tombstone.leaf or (tombstone.quiet and was_quiet)

    def adopt(self, rumours: tuple[Rumour, ...], out: list[Effect]) -> None:
        """Drop the lost members that a mesh does not list which has forgotten this node.

        Whoever was away so long that it was forgotten knows less than those who stayed. What is
        dropped by mistake comes back with the next exchange between those that know better.
        """
        listed = {rumour.node_id for rumour in rumours if rumour.state < MemberState.LEFT}
        for member in list(self._roster.lost()):
            if member.node_id not in listed:
                self._roster.drop(member, out)

    # ------------------------------------------------------------------------------------ helpers

    def tell_suspect(self, member: Member, now: int, out: list[Effect]) -> None:
        """A suspect was heard: tell it to refute."""
        self._tell(member, member.verdict(), now, out)

    def _tell(self, member: Member, rumour: Rumour, now: int, out: list[Effect]) -> None:
        """Tell the accused what is said of it, and look after it soon."""
        if now - member.told_ms < TELL_INTERVAL_MS:
            return
        member.told_ms = now
        verdict = Rumour(member.node_id, rumour.state, rumour.incarnation, rumour.accuser)
        out.append(Send(member.node_id, Gossip((verdict,))))
        self._order.hurry(member)

    def _announce(self, member: Member, out: list[Effect], *, spreads: bool) -> None:
        """A member is there that was not."""
        self._order.add(member)
        if spreads:
            self._queue.put(self._alive_rumour(member))
        self._notify(member, out)

    def _alive_rumour(self, member: Member) -> Rumour:
        if member.facts_incarnation == member.incarnation:
            return member.facts(MemberState.ALIVE)
        return member.verdict(NOBODY)

    def _end_suspicion(self, member: Member) -> None:
        if member.suspicion is not None:
            member.suspicion = None
            self._timers.clear((Timer.SUSPICION, member.node_id))

    @staticmethod
    def _notify(member: Member, out: list[Effect]) -> None:
        address = member.addresses[0] if member.addresses else ""
        out.append(Notify(MemberNotice(member.node_id, member.name, int(member.state), address)))
