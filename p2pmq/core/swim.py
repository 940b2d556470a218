"""The membership protocol: SWIM with Lifeguard, push-pull and healing, as one machine.

It takes the packets, links and deadlines of membership, and keeps the roster
by the rules of the modules that it composes: `membership` (the roster),
`hearsay` (what to believe), `probe` and `suspicion` (who is silent), `gossip`
(what to pass on) and `healing` (whom to try again). See docs/membership.md.

Invariant: this node's own entry is never suspect or dead; its incarnation
rises only here, and never goes back.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from p2pmq.config import SwimConfig
from p2pmq.core.effects import Counted, Effect, Learn, Notify, Persist, Send
from p2pmq.core.gossip import RumourQueue, burst, push_pull_interval_ms, sends_max
from p2pmq.core.healing import Healing, Strangers
from p2pmq.core.hearsay import INCARNATION_MAX, Hearsay, Teller
from p2pmq.core.ids import NodeId
from p2pmq.core.membership import NOBODY, Member, MemberState, Roster, SwimTimers, Timer, Tombstone
from p2pmq.core.namesakes import Namesakes, placed
from p2pmq.core.packets.membership import (
    Gossip,
    Ping,
    PingRequest,
    ProbeAck,
    ProbeNack,
    Rumour,
    StateExchange,
)
from p2pmq.core.packets.registry import Packet
from p2pmq.core.probe import NUMBER_LIMIT, ProbeOrder, Prober
from p2pmq.core.records import IncarnationSaved
from p2pmq.core.suspicion import Awareness

SwimPacket = Ping | PingRequest | ProbeAck | ProbeNack | Gossip | StateExchange

MEET_DELAY_MS = 200
"""After a packet from one held dead or unknown: its own exchange mostly comes in this time."""

ACQUAINTED_MS = 60_000
"""One that joined less than this ago is told that it is new here: it may have been here before,
and forgotten, and then it must not bring back what is gone."""

MEET_INTERVAL_MS = 2_000
"""States are exchanged with one that is not held alive once in this time."""

FAREWELL_MS = 10_000
"""A member that left still finishes its business for so long: that is no return."""

FAREWELL_FANOUT = 16
"""So many members hear of a leave at once, the others by gossip."""

EXCHANGE_AFTER_HEAL_MS = 10_000
"""Within this, at random, a node that has seen a lost member return exchanges states once more."""

PROBE = (Timer.PROBE, 0)
GOSSIP = (Timer.GOSSIP, 0)
PUSH_PULL = (Timer.PUSH_PULL, 0)
HEALING = (Timer.HEALING, 0)


class Swim:
    """Who is in the mesh, and who is believed gone. Pure: `now` is in ms, and monotonic."""

    def __init__(self, own: Rumour, mesh: str, config: SwimConfig, rng: random.Random) -> None:
        self._mesh = mesh
        self._config = config
        self._rng = rng
        self._roster = Roster(own)
        self.members = self._roster.members
        self._own = self._roster.own
        self._timers: SwimTimers = SwimTimers()
        self._queue = RumourQueue()
        self._awareness = Awareness(config)
        self._order = ProbeOrder(self._roster, config, rng)
        self._prober = Prober(
            own.node_id,
            config,
            order=self._order,
            timers=self._timers,
            awareness=self._awareness,
            take=self._take,
            first_number=rng.randrange(NUMBER_LIMIT),
        )
        self._hearsay = Hearsay(
            self._roster, config, self._order, self._queue, self._timers, self._awareness
        )
        self._namesakes = Namesakes(self._roster, self._hearsay)
        self._healing = Healing(self._roster, config, rng)
        self._strangers = Strangers()
        self._fresh = True
        """It knows nobody yet, and believes anybody."""
        self._lost = 0
        self._settled = False
        """Somebody had this node on its roster since it was last alone: its lost are real."""

    # ---------------------------------------------------------------------------------- questions

    @property
    def version(self) -> int:
        """Rises whenever the roster, a member's facts or a verdict on its life changes."""
        return self._roster.version

    @property
    def is_fresh(self) -> bool:
        """Whether nobody has told it yet who is on the roster; the version rises when one has."""
        return self._fresh

    @property
    def local_health(self) -> int:
        """Lifeguard's local health multiplier: 0 is healthy."""
        return self._awareness.score

    @property
    def alive_count(self) -> int:
        """How many members are held alive, this node included."""
        return self._roster.alive_count

    def is_alive(self, node_id: NodeId) -> bool:
        """Whether a member is used: alive, or merely suspect."""
        member = self.members.get(node_id)
        return member is not None and member.alive

    def away_since(self, node_id: NodeId) -> int | None:
        """Since when a member has been dead, or not met at all; None: it is there, or unknown."""
        member = self.members.get(node_id)
        return member.since_ms if member is not None and not member.alive else None

    def name_of(self, node_id: NodeId) -> str | None:
        """The name of a member."""
        member = self.members.get(node_id)
        return member.name if member is not None else None

    def roster(self) -> Iterable[Member]:
        """Every member that has not left and is not forgotten; dead ones and this node too."""
        return [member for member in self.members.values() if member.state < MemberState.LEFT]

    def placed(self) -> list[Member]:
        """The members that may own, without those whose name, and so whose place, another has."""
        return placed(member for member in self.roster() if member.weight)

    def full_members(self) -> list[NodeId]:
        """All of the roster that may own, there or not, with a place or without."""
        return [member.node_id for member in self.roster() if member.weight]

    @property
    def namesakes_faced(self) -> int:
        """How often this node took a namesake's place, or lost its own to one."""
        return self._namesakes.faced

    def has_known(self, node_id: NodeId) -> bool:
        """Whether the node is, or was, a member: it may come back though its name is taken."""
        return (
            node_id in self.members
            or node_id in self._roster.tombstones
            or any(member.predecessor == node_id for member in self.members.values())
        )

    def name_holder(self, name: str) -> Member | None:
        """A living other member that bears this name."""
        for member in self.members.values():
            if member.name == name and member.alive and member is not self._own:
                return member
        return None

    def next_deadline(self) -> int | None:
        """When `on_timeout` is due."""
        return self._timers.next_deadline()

    # ------------------------------------------------------------------------------------- the user

    def start(self, roster: Iterable[Rumour], incarnation: int, now: int) -> list[Effect]:
        """Begin, with what the store holds: the roster, and the last incarnation of this node."""
        out: list[Effect] = []
        self._roster.raise_own(min(incarnation, INCARNATION_MAX) + 1)
        self._own.since_ms = now
        out.append(Persist((IncarnationSaved(self._own.incarnation),)))
        for rumour in roster:
            if rumour.node_id != self._own.node_id:
                self._recall(rumour, now, out)
            elif rumour.predecessor != NOBODY:
                self._roster.succeed(rumour.predecessor)
        self._queue.put(self._own.facts(MemberState.ALIVE))
        config, timers, jitter = self._config, self._timers, self._rng.random
        timers.set(PROBE, now + int(jitter() * config.probe_interval_ms))
        timers.set(PUSH_PULL, now + int((0.5 + jitter()) * config.push_pull_interval_ms))
        timers.set(HEALING, now + int(jitter() * config.gossip_interval_ms))
        return self._done(now, out)

    def _recall(self, rumour: Rumour, now: int, out: list[Effect]) -> None:
        """Take in what the store knew of one member before this start."""
        if rumour.state >= MemberState.LEFT:
            tombstone = Tombstone(rumour, leaf=False, now=now)
            self._roster.entomb(tombstone, out)
            self._timers.set((Timer.REAP, rumour.node_id), now + self._config.tombstone_ms)
            return
        member = Member(rumour, MemberState.UNMET, now)
        self._roster.recall(member, out)

    def leave(self, now: int) -> list[Effect]:
        """Leave for good: probe no more, and tell the others."""
        out: list[Effect] = []
        own = self._own
        if own.state is MemberState.LEFT:
            return out
        self._hearsay.silent = True
        self._prober.forgive()
        for timer in (PROBE, PUSH_PULL, HEALING):
            self._timers.clear(timer)
        self._roster.become(own, MemberState.LEFT, own.incarnation, now)
        farewell = own.verdict()
        self._queue.put(farewell)
        told = self._order.sample(FAREWELL_FANOUT, now)
        out.extend(Send(member.node_id, Gossip((farewell,))) for member in told)
        return self._done(now, out)

    def stop(self, now: int) -> list[Effect]:
        """The process ends, and may come back: say that this member is dead for now.

        The next boot has a higher incarnation, which refutes it.
        """
        own = self._own
        self._hearsay.silent = True  # the others gossip it back, and it would refute itself
        rumour = Rumour(own.node_id, MemberState.DEAD, own.incarnation, accuser=own.node_id)
        told = self._order.sample(FAREWELL_FANOUT, now)
        return [Send(member.node_id, Gossip((rumour,))) for member in told]

    def forget(self, node_id: NodeId, now: int) -> list[Effect]:
        """Take a member that is gone for good off the roster; if it lives, it will object."""
        out: list[Effect] = []
        member = self.members.get(node_id)
        if member is None or member is self._own:
            return out
        self._hearsay.remove(member, MemberState.FORGOTTEN, member.incarnation, now, out)
        return self._done(now, out)

    # ---------------------------------------------------------------------------------------- links

    def on_contact(self, peer: NodeId, now: int) -> list[Effect]:
        """Any authentic packet from a peer: it lives. Called for every packet."""
        member = self.members.get(peer)
        if member is not None:
            member.heard_ms = now
            if member.state is MemberState.ALIVE:
                return []
            if member.state is MemberState.SUSPECT:
                out: list[Effect] = []
                if self._config.lifeguard:
                    self._hearsay.tell_suspect(member, now, out)
                return out
            if now - member.exchanged_ms >= MEET_INTERVAL_MS:
                self._meet_soon(peer, now)
        elif peer not in self._strangers:
            tombstone = self._roster.tombstones.get(peer)
            if tombstone is not None and now - tombstone.since_ms < FAREWELL_MS:
                return []
            if self._strangers.note(peer):
                self._meet_soon(peer, now)
        return []

    def on_connected(
        self,
        peer: NodeId,
        boot: int,
        name: str,
        addresses: tuple[str, ...],
        leaf: bool,  # noqa: FBT001 - the fields of a Hello, in its order
        now: int,
    ) -> list[Effect]:
        """A link is up: exchange states if the peer is unknown, lost, or began anew."""
        out: list[Effect] = []
        if peer == self._own.node_id or self._own.state is MemberState.LEFT:
            return out
        member = self.members.get(peer)
        if member is None:
            if self._strangers.note(peer):
                out.append(Notify(Counted("swim_strangers", text=f"{name} said hello")))
                if not leaf:
                    out.append(Learn(peer, addresses))
            self._meet_soon(peer, now)
            self._exchange(peer, now, out)
        elif not member.alive or member.boot != boot:
            self._exchange(peer, now, out)
        return out

    def _meet_soon(self, peer: NodeId, now: int) -> None:
        self._timers.set_if_earlier((Timer.MEET, peer), now + MEET_DELAY_MS)

    def _exchange(self, peer: NodeId, now: int, out: list[Effect], *, reply: bool = False) -> None:
        """Send all that this node believes; of its lost only the peer, while it is not settled."""
        member = self.members.get(peer)
        stranger = member is None or now - member.joined_ms < ACQUAINTED_MS
        if member is not None:
            member.exchanged_ms = now
        listing = self._roster.listing()
        if not self._settled and self._roster.lost_count:
            lost = {member.node_id for member in self._roster.lost()} - {peer}
            listing = tuple(rumour for rumour in listing if rumour.node_id not in lost)
        out.append(Send(peer, StateExchange(self._mesh, listing, reply=reply, stranger=stranger)))

    # -------------------------------------------------------------------------------------- packets

    def on_packet(self, peer: NodeId, packet: Packet, now: int) -> list[Effect]:
        """One of the packets of membership, from an authentic peer."""
        out: list[Effect] = []
        match packet:
            case Ping():
                self._on_ping(peer, packet, now, out)
            case ProbeAck():
                self._hear(peer, packet.rumours, now, out)
                self._prober.on_ack(peer, packet, out)
            case Gossip():
                self._hear(peer, packet.rumours, now, out)
            case PingRequest():
                self._hear(peer, packet.rumours, now, out)
                target = self.members.get(packet.target)
                self._prober.on_request(peer, packet, target, now, out)
            case ProbeNack():
                self._hear(peer, packet.rumours, now, out)
                self._prober.on_nack(peer, packet)
            case StateExchange():
                self._on_exchange(peer, packet, now, out)
            case _:
                raise AssertionError(f"{type(packet).__name__} is no packet of membership")
        return self._done(now, out)

    def _on_ping(self, peer: NodeId, packet: Ping, now: int, out: list[Effect]) -> None:
        own = self._own
        if packet.target != own.node_id:
            # The address of another node that is no more: its ping is not ours to answer.
            out.append(Notify(Counted("swim_misaddressed")))
            return
        incarnation = own.incarnation
        self._hear(peer, packet.rumours, now, out, answers=False)
        refuted = own.incarnation != incarnation
        first = own.facts(MemberState.ALIVE) if refuted else None
        out.append(Send(peer, ProbeAck(packet.number, own.node_id, self._take(first))))

    def _hear(
        self,
        peer: NodeId,
        rumours: tuple[Rumour, ...],
        now: int,
        out: list[Effect],
        *,
        answers: bool = True,
    ) -> None:
        """Hear piggybacked rumours; whoever holds us suspect or dead gets its answer at once."""
        if not rumours:
            return
        member = self.members.get(peer)
        alive = member is not None and member.alive
        teller = Teller(peer, member is not None or self._fresh, alive, alive, spreads=True)
        incarnation = self._own.incarnation
        self._hearsay.hear(rumours, teller, now, out)
        if answers and self._own.incarnation != incarnation:
            out.append(Send(peer, Gossip((self._own.facts(MemberState.ALIVE),))))

    def _on_exchange(
        self, peer: NodeId, packet: StateExchange, now: int, out: list[Effect]
    ) -> None:
        """Merge all that a peer believes; answer with all that this node does."""
        if packet.mesh != self._mesh:
            out.append(Notify(Counted("swim_other_mesh", text=f"{peer.hex()} is of {packet.mesh}")))
            return
        member = self.members.get(peer)
        if packet.stranger and {r.node_id for r in packet.rumours} <= {peer, self._own.node_id}:
            self._settled = True  # it knows nobody else: no mesh that has forgotten this node
        if member is not None and not self._settled:
            if packet.stranger:
                self._hearsay.adopt(packet.rumours, out)
            self._settled = True
        alive = member is not None and member.alive
        teller = Teller(
            peer, member is not None or self._fresh, alive, buries=False, spreads=not self._fresh
        )
        incarnation, disbelieved = self._own.incarnation, self._hearsay.disbelieved
        self._hearsay.hear(packet.rumours, teller, now, out)
        if self._fresh and self._roster.alive_count > 1:
            self._fresh = False
            self._roster.version += 1
        if not packet.reply:
            self._exchange(peer, now, out, reply=True)
        elif self._own.incarnation != incarnation:
            out.append(Send(peer, Gossip((self._own.facts(MemberState.ALIVE),))))
        self._after_exchange(peer, disbelieved != self._hearsay.disbelieved, now)

    def _after_exchange(self, peer: NodeId, disbelieved: bool, now: int) -> None:  # noqa: FBT001 - what it found
        """A stranger is a member now; what it said of others counts when it says it again."""
        if disbelieved:
            self._timers.set((Timer.MEET, peer), now + self._config.probe_interval_ms)
        elif self.is_alive(peer):
            self._timers.clear((Timer.MEET, peer))
        if peer in self.members:
            self._strangers.forget(peer)

    # ------------------------------------------------------------------------------------ deadlines

    def on_timeout(self, now: int) -> list[Effect]:
        """Do what is due; if that is late by more than a probe's time, accuse nobody first."""
        deadline = self._timers.next_deadline()
        out: list[Effect] = []
        if deadline is None or deadline > now:
            return out
        if now - deadline > self._config.probe_interval_ms:
            self._catch_up(now - deadline, out)
        while True:
            due = self._timers.pop_due(now)
            if due is None:
                return self._done(now, out)
            self._on_timer(due, now, out)

    def _catch_up(self, lag_ms: int, out: list[Effect]) -> None:
        """This node was paused: the others' silence in that time was its own deafness."""
        self._prober.forgive()
        self._prober.forget_relays()
        for member in self.members.values():
            if member.suspicion is not None:
                member.suspicion.since_ms += lag_ms
                deadline = member.suspicion.deadline()
                self._timers.set((Timer.SUSPICION, member.node_id), deadline)
        self._awareness.apply(lag_ms // self._config.probe_interval_ms)
        out.append(Notify(Counted("swim_pauses", text=f"this node stood still for {lag_ms} ms")))

    def _on_timer(self, due: tuple[Timer, NodeId | int], now: int, out: list[Effect]) -> None:
        timer, name = due
        match timer:
            case Timer.PROBE:
                self._on_probe_timeout(now, out)
            case Timer.INDIRECT:
                self._prober.on_indirect_timeout(now, out)
            case Timer.GOSSIP:
                self._on_gossip_timeout(now, out)
            case Timer.PUSH_PULL:
                self._on_push_pull_timeout(now, out)
            case Timer.HEALING:
                out.extend(self._prober.ping(member) for member in self._healing.pick())
                self._roster.names_touched = True  # an unmet namesake may be so for long enough
                self._timers.set(HEALING, now + self._healing.interval_ms())
            case Timer.RELAY:
                assert isinstance(name, int)
                self._prober.on_relay_timeout(name, out)
            case _:
                assert isinstance(name, bytes)
                self._on_member_timer(timer, name, now, out)

    def _on_member_timer(self, timer: Timer, node_id: NodeId, now: int, out: list[Effect]) -> None:
        if timer is Timer.MEET:
            self._on_meet_timeout(node_id, now, out)
        elif timer is Timer.REAP:
            self._hearsay.on_reap_timeout(node_id, now, out)
        else:
            member = self.members.get(node_id)
            if member is not None:
                self._hearsay.on_suspicion_timeout(member, now, out)

    def _on_probe_timeout(self, now: int, out: list[Effect]) -> None:
        """One period ends and the next begins, later if this node is in bad health."""
        silent = self._prober.end(out)
        if silent is not None:
            self._hearsay.suspect(silent, now, out)
        self._prober.begin(now, out)
        self._timers.set(PROBE, now + self._awareness.scale(self._config.probe_interval_ms))

    def _on_gossip_timeout(self, now: int, out: list[Effect]) -> None:
        queue = self._queue
        sends = sends_max(self._config, self._roster.alive_count)
        count = burst(self._config, len(queue))
        for member in self._order.sample(self._config.gossip_nodes, now):
            rumours = queue.take(count, sends)
            if not rumours:
                return
            out.append(Send(member.node_id, Gossip(rumours)))

    def _on_push_pull_timeout(self, now: int, out: list[Effect]) -> None:
        for member in self._order.sample(1, now):
            self._exchange(member.node_id, now, out)
        interval_ms = push_pull_interval_ms(self._config, self._roster.alive_count)
        self._timers.set(PUSH_PULL, now + int(interval_ms * self._rng.uniform(0.9, 1.1)))

    def _on_meet_timeout(self, peer: NodeId, now: int, out: list[Effect]) -> None:
        member = self.members.get(peer)
        if self._own.state is MemberState.LEFT:
            return
        if member is not None:
            self._exchange(peer, now, out)
            return
        wait_ms = self._strangers.next_try_ms(peer)
        if wait_ms is None:
            out.append(Learn(peer, ()))  # it will not be met: its addresses are of no use
            return
        self._exchange(peer, now, out)
        self._timers.set((Timer.MEET, peer), now + wait_ms)

    # -------------------------------------------------------------------------------------- helpers

    def _take(self, first: Rumour | None) -> tuple[Rumour, ...]:
        """The rumours for one packet, the given one first."""
        queue = self._queue
        if not queue:
            return () if first is None else (first,)
        sends = sends_max(self._config, self._roster.alive_count)
        rumours = queue.take(self._config.rumours_per_packet, sends)
        if first is None:
            return rumours
        return (first, *(rumour for rumour in rumours if rumour.node_id != first.node_id))

    def _done(self, now: int, out: list[Effect]) -> list[Effect]:
        """End of each call: gossip while there are rumours; exchange states soon after a return.

        Gossip of a heal may be lost, and the next exchange may be minutes away.
        """
        if self._roster.names_touched:
            self._namesakes.look(now, out)
        lost = self._roster.lost_count
        if lost < self._lost:
            soon = now + int(self._rng.random() * EXCHANGE_AFTER_HEAL_MS)
            self._timers.set_if_earlier(PUSH_PULL, soon)
        self._lost = lost
        if self._roster.alive_count <= 1:
            self._settled = False
        if self._queue and GOSSIP not in self._timers and self._roster.alive_count > 1:
            self._timers.set(GOSSIP, now + self._config.gossip_interval_ms)
        return out
