"""Expiry: messages whose time to live is over leave their partition, and are told of.

So do traces (`core.traces`), and the oldest retained copies where there are too many.

Only the owner removes by time; the other homes learn it as they learn of acks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.core.dots import DotSet
from p2pmq.core.effects import Expired, Notify, Persist, TracesGone

if TYPE_CHECKING:
    from p2pmq.core.delivery import PartitionDelivery
    from p2pmq.core.effects import Effect
    from p2pmq.core.ids import Run
    from p2pmq.core.owner import Owner
    from p2pmq.core.replication import Replication

EXPIRE_AGAIN_MS = 1_000
"""A message that a consumer holds when its time ends is looked at again after this."""


def expire(
    owner: Owner, copies: Replication, delivery: PartitionDelivery, now: int
) -> list[Effect]:
    """Remove what nobody holds and whose time is over, here and at the other homes.

    What a consumer holds may be acked yet: it is looked at again a little later.
    """
    partition = delivery.partition
    runs: list[Run] = []
    traces: list[Run] = []
    for stored in partition.expired(now):
        pending = DotSet(run for run, _ in partition.pending.overlap(stored.run))
        held = DotSet(run for run, _ in delivery.leases.overlap(stored.run))
        if held or partition.appending.overlap(stored.run):
            partition.expires_later(stored, now + EXPIRE_AGAIN_MS)
        (traces if stored.is_trace else runs).extend(pending.difference(held).runs())
    traces += [
        run
        for stored in partition.beyond(owner.kept_of(partition.key.queue).copies_bytes)
        for run in DotSet(run for run, _ in partition.pending.overlap(stored.run)).runs()
    ]
    if not runs and not traces:
        return []
    key = partition.key
    removed, records = partition.remove([*runs, *traces])
    owner.forget(key, removed)
    persist = Persist((*owner.take_owed(key), *records), patient=True)
    told = [Notify(Expired(key, tuple(runs)))] if runs else []
    told += [Notify(TracesGone(key, tuple(traces)))] if traces else []
    return [persist, *copies.spread_acks(key, removed, now), *told]
