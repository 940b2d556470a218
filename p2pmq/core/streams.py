"""A stream: the batches of one session for one partition, as the outbox holds them.

Invariant: the entries are in order of seq; the first `sent` of them are out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from p2pmq.core.quota import cost_of

if TYPE_CHECKING:
    from p2pmq.core.events import Confirmation
    from p2pmq.core.ids import PartitionKey, Session
    from p2pmq.core.packets.publishing import Batch

GAP_QUIET_MS = 200
"""After a resend for a gap, further gaps are echoes of the same loss for this long; and twice as
long after each further resend without progress: on a slow link they stand in their own way."""
WINDOW_BATCHES = 512
"""So many batches of a stream are out at once. A link keeps 1,024 packets, and drops the oldest: if
a resend pushed out its own first batch, its owner would ask for that for ever."""


@dataclass(slots=True)
class Entry:
    """One batch that waits for its confirm. `number` names it on disk.

    `tried`: an owner may have it already, as far as this process can know.
    """

    batch: Batch
    number: int
    token: int | None
    wanted: Confirmation
    writing: bool = False
    durable: bool = False
    in_memory: int = 0
    tried: bool = False
    expires_at: int = 0
    """When its time to live ends, in ms as `now`; 0: never."""
    due_at: int = 0
    """When its delay ends; 0: it has none."""

    @property
    def cost(self) -> int:
        """What it counts for in the quota."""
        return cost_of(self.batch.count, self.batch.size)

    def batch_at(self, now: int) -> Batch:
        """The batch with what is left of its time to live, and of its delay."""
        if not self.expires_at and not self.due_at:
            return self.batch
        ttl_ms = max(1, self.expires_at - now) if self.expires_at else 0
        return replace(self.batch, ttl_ms=ttl_ms, delay_ms=max(0, self.due_at - now))


class Stream:
    """The batches of one session for one partition.

    `sent` counts how many of them are out, `volatile` how many are neither on
    disk nor on their way there. `is_blocked`: its queue was full when last heard of.
    """

    __slots__ = (
        "entries",
        "gap_at",
        "is_blocked",
        "key",
        "next_seq",
        "patience_ms",
        "progress_at",
        "quiet_ms",
        "reason",
        "sent",
        "session",
        "volatile",
        "window",
    )

    def __init__(self, key: PartitionKey, session: Session) -> None:
        self.key = key
        self.session = session
        self.entries: deque[Entry] = deque()
        self.sent = 0
        self.window = 0
        self.next_seq = 1
        self.progress_at = 0
        self.patience_ms = 0
        self.gap_at = -GAP_QUIET_MS
        self.quiet_ms = GAP_QUIET_MS
        self.volatile = 0
        self.reason = ""
        self.is_blocked = False
