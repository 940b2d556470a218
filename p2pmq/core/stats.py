"""How deep queues are, as their owner knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.core.packets.publishing import QueueStats

if TYPE_CHECKING:
    from p2pmq.core.owner import Owner


def stats_of(owner: Owner, queue: str = "") -> list[QueueStats]:
    """The depth of each partition owned here, or of one queue's."""
    found: list[QueueStats] = []
    for key, partition in owner.partitions.items():
        delivery = owner.deliveries.get(key)
        if delivery is None or not owner.owns(key) or queue not in ("", key.queue):
            continue
        replicas, min_copies = owner.copies_of(key.queue)
        in_flight = delivery.leases.count
        delayed = delivery.delays.count + partition.resting
        stats = QueueStats(
            key.queue,
            key.number,
            ready=max(0, partition.waiting - in_flight - delayed),
            in_flight=in_flight,
            delayed=delayed,
            size=partition.size,
            consumers=len(delivery.consumers),
            replicas=replicas,
            min_copies=min_copies,
            scheduled=partition.resting,
        )
        found.append(stats)
    return found
