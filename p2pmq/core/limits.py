"""Limits of a queue: how many messages and bytes it holds, and what happens beyond.

The owner counts what is pending and what is just being written. Beyond the limit it
refuses new batches: "block" keeps them in their publishers' outboxes, "reject" lets
go of them for good, and "drop-oldest" takes them and discards the oldest that wait.
Of a queue of several partitions each counts by itself, and has its share of the limits.
What homes bring that were cut off is never refused, so that a merge may go beyond.

Invariant: a refusal for good stands for REJECTED_MS, whatever room there is meanwhile:
its publisher may not have heard of it, and goes on to what comes after.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from p2pmq.core.discarding import discard
from p2pmq.core.effects import Counted, Notify, Send
from p2pmq.core.ids import Run
from p2pmq.core.packets.limiting import RoomAgain
from p2pmq.core.packets.publishing import REFUSED_QUEUE_FULL, REFUSED_REJECTED, PublishRefused
from p2pmq.core.packets.registering import OVERFLOW_DROP_OLDEST, OVERFLOW_REJECT
from p2pmq.core.runmap import RunMap
from p2pmq.core.spreading import shares_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.core.delivery import PartitionDelivery
    from p2pmq.core.effects import Effect
    from p2pmq.core.ids import NodeId, PartitionKey, Session
    from p2pmq.core.owner import Owner
    from p2pmq.core.packets.publishing import Batch
    from p2pmq.core.packets.registering import QueueSettings
    from p2pmq.core.partition import Partition, Stored
    from p2pmq.core.replication import Replication

DROPPED_OLDEST = "overflow"
REJECTED_MS = 30_000
"""Twice what an outbox waits at most until it says again what nobody answered."""
REJECTED_MAX = 4_096
"""Runs of rejected messages of a queue that are remembered."""
BLOCKED_MAX = 4_096
"""Publishers that are called when there is room; more come again by themselves."""
HELD_AGAIN_MS = 1_000
"""How soon the oldest are looked at again that could not be discarded, since somebody held them."""


class QueueLimits:
    """The limits of every queue whose partitions this node owns."""

    def __init__(self) -> None:
        self.settings_of: Callable[[str], QueueSettings | None] = lambda _queue: None
        self._blocked: dict[PartitionKey, dict[tuple[NodeId, Session], tuple[int, int]]] = {}
        """Whom to call when there is room, and how much they have: who waits longest first."""
        self._rejected: dict[PartitionKey, RunMap[int]] = {}
        """What was rejected, and until when that is remembered."""
        self._oldest: dict[PartitionKey, OldestFirst] = {}

    def _of(self, key: PartitionKey) -> QueueSettings | None:
        """The limits of a partition, if its queue has any."""
        declared = self.settings_of(key.queue)
        has_limits = declared is not None and (declared.max_messages or declared.max_bytes)
        return shares_of(declared) if declared is not None and has_limits else None

    def refuse(
        self, partition: Partition, peer: NodeId, batch: Batch, now: int
    ) -> list[Effect] | None:
        """What to answer if there is no room for a new batch; None: there is."""
        key = partition.key
        limits = self._of(key)
        if limits is None:
            return None
        is_final = limits.overflow == OVERFLOW_REJECT and not batch.dead  # letters always wait
        if is_final and self.has_rejected(key, batch.session, batch.first, now):
            return [_refusal(key, peer, batch, REFUSED_REJECTED)]
        if limits.overflow == OVERFLOW_DROP_OLDEST or fits(
            limits, used(partition), batch.count, batch.size
        ):
            return None
        text = f"queue {key.queue!r} is at its limit, and new messages are "
        if is_final:
            self._remember(key, batch.run, now + REJECTED_MS)
            told = Counted("queue_full_rejected", batch.count, f"{text}rejected", alarming=True)
            return [_refusal(key, peer, batch, REFUSED_REJECTED), Notify(told)]
        blocked = self._blocked.setdefault(key, {})
        if len(blocked) < BLOCKED_MAX or (peer, batch.session) in blocked:
            blocked[peer, batch.session] = batch.count, batch.size
        told = Counted("queue_full_blocked", batch.count, f"{text}held back")
        return [_refusal(key, peer, batch, REFUSED_QUEUE_FULL), Notify(told)]

    def has_rejected(self, key: PartitionKey, session: Session, seq: int, now: int) -> bool:
        """Whether the message was refused for good just now: what comes after it may come."""
        rejected = self._rejected.get(key)
        if rejected is None:
            return False
        return any(now < until for _, until in rejected.overlap(Run(session, seq, seq)))

    def make_room(
        self, owner: Owner, copies: Replication, delivery: PartitionDelivery, now: int
    ) -> list[Effect]:
        """Discard what is beyond the limit, or call those who wait for room."""
        partition = delivery.partition
        key = partition.key
        limits = self._of(key)
        if limits is not None and limits.overflow == OVERFLOW_DROP_OLDEST:
            messages, size = excess(limits, delivery)
            if messages > 0 or size > 0:
                oldest = self._oldest.setdefault(key, OldestFirst())
                runs = oldest.take(delivery, messages, size, now)
                return discard(owner, copies, key, runs, now, reason=DROPPED_OLDEST) if runs else []
        return self._call(partition, limits) if key in self._blocked else []

    def counts(self) -> tuple[list[int], list[int]]:
        """How many wait to be called, and how many rejected runs are remembered, of each queue."""
        return (
            [len(blocked) for blocked in self._blocked.values()],
            [len(rejected.runs()) for rejected in self._rejected.values()],
        )

    def drop(self, key: PartitionKey) -> None:
        """The partition is another's, or gone: its publishers turn there."""
        self._blocked.pop(key, None)
        self._rejected.pop(key, None)
        self._oldest.pop(key, None)

    def _call(self, partition: Partition, limits: QueueSettings | None) -> list[Effect]:
        """Call as many of those who wait as there is room for; others may be faster, and do."""
        key = partition.key
        blocked = self._blocked[key]
        messages, size = used(partition)
        called: dict[NodeId, None] = {}
        for (peer, session), (count, more) in list(blocked.items()):
            if limits is not None and not fits(limits, (messages, size), count, more):
                break
            messages, size = messages + count, size + more
            del blocked[peer, session]
            called[peer] = None
        if not blocked:
            del self._blocked[key]
        return [Send(peer, RoomAgain(key.queue, key.number)) for peer in called]

    def _remember(self, key: PartitionKey, run: Run, until: int) -> None:
        rejected = self._rejected.setdefault(key, RunMap())
        if len(rejected.runs()) >= REJECTED_MAX:
            rejected = self._rejected[key] = RunMap()
        rejected.take(run)
        rejected.put(run, until)


