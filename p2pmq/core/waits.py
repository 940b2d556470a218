"""Who waits for the outbox: publishes that have not returned, until when, and what they are told.

Invariant: an entry has a token exactly while it is among those that wait.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from p2pmq.core.effects import Published, Resolve
from p2pmq.core.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.core.effects import Effect
    from p2pmq.core.ids import NodeId, PartitionKey
    from p2pmq.core.streams import Entry, Stream


class Waits:
    """The publishes of this node that wait for a confirm."""

    def __init__(self, owner_of: Callable[[PartitionKey], NodeId | None]) -> None:
        self._owner_of = owner_of
        self._waiting: dict[int, tuple[Stream, Entry]] = {}
        self._deadlines: Timers[int] = Timers()

    def begin(self, stream: Stream, entry: Entry, until: int) -> None:
        """Somebody waits for the entry until then."""
        self._waiting[entry.number] = (stream, entry)
        self._deadlines.set(entry.number, until)

    def next_deadline(self) -> int | None:
        """When the patience of one that waits ends."""
        return self._deadlines.next_deadline()

    def pop_due(self, now: int) -> tuple[Stream, Entry] | None:
        """One whose patience is over; it waits until it is told so."""
        number = self._deadlines.pop_due(now)
        return None if number is None else self._waiting[number]

    def tell(
        self,
        stream: Stream,
        entry: Entry,
        *,
        timed_out: bool = False,
        **known: Any,  # noqa: ANN401 - fields of Published, which checks them
    ) -> list[Effect]:
        """If somebody waits for the entry: say what became of it, and wait no more."""
        if entry.token is None:
            return []
        outcome = Published(
            first=entry.batch.first,
            count=entry.batch.count,
            session=stream.session,
            copies=0,
            stored=entry.durable,
            owner=self._owner_of(stream.key),
            timed_out=timed_out,
            reason=stream.reason,
        )
        token, entry.token = entry.token, None
        if self._waiting.pop(entry.number, None) is not None:
            self._deadlines.clear(entry.number)
        return [Resolve(token, replace(outcome, **known))]
