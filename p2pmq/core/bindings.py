"""Bindings: topics whose events are copied into queues, on every node of the mesh.

A shared map (`core/shared.py`) with a record for each pair of a pattern and a
queue, which says whether the two are bound. A pair that was parted keeps its
record for ever: without it a member that was away would bind it again.

Invariant: the trie holds the pairs that are bound, and no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.core.effects import Counted, Notify
from p2pmq.core.events import BindDurable
from p2pmq.core.packets.binding import (
    BindingBuckets,
    BindingDigest,
    BindingRecord,
    BindingRecords,
)
from p2pmq.core.records import BindingSaved
from p2pmq.core.shared import COMPARE_MS, SharedMap
from p2pmq.core.topics import Trie, is_pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from p2pmq.core.effects import Effect
    from p2pmq.core.events import BindRequested
    from p2pmq.core.ids import NodeId
    from p2pmq.core.shared import RecordsTold

BINDINGS_MAX = 16_384
"""Pairs of a mesh, those that are bound no more among them."""
KNOWN_MAX = 4_096
"""Topics whose queues are remembered, until some binding changes."""
FULL = (
    f"the mesh knows {BINDINGS_MAX:,} pairs of pattern and queue, parted ones among them, and "
    "keeps no more: bind a few wide patterns, or a pair that was bound before"
)
DISK_FULL = (
    "this node's disk is full, and a binding must be on it before it holds; free space there, "
    "then try again"
)


def name_of_pair(pattern: str, queue: str) -> str:
    """The name of a pair's record; neither part can have a line's end in it."""
    return f"{pattern}\n{queue}"


class Bindings(SharedMap[BindingRecord]):
    """The bindings, as this node knows them."""

    FULL = FULL
    FULL_COUNTER = "bindings_full"
    DISK_FULL = DISK_FULL

    def __init__(self, own_id: NodeId, peers: Callable[[], Iterable[NodeId]], rng: Random) -> None:
        super().__init__(own_id, peers, rng)
        self._trie: Trie[str] = Trie()
        self._known: dict[str, tuple[str, ...]] = {}

    def recover(self, records: Iterable[BindingRecord], now: int) -> None:
        """Take up what the store holds."""
        for record in records:
            self._take(record)
        # Nodes compare at different times, without a draw: an empty map changes no history.
        self._compare_at = now + COMPARE_MS * (1 + self._own_id[0]) // 256

    def next_deadline(self) -> int | None:
        """When the map is to be compared with somebody's again; an empty one never."""
        return self._compare_at if self._records else None

    # -- the user --

    def on_bind(self, event: BindRequested, wall_ms: int) -> list[Effect]:
        """Bind a pair, or part it; the token resolves when that is durable here.

        To part what this node does not know of makes a record too: others may know of it.
        """
        record = self._records.get(name_of_pair(event.pattern, event.queue))
        if record is None or record.bound is not event.bound:
            stamp = self.stamp(wall_ms)
            record = BindingRecord(event.pattern, event.queue, stamp, self._own_id, event.bound)
        return self.make(record, event.token)

    def match(self, topic: str) -> tuple[str, ...]:
        """The queues into which events of the topic are copied, each once, by name."""
        found = self._known.get(topic)
        if found is None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            found = self._known[topic] = tuple(sorted(self._trie.match(topic)))
        return found

    def bound(self) -> list[BindingRecord]:
        """The pairs that are bound, by pattern and queue."""
        return [record for record in self.records() if record.bound]

    def on_records(self, packet: RecordsTold[BindingRecord]) -> list[Effect]:
        """Merge what a member tells, but for what no pattern is."""
        well = tuple(record for record in packet.records if is_pattern(record.pattern))
        bad = len(packet.records) - len(well)
        if not bad:
            return super().on_records(packet)
        effects: list[Effect] = [Notify(Counted("bindings_malformed", bad))]
        return effects + super().on_records(BindingRecords(well))

    # -- as a shared map --

    def names_max(self) -> int:
        """How many pairs there may be."""
        return BINDINGS_MAX

    def name_of(self, record: BindingRecord) -> str:
        """The pair."""
        return name_of_pair(record.pattern, record.queue)

    def saved(self, record: BindingRecord) -> BindingSaved:
        """For the store."""
        return BindingSaved(record)

    def durable(
        self, record: BindingRecord, token: int, before: BindingRecord | None
    ) -> BindDurable:
        """It is kept."""
        return BindDurable(record, token, before)

    def records_packet(self, records: tuple[BindingRecord, ...]) -> BindingRecords:
        """Tell records."""
        return BindingRecords(records)

    def digest_packet(self, digest: bytes) -> BindingDigest:
        """Compare."""
        return BindingDigest(digest)

    def buckets_packet(self, digests: bytes, *, answer: bool) -> BindingBuckets:
        """Compare closer."""
        return BindingBuckets(digests, answer)

    def on_changed(self, before: BindingRecord | None, after: BindingRecord | None) -> None:
        """The trie follows."""
        if before is not None and before.bound:
            self._trie.remove(before.pattern, before.queue)
        if after is not None and after.bound:
            self._trie.insert(after.pattern, after.queue)
        self._known.clear()
