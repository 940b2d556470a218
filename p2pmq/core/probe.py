"""Probes: each member is asked in turn whether it is there, by this node and by others for it.

SWIM's failure detector: the targets in a random order that is made anew each
round, so that the time to the first probe of a dead member is bounded; a
target that is silent is asked again by way of `indirect_checks` others. With
Lifeguard the others say when they got no answer (a nack), so that a node
learns whether the target is silent or its own ears are bad.

Invariant: one probe is pending at most; whoever was heard since it was sent is
not accused.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from p2pmq.config import SwimConfig
from p2pmq.core.effects import Counted, Effect, Notify, Send
from p2pmq.core.ids import NodeId
from p2pmq.core.membership import Member, MemberState, Roster, SwimTimers, Timer
from p2pmq.core.packets.membership import (
    Ping,
    PingRequest,
    ProbeAck,
    ProbeNack,
    Rumour,
)
from p2pmq.core.suspicion import Awareness

NUMBER_LIMIT = 2**32

RELAYS_MAX = 1_024
"""Probes for others at once; more are refused with a nack."""

NACK_PART = 0.8
"""A relay answers within this part of the asker's remaining time (Lifeguard, section IV)."""

Take = Callable[[Rumour | None], tuple[Rumour, ...]]
"""The rumours for one packet, the given one first."""


class ProbeOrder:
    """The living members in a random order, and who is next."""

    __slots__ = ("_config", "_cursor", "_order", "_rng", "_roster", "_round")

    def __init__(self, roster: Roster, config: SwimConfig, rng: random.Random) -> None:
        self._roster = roster
        self._config = config
        self._rng = rng
        self._order: list[Member] = []
        self._cursor = 0
        self._round = 1

    def next(self, now: int) -> Member | None:
        """The next living member, or None while there is none."""
        for _ in range(2):
            while self._cursor < len(self._order):
                member = self._order[self._cursor]
                self._cursor += 1
                if member.alive:
                    return member
            self._begin_round(now)
        return None

    def add(self, member: Member) -> None:
        """Let a member in, at a random place of what is left of the round."""
        if member.round != self._round:
            member.round = self._round
            self._order.insert(self._rng.randint(self._cursor, len(self._order)), member)

    def hurry(self, member: Member) -> None:
        """Make a member the next one: somebody doubts it."""
        self._order.insert(self._cursor, member)

    def sample(self, count: int, now: int) -> list[Member]:
        """Up to `count` random members that live or died lately."""
        order = self._order
        pool = self._rng.sample(order, min(len(order), max(3 * count, 12)))
        dead_since = now - self._config.gossip_to_the_dead_ms
        chosen: list[Member] = []
        for member in pool:
            if len(chosen) == count:
                break
            if self._in_touch(member, dead_since) and member not in chosen:
                chosen.append(member)
        return chosen

    def _begin_round(self, now: int) -> None:
        self._round += 1
        self._cursor = 0
        dead_since = now - self._config.gossip_to_the_dead_ms
        own = self._roster.own
        self._order = [
            member
            for member in self._roster.members.values()
            if member is not own and self._in_touch(member, dead_since)
        ]
        for member in self._order:
            member.round = self._round
        self._rng.shuffle(self._order)

    @staticmethod
    def _in_touch(member: Member, dead_since: int) -> bool:
        return member.alive or (member.state is MemberState.DEAD and member.since_ms > dead_since)


class Probe:
    """The probe that is pending: whom, since when, and which relays said they got no answer."""

    __slots__ = ("member", "nacked", "number", "relays", "sent_ms")

    def __init__(self, number: int, member: Member, now: int) -> None:
        self.number = number
        self.member = member
        self.sent_ms = now
        self.relays: list[NodeId] = []
        self.nacked: list[NodeId] = []


