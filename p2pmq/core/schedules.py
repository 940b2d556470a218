"""Schedules: what is published again and again, and when; a map that every node keeps.

Which node publishes is `firing`'s to say.

Invariant: two equal records follow each other under no name, so that services which
schedule at every start make one record.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from p2pmq.core.events import ScheduleDurable
from p2pmq.core.packets.scheduling import (
    SCHEDULES_TOLD_MAX,
    ScheduleBuckets,
    ScheduleDigest,
    ScheduleRecord,
    ScheduleRecords,
)
from p2pmq.core.records import ScheduleSaved
from p2pmq.core.shared import COMPARE_MS, SharedMap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from p2pmq.core.effects import Effect
    from p2pmq.core.events import ScheduleRequested
    from p2pmq.core.ids import NodeId

SCHEDULES_MAX = 1_024
"""Names of a mesh, those of removed schedules among them; every node keeps them, with bodies."""
FULL = (
    f"the mesh knows {SCHEDULES_MAX:,} names of schedules, removed ones among them, and keeps no "
    "more: use a name that was used before"
)
DISK_FULL = (
    "this node's disk is full, and a schedule must be on it before it holds; free space there, "
    "then try again"
)


class Schedules(SharedMap[ScheduleRecord]):
    """The schedules, as this node knows them."""

    FULL = FULL
    FULL_COUNTER = "schedules_full"
    DISK_FULL = DISK_FULL
    TOLD_MAX = SCHEDULES_TOLD_MAX

    def __init__(self, own_id: NodeId, peers: Callable[[], Iterable[NodeId]], rng: Random) -> None:
        super().__init__(own_id, peers, rng)
        self.on_change: Callable[[str, ScheduleRecord | None], None] = lambda _name, _record: None
        """Told of the record that is in force under a name from now on; None: none."""

    def recover(self, records: Iterable[ScheduleRecord], now: int) -> None:
        """Take up what the store holds."""
        for record in records:
            self._take(record)
        # Nodes compare at different times, without a draw: an empty map changes no history.
        self._compare_at = now + COMPARE_MS * (1 + self._own_id[0]) // 256

    def next_deadline(self) -> int | None:
        """When the map is to be compared with somebody's again; an empty one never."""
        return self._compare_at if self._records else None

    def on_schedule(self, event: ScheduleRequested, wall_ms: int) -> list[Effect]:
        """Take a schedule, or its removal; the token resolves when that is durable here.

        To remove what this node does not know of makes a record too: others may know of it.
        """
        known = self._records.get(event.record.name)
        if known is not None:
            same = replace(event.record, stamp=known.stamp, author=known.author)
            if same == known:
                return self.make(known, event.token)
        record = replace(event.record, stamp=self.stamp(wall_ms), author=self._own_id)
        return self.make(record, event.token)

    def in_force(self) -> list[ScheduleRecord]:
        """The schedules that are not removed, by name."""
        return [record for record in self.records() if not record.removed]

    # -- as a shared map --

    def names_max(self) -> int:
        """How many names there may be."""
        return SCHEDULES_MAX

    def name_of(self, record: ScheduleRecord) -> str:
        """Its name."""
        return record.name

    def saved(self, record: ScheduleRecord) -> ScheduleSaved:
        """For the store."""
        return ScheduleSaved(record)

    def durable(
        self, record: ScheduleRecord, token: int, before: ScheduleRecord | None
    ) -> ScheduleDurable:
        """It is kept."""
        return ScheduleDurable(record, token, before)

    def records_packet(self, records: tuple[ScheduleRecord, ...]) -> ScheduleRecords:
        """Tell records."""
        return ScheduleRecords(records)

    def digest_packet(self, digest: bytes) -> ScheduleDigest:
        """Compare."""
        return ScheduleDigest(digest)

    def buckets_packet(self, digests: bytes, *, answer: bool) -> ScheduleBuckets:
        """Compare closer."""
        return ScheduleBuckets(digests, answer)

    def on_changed(self, before: ScheduleRecord | None, after: ScheduleRecord | None) -> None:
        """Whoever fires follows."""
        record = after if after is not None else before
        assert record is not None
        self.on_change(record.name, after)
