"""Discarding: messages that leave their partition without an ack, and are told of.

Only the owner removes by length or at somebody's word; the other homes learn it as
they learn of acks, so that nothing of it comes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.core.effects import Discarded, Notify, Persist

if TYPE_CHECKING:
    from p2pmq.core.effects import Effect
    from p2pmq.core.events import DurableEvent
    from p2pmq.core.ids import PartitionKey, Run
    from p2pmq.core.owner import Owner
    from p2pmq.core.replication import Replication


def discard(
    owner: Owner,
    copies: Replication,
    key: PartitionKey,
    runs: list[Run],
    now: int,
    *,
    reason: str,
    then: DurableEvent | None = None,
) -> list[Effect]:
    """Remove messages here and at the other homes; none of them may be on its way to the disk."""
    removed, records = owner.partition(key).remove(runs)
    owner.forget(key, removed)
    persist = Persist((*owner.take_owed(key), *records), then=then, patient=then is None)
    told = [Notify(Discarded(key, tuple(removed), reason))] if removed else []
    return [persist, *copies.spread_acks(key, removed, now), *told]
