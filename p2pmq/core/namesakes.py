"""Namesakes: members that bear one name, of which one has the name's place.

A node id goes with a disk, a name with a machine. A node that comes back on a
new disk under its old name is another member; it says that the dead one is its
`predecessor`, and whoever hears that takes the dead one off the roster, as if
it had been forgotten. Places on the ring follow from names, so the newcomer
stands where its predecessor stood, and no partition moves.

The predecessor may only have been cut off. When it is back it finds its name
taken: it stays a member, without a place, and hands over what it holds.

What a place's former bearer knew, the new one has not got: whoever faces a
namesake counts as refilling from then on (`intact`).

Invariant: who of a name's bearers has the place follows from the roster alone,
not from who is alive, so that members with one roster agree.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from p2pmq.core.effects import Counted, Notify, Persist
from p2pmq.core.membership import NOBODY, MemberState
from p2pmq.core.records import MemberSaved

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from p2pmq.core.effects import Effect
    from p2pmq.core.hearsay import Hearsay
    from p2pmq.core.ids import NodeId
    from p2pmq.core.membership import Member, Roster

UNMET_MS = 60_000
"""A namesake without a verdict is taken for gone after this: whoever lives is met sooner (the
promise for the healing of a split)."""


def placed(members: Iterable[Member]) -> list[Member]:
    """Of all that bear one name, the one that has its place: one that no other has replaced.

    Between two that know nothing of each other, or each claim the place, the smaller node id.
    """
    of_name: dict[str, list[Member]] = {}
    for member in members:
        of_name.setdefault(member.name, []).append(member)
    return [
        bearers[0] if len(bearers) == 1 else reduce(_first, sorted(bearers, key=_node_id))
        for bearers in of_name.values()
    ]


def _node_id(member: Member) -> NodeId:
    return member.node_id


def _first(one: Member, other: Member) -> Member:
    replaced = other.predecessor == one.node_id and one.predecessor != other.node_id
    return other if replaced else one


class Namesakes:
    """What this node does about members of one name: its own above all."""

    __slots__ = ("_hearsay", "_lost_to", "_roster", "faced")

    def __init__(self, roster: Roster, hearsay: Hearsay) -> None:
        self._roster = roster
        self._hearsay = hearsay
        self._lost_to = NOBODY
        self.faced = 0
        """How often this node took a namesake's place, or lost its own to one."""

    def look(self, now: int, out: list[Effect]) -> None:
        """Face this node's namesakes, and let go of all who were replaced."""
        self._roster.names_touched = False
        own = self._roster.own
        if own.state is MemberState.LEFT:
            return
        for other in list(self._roster.members.values()):
            if other is not own and other.name == own.name:
                self._face(other, now, out)
        # Two may claim to have replaced the same one.
        for gone in {gone.node_id: gone for gone in self._replaced()}.values():
            self._hearsay.remove(gone, MemberState.FORGOTTEN, gone.incarnation, now, out)

    def _face(self, other: Member, now: int, out: list[Effect]) -> None:
        own = self._roster.own
        if other.alive and other.predecessor == own.node_id:
            self._give_way(other, out)
        elif other.alive:
            if own.node_id < other.node_id:
                self._succeed(other, out)
        elif other.state is MemberState.DEAD or now - other.since_ms >= UNMET_MS:
            self._succeed(other, out)

    def _succeed(self, other: Member, out: list[Effect]) -> None:
        """Take the place of a namesake that is gone, or came later."""
        if self._roster.own.predecessor == other.node_id:
            return
        self._lost_to = NOBODY
        text = f"took the place of {other.node_id.hex()}, which bore the name {other.name!r} before"
        self._become(other.node_id, "name_succeeded", text, out)

    def _give_way(self, other: Member, out: list[Effect]) -> None:
        """Another has taken this node's place while it was away."""
        own = self._roster.own
        if self._lost_to == other.node_id:
            return
        self._lost_to = other.node_id
        text = (
            f"the name {own.name!r} was given to another node while this one was away: it hands "
            "over what it holds, and keeps no copies; start it under another name, or not at all"
        )
        self._become(NOBODY, "name_lost", text, out)

    def _become(self, predecessor: NodeId, what: str, text: str, out: list[Effect]) -> None:
        self.faced += 1
        own = self._roster.own
        self._roster.succeed(predecessor)
        self._hearsay.announce_own(own.incarnation, out)
        out.append(Persist((MemberSaved(own.facts(MemberState.UNMET)),)))
        out.append(Notify(Counted(what, text=text, alarming=True)))

    def _replaced(self) -> Iterator[Member]:
        """Who is gone while another has its place."""
        members = self._roster.members
        for member in members.values():
            former = members.get(member.predecessor)
            if former is None or former.alive or former.name != member.name:
                continue
            each_other = former.predecessor == member.node_id
            if former is not self._roster.own and (member.alive or not each_other):
                yield former
