"""The copies of one partition that its owner looks after, while it owns it.

Which home replicas are in reach and merged, which messages are not on enough
disks yet, and which packets to replicas have no answer. The owner is active
only while it has merged with so many homes in reach that any W of all homes
overlap with them: it then knows every committed message and every ack.

Invariant: a run is in `unproven` exactly while it is pending or appending here
and, as far as the owner knows, durable on fewer than `wanted` homes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

from p2pmq.core.antientropy import ALL, digest_of, do_tile, span_of, within
from p2pmq.core.dots import DotSet
from p2pmq.core.ids import Run
from p2pmq.core.runmap import RunMap

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pmq.core.antientropy import Span
    from p2pmq.core.events import HandoverDurable, SettleDurable
    from p2pmq.core.ids import NodeId
    from p2pmq.core.packets.delivering import LeaseField
    from p2pmq.core.packets.publishing import Death
    from p2pmq.core.packets.replicating import Compared, RangeField, Replicate
    from p2pmq.core.partition import Partition

UNANSWERED_BYTES_MAX = 32 * 1024 * 1024
"""A replica that is so far behind with new messages is left to the next comparison."""


class Contact(Enum):
    """How the owner stands with another home replica."""

    AWAY = "not in reach"
    COMPARING = "asked for its state"
    FETCHING = "sending what it alone has"
    MERGED = "nothing that it has is missing here"


@dataclass(slots=True)
class Home:
    """Another home replica, as the owner sees it."""

    node_id: NodeId
    contact: Contact = Contact.AWAY
    hint: bool = False
    """Whether it is a stand-in for a home that is away: then it counts for nothing."""
    number: int = 0
    """Of the comparison under way; 0: none is."""
    asked: int = 0
    """How often it was asked without an answer."""
    asked_at: int = 0
    again: bool = False
    """Whether it is to be asked once more, when what is being written here is."""
    if_equal: tuple[Run, ...] = ()
    """What was unproven and seen here when it was asked: it has that if its state is equal."""
    asked_for: list[Span] = field(default_factory=list)
    """The spans that it was asked for in the round under way."""
    rounds: int = 0
    """How often it was asked for narrower ones."""
    parts: dict[int, None] = field(default_factory=dict)
    last_part: int | None = None
    pieces: list[RangeField] = field(default_factory=list)
    """What it said of its state in the round under way."""
    told: list[Span] = field(default_factory=list)
    """Where its state may differ from ours: there it has told all. Elsewhere they are equal."""
    seen: DotSet = field(default_factory=DotSet)
    """What it has seen, and what of that is pending, in the spans that it has told."""
    pending: DotSet = field(default_factory=DotSet)
    holding: DotSet = field(default_factory=DotSet)
    """What was unproven and lies where it is equal: it is durable there."""
    leases: tuple[LeaseField, ...] = ()
    """Who holds what, as it knows: for what is fetched this holds, too, once it is here."""
    handed_back: bool = False
    """It owned until just now: what its leases do not name, nobody holds."""
    fetching: DotSet = field(default_factory=DotSet)
    """What it alone has, and is to be fetched."""
    requested: DotSet = field(default_factory=DotSet)
    """… and the part of it that was asked for."""
    acks_to_push: deque[Run] = field(default_factory=deque)
    to_push: deque[Run] = field(default_factory=deque)
    """What it lacks, to be sent as it answers."""
    late: DotSet = field(default_factory=DotSet)
    """What it lacks and is being written here just now."""
    unanswered: dict[int, Replicate] = field(default_factory=dict)
    unanswered_bytes: int = 0
    sent_at: int = 0
    """When those were sent, or the oldest of them became the oldest."""
    intact: bool = True
    """Whether its copy counts, as it said."""
    horizon: int = 0
    """Of what is older, and not seen there, it cannot say whether it was acked."""
    level_at: int | None = None
    """The number of a packet: with the answers up to it, it has all that was merged here …"""
    filled_by: int = 0
    """… and that of the packet which tells it so; 0: none is under way."""

    def lose(self) -> None:
        """It is out of reach: what it knows is found out anew when it is back."""
        self.contact = Contact.AWAY
        self.number = self.asked = 0
        self.again = False
        self.fetching, self.requested, self.late = DotSet(), DotSet(), DotSet()
        self.to_push.clear()
        self.acks_to_push.clear()
        self.unanswered.clear()
        self.unanswered_bytes = 0
        self.level_at, self.filled_by = None, 0

    def begin(self, number: int, partition: Partition, if_equal: tuple[Run, ...], now: int) -> None:
        """A comparison with the partition as it is now begins."""
        self.again = False
        self.rounds = 0
        self.if_equal = if_equal
        self.told, self.seen, self.pending, self.holding = [], DotSet(), DotSet(), DotSet()
        self.fetching, self.requested = DotSet(), DotSet()
        # What is being written just now it is sent by nobody: not as new, nor as a difference.
        self.late = partition.appending.difference(self.on_its_way())
        self.begin_round(number, [ALL], now)

    def begin_round(self, number: int, spans: list[Span], now: int) -> None:
        """It is asked: for all, and then for narrower spans."""
        self.number = number
        self.asked_for = spans
        self.asked_at = now
        self.parts, self.last_part, self.pieces = {}, None, []
        self.leases, self.handed_back = (), False

    def take_in(self, packet: Compared) -> bool:
        """Take a part of its state in, which may come in any order; whether that is all of it."""
        first = not self.rounds and not self.parts
        self.horizon = packet.horizon if first else min(self.horizon, packet.horizon)
        self.parts[packet.part] = None
        if not packet.more:
            self.last_part = packet.part
            self.leases, self.handed_back = packet.leases, packet.handed_back
        if packet.equal:
            self.asked_for = []
            for held in self.if_equal:
                self.holding.add(held)
        self.pieces += packet.ranges
        for run in packet.seen:
            self.seen.add(Run(run.session, run.first, run.last))
        for run in packet.pending:
            self.pending.add(Run(run.session, run.first, run.last))
        return self.last_part is not None and len(self.parts) > self.last_part

    def narrow(self, partition: Partition, unproven: Iterable[Run]) -> list[Span] | None:
        """Look at the pieces that it has said: the spans to ask for, since they differ.

        None if they are not what was asked for.
        """
        if not do_tile([span_of(piece) for piece in self.pieces], self.asked_for):
            return None
        differing: list[Span] = []
        here = DotSet(unproven).intersection(partition.seen)
        for piece in self.pieces:
            span = span_of(piece)
            if not any(piece.digest):
                self.told.append(span)
            elif piece.digest != digest_of(partition, span):
                differing.append(span)
            else:
                for run in within(here, [span]).runs():
                    self.holding.add(run)
        return differing

    def is_level(self, number: int) -> bool:
        """Whether it has all that was merged here at some time; `number` is the last packet's."""
        if self.contact is not Contact.MERGED or self.number or self.again:
            return False
        if self.level_at is None:
            if self.to_push or self.acks_to_push or self.late:
                return False
            self.level_at = number
        return next(iter(self.unanswered), number + 1) > self.level_at

    def has_all_before(self, horizon: int, forgotten: Iterable[Run] = ()) -> bool:
        """Whether it has all that was merged here and is older, and these acks."""
        if self.contact is not Contact.MERGED or self.number or self.again or not self.intact:
            return False
        if self.to_push or self.acks_to_push or self.late:
            return False
        sessions = {run.session for run in forgotten}
        return not any(
            any(batch.stamp < horizon for batch in sent.batches)
            or any(run.session in sessions for run in sent.acked)
            for sent in self.unanswered.values()
        )

    def on_its_way(self) -> DotSet:
        """The messages that it was sent, and has not answered for."""
        return DotSet(batch.run for sent in self.unanswered.values() for batch in sent.batches)


