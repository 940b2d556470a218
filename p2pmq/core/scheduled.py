"""Scheduled messages: those that their publisher wants delivered later.

They are pending like any, at every home, but not ready; only the owner lets them
out, by its own monotonic clock. What remains of a delay travels, never a moment,
so that a wrong wall clock on one node lets nothing out early. On disk it is a moment
of the wall clock there, with the delay beside it: a clock that was set back while
the node was down makes nobody wait longer than was asked for.

Invariant: a batch has a `due_at` exactly while it is scheduled, and then has an entry
in `Partition.scheduled`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pmq.core.delivery import PartitionDelivery


def left_ms(delay_ms: int, due_ms: int, wall_ms: int) -> int:
    """What is left of a delay after a restart, by the moment on the disk; 0: it is over."""
    return max(0, min(delay_ms, due_ms - wall_ms))


def release(delivery: PartitionDelivery, now: int) -> None:
    """Make ready what is due; a batch that is being written goes when that is done."""
    partition = delivery.partition
    for stored in partition.come_due(now):
        for run, number in partition.pending.overlap(stored.run):
            if number == stored.number:
                delivery.add(run, number)
