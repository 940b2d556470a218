"""Shared maps: records that every node keeps, of which the latest of each name holds.

A last-writer-wins map (Shapiro et al., *A comprehensive study of convergent and
commutative replicated data types*, 2011): a record wins by its hybrid logical
stamp and then its author. A new one is told to every living member at once;
members compare digests of the whole map when they meet, and with one at random
twice a minute, so that whoever was away learns what it missed. Where the digests
differ they compare those of 256 buckets, and send what lies in these.

A map's clock is its own: a new record always goes beyond every stamp that the
map has merged, so that a node whose wall clock runs ahead does not win for ever,
and its stamps never reach the messages' clock. A stamp is refused only where
hardly one could follow. To refuse one for being days ahead of the wall clock
here, as is done with messages (which then get another), would leave two nodes
with different records in force, for as long as a clock is wrong.

What is taken back is a record too, one that says so: were it deleted, a member
that was away would bring it back.

Invariant: what is in the map is on disk, or on its way there; a token
resolves only after that.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from p2pmq.core.effects import Counted, Done, Notify, Persist, Refused, Resolve, Send
from p2pmq.core.hlc import HybridClock
from p2pmq.core.packets.registering import BUCKETS, RECORDS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from p2pmq.core.effects import Effect
    from p2pmq.core.events import DurableEvent
    from p2pmq.core.ids import NodeId
    from p2pmq.core.packets.registry import Packet
    from p2pmq.core.records import Record

COMPARE_MS = 30_000
EXCHANGE_MS = 1_000
"""One exchange of records at a time, each given so long: a newcomer meets many at once, and all
would send it the same."""
STAMP_MAX = 2**63
WALL_MS_MAX = 2**46
"""The year 4199: what a wall clock says beyond it is cut to that, far below STAMP_MAX."""


class SharedRecord(Protocol):
    """What a map holds: the one with the greatest (stamp, author) of a name is in force."""

    @property
    def stamp(self) -> int:
        """From the author's clock for this map."""
        ...

    @property
    def author(self) -> NodeId:
        """The node that made it."""
        ...


R = TypeVar("R", bound=SharedRecord)
Told_co = TypeVar("Told_co", bound=SharedRecord, covariant=True)


class RecordsTold(Protocol[Told_co]):
    """A packet with records that the receiver may lack, or have older."""

    @property
    def records(self) -> tuple[Told_co, ...]:
        """The records."""
        ...


class DigestTold(Protocol):
    """A packet with the digest of the sender's map."""

    @property
    def digest(self) -> bytes:
        """Of all records."""
        ...


class BucketsTold(Protocol):
    """A packet with the digests of the sender's buckets."""

    @property
    def digests(self) -> bytes:
        """Of each bucket, 8 bytes."""
        ...

    @property
    def answer(self) -> bool:
        """Whether it answers one of these."""
        ...


class RecordDurable(Protocol[Told_co]):
    """The event that a record made here is on disk; `before` is the one that held until then."""

    @property
    def record(self) -> Told_co:
        """The record."""
        ...

    @property
    def token(self) -> int:
        """Whom to tell."""
        ...

    @property
    def before(self) -> Told_co | None:
        """What held before."""
        ...


def newer(one: SharedRecord, other: SharedRecord | None) -> bool:
    """Whether `one` wins over `other`."""
    return other is None or (one.stamp, one.author) > (other.stamp, other.author)


