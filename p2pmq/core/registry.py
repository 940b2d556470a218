"""The registry: which settings a queue was declared with, on every node of the mesh.

A shared map (`core/shared.py`) in which the latest declaration of a queue holds, but for the
number of its partitions and its incarnation (`core/deleting.py`): these never fall, so that
of two records the greater ones hold. A deletion is a record without settings.

A node that is new knows of no declaration, and may own queues as soon as it has met
somebody: it takes no messages until it has the same map as a member (or a moment has passed).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from p2pmq.core.effects import Persist, Refused, Resolve, Send
from p2pmq.core.events import DeclareDurable
from p2pmq.core.packets.registering import (
    QueueBuckets,
    QueueDigest,
    QueueRecord,
    QueueRecords,
    QueueSettings,
)
from p2pmq.core.records import QueueSaved
from p2pmq.core.shared import SharedMap, newer
from p2pmq.core.spreading import partitions_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from p2pmq.core.effects import Effect
    from p2pmq.core.events import DeclareRequested
    from p2pmq.core.ids import NodeId
    from p2pmq.core.shared import BucketsTold, DigestTold, RecordDurable, RecordsTold

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
LEVEL_WITHIN_MS = 2_000
"""So long a new node waits for a member that tells it all declarations …"""
ASK_AGAIN_MS = 200
"""… and asks another one, as packets may be lost."""


class Registry(SharedMap[QueueRecord]):
    """The queues' records of this node."""

    FULL = FULL
    FULL_COUNTER = "queue_records_full"
    DISK_FULL = DISK_FULL

    def __init__(self, own_id: NodeId, peers: Callable[[], Iterable[NodeId]], rng: Random) -> None:
        super().__init__(own_id, peers, rng)
        self.version = 0
        """Rises whenever settings have changed."""
        self.is_level = True
        """Whether messages may be taken by these settings."""
        self._is_new = False
        self._level_by = 0
        self._ask_at = 0
        self._raised: dict[str, None] = {}
        self._deleted: dict[str, None] = {}

    def begin_new(self) -> None:
        """The node has just begun its life: it compares with the first that it meets."""
        self._is_new = True

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
            raised = QueueRecord(
                event.queue, stamp, self._own_id, settings, self.incarnation_of(event.queue)
            )
            if partitions_of(settings) > known and self.has_room(event.queue):
                # On disk first: a full disk must not take back a partition that has messages.
                then = self.durable(raised, event.token, record)
                return [Persist((self.saved(raised),), then=then)]
            record = raised
        return self.make(record, event.token)

    def hash_of(self, queue: str) -> bytes:
        """8 bytes that are equal for equal records of a queue; zeros: there is none."""
        record = self._records.get(queue)
        return bytes(8) if record is None else self.hashed(record)

    def unlike(self, queue: str, known: bytes) -> tuple[QueueRecord, ...]:
        """The queue's record, if there is one and it has another hash."""
        record = self._records.get(queue)
        return () if record is None or self.hashed(record) == known else (record,)

    def incarnation_of(self, queue: str) -> int:
        """The stamp up to which messages of the queue are deleted; 0: none are."""
        record = self._records.get(queue)
        return record.incarnation if record is not None else 0

    def on_delete(self, queue: str, incarnation: int, token: int, wall_ms: int) -> list[Effect]:
        """Take the settings of a queue back, and all that was stamped up to its new incarnation.

        Its partitions stay: whoever has not heard of it yet may publish into each of them.
        """
        before = self._records.get(queue)
        if not self.has_room(queue):
            return [Resolve(token, Refused(self.FULL))]
        kept = QueueSettings(partitions=before.settings.partitions if before is not None else 0)
        record = QueueRecord(queue, self.stamp(wall_ms), self._own_id, kept, incarnation)
        # On disk first: a deletion that a full disk refuses must remove nothing.
        return [Persist((self.saved(record),), then=self.durable(record, token, before))]

    def on_durable(self, event: RecordDurable[QueueRecord]) -> list[Effect]:
        """As in the base; more partitions, and a deletion, are in force from here on."""
        record, before = event.record, event.before
        held = self._records.get(record.queue)
        if rises(before, record) and held != record:
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

    def take_deleted(self) -> list[str]:
        """The queues that were deleted since this was last asked, or that are recovered so."""
        deleted, self._deleted = list(self._deleted), {}
        return deleted

    # -- becoming level --

    def on_peer_connected(self, peer: NodeId, now: int) -> list[Effect]:
        """As in the base; a new node asks for all that there is."""
        if not self._is_new:
            return super().on_peer_connected(peer, now)
        self._is_new, self.is_level = False, False
        self._level_by, self._ask_at = now + LEVEL_WITHIN_MS, now + ASK_AGAIN_MS
        return [*super().on_peer_connected(peer, now), self._ask(peer)]

    def on_digest(self, peer: NodeId, packet: DigestTold, now: int) -> list[Effect]:
        """As in the base; equal maps are level."""
        if packet.digest == self.digest():
            self._become_level()
        return super().on_digest(peer, packet, now)

    def on_buckets(self, peer: NodeId, packet: BucketsTold) -> list[Effect]:
        """As in the base; equal maps are level."""
        if packet.digests == self._buckets():
            self._become_level()
        return super().on_buckets(peer, packet)

    def on_records(self, packet: RecordsTold[QueueRecord]) -> list[Effect]:
        """As in the base; whether that was all is asked at once."""
        self._ask_at = 0
        return super().on_records(packet)

    def next_deadline(self) -> int | None:
        """As in the base, or when a new node asks again."""
        at = super().next_deadline()
        return at if self.is_level else self._ask_at if at is None else min(at, self._ask_at)

    def on_timeout(self, now: int) -> list[Effect]:
        """As in the base; a new node asks again, and goes on without an answer in the end."""
        effects = super().on_timeout(now)
        if self.is_level or now < self._ask_at:
            return effects
        if now >= self._level_by:
            self._become_level()
            return effects
        self._ask_at = min(now + ASK_AGAIN_MS, self._level_by)
        peers = sorted(self._peers())
        return [*effects, *([self._ask(self._rng.choice(peers))] if peers else [])]

    def _ask(self, peer: NodeId) -> Effect:
        return Send(peer, self.buckets_packet(self._buckets(), answer=False))

    def _become_level(self) -> None:
        self.version += not self.is_level  # what has waited is taken now
        self.is_level, self._is_new = True, False

    # -- as a shared map --

    def merged(self, record: QueueRecord, known: QueueRecord | None) -> QueueRecord | None:
        """The later one, with the greater number of partitions and the later incarnation."""
        if known is None:
            return record
        later = record if newer(record, known) else known
        most = max(record.settings.partitions, known.settings.partitions)
        if later.settings.partitions != most:
            later = replace(later, settings=replace(later.settings, partitions=most))
        incarnation = max(record.incarnation, known.incarnation)
        if later.incarnation != incarnation:
            later = replace(later, incarnation=incarnation)
        return later if later != known else None

    def extra_of(self, record: QueueRecord) -> bytes:
        """Its partitions and its incarnation: a merge may have raised them."""
        partitions, incarnation = record.settings.partitions, record.incarnation
        if not partitions and not incarnation:
            return b""
        return partitions.to_bytes(2) + incarnation.to_bytes(8)

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
        if after is not None and after.incarnation > (before.incarnation if before else 0):
            self.version += 1
            self._deleted[after.queue] = None
        name = after.queue if after is not None else before.queue if before is not None else ""
        settings = [record.settings if record is not None else None for record in (before, after)]
        if partitions_of(settings[0]) != partitions_of(settings[1]):
            self._raised[name] = None


def rises(before: QueueRecord | None, record: QueueRecord) -> bool:
    """Whether a record says more of what never falls than the one before it."""
    if before is None:
        return record.incarnation > 0 or partitions_of(record.settings) > 1
    return record.incarnation > before.incarnation or (
        partitions_of(record.settings) > partitions_of(before.settings)
    )


def lowered(asked: int, known: int) -> str:
    """Why a declaration with fewer partitions is refused, and what to do."""
    return (
        f"it has {known} partitions, and partitions={asked} is fewer: messages may lie in each "
        f"of them. Give {known} or more, or leave it out"
    )