class Prober:
    """This node's probes, and those that it makes for others."""

    __slots__ = (
        "_awareness",
        "_config",
        "_number",
        "_order",
        "_own_id",
        "_relays",
        "_take",
        "_timers",
        "pending",
    )

    def __init__(
        self,
        own_id: NodeId,
        config: SwimConfig,
        *,
        order: ProbeOrder,
        timers: SwimTimers,
        awareness: Awareness,
        take: Take,
        first_number: int,
    ) -> None:
        self._own_id = own_id
        self._config = config
        self._order = order
        self._timers = timers
        self._awareness = awareness
        self._take = take
        self._number = first_number
        self._relays: dict[int, tuple[NodeId, int, NodeId]] = {}
        self.pending: Probe | None = None

    def begin(self, now: int, out: list[Effect]) -> None:
        """Ping the next member of the round; a suspect hears of it first (the buddy system)."""
        member = self._order.next(now)
        if member is None:
            return
        probe = self.pending = Probe(self._new_number(), member, now)
        indirect_at = now + self._awareness.scale(self._config.probe_timeout_ms)
        self._timers.set((Timer.INDIRECT, 0), indirect_at)
        out.append(self.ping(member, probe.number))

    def ping(self, member: Member, number: int | None = None) -> Send:
        """A ping that tells a suspect or dead target what is believed of it."""
        told = member.state is MemberState.DEAD or (
            member.state is MemberState.SUSPECT and self._config.lifeguard
        )
        first = member.verdict() if told else None
        number = self._new_number() if number is None else number
        return Send(member.node_id, Ping(number, member.node_id, self._take(first)))

    def on_indirect_timeout(self, now: int, out: list[Effect]) -> None:
        """The target is silent: let others ask it."""
        probe = self.pending
        if probe is None or not probe.member.alive:
            return
        config = self._config
        left_ms = self._awareness.scale(config.probe_interval_ms - config.probe_timeout_ms)
        target = probe.member
        for relay in self._order.sample(config.indirect_checks + 1, now):
            if relay is target or not relay.alive or len(probe.relays) == config.indirect_checks:
                continue
            probe.relays.append(relay.node_id)
            request = PingRequest(
                probe.number, target.node_id, max(1, int(left_ms * NACK_PART)), self._take(None)
            )
            out.append(Send(relay.node_id, request))

    def end(self, out: list[Effect]) -> Member | None:
        """The period is over: the member that gave no sign of life, if there is one."""
        probe = self.pending
        self.forgive()
        if probe is None or not probe.member.alive:
            return None
        if probe.member.heard_ms > probe.sent_ms:
            return None
        missing_nacks = len(probe.relays) - len(probe.nacked)
        self._awareness.apply(missing_nacks if probe.relays else 1)
        out.append(Notify(Counted("swim_probes_failed")))
        return probe.member

    def forgive(self) -> None:
        """Judge nobody by the pending probe."""
        self.pending = None
        self._timers.clear((Timer.INDIRECT, 0))

    def on_ack(self, peer: NodeId, packet: ProbeAck, out: list[Effect]) -> None:
        """An answer: to this node's probe, or to one that it made for another."""
        probe = self.pending
        if probe is not None and probe.number == packet.number:
            if probe.member.node_id == packet.target and (
                peer == packet.target or peer in probe.relays
            ):
                self._awareness.apply(-1)
                self.forgive()
            return
        relay = self._relays.get(packet.number)
        if relay is not None and relay[2] == peer == packet.target:
            self._forget_relay(packet.number)
            out.append(Send(relay[0], ProbeAck(relay[1], peer, self._take(None))))

    def on_nack(self, peer: NodeId, packet: ProbeNack) -> None:
        """A relay is there, and heard nothing from the target."""
        probe = self.pending
        if (
            probe is not None
            and probe.number == packet.number
            and peer in probe.relays
            and peer not in probe.nacked
        ):
            probe.nacked.append(peer)

    def on_request(
        self, peer: NodeId, packet: PingRequest, target: Member | None, now: int, out: list[Effect]
    ) -> None:
        """Ask the target for a peer."""
        if packet.target == self._own_id:
            out.append(Send(peer, ProbeAck(packet.number, self._own_id, self._take(None))))
            return
        if target is None or len(self._relays) >= RELAYS_MAX:
            out.append(Notify(Counted("swim_relays_refused")))
            out.append(Send(peer, ProbeNack(packet.number, packet.target, self._take(None))))
            return
        number = self._new_number()
        self._relays[number] = (peer, packet.number, packet.target)
        timeout_ms = min(packet.timeout_ms, self._config.probe_interval_ms * 10)
        self._timers.set((Timer.RELAY, number), now + timeout_ms)
        out.append(self.ping(target, number))

    def on_relay_timeout(self, number: int, out: list[Effect]) -> None:
        """The target did not answer the probe that was made for another."""
        relay = self._relays.pop(number, None)
        if relay is not None and self._config.lifeguard:
            out.append(Send(relay[0], ProbeNack(relay[1], relay[2], self._take(None))))

    def forget_relays(self) -> None:
        """Answer nobody for whom it is too late."""
        for number in list(self._relays):
            self._forget_relay(number)

    def _forget_relay(self, number: int) -> None:
        del self._relays[number]
        self._timers.clear((Timer.RELAY, number))

    def _new_number(self) -> int:
        self._number = (self._number + 1) % NUMBER_LIMIT
        return self._number