@dataclass(slots=True)
class Settling:
    """A Settle whose acks are not on W disks yet."""

    operation: int
    holders: dict[NodeId, None] = field(default_factory=dict)


class Copies:
    """What the owner knows of one partition's copies. `homes` includes the owner itself."""

    def __init__(self, own_id: NodeId, homes: tuple[NodeId, ...], wanted: int) -> None:
        self.own_id = own_id
        self.wanted = wanted
        self.homes: dict[NodeId, Home] = {}
        self.stand_ins: dict[NodeId, Home] = {}
        self.is_home = False
        self.unproven: RunMap[tuple[NodeId, ...]] = RunMap()
        self.settling: dict[SettleDurable | HandoverDurable, Settling] = {}
        self.acking: dict[int, SettleDurable | HandoverDurable] = {}
        self.condemned: RunMap[Death] = RunMap()
        """Pending messages that are delivered no more, but become dead letters, and why."""
        self.set_homes(homes, wanted)

    def set_homes(self, homes: tuple[NodeId, ...], wanted: int) -> list[tuple[Run, int]]:
        """The roster or the settings have changed; what fewer wanted copies prove."""
        self.wanted = wanted
        self.is_home = self.own_id in homes
        others = [node_id for node_id in homes if node_id != self.own_id]
        self.homes = {node_id: self.homes.get(node_id) or Home(node_id) for node_id in others}
        self.set_stand_ins([node_id for node_id in self.stand_ins if node_id not in homes])
        proven: list[tuple[Run, int]] = []
        for run, known in list(self.unproven.items()):
            holders = tuple(node_id for node_id in known if node_id in homes)
            if len(holders) >= wanted and self.own_id in holders:
                self.unproven.take(run)
                proven.append((run, len(holders)))
            elif holders != known:
                self.unproven.put(run, holders)
        return proven

    def doubt(self, pending: Iterable[Run]) -> None:
        """More copies are wanted now: of what fewer have proven, only the one here is known."""
        for run in pending:
            for part in self.unproven.missing(run):
                self.unproven.put(part, (self.own_id,))

    def set_stand_ins(self, node_ids: Iterable[NodeId]) -> None:
        """Who else holds copies, in place of homes that are away."""
        known = self.stand_ins
        self.stand_ins = {n: known.get(n) or Home(n, hint=True) for n in node_ids}

    def holder(self, node_id: NodeId) -> Home | None:
        """Another home, or a stand-in."""
        return self.homes.get(node_id) or self.stand_ins.get(node_id)

    def holders(self) -> list[Home]:
        """The other homes, and the stand-ins."""
        return [*self.homes.values(), *self.stand_ins.values()]

    def listening(self) -> list[Home]:
        """Who can be sent to: of the other homes and of the stand-ins."""
        return [holder for holder in self.holders() if holder.contact is not Contact.AWAY]

    def active(self, *, intact: bool = True) -> bool:
        """Whether the owner may confirm and deliver: each home in reach merged, enough that count.

        `intact` is whether the owner's own copy counts. If all homes there are have been merged,
        there is nobody else to ask: they count, whatever became of their disks.
        """
        counting = int(intact)
        for home in self.homes.values():
            if home.contact is Contact.MERGED:
                counting += home.intact
            elif home.contact is not Contact.AWAY:
                return False
        return self.is_home and (counting >= self.wanted or self.has_merged_all())

    def has_merged_all(self) -> bool:
        """Whether each of the homes has been merged."""
        return all(home.contact is Contact.MERGED for home in self.homes.values())

    def knows_enough(self, *, intact: bool) -> bool:
        """Whether the owner has merged from R - W + 1 intact homes, so from one of any W.

        Whoever has all that it has is intact.
        """
        merged = (home for home in self.homes.values() if home.contact is Contact.MERGED)
        counting = int(intact) + sum(home.intact for home in merged)
        return counting > len(self.homes) + 1 - self.wanted or self.has_merged_all()

    def is_stuck(self, *, intact: bool) -> bool:
        """Whether it takes more homes in reach before anything can be committed."""
        in_reach = self.in_reach()
        if len(in_reach) + 1 < self.wanted or not self.is_home:
            return True
        if any(home.contact is not Contact.MERGED for home in in_reach):
            return False
        return not (self.active(intact=intact) or self.knows_enough(intact=intact))

    def in_reach(self) -> list[Home]:
        """The other homes that can be sent to: these count."""
        return [home for home in self.homes.values() if home.contact is not Contact.AWAY]

    def note(self, run: Run, holder: NodeId) -> list[tuple[Run, int]]:
        """The run is durable at `holder`; the parts that are proven by that, with their copies."""
        proven: list[tuple[Run, int]] = []
        for part, holders in self.unproven.overlap(run):
            if holder in holders or (holder != self.own_id and holder not in self.homes):
                continue
            here = holder == self.own_id or self.own_id in holders
            if here and len(holders) + 1 >= self.wanted:
                self.unproven.take(part)
                proven.append((part, len(holders) + 1))
            else:
                self.unproven.put(part, (*holders, holder))
        return proven

    def drop_settle(self, event: SettleDurable | HandoverDurable) -> None:
        """Nobody waits for these acks any more, or they are to be counted anew."""
        self.acking.pop(self.settling.pop(event).operation, None)

    def forget(self, removed: Iterable[Run]) -> list[Run]:
        """Nobody waits for copies of these dots any more; those that were waited for."""
        if self.condemned:
            removed = list(removed)
            for run in removed:
                self.condemned.take(run)
        return [part for run in removed for part, _ in self.unproven.take(run)]


def leases_of(leases: Iterable[LeaseField], runs: Iterable[Run]) -> list[LeaseField]:
    """The parts of the leases that are of these dots."""
    named = DotSet(runs)
    return [
        replace(lease, first=part.first, last=part.last)
        for lease in leases
        for part in named.overlap(Run(lease.session, lease.first, lease.last))
    ]
