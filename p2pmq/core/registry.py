"""The registry: which settings a queue was declared with, on every node of the mesh.

A shared map (`core/shared.py`) in which the latest declaration of a queue holds, but for the
number of its partitions: that never falls, so that of two records the greater one holds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from p2pmq.core.effects import Persist, Refused, Resolve
from p2pmq.core.events import DeclareDurable
from p2pmq.core.packets.registering import QueueBuckets, QueueDigest, QueueRecord, QueueRecords
from p2pmq.core.records import QueueSaved
from p2pmq.core.shared import SharedMap, newer
from p2pmq.core.spreading import partitions_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from p2pmq.core.effects import Effect
    from p2pmq.core.events import DeclareRequested
    from p2pmq.core.ids import NodeId
    from p2pmq.core.packets.registering import QueueSettings
    from p2pmq.core.shared import RecordDurable

QUEUES_MAX = 65_536
"""Declared queues of a mesh; a queue that nobody declared needs no record."""

FULL = (
    f"the mesh has {QUEUES_MAX:,} declared queues, and keeps no more records: use the default "
    "settings for queues that need nothing special, which need no declaration"
)
DISK_FULL = (
    "this node's disk is full, and a declaration must be on it before it holds; free space there, "
    "then declare it again"
)


class Registry(SharedMap[QueueRecord]):
    """The queues' records of this node."""

    FULL = FULL
    FULL_COUNTER = "queue_records_full"
    DISK_FULL = DISK_FULL

    def __init__(self, own_id: NodeId, peers: Callable[[], Iterable[NodeId]], rng: Random) -> None:
        super().__init__(own_id, peers, rng)
        self.version = 0
        """Rises whenever settings have changed."""
        self._raised: dict[str, None] = {}

    def settings_of(self, queue: str) -> QueueSettings | None:
        """What the queue was declared with; None: nobody declared it."""
        record = self._records.get(queue)
        return record.settings if record is not None else None

    def on_declare(self, event: DeclareRequested, wall_ms: int) -> list[Effect]:
        """Take a new declaration, and resolve the token when it is durable here."""
        record = self._records.get(event.queue)
        settings, known = event.settings, partitions_of(self.settings_of(event.queue))
        if settings.partitions and settings.partitions < known:
            return [Resolve(event.token, Refused(lowered(settings.partitions, known)))]
        if not settings.partitions and record is not None:
            settings = replace(settings, partitions=record.settings.partitions)
        if record is None or record.settings != settings:  # services declare at every start
            stamp = self.stamp(wall_ms)
            raised = QueueRecord(event.queue, stamp, self._own_id, settings)
            if partitions_of(settings) > known and self.has_room(event.queue):
                # On disk first: a full disk must not take back a partition that has messages.
                then = self.durable(raised, event.token, record)
                return [Persist((self.saved(raised),), then=then)]
            record = raised
        return self.make(record, event.token)

    def on_durable(self, event: RecordDurable[QueueRecord]) -> list[Effect]:
        """As in the base; more partitions are in force from here on."""
        record, before = event.record, event.before
        held = self._records.get(record.queue)
        former = before.settings if before is not None else None
        if partitions_of(record.settings) > partitions_of(former) and held != record:
            self._take(record)
            merged = self._records[record.queue]
            if held != before:  # another came meanwhile, and lies on the disk
                return [
                    Persist((self.saved(merged),), then=self.durable(merged, event.token, held))
                ]
        return super().on_durable(event)

    def take_raised(self) -> list[str]:
        """The queues that have another number of partitions than when this was last asked."""
        raised, self._raised = list(self._raised), {}
        return raised

    # -- as a shared map --

    def merged(self, record: QueueRecord, known: QueueRecord | None) -> QueueRecord | None:
        """The later one, with as many partitions as the one of the two that has more.

        Not where they are of two queues of one name, of which one was deleted.
        """
        if known is None:
            return record
        later = record if newer(record, known) else known
        if record.incarnation != known.incarnation:
            return later if later is record else None
        most = max(record.settings.partitions, known.settings.partitions)
        if later.settings.partitions != most:
            later = replace(later, settings=replace(later.settings, partitions=most))
        return later if later != known else None

    def extra_of(self, record: QueueRecord) -> bytes:
        """Its partitions: a merge may have raised them."""
        return record.settings.partitions.to_bytes(2) if record.settings.partitions else b""

    def names_max(self) -> int:
        """How many queues may be declared."""
        return QUEUES_MAX

    def name_of(self, record: QueueRecord) -> str:
        """The queue."""
        return record.queue

    def saved(self, record: QueueRecord) -> QueueSaved:
        """For the store."""
        return QueueSaved(record)

    def durable(
        self, record: QueueRecord, token: int, before: QueueRecord | None
    ) -> DeclareDurable:
        """It is kept."""
        return DeclareDurable(record, token, before)

    def records_packet(self, records: tuple[QueueRecord, ...]) -> QueueRecords:
        """Tell records."""
        return QueueRecords(records)

    def digest_packet(self, digest: bytes) -> QueueDigest:
        """Compare."""
        return QueueDigest(digest)

    def buckets_packet(self, digests: bytes, *, answer: bool) -> QueueBuckets:
        """Compare closer."""
        return QueueBuckets(digests, answer)

    def on_changed(self, before: QueueRecord | None, after: QueueRecord | None) -> None:
        """Placement follows settings."""
        if before is None or after is None or before.settings != after.settings:
            self.version += 1
        name = after.queue if after is not None else before.queue if before is not None else ""
        settings = [record.settings if record is not None else None for record in (before, after)]
        if partitions_of(settings[0]) != partitions_of(settings[1]):
            self._raised[name] = None


def lowered(asked: int, known: int) -> str:
    """Why a declaration with fewer partitions is refused, and what to do."""
    return (
        f"it has {known} partitions, and partitions={asked} is fewer: messages may lie in each "
        f"of them. Give {known} or more, or leave it out"
    )
