"""Retention: what was acked long ago is forgotten, and what comes back from before then is dead.

`seen` of a partition grows with every boot of every publisher. Once an hour the
owner forgets the sessions of which everything was acked, and nothing has changed
for `context_retention_ms`, and raises the partition's *horizon*: a message that was
stamped before it and has not been seen may have been acked and forgotten. No merge
can tell, so that one which a returning node still holds becomes a dead letter.

A horizon says something only of a replica that has seen every message before it
that is not done for. So the owner raises it only where that is so of every home
in reach, tells them, and takes a home's over only when all of that home is merged.
A home that is away misses it; its leftovers are judged by the others' horizon.

Invariant: what is committed, and was taken after the horizon or is known to its
owner, is never judged stale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.core.antientropy import within
from p2pmq.core.effects import Counted, Notify, Persist
from p2pmq.core.hlc import AHEAD_MS_MAX, COUNTER_BITS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pmq.core.copies import Home
    from p2pmq.core.effects import Effect
    from p2pmq.core.hlc import HybridClock
    from p2pmq.core.ids import PartitionKey, Run
    from p2pmq.core.owner import Owner
    from p2pmq.core.packets.publishing import Batch
    from p2pmq.core.partition import Partition
    from p2pmq.core.replication import Replication

PRUNE_MS = 3_600_000
"""How often is looked for what can be forgotten: it costs a walk over all sessions."""
MARGIN_PART = 4
"""The horizon is this part of the retention, a day at most, after the last change of what is
forgotten: wall clocks that differ by less do no harm (a day is also what a stamp is believed)."""
FORGET_MAX = 65_536
"""Runs of dots that are forgotten at once; the rest a little later."""
LOOK_AGAIN_MS = 60_000
"""How soon a partition is looked at again of which some home is just catching up."""


def judged(
    partition: Partition, batches: Iterable[Batch]
) -> tuple[tuple[Batch, ...], tuple[Batch, ...]]:
    """What another node holds: that which may be merged here, and that which may be acked."""
    fresh: list[Batch] = []
    stale: list[Batch] = []
    for batch in batches:
        unknown = partition.new_parts(batch) if batch.stamp < partition.horizon else []
        stale += unknown
        if not unknown:
            fresh.append(batch)
    return tuple(fresh), tuple(stale)


def stale_here(partition: Partition, home: Home) -> list[Run]:
    """What is pending here, or about to be, and may be acked by what a home can tell."""
    if not home.horizon:
        return []
    stale = [
        part
        for run in within(partition.unacked, home.told).difference(home.seen).runs()
        for part, number in partition.pending.overlap(run)
        if partition.batches[number].stamp < home.horizon
    ]
    if not partition.is_written_up_to(home.horizon):
        stale += [
            unknown
            for stored in partition.batches.values()
            if stored.stamp < home.horizon
            for part in partition.appending.overlap(stored.run)
            for unknown in home.seen.missing(part)
        ]
    return stale


class Retention:
    """Forgets, for every partition that this node owns."""

    def __init__(
        self, owner: Owner, replication: Replication, clock: HybridClock, retention_ms: int
    ) -> None:
        self._owner = owner
        self._copies = replication
        self._clock = clock
        self._retention_ms = retention_ms
        self._margin_ms = min(retention_ms // MARGIN_PART, AHEAD_MS_MAX)
        self._look_at: int | None = None
        self._late: dict[PartitionKey, None] = {}
        self._late_at: int | None = None

    def begin(self, now: int) -> None:
        """The node starts."""
        self._look_at = now + PRUNE_MS if self._retention_ms else None

    def next_deadline(self) -> int | None:
        """When to look what can be forgotten."""
        times = [at for at in (self._look_at, self._late_at) if at is not None]
        return min(times, default=None)

    def on_timeout(self, now: int) -> list[Effect]:
        """Forget what is old enough, unless a home is just catching up: then a little later."""
        due: list[PartitionKey] = []
        if self._look_at is not None and now >= self._look_at:
            self._look_at = now + PRUNE_MS
            due = list(self._owner.partitions)
        elif self._late_at is not None and now >= self._late_at:
            due = list(self._late)
        else:
            return []
        self._late, self._late_at = {}, None
        effects: list[Effect] = []
        for key in due:
            if self._owner.owns(key) and key in self._owner.partitions:
                effects += self._prune(key, now)
        return effects

    def _prune(self, key: PartitionKey, now: int) -> list[Effect]:
        partition = self._owner.partitions[key]
        before = self._clock.reading - (self._retention_ms << COUNTER_BITS)
        forgotten = partition.forgettable(before)[:FORGET_MAX] if before > 0 else []
        horizon = partition.horizon
        if forgotten:
            horizon = max(horizon, before + (self._margin_ms << COUNTER_BITS))
        holders = self._copies.holders_in_reach(key)
        if not forgotten and all(home.horizon >= horizon for home in holders):
            return []
        level = self._copies.is_active(key) and self._copies.counts_here(key)
        level = level and partition.is_written_up_to(horizon)
        if not level or not all(home.has_all_before(horizon, forgotten) for home in holders):
            self._look_soon(key, now)
            return []
        if len(forgotten) == FORGET_MAX:
            self._look_soon(key, now)
        effects: list[Effect] = []
        if forgotten:
            records = partition.retain(horizon, forgotten)
            effects.append(Persist((*self._owner.take_owed(key), *records), patient=True))
            sessions = len({run.session for run in forgotten})
            text = f"queue {key.queue!r}: {sessions} sessions whose messages were acked long ago"
            effects.append(Notify(Counted("sessions_forgotten", sessions, text)))
        return effects + self._copies.tell_horizon(key, horizon, forgotten, now)

    def _look_soon(self, key: PartitionKey, now: int) -> None:
        self._late[key] = None
        self._late_at = now + LOOK_AGAIN_MS