class OldestFirst:
    """The batches of one partition by age, as their owner stamped them."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int]] = []
        self._held: list[tuple[int, int]] = []
        """Those that could not be discarded when it was their turn: looked at again later."""
        self._look_at = 0
        self._next_number = 0

    def take(self, delivery: PartitionDelivery, messages: int, size: int, now: int) -> list[Run]:
        """The oldest that nobody holds, so many messages and bytes of them, or all there are."""
        partition = delivery.partition
        self._take_up(partition, now)
        found: list[Run] = []
        while messages > 0 or size > 0:
            if not self._heap:
                break
            entry = heapq.heappop(self._heap)
            stored = partition.batches.get(entry[1])
            if stored is None:
                continue
            taken = _cut(delivery, stored, messages, size)
            count = sum(run.length for run in taken)
            found += taken
            messages -= count
            size -= stored.bytes_of(count)
            if messages <= 0 and size <= 0:
                heapq.heappush(self._heap, entry)  # there may be more in it
            elif count < stored.alive:
                self._held.append(entry)
        return found

    def _take_up(self, partition: Partition, now: int) -> None:
        """Take up the batches that are new, and now and then those that were held."""
        if self._next_number == 0:
            new = list(partition.batches)
        else:
            new = list(range(self._next_number, partition.next_number))
        self._next_number = partition.next_number
        for number in new:
            if number in partition.batches and not partition.batches[number].is_trace:
                heapq.heappush(self._heap, (partition.batches[number].stamp, number))
        if now >= self._look_at or not self._heap:
            self._look_at = now + HELD_AGAIN_MS
            held, self._held = self._held, []
            for entry in held:
                heapq.heappush(self._heap, entry)


def _cut(delivery: PartitionDelivery, stored: Stored, messages: int, size: int) -> list[Run]:
    """The first messages of a batch that nobody holds: as many as are to go."""
    if stored.due_at:
        return []  # it is not due yet
    each = max(1, stored.bytes_of(1))
    wanted = max(messages, -(-size // each))
    found: list[Run] = []
    for part, number in delivery.partition.pending.overlap(stored.run):
        if number != stored.number:
            continue
        for free in delivery.ready_of(part):
            count = min(free.length, wanted)
            if count <= 0:
                return found
            found.append(Run(free.session, free.first, free.first + count - 1))
            wanted -= count
    return found


def used(partition: Partition) -> tuple[int, int]:
    """How many messages and bytes the queue holds, those included that are being written."""
    return (
        partition.waiting + partition.incoming_count,
        partition.size + partition.incoming_size,
    )


def fits(limits: QueueSettings, holds: tuple[int, int], count: int, size: int) -> bool:
    """Whether so much more may come; into an empty queue anything may, or it never could."""
    messages, bytes_held = holds
    if not messages:
        return True
    return (not limits.max_messages or messages + count <= limits.max_messages) and (
        not limits.max_bytes or bytes_held + size <= limits.max_bytes
    )


def excess(limits: QueueSettings, delivery: PartitionDelivery) -> tuple[int, int]:
    """How many messages and bytes wait beyond the limits: what is held or rests is not counted."""
    partition = delivery.partition
    messages = partition.waiting - limits.max_messages if limits.max_messages else 0
    size = partition.size - limits.max_bytes if limits.max_bytes else 0
    if messages > 0:
        messages -= delivery.leases.count + delivery.delays.count + partition.resting
    if size > 0:
        resting = [*delivery.leases.runs(), *delivery.delays.runs()]
        size -= sum(
            partition.batches[number].bytes_of(part.length)
            for run in resting
            for part, number in partition.pending.overlap(run)
        )
        if partition.resting:
            size -= sum(
                stored.bytes_alive for stored in partition.batches.values() if stored.due_at
            )
    return messages, size


def _refusal(key: PartitionKey, peer: NodeId, batch: Batch, reason: int) -> Effect:
    refused = PublishRefused(key.queue, key.number, batch.session, batch.first, reason)
    return Send(peer, refused)
