"""Deleting a queue: what is in it goes from every disk, and comes back from none.

A deletion is a part of the queue's record in the registry: its *incarnation*, a stamp
of the messages' clock. Whatever was stamped up to then counts as acked, on every node
that has heard of it, be it there already or brought by one that was away. So a
deletion needs nothing of its own to be merged: acked is final (DESIGN.md section 6).

Who deletes asks the owner of each partition for a stamp that is later than all that
it has, since clocks differ: the latest of these is the incarnation. What is published
under the name afterwards is stamped later, and belongs to a new queue.

Invariant: the incarnation of a queue only rises, and no node stamps a message of the
queue at or before the incarnation it knows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from p2pmq.core.effects import (
    Discarded,
    Notify,
    Persist,
    Refused,
    Resolve,
    Send,
    TracesGone,
)
from p2pmq.core.ids import PartitionKey, key_of
from p2pmq.core.packets.deleting import (
    DELETION_REFUSALS,
    DELETION_REFUSED_ALONE,
    DELETION_REFUSED_MOVED,
    DeletionReach,
    DeletionRequest,
)
from p2pmq.core.packets.delivering import Handover
from p2pmq.core.packets.publishing import RunField
from p2pmq.core.packets.replicating import Replicate, Supply
from p2pmq.core.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from p2pmq.core.effects import Effect
    from p2pmq.core.events import DeletionRequested
    from p2pmq.core.hlc import HybridClock
    from p2pmq.core.ids import NodeId, Run
    from p2pmq.core.owner import Owner
    from p2pmq.core.packets.publishing import Batch
    from p2pmq.core.partition import Partition
    from p2pmq.core.registry import Registry
    from p2pmq.core.replication import Replication

DELETED = "deleted"
COPIES_DELETED = "copies_deleted"
"""At another home than the owner: it need not be the only one that tells of a message."""
BATCHES_AT_ONCE = 1_000
"""Some milliseconds of work, until other things get their turn."""
LOOK_AGAIN_MS = 100
"""How soon what was just being written when a deletion came is looked at again."""
ASK_AGAIN_MS = 500
U32_MASK = 2**32 - 1
NO_OWNER = "the owner of one of its partitions is away, and what lies there cannot be told of"
NO_ANSWER = "an owner did not answer in time"
CLOCK_ABSURD = (
    "an owner's clock is more than a day ahead of this node's: set the clocks of both right"
)

Carrier = TypeVar("Carrier", Replicate, Supply, Handover)


def without_deleted(packet: Carrier, reach: int) -> Carrier:
    """The packet with what was deleted with its queue as acks: nothing of it is to be stored."""
    if not reach or all(batch.stamp > reach for batch in packet.batches):
        return packet
    batches: tuple[Batch, ...] = packet.batches
    gone: tuple[RunField, ...] = tuple(
        RunField(*batch.run) for batch in batches if batch.stamp <= reach
    )
    fresh = tuple(batch for batch in batches if batch.stamp > reach)
    return replace(packet, acked=(*packet.acked, *gone), batches=fresh)


def told_of_deleted(owner: Owner, key: PartitionKey, batches: Iterable[Batch]) -> list[Effect]:
    """What came here with another node's copy, and goes by a deletion without having been here.

    Nobody else may ever tell of it: whoever held it learns that it is acked. To be asked before
    the acks that `without_deleted` makes of it are taken.
    """
    reach = owner.deleted_until(key.queue)
    if not reach:
        return []
    partition = owner.partition(key)
    new = [part for b in batches if b.stamp <= reach for part in partition.new_parts(b)]
    traces = tuple(part.run for part in new if part.retained or part.ids)
    runs = tuple(part.run for part in new if not part.retained and not part.ids)
    reason = DELETED if owner.owns(key) else COPIES_DELETED
    told: list[Effect] = [Notify(Discarded(key, runs, reason))] if runs else []
    return [*told, Notify(TracesGone(key, traces))] if traces else told


@dataclass(slots=True)
class Asking:
    """A deletion that this node was asked for: whose answers are awaited."""

    queue: str
    token: int
    waits_for: dict[PartitionKey, None]
    why: str = NO_ANSWER
    """What was in the way so far."""
    reach: int = 0


class Deletions:
    """The deletions that this node was asked for, and what all of them have removed here."""

    def __init__(
        self,
        owner: Owner,
        copies: Replication,
        registry: Registry,
        clock: HybridClock,
        owner_of: Callable[[PartitionKey], NodeId | None],
    ) -> None:
        self._owner = owner
        self._copies = copies
        self._registry = registry
        self._clock = clock
        self._owner_of = owner_of
        self._asking: dict[int, Asking] = {}
        self._deadlines: Timers[int] = Timers()
        self._again: Timers[int] = Timers()
        """When to ask those again that have not answered."""
        self._sweeps: Timers[PartitionKey] = Timers()
        """The partitions in which something older than a deletion may lie."""
        self._next_number = 1

    # -- who asks --

    def on_requested(self, event: DeletionRequested, now: int) -> list[Effect]:
        """Ask the owner of every partition how far the deletion is to reach."""
        number = self._next_number
        self._next_number = (self._next_number + 1) & U32_MASK
        waits_for = dict.fromkeys(event.partitions)
        self._asking[number] = Asking(event.queue, event.token, waits_for)
        self._deadlines.set(number, now + event.timeout_ms)
        return self._ask(number, now)

    def _ask(self, number: int, now: int) -> list[Effect]:
        """Ask those that have not answered; where that is nobody just now, a little later."""
        asking = self._asking[number]
        self._again.set(number, now + ASK_AGAIN_MS)
        effects: list[Effect] = []
        for key in asking.waits_for:
            peer = self._owner_of(key)
            if peer is None:
                asking.why = NO_OWNER
            else:
                effects.append(Send(peer, DeletionRequest(key.queue, key.number, number)))
        return effects

    def on_reach(self, peer: NodeId, packet: DeletionReach, now: int) -> list[Effect]:
        """An owner has answered: after the last of them the deletion is made.

        Only who owns the partition still can tell; another is asked when it is known.
        """
        asking = self._asking.get(packet.number)
        key = PartitionKey(asking.queue, packet.partition) if asking is not None else None
        if asking is None or key not in asking.waits_for or peer != self._owner_of(key):
            return []
        wall_ms = now + self._clock.wall_offset_ms
        if packet.refused:
            asking.why = DELETION_REFUSALS.get(packet.refused, "refused")
            return []
        if not self._clock.believes(packet.reach, wall_ms):
            return self._end(packet.number, CLOCK_ABSURD)
        asking.reach = max(asking.reach, packet.reach)
        del asking.waits_for[key]
        if asking.waits_for:
            return []
        self._forget(packet.number)
        return self._registry.on_delete(asking.queue, asking.reach, asking.token, wall_ms)

    def _forget(self, number: int) -> Asking:
        self._deadlines.clear(number)
        self._again.clear(number)
        return self._asking.pop(number)

    def _end(self, number: int, why: str) -> list[Effect]:
        return [Resolve(self._forget(number).token, Refused(why))]

    # -- the owner --

    def on_request(self, peer: NodeId, packet: DeletionRequest, now: int) -> list[Effect]:
        """Tell a stamp that is later than all that is here; what comes from now on is later yet."""
        key = key_of(packet)
        refused = 0
        begun: list[Effect] = []
        if not self._owner.owns(key):
            refused = DELETION_REFUSED_MOVED
        else:
            _, begun = self._copies.copies(key, now)
            if not self._copies.is_active(key):
                refused = DELETION_REFUSED_ALONE
        reach = 0 if refused else self._clock.stamp(now + self._clock.wall_offset_ms)
        answer = DeletionReach(packet.number, key.number, reach, refused)
        return [*begun, Send(peer, answer)]

    # -- every node --

    def reach_of(self, queue: str) -> int:
        """The stamp up to which messages of the queue are deleted; 0: none are."""
        reach = self._registry.incarnation_of(queue)
        return reach if reach and self._clock.believes(reach, self._clock.wall_ms) else 0

    def on_deleted(self, queues: Iterable[str], now: int) -> list[Effect]:
        """Queues were deleted, or are known to have been since the start: remove what is here."""
        effects: list[Effect] = []
        for queue in queues:
            if reach := self.reach_of(queue):
                self._clock.observe(reach)
                for key in sorted(key for key in self._owner.partitions if key.queue == queue):
                    effects += self._sweep(key, reach, now)
        return effects

    def next_deadline(self) -> int | None:
        """When somebody's patience ends, or more is to be removed."""
        timers = (self._deadlines, self._again, self._sweeps)
        times = [timer.next_deadline() for timer in timers]
        return min((at for at in times if at is not None), default=None)

    def on_timeout(self, now: int) -> list[Effect]:
        """End what has waited long enough; go on with what is not done."""
        effects: list[Effect] = []
        while (number := self._deadlines.pop_due(now)) is not None:
            effects += self._end(number, self._asking[number].why)
        while (number := self._again.pop_due(now)) is not None:
            effects += self._ask(number, now)
        due: list[PartitionKey] = []
        while (key := self._sweeps.pop_due(now)) is not None:
            due.append(key)
        for key in due:
            if key in self._owner.partitions:
                effects += self._sweep(key, self.reach_of(key.queue), now)
        return effects

    def _sweep(self, key: PartitionKey, reach: int, now: int) -> list[Effect]:
        """Remove the next of what is older than the deletion, held by a consumer or not."""
        partition = self._owner.partitions[key]
        found_old = (stored for stored in partition.batches.values() if stored.stamp <= reach)
        old = list(islice(found_old, BATCHES_AT_ONCE + 1))
        runs: list[Run] = []
        traces: list[Run] = []
        for stored in old[:BATCHES_AT_ONCE]:
            found = [run for run, _ in partition.pending.overlap(stored.run)]
            (traces if stored.is_trace else runs).extend(found)
        if old:
            more = len(old) > BATCHES_AT_ONCE
            self._sweeps.set(key, now if more else now + LOOK_AGAIN_MS)
        if not runs and not traces:
            return []
        return self._remove(partition, runs, traces, now)

    def _remove(
        self, partition: Partition, runs: list[Run], traces: list[Run], now: int
    ) -> list[Effect]:
        key = partition.key
        removed, records = partition.remove([*runs, *traces])
        self._owner.forget(key, removed)
        effects: list[Effect] = [Persist((*self._owner.take_owed(key), *records), patient=True)]
        owns = self._owner.owns(key)
        if runs:
            reason = DELETED if owns else COPIES_DELETED
            effects.append(Notify(Discarded(key, tuple(runs), reason)))
        if not owns:
            return effects
        effects += self._copies.spread_acks(key, removed, now)
        if traces:
            effects.append(Notify(TracesGone(key, tuple(traces))))
        return effects + self._owner.on_active(key, now)
