"""Which attachments an owner has let go: none of them may stand a second time.

An attachment's limit counts all that was ever pushed under it, and its packets
are numbered from 1. An owner that forgets a consumer (its node seemed dead, or
another node owned for a while) forgets both counts. A repeat of the same
Attach, late in the network or from a node that was paused, would then begin
anew under a number whose packets the consumer has had: it would hold more than
its prefetch, or drop what it is given. So such a repeat is answered with
`Moved`, and the consumer attaches under its next number.

Invariant: bounded; the oldest is forgotten first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pmq.core.delivery import Bearer, Consumer
    from p2pmq.core.ids import PartitionKey

REMEMBERED_MAX = 4_096


class LetGo:
    """The highest attachment of each consumer that was let go, newest last."""

    def __init__(self) -> None:
        self._attachments: dict[tuple[PartitionKey, Bearer], int] = {}

    def note(self, key: PartitionKey, consumer: Consumer) -> None:
        """The consumer is forgotten from here on."""
        name = (key, consumer.bearer)
        self._attachments.pop(name, None)
        self._attachments[name] = consumer.attachment
        if len(self._attachments) > REMEMBERED_MAX:
            del self._attachments[next(iter(self._attachments))]

    def covers(self, key: PartitionKey, bearer: Bearer, attachment: int) -> bool:
        """Whether this attachment stood here once, and must not again."""
        return attachment <= self._attachments.get((key, bearer), 0)
