"""Sets of dots, and the merge that makes a partition a set that cannot lose.

A replica's state is (`seen`, `pending`), a causal context and the dots it holds
unacked. Every dot is added once, so a removal is final and there are no
tombstones (Almeida, Shoker, Baquero: *Delta state replicated data types*, 2018).

Invariant: pending is a subset of seen.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

from p2pmq.core.ids import SEQ_MAX, Run
from p2pmq.core.intervals import IntervalSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from p2pmq.core.ids import Dot, Session


class DotSet:
    """A mutable set of dots, kept as intervals of seqs for each session."""

    __slots__ = ("_in_order", "_sessions", "changes")

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._sessions: dict[Session, IntervalSet] = {}
        self._in_order: list[Session] | None = None
        self.changes = 0
        """Grows with every change, so that what was worked out from the set can be kept."""
        for run in runs:
            self.add(run)

    def add(self, run: Run) -> None:
        """Put every dot of the run in."""
        self.changes += 1
        seqs = self._sessions.get(run.session)
        if seqs is None:
            seqs = self._sessions[run.session] = IntervalSet()
            self._in_order = None
        seqs.add(run.first, run.last)

    def remove(self, run: Run) -> None:
        """Take every dot of the run out."""
        self.changes += 1
        seqs = self._sessions.get(run.session)
        if seqs is not None:
            seqs.remove(run.first, run.last)
            if not seqs:
                del self._sessions[run.session]
                self._in_order = None

    def knows(self, session: Session) -> bool:
        """Whether any dot of the session is in."""
        return session in self._sessions

    def has(self, session: Session, seq: int) -> bool:
        """Whether the dot is in."""
        seqs = self._sessions.get(session)
        return seqs is not None and seq in seqs

    def covers(self, run: Run) -> bool:
        """Whether every dot of the run is in."""
        seqs = self._sessions.get(run.session)
        return seqs is not None and seqs.covers(run.first, run.last)

    def missing(self, run: Run) -> list[Run]:
        """The parts of the run that are not in, in order."""
        seqs = self._sessions.get(run.session)
        if seqs is None:
            return [run]
        return [Run(run.session, low, high) for low, high in seqs.missing(run.first, run.last)]

    def overlap(self, run: Run) -> list[Run]:
        """The parts of the run that are in, in order."""
        seqs = self._sessions.get(run.session)
        if seqs is None:
            return []
        return [Run(run.session, low, high) for low, high in seqs.overlap(run.first, run.last)]

    def seqs(self, session: Session) -> IntervalSet:
        """The seqs of one session (a copy)."""
        seqs = self._sessions.get(session)
        return IntervalSet() if seqs is None else seqs.copy()

    def union(self, other: DotSet) -> DotSet:
        """What is in either."""
        both = self.copy()
        for run in other.runs():
            both.add(run)
        return both

    def difference(self, other: DotSet) -> DotSet:
        """What is in self and not in `other`."""
        rest = self.copy()
        for run in other.runs():
            rest.remove(run)
        return rest

    def intersection(self, other: DotSet) -> DotSet:
        """What is in both."""
        return DotSet(part for run in other.runs() for part in self.overlap(run))

    def copy(self) -> DotSet:
        """An independent copy."""
        twin = DotSet()
        twin._sessions = {session: seqs.copy() for session, seqs in self._sessions.items()}
        return twin

    def runs(self) -> Iterator[Run]:
        """Every run, sessions in the order of their bytes, seqs ascending."""
        for session in self._ordered():
            for low, high in self._sessions[session]:
                yield Run(session, low, high)

    def between(self, low: Dot, high: Dot) -> Iterator[tuple[Session, IntervalSet]]:
        """The seqs of each session from one dot to another, both included; not to be changed."""
        ordered = self._ordered()
        start, end = bisect_left(ordered, low.session), bisect_right(ordered, high.session)
        for session in ordered[start:end]:
            seqs = self._sessions[session]
            if session in (low.session, high.session):
                first = low.seq if session == low.session else 0
                last = high.seq if session == high.session else SEQ_MAX
                seqs = seqs.within(first, last)
            if seqs:
                yield session, seqs

    def _ordered(self) -> list[Session]:
        if self._in_order is None:
            self._in_order = sorted(self._sessions)
        return self._in_order

    @property
    def count(self) -> int:
        """How many dots."""
        return sum(seqs.count for seqs in self._sessions.values())

    def __bool__(self) -> bool:
        return bool(self._sessions)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DotSet):
            return NotImplemented
        return self._sessions == other._sessions

    __hash__ = None  # type: ignore[assignment]  # mutable: must not be a key

    def __repr__(self) -> str:
        return f"DotSet({list(self.runs())})"


class Replica(NamedTuple):
    """The dots of one replica's state; bodies lie elsewhere."""

    seen: DotSet
    pending: DotSet


def merge(ours: Replica, theirs: Replica) -> Replica:
    """Merge two replicas: union never loses, acks never resurrect.

    A dot stays pending if both hold it so, or if one does and the other has
    never seen it. Commutative, associative and idempotent.
    """
    both = ours.pending.intersection(theirs.pending)
    only_ours = ours.pending.difference(theirs.seen)
    only_theirs = theirs.pending.difference(ours.seen)
    return Replica(
        seen=ours.seen.union(theirs.seen),
        pending=both.union(only_ours).union(only_theirs),
    )
