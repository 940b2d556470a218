"""Handover: a node that holds a partition it does not own brings it to the owner.

It goes a piece at a time: acked dots and batches, each piece with a context that
covers only what it carries or knows to be acked. The merge is the set's own
(section 6 of the design), so that a repeated, a late or a crossed packet does no
harm. What was given is not deleted piece by piece: a dot that is gone from
`pending` is an acked one to every merge that follows.

Invariant: a partition is deleted here as a whole, after the owner has said of
every piece that it is durable there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from p2pmq.core.deadletters import STALE_REPLICA
from p2pmq.core.deleting import told_of_deleted, without_deleted
from p2pmq.core.dots import DotSet
from p2pmq.core.effects import Counted, Notify, Persist, Send
from p2pmq.core.events import HandoverDurable
from p2pmq.core.ids import PartitionKey, Run, key_of
from p2pmq.core.packets.delivering import Handover, HandoverTaken
from p2pmq.core.packets.publishing import FRAME_BYTES_MAX, Moved, RunField
from p2pmq.core.records import BatchStored, PartitionRemoved
from p2pmq.core.retention import judged
from p2pmq.core.standins import Standing
from p2pmq.core.timers import Timers

if TYPE_CHECKING:
    from p2pmq.core.effects import Effect
    from p2pmq.core.events import WriteRefused
    from p2pmq.core.ids import NodeId
    from p2pmq.core.owner import Owner
    from p2pmq.core.ownership import Ownership
    from p2pmq.core.packets.publishing import Batch
    from p2pmq.core.packets.replicating import Compare
    from p2pmq.core.partition import Partition
    from p2pmq.core.replication import Replication

RESEND_MS = 1_000
STRAY_MS = 5_000
"""A copy that was sent here and does not belong here lies so long: the roster may be changing."""
BATCHES_MAX = 64
RUNS_MAX = 4_096
"""Acked runs in one packet: some 80 KiB."""


@dataclass(slots=True)
class Giving:
    """A partition on its way to `to`. The piece on its way is `number`: `runs` and `acked`."""

    to: NodeId
    waiting: deque[Run]
    context: deque[Run]
    number: int = 0
    runs: list[Run] = field(default_factory=list)
    acked: list[Run] = field(default_factory=list)
    given: DotSet = field(default_factory=DotSet)


class Handovers:
    """Every partition on its way out of this node, and what comes in.

    Pieces are numbered from `boot` on, so that an answer to an earlier run of
    this node is never taken for one to this.
    """

    def __init__(
        self,
        own_id: NodeId,
        boot: int,
        owner: Owner,
        ownership: Ownership,
        replication: Replication,
    ) -> None:
        self._own_id = own_id
        self._owner = owner
        self._ownership = ownership
        self._copies = replication
        self.standing = Standing()
        self._giving: dict[PartitionKey, Giving] = {}
        self._timers: Timers[PartitionKey] = Timers()
        self._next_number = (boot << 32) + 1

    # -- giving --

    def on_placement_changed(self, now: int) -> list[Effect]:
        """Start to hand over what is not ours (any more)."""
        if not self._ownership.is_alive(self._own_id):
            self.standing.resign()
        effects: list[Effect] = []
        for key in list(self._owner.partitions):
            target = self._ownership.owner_of(key)
            giving = self._giving.get(key)
            until = self.standing.on_owner(key, target, now)
            if until is not None:
                self._timers.set_if_earlier(key, until)
            elsewhere = target is not None and not self._belongs(key, now)
            if giving is not None and giving.to == target and elsewhere:
                continue
            self._giving.pop(key, None)
            if elsewhere:
                effects += self._begin(key, now)
        return effects

    def on_compare(self, peer: NodeId, packet: Compare, now: int) -> None:
        """An owner counts on the copy here; it says whether as on that of a stand-in.

        It may have heard of settings by which this node is a home, and this node not yet: an
        answer that is still on its way from before then must not delete the copy.
        """
        key = key_of(packet)
        leaving = not self._ownership.is_alive(self._own_id)
        giving = self._giving.get(key)
        if giving is not None and giving.to == peer and packet.number and not leaving:
            del self._giving[key]
            self._timers.set(key, now + STRAY_MS)
        if packet.hint:
            if not leaving:
                self._giving.pop(key, None)
                self._timers.set(key, self.standing.begin(key, peer, now))
        elif self.standing.end(key, peer):
            self._timers.set(key, now)

    def on_copy(self, key: PartitionKey, now: int) -> None:
        """A copy was stored here: perhaps a late one, which belongs here no more."""
        if key not in self._giving and not self._belongs(key, now):
            self._timers.set_if_earlier(key, now + STRAY_MS)

    def on_taken(self, peer: NodeId, packet: HandoverTaken, now: int) -> list[Effect]:
        """The owner has a piece on disk: send the next, or forget the partition after the last."""
        key = key_of(packet)
        giving = self._giving.get(key)
        if giving is None or (giving.number, giving.to) != (packet.transfer, peer):
            return []
        for run in giving.runs:
            giving.given.add(run)
        giving.runs, giving.acked = [], []
        if not giving.waiting and not giving.context:
            pending = self._owner.partitions[key].pending
            giving.waiting += [r for run in pending.runs() for r in giving.given.missing(run)]
        if giving.waiting or giving.context:
            return self._send_next(key, giving, now)
        return self._finish(key)

    def on_moved(self, key: PartitionKey, now: int) -> list[Effect]:
        """The node does not think that it is the owner: try again when views have converged."""
        if key in self._giving:
            self._timers.set(key, now + RESEND_MS // 4)
        return []

    def next_deadline(self) -> int | None:
        """When a piece is due again."""
        return self._timers.next_deadline()

    def on_timeout(self, now: int) -> list[Effect]:
        """Send again what was not taken; begin what had to wait."""
        effects: list[Effect] = []
        while (key := self._timers.pop_due(now)) is not None:
            giving = self._giving.get(key)
            until = self.standing.has_until(key, now)
            if giving is not None:
                effects += self._send(key, giving, now)
            elif until is not None:
                self._timers.set(key, until)
            elif (
                key in self._owner.partitions
                and self._ownership.owner_of(key) is not None
                and not self._belongs(key, now)
            ):
                effects += self._begin(key, now)
        return effects

    @property
    def busy(self) -> bool:
        """Whether something is on its way out."""
        return bool(self._giving)

    def _belongs(self, key: PartitionKey, now: int) -> bool:
        """Whether a copy is to be kept here."""
        is_home = self._own_id in self._ownership.homes_of(key)[0]
        return is_home or self.standing.has_until(key, now) is not None

    def _begin(self, key: PartitionKey, now: int) -> list[Effect]:
        partition = self._owner.partitions[key]
        if partition.appending:
            self._timers.set(key, now + RESEND_MS // 4)
            return []  # wait until everything here is on disk
        if not partition.seen and not partition.horizon:
            return self._finish(key)
        to = self._ownership.owner_of(key)
        assert to is not None
        giving = self._giving[key] = Giving(
            to, deque(partition.pending.runs()), deque(partition.acked().runs())
        )
        return self._send_next(key, giving, now)

    def _send_next(self, key: PartitionKey, giving: Giving, now: int) -> list[Effect]:
        """Cut the next piece off."""
        partition = self._owner.partitions[key]
        giving.number = self._next_number
        self._next_number += 1
        while giving.context and len(giving.acked) < RUNS_MAX:
            giving.acked.append(giving.context.popleft())
        size = 0
        while giving.waiting and len(giving.runs) < BATCHES_MAX:
            size += sum(batch.size for batch in _batches(partition, [giving.waiting[0]]))
            if giving.runs and size > FRAME_BYTES_MAX:
                break
            giving.runs.append(giving.waiting.popleft())
        return self._send(key, giving, now)

    def _send(self, key: PartitionKey, giving: Giving, now: int) -> list[Effect]:
        """Send the piece, perhaps again; what became unreadable meanwhile is left out."""
        partition = self._owner.partitions[key]
        is_last = not giving.waiting and not giving.context
        packet = Handover(
            key.queue,
            key.number,
            giving.number,
            acked=tuple(RunField(*run) for run in giving.acked),
            leases=tuple(self._owner.leases_for_successor(key, now, giving.runs)),
            batches=tuple(_batches(partition, giving.runs)),
            horizon=partition.horizon if is_last else 0,
        )
        self._timers.set(key, now + RESEND_MS)
        return [Send(giving.to, packet)]

    def _finish(self, key: PartitionKey) -> list[Effect]:
        """All of it is durable at the owner."""
        self._giving.pop(key, None)
        self._timers.clear(key)
        self._owner.drop(key)
        self._copies.replica.on_dropped(key)
        notice = Notify(Counted("handed-over", text=f"queue {key.queue!r} handed over"))
        return [Persist((PartitionRemoved(key),)), notice]

    # -- taking --

    def on_handover(self, peer: NodeId, packet: Handover, now: int) -> list[Effect]:
        """Merge what another node held of a partition that is ours."""
        key = key_of(packet)
        target = self._ownership.owner_of(key)
        if target != self._own_id:
            return [Send(peer, Moved(key.queue, key.number, target or b"\0" * 8))]
        if self._copies.keeps(key, peer):
            return []  # it counts on the copy there: the peer is a home, and does not know it yet
        came, packet = packet, without_deleted(packet, self._owner.deleted_until(key.queue))
        partition = self._owner.partition(key)
        acked = [Run(run.session, run.first, run.last) for run in packet.acked]
        if partition.is_appending([*acked, *(batch.run for batch in packet.batches)]):
            return []  # some of it is being written just now: the repeat finds it durable
        _, stale = judged(partition, packet.batches)
        if stale:  # the repeat finds them acked
            return self._copies.dead_letters.bury(key, stale, STALE_REPLICA, now)
        told = told_of_deleted(self._owner, key, came.batches)
        numbers, records = self._copies.replica.take_in(key, acked, packet.batches, now)
        records += partition.retain(packet.horizon, ())
        runs = tuple(batch.run for batch in packet.batches)
        then = HandoverDurable(
            key, peer, packet.transfer, tuple(numbers), packet.leases, runs, acked=bool(acked)
        )
        effects: list[Effect] = [Persist(tuple(records), then=then), *told]
        if acked:  # the giver forgets them: they must be on enough disks, too
            effects += self._copies.on_settle(key, acked, _bare(then), now)
        return effects

    def on_durable(self, event: HandoverDurable, now: int) -> list[Effect]:
        """What came is on disk: it can be deleted there once it is on enough disks here.

        Where it is not yet, the other node's repeat is answered when it is.
        """
        key = event.key
        effects = self._owner.on_handed_over(key, event.numbers, event.leases, now)
        settled = not event.acked or self._copies.on_settle_durable(_bare(event))
        if not settled or not self._copies.may_delete(event):
            return effects
        taken = HandoverTaken(key.queue, key.number, event.transfer)
        return [Send(event.peer, taken), *effects]

    def on_write_refused(self, event: WriteRefused) -> list[Effect]:
        """The disk is full: the batches never came (the other node tries again), acks are owed."""
        then = event.then
        assert isinstance(then, HandoverDurable)
        partition = self._owner.partitions.get(then.key)
        if partition is not None:
            for number in then.numbers:
                self._owner.forget(then.key, [partition.on_write_refused(number).run])
        acks = tuple(record for record in event.records if type(record) is not BatchStored)
        return self._owner.on_settle_refused(then.key, acks)


def _bare(event: HandoverDurable) -> HandoverDurable:
    """The piece that came, the same for each repeat of it."""
    return replace(event, numbers=(), leases=())


def _batches(partition: Partition, runs: list[Run]) -> list[Batch]:
    """What of the runs is pending, by reference to the store."""
    return [
        partition.batch(part, number)
        for run in runs
        for part, number in partition.pending.overlap(run)
    ]
