"""The registry: which settings a queue was declared with, on every node of the mesh.

A map of records in which the latest declaration of a queue wins, by its
hybrid logical stamp and then its author (a last-writer-wins map: Shapiro et
al., *A comprehensive study of convergent and commutative replicated data
types*, 2011). A declaration is told to every living member at once; members
compare digests of the whole map when they meet, and with one at random twice
a minute, so that whoever was away learns what it missed.

The registry's clock is its own: a declaration always goes beyond every stamp
that it has merged, so that a node whose wall clock runs ahead does not win
for ever, and its stamps never reach the messages' clock.

Invariant: what is in the map is on disk, or on its way there; a token
resolves only after that.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from p2pmq.core.effects import Counted, Done, Notify, Persist, Refused, Resolve, Send
from p2pmq.core.events import DeclareDurable
from p2pmq.core.hlc import HybridClock
from p2pmq.core.packets.registering import (
    RECORDS_MAX,
    QueueDigest,
    QueueRecord,
    QueueRecords,
    QueueSettings,
)
from p2pmq.core.records import QueueSaved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from p2pmq.core.effects import Effect
    from p2pmq.core.events import DeclareRequested
    from p2pmq.core.ids import NodeId

QUEUES_MAX = 65_536
"""Declared queues of a mesh; a queue that nobody declared needs no record."""
COMPARE_MS = 30_000
STAMP_MAX = 2**64 - 1
FULL = (
    f"the mesh has {QUEUES_MAX:,} declared queues, and keeps no more records: use the default "
    "settings for queues that need nothing special, which need no declaration"
)

DISK_FULL = (
    "this node's disk is full, and a declaration must be on it before it holds; free space there, "
    "then declare it again"
)


def newer(one: QueueRecord, other: QueueRecord | None) -> bool:
    """Whether `one` wins over `other`."""
    return other is None or (one.stamp, one.author) > (other.stamp, other.author)


class Registry:
    """The records of this node. `peers` gives the living members that it may tell."""

    def __init__(self, own_id: NodeId, peers: Callable[[], Iterable[NodeId]], rng: Random) -> None:
        self._own_id = own_id
        self._peers = peers
        self._rng = rng
        self._clock = HybridClock()
        self._records: dict[str, QueueRecord] = {}
        self._digest: bytes | None = None
        self._compare_at: int | None = None
        self.version = 0
        """Rises whenever settings have changed."""

    def recover(self, records: Iterable[QueueRecord], now: int) -> None:
        """Take up what the store holds."""
        for record in records:
            self._take(record)
        self._compare_at = now + self._rng.randrange(COMPARE_MS)

    def settings_of(self, queue: str) -> QueueSettings | None:
        """What the queue was declared with; None: nobody declared it."""
        record = self._records.get(queue)
        return record.settings if record is not None else None

    def on_declare(self, event: DeclareRequested, wall_ms: int) -> list[Effect]:
        """Take a new declaration, and resolve the token when it is durable here."""
        if event.queue not in self._records and len(self._records) >= QUEUES_MAX:
            return [Resolve(event.token, Refused(FULL))]
        known = self._records.get(event.queue)
        if known is not None and known.settings == event.settings:
            return [Resolve(event.token, Done())]  # services declare at every start
        stamp = self._clock.stamp(wall_ms)
        record = QueueRecord(event.queue, stamp, self._own_id, event.settings)
        self._take(record)
        return [Persist((QueueSaved(record),), then=DeclareDurable(record, event.token))]

    def on_durable(self, event: DeclareDurable) -> list[Effect]:
        """It is on disk: tell the caller and every member in reach."""
        packet = QueueRecords((event.record,))
        told: list[Effect] = [Send(peer, packet) for peer in self._peers()]
        return [Resolve(event.token, Done()), *told]

    def on_write_refused(self, event: DeclareDurable) -> list[Effect]:
        """The disk is full: as if it had never been declared; what others have is learnt again."""
        if self._records.get(event.record.queue) == event.record:
            del self._records[event.record.queue]
            self._digest = None
            self.version += 1
        return [Resolve(event.token, Refused(DISK_FULL))]

    def on_peer_connected(self, peer: NodeId) -> list[Effect]:
        """Compare with whoever may have been away; an empty map has nothing to tell."""
        return [Send(peer, QueueDigest(self.digest()))] if self._records else []

    def on_digest(self, peer: NodeId, packet: QueueDigest) -> list[Effect]:
        """Tell all that is here, if theirs is another map."""
        if packet.digest == self.digest():
            return []
        records = [self._records[queue] for queue in sorted(self._records)]
        pages = [records[at : at + RECORDS_MAX] for at in range(0, len(records), RECORDS_MAX)]
        ends = [page[-1].queue for page in pages[:-1]]
        return [
            Send(peer, QueueRecords(tuple(page), after, upto, wanted=True))
            for page, after, upto in zip(pages or [[]], ["", *ends], [*ends, ""], strict=True)
        ]

    def on_records(self, peer: NodeId, packet: QueueRecords) -> list[Effect]:
        """Merge what a member tells, and answer with what it lacks."""
        taken: list[QueueSaved] = []
        for record in packet.records:
            known = self._records.get(record.queue)
            if record.stamp < STAMP_MAX and newer(record, known):
                if known is None and len(self._records) >= QUEUES_MAX:
                    return [Notify(Counted("queue_records_full", text=FULL, alarming=True))]
                self._take(record)
                taken.append(QueueSaved(record))
        effects: list[Effect] = [Persist(tuple(taken))] if taken else []
        return effects + (self._answer(peer, packet) if packet.wanted else [])

    def digest(self) -> bytes:
        """8 bytes that are equal for equal maps, and (but for chance) only for those."""
        if self._digest is None:
            stamps = [
                (queue, self._records[queue].stamp, self._records[queue].author)
                for queue in sorted(self._records)
            ]
            self._digest = hashlib.blake2b(repr(stamps).encode(), digest_size=8).digest()
        return self._digest

    def records(self) -> list[QueueRecord]:
        """All records, by name."""
        return [self._records[queue] for queue in sorted(self._records)]

    def next_deadline(self) -> int | None:
        """When the map is to be compared with somebody's again."""
        return self._compare_at

    def on_timeout(self, now: int) -> list[Effect]:
        """Compare with a member at random."""
        if self._compare_at is None or now < self._compare_at:
            return []
        self._compare_at = now + COMPARE_MS
        peers = sorted(self._peers()) if self._records else []
        return [Send(self._rng.choice(peers), QueueDigest(self.digest()))] if peers else []

    def _answer(self, peer: NodeId, packet: QueueRecords) -> list[Effect]:
        theirs = {record.queue: record for record in packet.records}
        mine = [
            record
            for record in self.records()
            if packet.after < record.queue
            and (not packet.upto or record.queue <= packet.upto)
            and newer(record, theirs.get(record.queue))
        ]
        return [
            Send(peer, QueueRecords(tuple(mine[at : at + RECORDS_MAX])))
            for at in range(0, len(mine), RECORDS_MAX)
        ]

    def _take(self, record: QueueRecord) -> None:
        self._clock.observe(record.stamp)
        known = self._records.get(record.queue)
        if not newer(record, known):
            return
        self._records[record.queue] = record
        self._digest = None
        if known is None or known.settings != record.settings:
            self.version += 1
