"""Purging: everything that waits in a queue goes, at somebody's word.

The owner removes what a consumer could get now, a piece at a time so that it goes
on with its other work, and tells the other homes as it tells them of acks. What
consumers hold, and what rests after a failure, stays, as in RabbitMQ.

Invariant: a token resolves once: by the owner's answer, or at its deadline; a request
is done once, however often it comes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pmq.core.discarding import discard
from p2pmq.core.effects import Counted, Notify, Purged, Refused, Resolve, Send
from p2pmq.core.events import PurgeDurable
from p2pmq.core.ids import key_of
from p2pmq.core.packets.limiting import (
    PURGE_REFUSALS,
    PURGE_REFUSED_ALONE,
    PURGE_REFUSED_DISK_FULL,
    PURGE_REFUSED_MOVED,
    PurgeRequest,
    PurgeResult,
)
from p2pmq.core.recent import Recent
from p2pmq.core.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.core.effects import Effect
    from p2pmq.core.events import PurgeRequested
    from p2pmq.core.ids import NodeId, PartitionKey
    from p2pmq.core.owner import Owner
    from p2pmq.core.replication import Replication

PURGED = "purged"
BATCHES_AT_ONCE = 1_000
"""Some milliseconds of work, until other things get their turn."""
U32_MASK = 2**32 - 1
NO_OWNER = "the queue's owner is away"
NO_ANSWER = "the queue's owner did not answer in time, and may have purged it or not"


@dataclass(slots=True)
class Job:
    """A purge at the owner: which batches are to be looked at still, and how much went."""

    key: PartitionKey
    peer: NodeId
    number: int
    left: deque[int]
    count: int = 0


class Purges:
    """The purges that this node has asked for, and those that it does as an owner."""

    def __init__(
        self,
        boot: int,
        owner: Owner,
        copies: Replication,
        owner_of: Callable[[PartitionKey], NodeId | None],
    ) -> None:
        self._boot = boot
        self._owner = owner
        self._copies = copies
        self._owner_of = owner_of
        self._tokens: dict[int, int] = {}
        self._deadlines: Timers[int] = Timers()
        self._jobs: deque[Job] = deque()
        self._next_number = 1
        self._go_on_at: int | None = None
        self._done: dict[NodeId, tuple[int, Recent]] = {}
        """Of each peer's last boot, the requests that have come."""

    # -- who asks --

    def on_requested(self, event: PurgeRequested, now: int) -> list[Effect]:
        """Ask the owner; its answer, or the deadline, ends it."""
        peer = self._owner_of(event.key)
        if peer is None:
            return [Resolve(event.token, Refused(NO_OWNER))]
        number = self._next_number
        self._next_number = (self._next_number + 1) & U32_MASK
        self._tokens[number] = event.token
        self._deadlines.set(number, now + event.timeout_ms)
        return [Send(peer, PurgeRequest(*event.key, number, self._boot))]

    def on_result(self, packet: PurgeResult) -> list[Effect]:
        """The owner has done it, or says why not."""
        token = self._tokens.pop(packet.number, None)
        if token is None:
            return []
        self._deadlines.clear(packet.number)
        if not packet.refused:
            return [Resolve(token, Purged(packet.count))]
        why = PURGE_REFUSALS.get(packet.refused, "refused")
        done = f" ({packet.count:,} messages are gone already)" if packet.count else ""
        return [Resolve(token, Refused(f"{why}{done}"))]

    # -- the owner --

    def on_request(self, peer: NodeId, packet: PurgeRequest, now: int) -> list[Effect]:
        """Begin to remove what waits in the partition now."""
        if not self._is_new(peer, packet):
            return [Notify(Counted("purge_repeated"))]
        key = key_of(packet)
        job = Job(key, peer, packet.number, deque())
        if key in self._owner.partitions:
            job.left.extend(self._owner.partitions[key].batches)
        self._jobs.append(job)
        return self._go_on(now)

    def _is_new(self, peer: NodeId, packet: PurgeRequest) -> bool:
        boot, recent = self._done.get(peer, (-1, Recent()))
        if packet.boot < boot:
            return False
        if packet.boot > boot:
            recent = Recent()
            self._done[peer] = packet.boot, recent
        return recent.is_new(packet.number)

    def on_durable(self, event: PurgeDurable) -> list[Effect]:
        """The last of it is on the owner's disk."""
        return [Send(event.peer, PurgeResult(event.number, event.count))]

    def on_write_refused(self, event: PurgeDurable) -> list[Effect]:
        """The disk is full: it is gone from memory alone, until the disk takes it."""
        return [Send(event.peer, PurgeResult(event.number, event.count, PURGE_REFUSED_DISK_FULL))]

    # -- time --

    def next_deadline(self) -> int | None:
        """When somebody's patience ends, or the next piece is due."""
        patience = self._deadlines.next_deadline()
        if self._go_on_at is None or patience is None:
            return patience if self._go_on_at is None else self._go_on_at
        return min(patience, self._go_on_at)

    def on_timeout(self, now: int) -> list[Effect]:
        """End what has waited long enough; go on with what is not done."""
        effects: list[Effect] = []
        while (number := self._deadlines.pop_due(now)) is not None:
            effects.append(Resolve(self._tokens.pop(number), Refused(NO_ANSWER)))
        if self._go_on_at is not None and now >= self._go_on_at:
            effects += self._go_on(now)
        return effects

    def _go_on(self, now: int) -> list[Effect]:
        """Remove the next piece, of one purge at a time."""
        effects: list[Effect] = []
        if self._jobs:
            effects = self._step(self._jobs[0], now)
        self._go_on_at = now if self._jobs else None
        return effects

    def _step(self, job: Job, now: int) -> list[Effect]:
        key = job.key
        refused = 0 if self._owner.owns(key) else PURGE_REFUSED_MOVED
        if not refused and job.left and not self._copies.is_active(key):
            refused = PURGE_REFUSED_ALONE
        if refused:
            self._jobs.popleft()
            return [Send(job.peer, PurgeResult(job.number, job.count, refused))]
        partition = self._owner.partition(key)
        delivery = self._owner.deliveries.get(key)  # none: nothing was ever ready here
        runs = []
        for _ in range(min(BATCHES_AT_ONCE, len(job.left))):
            stored = partition.batches.get(job.left.popleft())
            if stored is not None and delivery is not None and not stored.is_trace:
                runs += delivery.ready_of(stored.run)
        job.count += sum(run.length for run in runs)
        then = None
        if not job.left:
            self._jobs.popleft()
            then = PurgeDurable(key, job.peer, job.number, job.count)
        return discard(self._owner, self._copies, key, runs, now, reason=PURGED, then=then)
