"""A map from dots to values, kept by runs: one entry for consecutive dots of one value.

What is pending, leased or delayed is thousands of dots but few runs; every
operation takes a run, and cuts an entry where the run's edge falls into it.

Invariant: the entries of a session are disjoint and sorted; neighbours of equal
value are one entry.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Generic, TypeVar

from p2pmq.core.ids import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pmq.core.ids import Session

Value = TypeVar("Value")

ALL = 2**63
"""More parts than a run can have."""


class _Entries(Generic[Value]):
    """The entries of one session, as three parallel columns."""

    __slots__ = ("highs", "lows", "values")

    def __init__(self) -> None:
        self.lows: list[int] = []
        self.highs: list[int] = []
        self.values: list[Value] = []


class RunMap(Generic[Value]):
    """A mutable map from dots to values."""

    __slots__ = ("_count", "_sessions")

    def __init__(self) -> None:
        self._sessions: dict[Session, _Entries[Value]] = {}
        self._count = 0

    def put(self, run: Run, value: Value) -> None:
        """Give every dot of the run the value; what they had is replaced."""
        entries = self._sessions.get(run.session)
        if entries is None:
            entries = self._sessions[run.session] = _Entries()
        elif entries.highs and entries.highs[-1] >= run.first:
            self.take(run)
            entries = self._sessions.setdefault(run.session, entries)
        lows, highs, values = entries.lows, entries.highs, entries.values
        at = bisect_left(lows, run.first)
        joins_left = at > 0 and highs[at - 1] + 1 == run.first and values[at - 1] == value
        joins_right = at < len(lows) and run.last + 1 == lows[at] and values[at] == value
        if joins_left:
            highs[at - 1] = highs[at] if joins_right else run.last
            if joins_right:
                del lows[at], highs[at], values[at]
        elif joins_right:
            lows[at] = run.first
        else:
            lows.insert(at, run.first)
            highs.insert(at, run.last)
            values.insert(at, value)
        self._count += run.last - run.first + 1

    def take(self, run: Run) -> list[tuple[Run, Value]]:
        """Remove the dots of the run; give back those that were in, with their values."""
        session, first, last = run
        entries = self._sessions.get(session)
        if entries is None:
            return []
        lows, highs, values = entries.lows, entries.highs, entries.values
        start = bisect_left(highs, first)
        end = bisect_right(lows, last)
        if start >= end:
            return []
        taken = [
            (Run(session, max(first, lows[i]), min(last, highs[i])), values[i])
            for i in range(start, end)
        ]
        kept: list[tuple[int, int, Value]] = []
        if lows[start] < first:
            kept.append((lows[start], first - 1, values[start]))
        if highs[end - 1] > last:
            kept.append((last + 1, highs[end - 1], values[end - 1]))
        lows[start:end] = [low for low, _, _ in kept]
        highs[start:end] = [high for _, high, _ in kept]
        values[start:end] = [value for _, _, value in kept]
        if not lows:
            del self._sessions[session]
        self._count -= sum(part.last - part.first + 1 for part, _ in taken)
        return taken

    def overlap(self, run: Run, most: int = ALL) -> list[tuple[Run, Value]]:
        """The parts of the run that are in, with their values, in order; the first `most` of them.

        It costs no more than what it gives back, however long the run is.
        """
        session, first, last = run
        entries = self._sessions.get(session)
        if entries is None:
            return []
        lows, highs, values = entries.lows, entries.highs, entries.values
        start = bisect_left(highs, first)
        end = min(bisect_right(lows, last), start + most)
        return [
            (Run(session, max(first, lows[i]), min(last, highs[i])), values[i])
            for i in range(start, end)
        ]

    def missing(self, run: Run) -> list[Run]:
        """The parts of the run that are not in, in order."""
        gaps: list[Run] = []
        at = run.first
        for part, _ in self.overlap(run):
            if part.first > at:
                gaps.append(Run(run.session, at, part.first - 1))
            at = part.last + 1
        if at <= run.last:
            gaps.append(Run(run.session, at, run.last))
        return gaps

    def items(self) -> Iterator[tuple[Run, Value]]:
        """Every run with its value: sessions as they came, seqs ascending."""
        for session, entries in list(self._sessions.items()):
            columns = zip(entries.lows[:], entries.highs[:], entries.values[:], strict=True)
            for low, high, value in columns:
                yield Run(session, low, high), value

    def lowest(self, session: Session) -> int | None:
        """The lowest seq of the session that is in, or None."""
        entries = self._sessions.get(session)
        return entries.lows[0] if entries is not None else None

    def runs(self) -> list[Run]:
        """Every run: sessions as they came, seqs ascending."""
        return [run for run, _ in self.items()]

    def values(self) -> list[Value]:
        """The value of every run, in the order of `runs`."""
        return [value for _, value in self.items()]

    @property
    def count(self) -> int:
        """How many dots are in."""
        return self._count

    def __bool__(self) -> bool:
        return self._count > 0
