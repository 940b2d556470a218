"""Membership: who is on the roster, what is believed of each, and who is gone for good.

Only a member raises its own incarnation, to refute a rumour; so the higher
incarnation wins, and between equals the stronger state, in the order of
`MemberState` (SWIM, Das, Gupta, Motivala 2002, section 4.2). What is gone for
good leaves a tombstone, so that old news of it is known to be old.

Invariant: the counters and the listing agree with the states, because only
`Roster` changes those; this node's own entry is never suspect or dead.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

from p2pmq.core.effects import Effect, Learn, Persist
from p2pmq.core.ids import NodeId
from p2pmq.core.packets.membership import Rumour
from p2pmq.core.records import MemberRemoved, MemberSaved
from p2pmq.core.suspicion import Suspicion
from p2pmq.core.timers import Timers

MEMBERS_MAX = 16_384
"""More are refused and counted. With the tombstones a listing still fits into one packet."""

TOMBSTONES_MAX = 4_096
"""The oldest goes first: without a bound, names that come and go would fill the memory."""

NOBODY = b"\0" * 8

NEVER_MS = -(2**62)


class MemberState(IntEnum):
    """What is believed of a member; of one incarnation, the greater number is the later news."""

    UNMET = 0
    """Known by its facts (from disk, or by hearsay), not met since. No verdict."""
    ALIVE = 1
    SUSPECT = 2
    DEAD = 3
    LEFT = 4
    FORGOTTEN = 5


class Timer(IntEnum):
    """What the deadlines of SWIM are for; each has a name within its kind."""

    PROBE = 0
    INDIRECT = 1
    RELAY = 2
    SUSPICION = 3
    GOSSIP = 4
    PUSH_PULL = 5
    HEALING = 6
    MEET = 7
    REAP = 8


SwimTimers = Timers[tuple[Timer, NodeId | int]]


class Member:
    """One member of the roster. Change `state` by way of `Roster.become` only.

    `since_ms` is when the state began, `heard_ms` when its last packet came.
    `joined_ms` is when this node first heard of it, as of one that lives.
    Its facts are as of `facts_incarnation`, which lags behind `incarnation`
    after news that came without them.
    """

    __slots__ = (
        "accuser",
        "addresses",
        "boot",
        "exchanged_ms",
        "facts_incarnation",
        "heard_ms",
        "incarnation",
        "joined_ms",
        "name",
        "news",
        "node_id",
        "predecessor",
        "round",
        "saved",
        "since_ms",
        "state",
        "store_id",
        "suspicion",
        "told_ms",
        "weight",
        "zone",
    )

    def __init__(self, rumour: Rumour, state: MemberState, now: int) -> None:
        self.node_id = rumour.node_id
        self.state = state
        self.incarnation = rumour.incarnation
        self.accuser = rumour.accuser
        self.since_ms = now
        self.heard_ms = NEVER_MS
        self.told_ms = NEVER_MS
        self.exchanged_ms = NEVER_MS
        self.joined_ms = NEVER_MS
        self.suspicion: Suspicion | None = None
        self.round = 0
        self.saved = False
        self.take_facts(rumour)

    @property
    def alive(self) -> bool:
        """Whether it is used: alive, or merely suspect."""
        return self.state is MemberState.ALIVE or self.state is MemberState.SUSPECT

    @property
    def leaf(self) -> bool:
        """Whether it never owns: it may be reaped when dead."""
        return self.weight == 0

    def take_facts(self, rumour: Rumour) -> None:
        """Believe what the rumour says about the member itself."""
        self.facts_incarnation = rumour.incarnation
        self.name = rumour.name
        self.addresses = rumour.addresses
        self.boot = rumour.boot
        self.store_id = rumour.store_id
        self.zone = rumour.zone
        self.weight = rumour.weight
        self.predecessor = rumour.predecessor
        self.news: tuple[Rumour, ...] | None = None

    def same_facts(self, rumour: Rumour) -> bool:
        """Whether the rumour says nothing new about the member itself."""
        return (
            self.boot == rumour.boot
            and self.addresses == rumour.addresses
            and self.name == rumour.name
            and self.store_id == rumour.store_id
            and self.zone == rumour.zone
            and self.weight == rumour.weight
            and self.predecessor == rumour.predecessor
        )

    def facts(self, state: MemberState, accuser: NodeId = NOBODY) -> Rumour:
        """The member's facts as a rumour, of the incarnation that they are of."""
        return Rumour(
            self.node_id,
            state,
            self.facts_incarnation,
            accuser,
            self.name,
            self.addresses,
            self.boot,
            self.store_id,
            self.zone,
            self.weight,
            self.predecessor,
        )

    def verdict(self, accuser: NodeId | None = None) -> Rumour:
        """The state alone as a rumour."""
        return Rumour(
            self.node_id,
            self.state,
            self.incarnation,
            self.accuser if accuser is None else accuser,
        )

    def listing(self) -> tuple[Rumour, ...]:
        """All that is believed of the member; two rumours where the facts lag behind."""
        if self.news is None:
            if self.facts_incarnation == self.incarnation:
                self.news = (self.facts(self.state, self.accuser),)
            else:
                self.news = (self.facts(MemberState.UNMET), self.verdict())
        return self.news


class Tombstone:
    """One that left or was forgotten. `quiet`: at the last look no full member was lost."""

    __slots__ = ("leaf", "news", "quiet", "since_ms")

    def __init__(self, news: Rumour, *, leaf: bool, now: int) -> None:
        self.news = news
        self.leaf = leaf
        self.since_ms = now
        self.quiet = False


