"""Deduplication by the users' own ids: an id that was published of late is not taken again.

Beside a batch whose messages have ids the owner leaves a *marker*, which is a trace
(`core.traces`): empty messages, with the hashes of the ids, and the queue's window as
their time to live.

A second message with an id is not stored: its dot is noted as acked, and it is
confirmed, as soon as the first is committed; until then it is not answered, and its
publisher says it again.

Invariant: `KnownIds` has the ids of all markers that are pending or just being written.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from p2pmq.core.effects import Deduplicated, Notify, Persist, Send
from p2pmq.core.ids import Run, key_of
from p2pmq.core.packets.publishing import ID_HASH_BYTES, Confirm, RunField
from p2pmq.core.records import NoBody

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pmq.core.effects import Effect
    from p2pmq.core.ids import NodeId, Session
    from p2pmq.core.owner import Owner
    from p2pmq.core.packets.publishing import Batch, Publish
    from p2pmq.core.partition import Partition
    from p2pmq.core.replication import Replication

NO_ID = bytes(ID_HASH_BYTES)
MARK = int.from_bytes(b"idmarker")
WINDOW_MS = 120_000
"""As long as NATS JetStream remembers ids where a stream does not say."""


def twin(session: Session) -> Session:
    """The session of the markers of a session's messages; and that of a marker's messages."""
    return (int.from_bytes(session) ^ MARK).to_bytes(len(session))


def hashes_of(ids: bytes) -> Iterator[tuple[int, bytes]]:
    """Each message's position and hash, of those that have an id."""
    for position in range(len(ids) // ID_HASH_BYTES):
        found = ids[position * ID_HASH_BYTES : (position + 1) * ID_HASH_BYTES]
        if found != NO_ID:
            yield position, found


def marker_of(batch: Batch, window_ms: int) -> Batch | None:
    """The marker of a batch; None if none of its messages has an id, or ids are not heeded."""
    if not window_ms or not any(batch.ids):
        return None
    return replace(
        batch,
        session=twin(batch.session),
        size=0,
        bodies=NoBody(batch.count),
        stamp=0,
        ttl_ms=window_ms,
        delay_ms=0,
        keys=b"",
    )


class KnownIds:
    """The ids of one partition's messages of late, by their hashes."""

    def __init__(self) -> None:
        self._dots: dict[bytes, tuple[Session, int]] = {}

    def __len__(self) -> int:
        return len(self._dots)

    def add(self, run: Run, ids: bytes) -> None:
        """A marker has come; where an id is known already, the later one holds."""
        session = twin(run.session)
        for position, found in hashes_of(ids):
            self._dots[found] = (session, run.first + position)

    def drop(self, run: Run, ids: bytes) -> None:
        """A marker is gone."""
        session = twin(run.session)
        for position, found in hashes_of(ids):
            if self._dots.get(found) == (session, run.first + position):
                del self._dots[found]

    def first_of(self, batch: Batch) -> list[tuple[Run, Run]]:
        """Those of a batch's messages whose ids are known: each, and the one that had it first."""
        if not self._dots:
            return []
        found: list[tuple[Run, Run]] = []
        for position, hashed in hashes_of(batch.ids):
            known = self._dots.get(hashed)
            seq = batch.first + position
            if position < batch.count and known is not None and known != (batch.session, seq):
                session, first = known
                found.append((Run(batch.session, seq, seq), Run(session, first, first)))
        return found


def repeats(
    owner: Owner, copies: Replication, peer: NodeId, packet: Publish, now: int
) -> list[Effect] | None:
    """Note the messages of a batch that others were before: what that brings about.

    None: one of those others is not committed yet, so that nothing can be said.
    """
    key = key_of(packet)
    partition = owner.partition(key)
    runs: list[Run] = []
    for run, first in partition.traces.known_ids.first_of(packet.batch):
        if _is_under_way(partition, copies, first):
            return None
        if partition.seen.covers(first) and not partition.seen.overlap(run):
            runs.append(run)
    if not runs:
        return []
    removed, records = partition.remove(runs)
    assert not removed, "they were never taken"
    confirm = Confirm(*key, tuple(RunField(*run) for run in runs), copies.wanted(key))
    return [
        Persist((*owner.take_owed(key), *records), patient=True),
        *copies.spread_acks(key, runs, now),
        Send(peer, confirm),
        Notify(Deduplicated(key, tuple(runs))),
    ]


def _is_under_way(partition: Partition, copies: Replication, run: Run) -> bool:
    """Whether a message is being written, or not on enough disks yet."""
    return partition.is_appending([run]) or bool(copies.unproven(partition.key, run))
