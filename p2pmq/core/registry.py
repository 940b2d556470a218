"""The registry: which settings a queue was declared with, on every node of the mesh.

A map of records in which the latest declaration of a queue wins, by its
hybrid logical stamp and then its author (a last-writer-wins map: Shapiro et
al., *A comprehensive study of convergent and commutative replicated data
types*, 2011). A declaration is told to every living member at once; members
compare digests of the whole map when they meet, and with one at random twice
a minute, so that whoever was away learns what it missed. Where the digests
differ they compare those of 256 buckets, and send what lies in these.

The registry's clock is its own: a declaration always goes beyond every stamp
that it has merged, so that a node whose wall clock runs ahead does not win
for ever, and its stamps never reach the messages' clock. A stamp is refused
only where hardly one could follow. To refuse one for being days ahead of the
wall clock here, as is done with messages (which then get another), would leave
two nodes with different copies in mind for one queue, for as long as a clock
is wrong.

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
    BUCKETS,
    RECORDS_MAX,
    QueueBuckets,
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
EXCHANGE_MS = 1_000
"""One exchange of records at a time, each given so long: a newcomer meets many at once, and all
would send it the same."""
STAMP_MAX = 2**63
WALL_MS_MAX = 2**46
"""The year 4199: what a wall clock says beyond it is cut to that, far below STAMP_MAX."""
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
        self._names: list[dict[str, None]] = [{} for _ in range(BUCKETS)]
        """The queues in each bucket."""
        self._digests = [0] * BUCKETS
        """Of each bucket: the hashes of its records, joined by exclusive or."""
        self._digest: bytes | None = None
        self._compare_at: int | None = None
        self._exchange_until = 0
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

    # -- declaring --

    def on_declare(self, event: DeclareRequested, wall_ms: int) -> list[Effect]:
        """Take a new declaration, and resolve the token when it is durable here."""
        known = self._records.get(event.queue)
        if known is None and len(self._records) >= QUEUES_MAX:
            return [Resolve(event.token, Refused(FULL))]
        if known is not None and known.settings == event.settings:
            record = known  # services declare at every start; it may still be on its way to disk
        else:
            stamp = self._clock.stamp(min(wall_ms, WALL_MS_MAX))
            record = QueueRecord(event.queue, stamp, self._own_id, event.settings)
            self._put(record)
        return [Persist((QueueSaved(record),), then=DeclareDurable(record, event.token, known))]

    def on_durable(self, event: DeclareDurable) -> list[Effect]:
        """It is on disk: tell the caller, and every member in reach if it is new."""
        told: list[Effect] = []
        if event.record != event.before:
            packet = QueueRecords((event.record,))
            told = [Send(peer, packet) for peer in self._peers()]
        return [Resolve(event.token, Done()), *told]

    def on_write_refused(self, event: DeclareDurable) -> list[Effect]:
        """The disk is full: as if it had not been declared; what others have is learnt again."""
        queue = event.record.queue
        if self._records.get(queue) == event.record != event.before:
            if event.before is not None:
                self._put(event.before)
            else:
                self._drop(queue)
        return [Resolve(event.token, Refused(DISK_FULL))]

    # -- comparing --

    def on_peer_connected(self, peer: NodeId) -> list[Effect]:
        """Compare with whoever may have been away; an empty map has nothing to tell."""
        return [Send(peer, QueueDigest(self.digest()))] if self._records else []

    def on_digest(self, peer: NodeId, packet: QueueDigest, now: int) -> list[Effect]:
        """Compare buckets with a member that has another map, unless that is being done."""
        if packet.digest == self.digest():
            return []
        if now < self._exchange_until:
            self._compare_by(self._exchange_until)
            return []
        self._exchange_until = now + EXCHANGE_MS
        return [Send(peer, QueueBuckets(self._buckets()))]

    def on_buckets(self, peer: NodeId, packet: QueueBuckets) -> list[Effect]:
        """Tell a member what lies in those of our buckets that are not as its own."""
        effects: list[Effect] = []
        if not packet.answer:
            effects.append(Send(peer, QueueBuckets(self._buckets(), answer=True)))
        found: list[QueueRecord] = []
        for bucket, (names, digest) in enumerate(zip(self._names, self._digests, strict=True)):
            if packet.digests[8 * bucket : 8 * bucket + 8] != digest.to_bytes(8):
                found += [self._records[queue] for queue in names]
        effects += [
            Send(peer, QueueRecords(tuple(found[at : at + RECORDS_MAX])))
            for at in range(0, len(found), RECORDS_MAX)
        ]
        return effects

    def on_records(self, packet: QueueRecords) -> list[Effect]:
        """Merge what a member tells."""
        taken: list[QueueSaved] = []
        effects: list[Effect] = []
        for record in packet.records:
            known = self._records.get(record.queue)
            if record.stamp >= STAMP_MAX or not newer(record, known):
                continue
            if known is None and len(self._records) >= QUEUES_MAX:
                effects = [Notify(Counted("queue_records_full", text=FULL, alarming=True))]
                continue
            self._take(record)
            taken.append(QueueSaved(record))
        return [Persist(tuple(taken)), *effects] if taken else effects

    def digest(self) -> bytes:
        """8 bytes that are equal for equal maps, and (but for chance) only for those."""
        if self._digest is None:
            self._digest = hashlib.blake2b(self._buckets(), digest_size=8).digest()
        return self._digest

    def records(self) -> list[QueueRecord]:
        """All records, by name."""
        return [self._records[queue] for queue in sorted(self._records)]

    # -- time --

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

    def _compare_by(self, at: int) -> None:
        self._compare_at = at if self._compare_at is None else min(at, self._compare_at)

    # -- the map --

    def _buckets(self) -> bytes:
        return b"".join(digest.to_bytes(8) for digest in self._digests)

    def _take(self, record: QueueRecord) -> None:
        self._clock.observe(record.stamp)
        if newer(record, self._records.get(record.queue)):
            self._put(record)

    def _put(self, record: QueueRecord) -> None:
        known = self._records.get(record.queue)
        if known is not None:
            self._toggle(known)
        self._records[record.queue] = record
        self._names[self._toggle(record)][record.queue] = None
        if known is None or known.settings != record.settings:
            self.version += 1

    def _drop(self, queue: str) -> None:
        del self._names[self._toggle(self._records.pop(queue))][queue]
        self.version += 1

    def _toggle(self, record: QueueRecord) -> int:
        """Put a record into the digest of its bucket, or take it out; which bucket that is."""
        bucket, hashed = _hashes(record)
        self._digests[bucket] ^= hashed
        self._digest = None
        return bucket


def _hashes(record: QueueRecord) -> tuple[int, int]:
    """The bucket of a record, and 8 bytes of hash as a number."""
    bucket = hashlib.blake2b(record.queue.encode(), digest_size=1).digest()[0]
    data = record.stamp.to_bytes(8) + record.author + record.queue.encode()
    return bucket, int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())
