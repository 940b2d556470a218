"""Traces: what an owner leaves beside messages, for itself and for later owners to look at.

What every later owner must find, be it after a crash or a split, is kept as messages
are. A trace is a batch that nobody is given: it is written with its messages, lies on
the same disks, goes the same ways when copies are merged, and leaves when its time to
live is over. Its dots are those of its messages with another session, made of theirs
by exclusive or, so that each leads to the other, and a long run of them is one interval.

There are two kinds. A *marker* has the hashes of users' ids (`core.dedup`); a *retained
copy* has the bodies, to be read again after they were acked (`core.replays`).

Invariant: `Traces` knows every trace that is pending or just being written.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from p2pmq.core.dedup import KnownIds, marker_of

if TYPE_CHECKING:
    from p2pmq.core.ids import Session
    from p2pmq.core.packets.publishing import Batch
    from p2pmq.core.partition import Stored

COPY = int.from_bytes(b"retained")


class Kept(NamedTuple):
    """For how long traces stay, in ms; 0: there are none of that kind. `bytes` 0: no limit."""

    ids_ms: int = 0
    copies_ms: int = 0
    copies_bytes: int = 0


class Place(NamedTuple):
    """Where a retained copy stands in the order of its partition."""

    stamp: int
    session: Session
    first: int
    number: int


def copied(session: Session) -> Session:
    """The session of the retained copies of a session's messages; and the other way round."""
    return (int.from_bytes(session) ^ COPY).to_bytes(len(session))


def traces_of(batch: Batch, kept: Kept) -> list[Batch]:
    """What is to be left beside a batch."""
    traces = []
    marker = marker_of(batch, kept.ids_ms)
    if marker is not None:
        traces.append(marker)
    if kept.copies_ms:
        copy = replace(
            batch,
            session=copied(batch.session),
            ids=b"",
            ttl_ms=kept.copies_ms,
            delay_ms=0,
            keys=b"",  # a replay takes turns with nobody
            retained=True,
        )
        traces.append(copy)
    return traces


class Traces:
    """The traces of one partition on this node."""

    def __init__(self) -> None:
        self.count = 0
        """Of their messages, those pending: the partition counts."""
        self.known_ids = KnownIds()
        self.copies: list[Place] = []
        """In order."""
        self.copies_bytes = 0

    def add(self, stored: Stored) -> None:
        """A trace has come."""
        if stored.ids:
            self.known_ids.add(stored.run, stored.ids)
        else:
            insort(self.copies, _place_of(stored))
            self.copies_bytes += stored.size

    def drop(self, stored: Stored) -> None:
        """A trace is gone."""
        if stored.ids:
            self.known_ids.drop(stored.run, stored.ids)
        else:
            del self.copies[bisect_left(self.copies, _place_of(stored))]
            self.copies_bytes -= stored.size

    def after(self, place: Place) -> list[Place]:
        """The copies that come after such a place."""
        return self.copies[bisect_right(self.copies, place) :]


def _place_of(stored: Stored) -> Place:
    return Place(stored.stamp, stored.session, stored.first, stored.number)
