"""The machine: one node's whole protocol behind `handle(event, now) -> effects`.

It composes the rooms, holds the only dispatch table, and turns what one room
learns (a member died, an owner changed) into calls on the others. Packets of
the node to itself never leave it.

Invariant: `handle` is a function of the machine's state, the event and `now`
alone, so that one seed gives one history.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from p2pmq.core import events
from p2pmq.core.bindings import Bindings
from p2pmq.core.consuming import Consuming
from p2pmq.core.deleting import Deletions
from p2pmq.core.effects import (
    Counted,
    Done,
    MemberNotice,
    Notify,
    PartitionsRaised,
    Resolve,
    Send,
)
from p2pmq.core.ephemeral import Ephemeral
from p2pmq.core.firing import Firing
from p2pmq.core.handover import Handovers
from p2pmq.core.hlc import HybridClock
from p2pmq.core.ids import PartitionKey, key_of
from p2pmq.core.intact import Intactness
from p2pmq.core.membership import MemberState
from p2pmq.core.once import Once
from p2pmq.core.outbox import Outbox
from p2pmq.core.owner import Owner
from p2pmq.core.ownership import Ownership
from p2pmq.core.packets import (
    binding,
    deleting,
    delivering,
    limiting,
    membership,
    publishing,
    registering,
    replaying,
    replicating,
    scheduling,
)
from p2pmq.core.pair import Pair
from p2pmq.core.placement import seat_of
from p2pmq.core.purging import Purges
from p2pmq.core.records import Space
from p2pmq.core.refill import Refill
from p2pmq.core.registry import Registry
from p2pmq.core.replays import Replays
from p2pmq.core.replication import Replication
from p2pmq.core.reposting import Reposts
from p2pmq.core.requests import Requests
from p2pmq.core.retention import Retention
from p2pmq.core.ring import Place
from p2pmq.core.schedules import Schedules
from p2pmq.core.settling import Settling
from p2pmq.core.standins import StandIns
from p2pmq.core.swim import Swim
from p2pmq.core.tying import Tying

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from p2pmq.config import Config, Retry
    from p2pmq.core.effects import Effect
    from p2pmq.core.events import Event
    from p2pmq.core.ids import NodeId, Session
    from p2pmq.core.packets.membership import Rumour
    from p2pmq.core.packets.registry import Packet
    from p2pmq.core.traces import Kept


class Machine:
    """One node's protocol. `own` says who it is; `session` is new at every boot."""

    def __init__(
        self, own: Rumour, mesh: str, session: Session, config: Config, rng: Random
    ) -> None:
        self.node_id: NodeId = own.node_id
        self._clock = HybridClock()
        self.swim = Swim(own, mesh, config.swim, rng)
        self.registry = Registry(own.node_id, self._others, rng)
        self.bindings = Bindings(own.node_id, self._others, rng)
        self.schedules = Schedules(own.node_id, self._others, rng)
        self._ownership = Ownership(config.replication, self.registry.settings_of, config.retry)
        owner_of = self._ownership.owner_of
        self.owner = Owner(own.node_id, self._clock, owner_of)
        self._inform_owner(rng)
        self.outbox = Outbox(
            session, owner_of, config.limits, config.timing, config.outbox, self._clock
        )
        self.reposts = Reposts(owner_of)
        self.consuming = Consuming(owner_of, config.timing)
        self.once = Once(self._clock, config.replication.context_retention_ms)
        self.settling = Settling(self.consuming, self.once, Tying(owner_of))
        self._look_after_copies(own, config)
        self.requests = Requests(self.outbox, self.owner, self.settling, self.handovers)
        self.purges = Purges(own.boot, self.owner, self.replication, owner_of)
        self.deletions = Deletions(
            self.owner, self.replication, self.registry, self._clock, owner_of
        )
        self.owner.deleted_until = self.deletions.reach_of
        self.replays = Replays(self.owner, self.replication, owner_of)
        self._pair = Pair(config.replication)
        self.ephemeral = Ephemeral(
            own, session, self.swim.members, config.timing.responder_wait_ms, rng
        )
        self._rooms = (
            self.registry,
            self.bindings,
            self.schedules,
            self.owner,
            self.replication,
            self.stand_ins,
            self.retention,
            self.dead_letters,
            self.firing,
            self.outbox,
            self.settling,
            self.reposts,
            self.consuming,
            self.handovers,
            self.requests,
            self.purges,
            self.deletions,
            self.replays,
            self._pair,
            self.refill,
            self.ephemeral,
        )
        self._boots: dict[NodeId, int] = {}
        self._placed_versions = (-1, -1)
        self._namesakes_faced = 0
        self._on_event = self._event_table()
        self._on_packet = self._packet_table()

    def _look_after_copies(self, own: Rumour, config: Config) -> None:
        """The rooms that keep what others hold in step with the owner's part."""
        self.intact = Intactness()
        self.replication = Replication(
            own.node_id, own.boot, self.owner, self._ownership, self.intact
        )
        self.owner.use(self.replication)
        self.replication.declared_hash = self.registry.hash_of
        self.replication.replica.declared_unlike = self.registry.unlike
        self.dead_letters = self.replication.dead_letters
        self.firing = Firing(own.node_id, self.owner, self.replication, self._clock)
        self.schedules.on_change = self.firing.on_change
        self.retention = Retention(
            self.owner, self.replication, self._clock, config.replication.context_retention_ms
        )
        self.handovers = Handovers(
            own.node_id, own.boot, self.owner, self._ownership, self.replication
        )
        self.stand_ins = StandIns(
            self.owner,
            self._ownership,
            self.replication,
            self.swim.away_since,
            config.replication.replace_after_ms,
        )
        self.refill = Refill(
            own.node_id,
            own.boot,
            self.intact,
            self._ownership,
            self.replication.replica,
            self.swim.full_members,
        )

    def _inform_owner(self, rng: Random) -> None:
        """Tell the owner's part what it asks of others."""
        self.owner.name_of = self.swim.name_of
        self.owner.is_member = lambda node_id: node_id in self.swim.members
        self.owner.copies_of = self._ownership.copies_of
        self.owner.limits.settings_of = self.registry.settings_of
        self.owner.retry_of = self._ownership.retry_of
        self.owner.kept_of = self._ownership.kept_of
        self.owner.knows_settings = lambda: self.registry.is_level
        self.owner.ageing_of = self._ownership.ageing_of
        self.owner.rng = rng

    def handle(self, event: Event, now: int) -> list[Effect]:
        """Take one event; what is to be done comes back, in order. `now` is in ms."""
        self._clock.now = now
        effects: list[Effect] = []
        work: deque[Event] = deque((event,))
        while work:
            found = self._on_event[type(work[0])](work.popleft(), now)
            if (self.swim.version, self.registry.version) != self._placed_versions:
                found += self._replace(now)
            for effect in found:
                if type(effect) is Send and effect.peer == self.node_id:
                    work.append(events.PacketReceived(self.node_id, effect.packet))
                else:
                    effects.append(effect)
            if not work:
                effects += self.requests.check(now)
        return effects

    def owner_of(self, key: PartitionKey) -> NodeId | None:
        """The partition's living owner, as this node sees it."""
        return self._ownership.owner_of(key)

    def homes_of(self, key: PartitionKey) -> tuple[tuple[NodeId, ...], int]:
        """The partition's homes, there or not, and how many copies commit a message."""
        return self._ownership.homes_of(key)

    def partitions_of(self, queue: str) -> list[PartitionKey]:
        """The partitions of a queue, as this node knows it."""
        return [PartitionKey(queue, at) for at in range(self._ownership.partitions_of(queue))]

    def copies_of(self, queue: str) -> tuple[int, int]:
        """R and W of a queue as asked for, whatever the mesh has."""
        return self._ownership.copies_of(queue)

    def retry_of(self, queue: str) -> Retry:
        """What becomes of a queue's messages that fail."""
        return self._ownership.retry_of(queue)

    def kept_of(self, queue: str) -> Kept:
        """For how long the traces of a queue's messages are kept."""
        return self._ownership.kept_of(queue)

    def next_deadline(self) -> int | None:
        """When `handle(TimePassed())` is due, in ms; None: not before something happens."""
        first = self.swim.next_deadline()
        for room in self._rooms:
            at = room.next_deadline()
            if at is not None and (first is None or at < first):
                first = at
        return first

    # -- tables --

    def _event_table(self) -> dict[type, Callable[[Any, int], list[Effect]]]:
        return {
            events.Started: self._on_started,
            events.WallClockRead: self._on_wall_clock,
            events.TimePassed: self._on_time_passed,
            events.PacketReceived: self._on_packet_received,
            events.PeerConnected: self._on_peer_connected,
            events.PeerDisconnected: lambda _event, _now: [],
            events.PublishRequested: self.outbox.on_publish,
            events.SubscribeRequested: self.settling.on_subscribe,
            events.UnsubscribeRequested: self.settling.on_unsubscribe,
            events.RepostRequested: self.reposts.on_requested,
            events.DrainRequested: self.consuming.on_drain,
            events.SettleRequested: self.settling.on_settle,
            events.TieRequested: self.settling.on_tie,
            events.ProcessedDurable: self.settling.on_processed_durable,
            events.StatsRequested: self._on_stats_requested,
            events.ReplayRequested: self.replays.on_replay,
            events.FlushRequested: self.requests.on_flush,
            events.LeaveRequested: self._on_leave_requested,
            events.StopRequested: self._on_stop_requested,
            events.ForgetRequested: self._on_forget_requested,
            events.DeclareRequested: lambda e, now: self.registry.on_declare(
                e, now + self._clock.wall_offset_ms
            ),
            events.DeclareDurable: lambda e, _now: self.registry.on_durable(e),
            events.BindRequested: lambda e, now: self.bindings.on_bind(
                e, now + self._clock.wall_offset_ms
            ),
            events.BindDurable: lambda e, _now: self.bindings.on_durable(e),
            events.ScheduleRequested: lambda e, now: self.schedules.on_schedule(
                e, now + self._clock.wall_offset_ms
            ),
            events.ScheduleDurable: lambda e, _now: self.schedules.on_durable(e),
            events.PurgeRequested: self.purges.on_requested,
            events.DeletionRequested: self.deletions.on_requested,
            events.PurgeDurable: lambda e, _now: self.purges.on_durable(e),
            **self.ephemeral.event_table(),
            events.BatchDurable: self.owner.on_batch_durable,
            events.SettleDurable: lambda e, _now: self.owner.on_settle_durable(e),
            events.OutboxDurable: self.outbox.on_durable,
            events.HandoverDurable: self.handovers.on_durable,
            events.ReplicaDurable: self._on_replica_durable,
            events.SupplyDurable: self.replication.on_supply_durable,
            events.WriteRefused: self._on_write_refused,
            events.BodyUnreadable: self._on_body_unreadable,
            events.DeliveryFailed: lambda e, now: self.consuming.on_failed(e.consumer, e.runs, now),
        }

    def _packet_table(self) -> dict[type[Packet], Callable[[NodeId, Any, int], list[Effect]]]:
        swim: dict[type[Packet], Callable[[NodeId, Any, int], list[Effect]]] = dict.fromkeys(
            (
                membership.Ping,
                membership.PingRequest,
                membership.ProbeAck,
                membership.ProbeNack,
                membership.Gossip,
                membership.StateExchange,
            ),
            self.swim.on_packet,
        )
        return swim | {
            publishing.Publish: self.owner.on_publish,
            publishing.Confirm: self._on_confirm,
            publishing.Gap: lambda _peer, p, now: self.outbox.on_gap(key_of(p), p.session, now),
            publishing.PublishRefused: self._on_publish_refused,
            publishing.Moved: self._on_moved,
            limiting.PurgeRequest: self.purges.on_request,
            limiting.PurgeResult: lambda _peer, p, _now: self.purges.on_result(p),
            deleting.DeletionRequest: self.deletions.on_request,
            deleting.DeletionReach: self.deletions.on_reach,
            limiting.RoomAgain: lambda _peer, p, now: self.outbox.on_room_again(key_of(p), now),
            publishing.StatsRequest: lambda peer, p, _now: self.requests.on_stats_request(peer, p),
            publishing.StatsReply: lambda peer, p, _now: self.requests.on_stats_reply(peer, p),
            replaying.ReplayRequest: self.replays.on_request,
            replaying.Replayed: lambda _peer, p, _now: self.replays.on_replayed(p),
            delivering.Attach: self.owner.on_attach,
            delivering.Attached: self.consuming.on_attached,
            delivering.Detach: self.owner.on_detach,
            delivering.Delivery: self.settling.on_delivery,
            delivering.Settle: self.owner.on_settle,
            delivering.Settled: lambda _peer, p, now: self.consuming.on_settled(p, now),
            registering.QueueRecords: lambda _peer, p, _now: self.registry.on_records(p),
            registering.QueueDigest: self.registry.on_digest,
            registering.QueueBuckets: lambda peer, p, _now: self.registry.on_buckets(peer, p),
            binding.BindingRecords: lambda _peer, p, _now: self.bindings.on_records(p),
            binding.BindingDigest: self.bindings.on_digest,
            binding.BindingBuckets: lambda peer, p, _now: self.bindings.on_buckets(peer, p),
            scheduling.ScheduleRecords: lambda _peer, p, _now: self.schedules.on_records(p),
            scheduling.ScheduleDigest: self.schedules.on_digest,
            scheduling.ScheduleBuckets: lambda peer, p, _now: self.schedules.on_buckets(peer, p),
            replicating.Replicate: self.replication.replica.on_replicate,
            replicating.Replicated: self.replication.on_replicated,
            replicating.Compare: self._on_compare,
            replicating.Compared: self._on_compared,
            replicating.Fetch: lambda peer, p, _now: self.replication.replica.on_fetch(peer, p),
            replicating.Supply: self.replication.on_supply,
            replicating.Offer: self.replication.on_offer,
            replicating.HoldingsRequest: lambda peer, p, _now: self.refill.on_request(peer, p),
            replicating.Holdings: self.refill.on_holdings,
            delivering.Handover: self.handovers.on_handover,
            delivering.HandoverTaken: self.handovers.on_taken,
            **self.ephemeral.packet_table(),
        }

    # -- events --

    def _on_started(self, event: events.Started, now: int) -> list[Effect]:
        """Take up what the store holds, and begin to look for the others."""
        self._clock.wall_offset_ms = event.wall_offset_ms
        recovered = event.recovered
        of_space: dict[Space, list[Any]] = {Space.PARTITION: [], Space.OUTBOX: []}
        for found in recovered.batches:
            of_space[found.space].append(found)
        self.registry.recover(recovered.queues, now)
        self.bindings.recover(recovered.bindings, now)
        self.once.recover(recovered.processed, now)
        self.schedules.recover(recovered.schedules, now)
        self.owner.recover(recovered, of_space[Space.PARTITION], now)
        self.intact.recover(recovered.filled, refilling=recovered.refilling)
        self.intact.unsure = not recovered.members
        if not recovered.members:
            self.registry.begin_new()
        self.refill.begin(now)
        self.retention.begin(now)
        effects = self.swim.start(recovered.members, recovered.incarnation, now)
        effects += self._replace(now)
        return effects + self.outbox.recover(of_space[Space.OUTBOX], now)

    def _on_wall_clock(self, event: events.WallClockRead, now: int) -> list[Effect]:
        self._clock.wall_offset_ms = event.wall_offset_ms
        return self.firing.on_world_changed(now)

    def _on_time_passed(self, _event: events.TimePassed, now: int) -> list[Effect]:
        effects = self._membership(self.swim.on_timeout(now), now)
        for room in self._rooms:
            effects += room.on_timeout(now)
        return effects

    def _on_packet_received(self, event: events.PacketReceived, now: int) -> list[Effect]:
        handler = self._on_packet.get(type(event.packet))
        if handler is None:
            return [Notify(Counted("packet_unhandled"))]
        effects: list[Effect] = []
        if event.peer != self.node_id:
            effects = self.swim.on_contact(event.peer, now)
        effects += handler(event.peer, event.packet, now)
        return self._membership(effects, now)

    def _on_peer_connected(self, event: events.PeerConnected, now: int) -> list[Effect]:
        """A new link: what was under way on an old one is said again."""
        peer = event.peer
        effects = self.swim.on_connected(
            peer, event.boot, event.name, event.addresses, event.leaf, now
        )
        restarted = self._boots.get(peer, event.boot) != event.boot
        if restarted:
            effects += self.owner.on_node_gone(peer, now, restarted=True)
        self._boots[peer] = event.boot
        effects += self.registry.on_peer_connected(peer, now)
        effects += self.bindings.on_peer_connected(peer, now)
        effects += self.schedules.on_peer_connected(peer, now)
        effects += self.replication.on_peer_connected(peer, now)
        effects += self.outbox.on_peer_connected(peer, now)
        effects += self.consuming.on_peer_connected(peer, now)
        effects += self.ephemeral.on_peer_connected(peer, now, restarted=restarted)
        return self._membership(effects, now)

    def _on_stats_requested(self, event: events.StatsRequested, now: int) -> list[Effect]:
        owners = self._ownership.alive_owners()
        if event.queue:
            found = map(self.owner_of, self.partitions_of(event.queue))
            owners = list(dict.fromkeys(owner for owner in found if owner is not None))
        return self.requests.on_stats(event, owners, now)

    def _on_leave_requested(self, event: events.LeaveRequested, now: int) -> list[Effect]:
        effects = self._membership(self.swim.leave(now), now)
        effects += self._replace(now)
        return effects + self.requests.on_leave(event, now)

    def _on_stop_requested(self, event: events.StopRequested, now: int) -> list[Effect]:
        """Say goodbye; from then on others own, so that nothing more is delivered from here."""
        self.owner.is_stopping = True
        return [*self.swim.stop(now), Resolve(event.token, Done())]

    def _on_forget_requested(self, event: events.ForgetRequested, now: int) -> list[Effect]:
        effects = self._membership(self.swim.forget(event.node_id, now), now)
        return [*effects, Resolve(event.token, Done())]

    def _on_confirm(self, peer: NodeId, packet: publishing.Confirm, now: int) -> list[Effect]:
        """Something is committed: a publisher's, a dead letter, a tick of a schedule."""
        self.firing.on_confirm(packet)
        return [
            *self.outbox.on_confirm(packet, key_of(packet), peer, now),
            *self.dead_letters.on_confirm(packet, key_of(packet), now),
            *self.settling.on_confirm(packet, key_of(packet), now),
            *self.reposts.on_confirm(packet, key_of(packet)),
        ]

    def _on_publish_refused(
        self, peer: NodeId, packet: publishing.PublishRefused, now: int
    ) -> list[Effect]:
        """Only who owns the partition can hold back its publishers."""
        key = key_of(packet)
        if peer != self.owner_of(key):
            return [Notify(Counted("refusal_stale"))]
        reason = publishing.REFUSED.get(packet.reason, "refused")
        self.reposts.on_refused(packet, key, reason)
        if packet.reason == publishing.REFUSED_REJECTED:
            return self.outbox.on_rejected(packet, key, now)
        return self.outbox.on_refused(packet, key, now, reason)

    def _on_moved(self, peer: NodeId, packet: publishing.Moved, now: int) -> list[Effect]:
        """Whoever we do not take for the owner says nothing new by not being it."""
        key = key_of(packet)
        if peer != self.owner_of(key):
            return [Notify(Counted("moved_stale"))]
        effects = self.outbox.on_moved(key, now)
        effects += self.consuming.on_moved(key, now)
        return effects + self.handovers.on_moved(key, now)

    def _on_compare(self, peer: NodeId, packet: replicating.Compare, now: int) -> list[Effect]:
        """An owner asks what is here, and says whether it wants a copy kept here."""
        self.handovers.on_compare(peer, packet, now)
        return self.replication.replica.on_compare(peer, packet, now)

    def _on_compared(self, peer: NodeId, packet: replicating.Compared, now: int) -> list[Effect]:
        """A home says what it has, and by which settings: these hold before anything is taken."""
        effects = self.registry.on_records(registering.QueueRecords(packet.declared))
        if self.registry.version != self._placed_versions[1]:
            effects += self._replace(now)
        return effects + self.replication.on_compared(peer, packet, now)

    def _on_replica_durable(self, event: events.ReplicaDurable, now: int) -> list[Effect]:
        self.handovers.on_copy(event.key, now)
        return self.replication.replica.on_durable(event, now)

    def _on_write_refused(  # noqa: C901, PLR0911 - one case for each event
        self, event: events.WriteRefused, now: int
    ) -> list[Effect]:
        match event.then:
            case events.BatchDurable():
                return self.owner.on_batch_refused(event.then)
            case events.OutboxDurable():
                return self.outbox.on_write_refused(event, now)
            case events.HandoverDurable():
                return self.handovers.on_write_refused(event)
            case events.ReplicaDurable() | events.SupplyDurable():
                return self.replication.replica.on_write_refused(event.then, event.records)
            case events.DeclareDurable():
                return self.registry.on_write_refused(event.then)
            case events.BindDurable():
                return self.bindings.on_write_refused(event.then)
            case events.ProcessedDurable():
                return self.settling.on_write_refused(event.then, now)
            case events.ScheduleDurable():
                return self.schedules.on_write_refused(event.then)
            case events.PurgeDurable(key=key):
                refused = self.owner.on_settle_refused(key, event.records)
                return [*refused, *self.purges.on_write_refused(event.then)]
            case events.SettleDurable(key=key):
                return self.owner.on_settle_refused(key, event.records)
            case None:
                return [Notify(Counted("disk_full"))]

    def _on_body_unreadable(self, event: events.BodyUnreadable, now: int) -> list[Effect]:
        if event.space is Space.OUTBOX:
            return self.outbox.on_unreadable(event.key, event.run)
        run = self.dead_letters.original_of(event.key, event.run)
        return self.owner.on_unreadable(event.key, run, now)

    # -- the roster --

    def _others(self) -> list[NodeId]:
        """The living members beside this node."""
        members = self.swim.roster()
        return [m.node_id for m in members if m.alive and m.node_id != self.node_id]

    def _membership(self, effects: list[Effect], now: int) -> list[Effect]:
        """Free what consumers on nodes that are gone held."""
        notices = [
            effect.notice
            for effect in effects
            if type(effect) is Notify and type(effect.notice) is MemberNotice
        ]
        for notice in notices:
            if notice.state in (MemberState.DEAD, MemberState.LEFT, MemberState.FORGOTTEN):
                if notice.state != MemberState.DEAD:  # the dead may be the same boot, cut off
                    self._boots.pop(notice.node_id, None)
                effects += self.owner.on_node_gone(notice.node_id, now)
        return effects

    def _replace(self, now: int) -> list[Effect]:
        """The roster, a verdict or a queue's settings have changed: every room follows."""
        self._placed_versions = (self.swim.version, self.registry.version)
        places = [
            Place(member.node_id, member.zone, member.weight, seat_of(member.name))
            for member in self.swim.placed()
        ]
        self._pair.on_roster(len(places), now)
        changed = self._ownership.refresh(places, self.swim.is_alive)
        raised = self.registry.take_raised()
        effects: list[Effect] = [Notify(PartitionsRaised(queue)) for queue in raised]
        self.intact.unsure = self.intact.unsure and self.swim.is_fresh
        if self.swim.namesakes_faced != self._namesakes_faced:
            self._namesakes_faced = self.swim.namesakes_faced
            effects += self.intact.begin()
            self.refill.begin(now)
        for key in changed:
            effects += self.outbox.on_owner_changed(key, now)
        effects += self.replication.on_placement_changed(now)
        effects += self.deletions.on_deleted(self.registry.take_deleted(), now)
        effects += self.stand_ins.on_placement_changed(now)
        effects += self.owner.on_placement_changed(now)
        effects += self.dead_letters.on_placement_changed(now)
        effects += self.firing.on_world_changed(now)
        effects += self.reposts.on_placement_changed(now)
        effects += self.consuming.on_placement_changed(now)
        effects += self.settling.on_placement_changed(now)
        effects += self.handovers.on_placement_changed(now)
        roster = [member.node_id for member in self.swim.roster()]
        return effects + self.ephemeral.on_roster(self._others(), roster, now)