class Roster:
    """All members, this node included, and the tombstones. `version` rises with each change.

    `alive_count` includes this node; `lost_count` are the dead and the unmet.
    `names_touched`: since `Namesakes` looked last, one may have come to bear
    the name of another.
    """

    __slots__ = (
        "_listing",
        "alive_count",
        "lost_count",
        "members",
        "names_touched",
        "own",
        "tombstones",
        "version",
    )

    def __init__(self, own: Rumour) -> None:
        self.own = Member(own, MemberState.ALIVE, 0)
        self.members: dict[NodeId, Member] = {own.node_id: self.own}
        self.tombstones: dict[NodeId, Tombstone] = {}
        self.version = 1
        self.alive_count = 1
        self.lost_count = 0
        self.names_touched = False
        self._listing: tuple[Rumour, ...] | None = None

    def listing(self) -> tuple[Rumour, ...]:
        """All that this node believes, itself first; made anew only after a change."""
        if self._listing is None:
            news = [rumour for member in self.members.values() for rumour in member.listing()]
            news += [tombstone.news for tombstone in self.tombstones.values()]
            self._listing = tuple(news)
        return self._listing

    def add(self, member: Member, out: list[Effect]) -> None:
        """Put a new member on the roster."""
        self.tombstones.pop(member.node_id, None)
        self.members[member.node_id] = member
        self._count(member, 1)
        self._changed()
        self._touch_names(member)
        out.append(Learn(member.node_id, member.addresses))
        self.save(member, out)

    def recall(self, member: Member, out: list[Effect]) -> None:
        """Put a member on the roster that the store knows already."""
        self.members[member.node_id] = member
        member.saved = True
        self._count(member, 1)
        self._changed()
        self._touch_names(member)
        if member.addresses:
            out.append(Learn(member.node_id, member.addresses))

    def become(self, member: Member, state: MemberState, incarnation: int, now: int) -> None:
        """Believe a state of a member, of an incarnation. The one place that changes it."""
        was_alive = member.alive
        self._count(member, -1)
        if member.state is not state:
            member.state = state
            member.since_ms = now
        member.incarnation = incarnation
        member.news = self._listing = None
        self._count(member, 1)
        if member.alive is not was_alive:
            self.version += 1
            self.names_touched = True  # of a name's bearers, only one that is lost is replaced

    def take_facts(self, member: Member, rumour: Rumour, out: list[Effect]) -> None:
        """Believe newer facts about a member, and keep them if they differ."""
        if member.same_facts(rumour):
            member.facts_incarnation = rumour.incarnation
            member.news = self._listing = None
            return
        moved = member.addresses != rumour.addresses
        member.take_facts(rumour)
        self._changed()
        self._touch_names(member)
        if moved:
            out.append(Learn(member.node_id, member.addresses))
        self.save(member, out)

    def raise_own(self, incarnation: int) -> None:
        """Give this node an incarnation above any that was heard of."""
        self.own.incarnation = self.own.facts_incarnation = incarnation
        self.own.news = self._listing = None

    def succeed(self, predecessor: NodeId) -> None:
        """Say that this node has the place of a namesake, or (NOBODY) that it has it no more."""
        self.own.predecessor = predecessor
        self.own.news = None
        self._changed()

    def save(self, member: Member, out: list[Effect]) -> None:
        """Keep a full member in the address book; leaves dial in by themselves, and are not."""
        if not member.leaf:
            out.append(Persist((MemberSaved(member.facts(MemberState.UNMET)),)))
            member.saved = True
        elif member.saved:
            out.append(Persist((MemberRemoved(member.node_id),)))
            member.saved = False

    def bury(
        self, member: Member, state: MemberState, incarnation: int, now: int, out: list[Effect]
    ) -> None:
        """Take one off the roster for good, and remember that.

        The tombstone is durable: a restart of everybody must not let a stale
        peer bring the member back.
        """
        self._take_off(member)
        self.become(member, state, incarnation, now)
        news = member.verdict(NOBODY)
        self.entomb(Tombstone(news, leaf=member.leaf, now=now), out)
        if not member.leaf:
            out.append(Persist((MemberSaved(news),)))

    def entomb(self, tombstone: Tombstone, out: list[Effect]) -> None:
        """Keep a tombstone; at the bound the oldest makes room."""
        if len(self.tombstones) >= TOMBSTONES_MAX:
            self.drop_tombstone(next(iter(self.tombstones)), out)
        self.tombstones[tombstone.news.node_id] = tombstone
        self._listing = None

    def drop_tombstone(self, node_id: NodeId, out: list[Effect]) -> None:
        """Forget that there ever was such a member."""
        tombstone = self.tombstones.pop(node_id)
        self._listing = None
        out.append(Learn(node_id, ()))
        if not tombstone.leaf:
            out.append(Persist((MemberRemoved(node_id),)))

    def drop(self, member: Member, out: list[Effect]) -> None:
        """Take one off the roster without a trace."""
        self._take_off(member)
        out.append(Learn(member.node_id, ()))
        if member.saved:
            out.append(Persist((MemberRemoved(member.node_id),)))

    def lost(self) -> Iterator[Member]:
        """The members that are dead or unmet."""
        for member in self.members.values():
            if member.state is MemberState.DEAD or member.state is MemberState.UNMET:
                yield member

    def _take_off(self, member: Member) -> None:
        del self.members[member.node_id]
        self._count(member, -1)
        member.state = MemberState.FORGOTTEN  # lists that still hold it pass over it
        self._changed()

    def _count(self, member: Member, by: int) -> None:
        if member.alive:
            self.alive_count += by
        elif member.state < MemberState.LEFT:
            self.lost_count += by

    def _touch_names(self, member: Member) -> None:
        if member.predecessor != NOBODY or member.name == self.own.name:
            self.names_touched = True

    def _changed(self) -> None:
        self.version += 1
        self._listing = None
