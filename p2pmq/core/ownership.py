"""Who owns a partition just now: the ring says who should, membership who is there.

A partition's homes are the first R members of its preference list, there or
not; the owner is the first of them that is there. While none is, nobody owns
the partition: its messages are on their disks, and new ones wait in their
publishers' outboxes.

Invariant: answers change only in `refresh`, never between two events.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from p2pmq.config import Retry
from p2pmq.core.dedup import WINDOW_MS
from p2pmq.core.names import dead_letters_of
from p2pmq.core.ring import Place, Ring
from p2pmq.core.spreading import partitions_of, share_of
from p2pmq.core.traces import Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from p2pmq.config import Replication
    from p2pmq.core.ids import NodeId, PartitionKey
    from p2pmq.core.packets.registering import QueueSettings

CACHE_MAX = 100_000
FOR_EVER = 2**63
"""Failures of a message for which there is no dead-letter queue: it is tried again."""


class Ownership:
    """The living owner of each partition, as this node sees it."""

    def __init__(
        self,
        replication: Replication,
        settings_of: Callable[[str], QueueSettings | None] = lambda _queue: None,
        retry: Retry | None = None,
    ) -> None:
        self._retry = retry if retry is not None else Retry()
        self._settings_of = settings_of
        self._ring = Ring(())
        self._replicas = replication.replicas
        self._min_copies = replication.min_copies
        self._moved_to: list[Place] | None = None
        """The roster that the ring is not of yet: it is made when somebody asks.

        While a mesh forms, the roster changes with every other packet.
        """
        self._alive: dict[NodeId, None] = {}
        self.away: tuple[NodeId, ...] = ()
        """The members that may own and are not there."""
        self._owners: dict[PartitionKey, NodeId | None] = {}
        self._homes: dict[PartitionKey, tuple[tuple[NodeId, ...], int]] = {}

    def owner_of(self, key: PartitionKey) -> NodeId | None:
        """The living owner, or None while it is away or nobody can own."""
        try:
            return self._owners[key]
        except KeyError:
            homes, _ = self.homes_of(key)
            owner = next((home for home in homes if home in self._alive), None)
            if len(self._owners) >= CACHE_MAX:
                self._owners.clear()
            self._owners[key] = owner
            return owner

    def homes_of(self, key: PartitionKey) -> tuple[tuple[NodeId, ...], int]:
        """On whose disks the partition belongs, there or not, and how many copies commit (W).

        W is a majority of R unless min_copies says otherwise, and never more
        than there are homes: it counts the roster, not who is alive. A partition beyond
        those of the queue as this node knows it has none until it knows better.
        """
        found = self._homes.get(key)
        if found is None:
            partitions = self.partitions_of(key.queue)
            if key.number < partitions:
                if self._moved_to is not None:
                    self._ring, self._moved_to = self._ring.changed(self._moved_to), None
                replicas, wanted = self.copies_of(key.queue)
                homes = self._ring.homes(key.queue, key.number, partitions, replicas)
                found = (homes, max(1, min(wanted, len(homes))))
            else:
                found = ((), 1)
            if len(self._homes) >= CACHE_MAX:
                self._homes.clear()
            self._homes[key] = found
        return found

    def partitions_of(self, queue: str) -> int:
        """Over how many partitions a queue is spread, as this node knows it."""
        return partitions_of(self._settings_of(queue))

    def knows(self, key: PartitionKey) -> bool:
        """Whether this node has heard that the queue has such a partition."""
        return key.number < self.partitions_of(key.queue)

    def copies_of(self, queue: str) -> tuple[int, int]:
        """R and W of a queue as it was declared, or by the mesh's default; W is not capped yet."""
        replicas, min_copies = self._replicas, self._min_copies
        declared = self._settings_of(queue)
        if declared is not None:
            replicas = declared.replicas or replicas
            min_copies = declared.min_copies or (0 if declared.replicas else min_copies)
        return replicas, min(min_copies, replicas) or replicas // 2 + 1

    def retry_of(self, queue: str) -> Retry:
        """What becomes of the queue's messages that fail, as declared or by the mesh's default."""
        declared = self._settings_of(queue)
        retry = self._retry
        if declared is not None:
            retry = Retry(
                declared.max_deliveries or retry.max_deliveries,
                declared.backoff_ms or retry.backoff_ms,
                declared.backoff_max_ms or retry.backoff_max_ms,
            )
        has_dead_letters = dead_letters_of(queue)[0]
        return retry if has_dead_letters else replace(retry, max_deliveries=FOR_EVER)

    def kept_of(self, queue: str) -> Kept:
        """For how long the traces of a partition's messages are kept, and how many bytes."""
        declared = self._settings_of(queue)
        if declared is None:
            return Kept(WINDOW_MS)
        window_ms = declared.dedup_window_ms or WINDOW_MS
        retain_bytes = share_of(declared.retain_bytes, partitions_of(declared))
        return Kept(window_ms, declared.retain_ms, retain_bytes)

    def ageing_of(self, queue: str) -> int:
        """For how many ms of waiting a level of the queue's priorities counts; 0: for any."""
        declared = self._settings_of(queue)
        return declared.ageing_ms if declared is not None else 0

    def in_line(self, key: PartitionKey) -> list[NodeId]:
        """The living members that are no homes, in the order in which they would become so."""
        homes, _ = self.homes_of(key)
        partitions = self.partitions_of(key.queue)
        if not homes or key.number >= partitions:
            return []
        line = self._ring.preference_list(key.queue, key.number, partitions)
        return [node_id for node_id in line if node_id in self._alive and node_id not in homes]

    def is_alive(self, node_id: NodeId) -> bool:
        """Whether a member that may own is there."""
        return node_id in self._alive

    def refresh(
        self, places: Iterable[Place], is_alive: Callable[[NodeId], bool]
    ) -> list[PartitionKey]:
        """Take a new roster; the partitions (of those asked for) whose owner has changed."""
        self._moved_to = sorted(places, key=lambda place: place.node_id)
        self._alive = {
            place.node_id: None
            for place in self._moved_to
            if place.weight and is_alive(place.node_id)
        }
        self.away = tuple(
            place.node_id
            for place in self._moved_to
            if place.weight and place.node_id not in self._alive
        )
        before, self._owners, self._homes = self._owners, {}, {}
        return [key for key, owner in before.items() if self.owner_of(key) != owner]

    def alive_owners(self) -> list[NodeId]:
        """The living members that may own."""
        return list(self._alive)