class SharedMap(ABC, Generic[R]):
    """One map, as this node has it. `peers` gives the living members that it may tell.

    Whoever derives from it says how its records are named, kept and told.
    """

    FULL: str
    """Why there is no room for another name, and what to do."""
    FULL_COUNTER: str
    DISK_FULL: str
    """Why a record was not made: this node's disk is full."""
    TOLD_MAX = RECORDS_MAX
    """Records in one packet."""

    def __init__(self, own_id: NodeId, peers: Callable[[], Iterable[NodeId]], rng: Random) -> None:
        self._own_id = own_id
        self._peers = peers
        self._rng = rng
        self._clock = HybridClock()
        self._records: dict[str, R] = {}
        self._names: list[dict[str, None]] = [{} for _ in range(BUCKETS)]
        """The names in each bucket."""
        self._digests = [0] * BUCKETS
        """Of each bucket: the hashes of its records, joined by exclusive or."""
        self._digest: bytes | None = None
        self._compare_at: int | None = None
        self._exchange_until = 0

    # -- what differs from map to map --

    @abstractmethod
    def names_max(self) -> int:
        """How many names it may hold."""

    @abstractmethod
    def name_of(self, record: R) -> str:
        """The name under which a record stands."""

    @abstractmethod
    def saved(self, record: R) -> Record:
        """The record as the store is asked to keep it."""

    @abstractmethod
    def durable(self, record: R, token: int, before: R | None) -> DurableEvent:
        """The event that says that it is kept."""

    @abstractmethod
    def records_packet(self, records: tuple[R, ...]) -> Packet:
        """A packet of records."""

    @abstractmethod
    def digest_packet(self, digest: bytes) -> Packet:
        """A packet with the map's digest."""

    @abstractmethod
    def buckets_packet(self, digests: bytes, *, answer: bool) -> Packet:
        """A packet with the digests of the buckets."""

    @abstractmethod
    def on_changed(self, before: R | None, after: R | None) -> None:
        """Under one name another record is in force than before; None: none."""

    def merged(self, record: R, known: R | None) -> R | None:
        """What is to hold of a record that came and the one that holds; None: the latter."""
        return record if newer(record, known) else None

    def extra_of(self, record: R) -> bytes:  # noqa: ARG002  for those who merge more than the latest
        """What two records of one stamp and author may differ in, as a digest has it."""
        return b""

    # -- the user --

    def recover(self, records: Iterable[R], now: int) -> None:
        """Take up what the store holds."""
        for record in records:
            self._take(record)
        self._compare_at = now + self._rng.randrange(COMPARE_MS)

    def stamp(self, wall_ms: int) -> int:
        """The stamp of a record that is made here now."""
        return self._clock.stamp(min(wall_ms, WALL_MS_MAX))

    def has_room(self, name: str) -> bool:
        """Whether a record of the name may be made."""
        return name in self._records or len(self._records) < self.names_max()

    def make(self, record: R, token: int) -> list[Effect]:
        """Take a record that is made here, or that holds still; the token resolves when it is kept.

        What holds still is written again: it may be on its way to the disk only.
        """
        name = self.name_of(record)
        known = self._records.get(name)
        if not self.has_room(name):
            return [Resolve(token, Refused(self.FULL))]
        if record is not known:
            self._put(record)
        return [Persist((self.saved(record),), then=self.durable(record, token, known))]

    def on_durable(self, event: RecordDurable[R]) -> list[Effect]:
        """It is on disk: tell the caller, and every member in reach if it is new."""
        told: list[Effect] = []
        if event.record != event.before:
            packet = self.records_packet((event.record,))
            told = [Send(peer, packet) for peer in self._peers()]
        return [Resolve(event.token, Done()), *told]

    def on_write_refused(self, event: RecordDurable[R]) -> list[Effect]:
        """The disk is full: as if it had not been made; what others have is learnt again."""
        name = self.name_of(event.record)
        if self._records.get(name) == event.record != event.before:
            if event.before is not None:
                self._put(event.before)
            else:
                self._drop(name)
        return [Resolve(event.token, Refused(self.DISK_FULL))]

    # -- comparing --

    def on_peer_connected(self, peer: NodeId, now: int) -> list[Effect]:
        """Compare with whoever may have been away; an empty map has nothing to tell.

        Once more soon: what is said now may be lost, and a newcomer may own queues at once.
        """
        self._compare_by(now + EXCHANGE_MS)
        return [Send(peer, self.digest_packet(self.digest()))] if self._records else []

    def on_digest(self, peer: NodeId, packet: DigestTold, now: int) -> list[Effect]:
        """Compare buckets with a member that has another map, unless that is being done."""
        if packet.digest == self.digest():
            return []
        if now < self._exchange_until:
            self._compare_by(self._exchange_until)
            return []
        self._exchange_until = now + EXCHANGE_MS
        return [Send(peer, self.buckets_packet(self._buckets(), answer=False))]

    def on_buckets(self, peer: NodeId, packet: BucketsTold) -> list[Effect]:
        """Tell a member what lies in those of our buckets that are not as its own."""
        effects: list[Effect] = []
        if not packet.answer:
            effects.append(Send(peer, self.buckets_packet(self._buckets(), answer=True)))
        found: list[R] = []
        for bucket, (names, digest) in enumerate(zip(self._names, self._digests, strict=True)):
            if packet.digests[8 * bucket : 8 * bucket + 8] != digest.to_bytes(8):
                found += [self._records[name] for name in names]
        effects += [
            Send(peer, self.records_packet(tuple(found[at : at + self.TOLD_MAX])))
            for at in range(0, len(found), self.TOLD_MAX)
        ]
        return effects

    def on_records(self, packet: RecordsTold[R]) -> list[Effect]:
        """Merge what a member tells."""
        taken: list[Record] = []
        effects: list[Effect] = []
        for record in packet.records:
            name = self.name_of(record)
            if record.stamp >= STAMP_MAX or self.merged(record, self._records.get(name)) is None:
                continue
            if not self.has_room(name):
                effects = [Notify(Counted(self.FULL_COUNTER, text=self.FULL, alarming=True))]
                continue
            self._take(record)
            taken.append(self.saved(self._records[name]))
        return [Persist(tuple(taken)), *effects] if taken else effects

    def digest(self) -> bytes:
        """8 bytes that are equal for equal maps, and (but for chance) only for those."""
        if self._digest is None:
            self._digest = hashlib.blake2b(self._buckets(), digest_size=8).digest()
        return self._digest

    def hashed(self, record: R) -> bytes:
        """8 bytes that are equal for equal records, and (but for chance) only for those."""
        return _hashes(self.name_of(record), record, self.extra_of(record))[1].to_bytes(8)

    def records(self) -> list[R]:
        """All records, by name."""
        return [self._records[name] for name in sorted(self._records)]

    # -- time --

    def next_deadline(self) -> int | None:
        """When the map is to be compared with somebody's again."""
        return self._compare_at

    def on_timeout(self, now: int) -> list[Effect]:
        """Compare with a member at random."""
        if self._compare_at is None or now < self._compare_at:
            return []
        self._compare_at = now + COMPARE_MS
        peers = sorted(self._peers())  # an empty map asks, too: it may have missed everything
        if not peers:
            return []
        return [Send(self._rng.choice(peers), self.digest_packet(self.digest()))]

    def _compare_by(self, at: int) -> None:
        self._compare_at = at if self._compare_at is None else min(at, self._compare_at)

    # -- the map --

    def _buckets(self) -> bytes:
        return b"".join(digest.to_bytes(8) for digest in self._digests)

    def _take(self, record: R) -> None:
        self._clock.observe(record.stamp)
        merged = self.merged(record, self._records.get(self.name_of(record)))
        if merged is not None:
            self._put(merged)

    def _put(self, record: R) -> None:
        name = self.name_of(record)
        known = self._records.get(name)
        if known is not None:
            self._toggle(name, known)
        self._records[name] = record
        self._names[self._toggle(name, record)][name] = None
        self.on_changed(known, record)

    def _drop(self, name: str) -> None:
        record = self._records.pop(name)
        del self._names[self._toggle(name, record)][name]
        self.on_changed(record, None)

    def _toggle(self, name: str, record: R) -> int:
        """Put a record into the digest of its bucket, or take it out; which bucket that is."""
        bucket, hashed = _hashes(name, record, self.extra_of(record))
        self._digests[bucket] ^= hashed
        self._digest = None
        return bucket


def _hashes(name: str, record: SharedRecord, extra: bytes) -> tuple[int, int]:
    """The bucket of a record, and 8 bytes of hash as a number."""
    bucket = hashlib.blake2b(name.encode(), digest_size=1).digest()[0]
    data = record.stamp.to_bytes(8) + record.author + extra + name.encode()
    return bucket, int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())
