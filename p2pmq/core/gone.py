"""What an outbox lets go of without a confirm: why, and who is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from p2pmq.core.effects import Counted, Notify, Overflowed
from p2pmq.core.quota import OUTBOX_AGE, OUTBOX_FULL, QUEUE_FULL

if TYPE_CHECKING:
    from p2pmq.core.effects import Effect
    from p2pmq.core.streams import Entry, Stream

WHY_GONE = {
    OUTBOX_FULL: "the outbox is full",
    OUTBOX_AGE: "not sent within the outbox's age_max_ms",
    QUEUE_FULL: "the queue is full",
}


def tell_gone(
    stream: Stream, entry: Entry, action: Literal["dropped", "refused"], reason: str
) -> list[Effect]:
    """Count a batch that is gone, and tell whoever listens; who waits for it is told apart."""
    batch, key = entry.batch, stream.key
    text = f"{batch.count} messages for queue {key.queue!r} {action}: {WHY_GONE[reason]}"
    what = "publish_rejected" if reason == QUEUE_FULL else f"outbox_{action}"
    dots = (batch.session, batch.first)
    numbers = (batch.count, batch.size, batch.priority)
    return [
        Notify(Counted(what, batch.count, text, alarming=True)),
        Notify(Overflowed(action, key, *numbers, reason, *dots)),
    ]
