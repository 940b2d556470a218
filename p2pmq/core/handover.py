"""Handover: a node that holds a partition it does not own brings it to the owner.

Batches go a few at a time, each packet with a context that covers only what it
carries or knows to be acked; the holder deletes a batch only when the owner has
it on disk. The merge is the set's own (section 6 of the design), so that a
repeated, a late or a crossed packet does no harm.

Invariant: a dot is deleted here only after the owner has said that it is durable there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pmq.core.effects import Counted, Notify, Persist, Send
from p2pmq.core.events import HandoverDurable
from p2pmq.core.ids import PartitionKey, Run
from p2pmq.core.packets.delivering import Handover, HandoverTaken
from p2pmq.core.packets.publishing import FRAME_BYTES_MAX, Moved, RunField
from p2pmq.core.records import PartitionRemoved
from p2pmq.core.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.core.effects import Effect
    from p2pmq.core.ids import NodeId
    from p2pmq.core.owner import Owner
    from p2pmq.core.packets.publishing import Batch
    from p2pmq.core.records import Record

RESEND_MS = 1_000
BATCHES_MAX = 64


@dataclass(slots=True)
class Transfer:
    """The packet on its way: which dots it carries, and to whom."""

    number: int
    to: NodeId
    runs: tuple[Run, ...]
    last: bool


class Handovers:
    """Every partition on its way out of this node, and what comes in."""

    def __init__(
        self,
        own_id: NodeId,
        owner: Owner,
        owner_of: Callable[[PartitionKey], NodeId | None],
    ) -> None:
        self._own_id = own_id
        self._owner = owner
        self._owner_of = owner_of
        self._transfers: dict[PartitionKey, Transfer] = {}
        self._timers: Timers[PartitionKey] = Timers()
        self._next_number = 1

    # -- giving --

    def on_placement_changed(self, now: int) -> list[Effect]:
        """Start to hand over what is not ours (any more)."""
        effects: list[Effect] = []
        for key in list(self._owner.partitions):
            target = self._owner_of(key)
            if target == self._own_id or target is None:
                self._transfers.pop(key, None)
                continue
            transfer = self._transfers.get(key)
            if transfer is None or transfer.to != target:
                effects += self._send_next(key, now)
        return effects

    def on_taken(self, peer: NodeId, packet: HandoverTaken, now: int) -> list[Effect]:
        """The owner has it on disk: delete it here, and send the next."""
        key = PartitionKey(packet.queue, packet.partition)
        transfer = self._transfers.get(key)
        if transfer is None or (transfer.number, transfer.to) != (packet.transfer, peer):
            return []
        partition = self._owner.partitions[key]
        del self._transfers[key]
        removed, records = partition.remove(transfer.runs)
        delivery = self._owner.deliveries.get(key)
        if delivery is not None:
            delivery.forget(removed)
        if transfer.last and not partition.batches:
            self._owner.drop(key)
            self._timers.clear(key)
            notice = Notify(Counted("handed_over", text=f"queue {key.queue!r} handed over"))
            return [Persist((PartitionRemoved(key),)), notice]
        return [Persist(tuple(records)), *self._send_next(key, now)]

    def on_moved(self, key: PartitionKey, now: int) -> list[Effect]:
        """The node does not think that it is the owner: try again when views have converged."""
        if key in self._transfers:
            self._timers.set(key, now + RESEND_MS // 4)
        return []

    def next_deadline(self) -> int | None:
        """When a transfer is due again."""
        return self._timers.next_deadline()

    def on_timeout(self, now: int) -> list[Effect]:
        """Send again what was not taken."""
        effects: list[Effect] = []
        while (key := self._timers.pop_due(now)) is not None:
            if key in self._owner.partitions and self._owner_of(key) not in (self._own_id, None):
                effects += self._send_next(key, now)
        return effects

    @property
    def busy(self) -> bool:
        """Whether something is on its way out."""
        return bool(self._transfers)

    def _send_next(self, key: PartitionKey, now: int) -> list[Effect]:
        """Send the next batches, or the context alone when there are none."""
        partition = self._owner.partitions[key]
        to = self._owner_of(key)
        assert to is not None
        self._timers.set(key, now + RESEND_MS)
        if partition.appending:
            return []  # wait until everything here is on disk
        batches: list[Batch] = []
        size = 0
        everything = True
        for run, number in partition.pending.items():
            batch = partition.batch(run, number)
            if batches and (size + batch.size > FRAME_BYTES_MAX or len(batches) >= BATCHES_MAX):
                everything = False
                break
            batches.append(batch)
            size += batch.size
        delivery = self._owner.deliveries.get(key)
        packet = Handover(
            key.queue,
            key.number,
            self._next_number,
            acked=tuple(RunField(*run) for run in partition.acked().runs()),
            leases=tuple(delivery.lease_fields(now)) if delivery is not None else (),
            batches=tuple(batches),
        )
        runs = tuple(batch.run for batch in batches)
        self._transfers[key] = Transfer(self._next_number, to, runs, last=everything)
        self._next_number += 1
        return [Send(to, packet)]

    # -- taking --

    def on_handover(self, peer: NodeId, packet: Handover, now: int) -> list[Effect]:
        """Merge what another node held of a partition that is ours."""
        key = PartitionKey(packet.queue, packet.partition)
        target = self._owner_of(key)
        if target != self._own_id:
            return [Send(peer, Moved(key.queue, key.number, target or b"\0" * 8))]
        partition = self._owner.partition(key)
        acked = [Run(run.session, run.first, run.last) for run in packet.acked]
        if partition.is_appending([*acked, *(batch.run for batch in packet.batches)]):
            return []  # some of it is being written just now: the repeat finds it durable
        removed, records = partition.remove(acked)
        self._owner.forget(key, removed)
        appended: list[int] = []
        stored_records: list[Record] = []
        for batch in packet.batches:
            for part in partition.new_parts(batch):
                stored, record = partition.stage(part, now + self._owner.wall_offset_ms)
                appended.append(stored.number)
                stored_records.append(record)
        then = HandoverDurable(key, peer, packet.transfer, tuple(appended), packet.leases)
        return [Persist((*records, *stored_records), then=then)]

    def on_durable(self, event: HandoverDurable, now: int) -> list[Effect]:
        """What came is on disk: it can be deleted there, and delivered here."""
        key = event.key
        effects = self._owner.on_handed_over(key, event.numbers, event.leases, now)
        taken = HandoverTaken(key.queue, key.number, event.transfer)
        return [Send(event.peer, taken), *effects]

    def on_write_refused(self, event: HandoverDurable) -> list[Effect]:
        """The disk is full: what came never came; the other node keeps it and tries again."""
        partition = self._owner.partitions[event.key]
        for number in event.numbers:
            partition.on_write_refused(number)
        return [Notify(Counted("disk_full"))]
