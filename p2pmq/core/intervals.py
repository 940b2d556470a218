"""A set of integers as sorted, disjoint, non-adjacent closed intervals.

A publisher's seqs arrive almost always in order, so that a million of them
are one interval: the causal context of a partition stays small.

Invariant: `lows[i] <= highs[i] < lows[i + 1] - 1` for every i.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Interval = tuple[int, int]
"""(low, high), both ends included."""


class IntervalSet:
    """A mutable set of integers; operations take whole intervals."""

    __slots__ = ("_highs", "_lows")

    def __init__(self, intervals: Iterable[Interval] = ()) -> None:
        self._lows: list[int] = []
        self._highs: list[int] = []
        for low, high in intervals:
            self.add(low, high)

    def add(self, low: int, high: int) -> None:
        """Put every integer of low … high in."""
        assert low <= high, (low, high)
        lows, highs = self._lows, self._highs
        if lows and highs[-1] + 1 == low:  # the usual case: the next in order
            highs[-1] = high
            return
        start = bisect_left(highs, low - 1)
        end = bisect_right(lows, high + 1)
        if start < end:
            low = min(low, lows[start])
            high = max(high, highs[end - 1])
        lows[start:end] = [low]
        highs[start:end] = [high]

    def remove(self, low: int, high: int) -> None:
        """Take every integer of low … high out."""
        assert low <= high, (low, high)
        lows, highs = self._lows, self._highs
        start = bisect_left(highs, low)
        end = bisect_right(lows, high)
        if start >= end:
            return
        new_lows: list[int] = []
        new_highs: list[int] = []
        if lows[start] < low:
            new_lows.append(lows[start])
            new_highs.append(low - 1)
        if highs[end - 1] > high:
            new_lows.append(high + 1)
            new_highs.append(highs[end - 1])
        lows[start:end] = new_lows
        highs[start:end] = new_highs

    def __contains__(self, value: int) -> bool:
        at = bisect_left(self._highs, value)
        return at < len(self._lows) and self._lows[at] <= value

    def covers(self, low: int, high: int) -> bool:
        """Whether every integer of low … high is in."""
        at = bisect_left(self._highs, low)
        return at < len(self._lows) and self._lows[at] <= low and self._highs[at] >= high

    def overlap(self, low: int, high: int) -> list[Interval]:
        """What of low … high is in, in order."""
        start = bisect_left(self._highs, low)
        end = bisect_right(self._lows, high)
        return [(max(low, self._lows[i]), min(high, self._highs[i])) for i in range(start, end)]

    def missing(self, low: int, high: int) -> list[Interval]:
        """What of low … high is not in, in order."""
        gaps: list[Interval] = []
        at = low
        for have_low, have_high in self.overlap(low, high):
            if have_low > at:
                gaps.append((at, have_low - 1))
            at = have_high + 1
        if at <= high:
            gaps.append((at, high))
        return gaps

    def update(self, other: IntervalSet) -> None:
        """Put all of `other` in (union)."""
        for low, high in other:
            self.add(low, high)

    def subtract(self, other: IntervalSet) -> None:
        """Take all of `other` out (difference)."""
        for low, high in other:
            self.remove(low, high)

    def intersection(self, other: IntervalSet) -> IntervalSet:
        """What is in both."""
        both = IntervalSet()
        for low, high in other:
            for interval in self.overlap(low, high):
                both.add(*interval)
        return both

    def copy(self) -> IntervalSet:
        """An independent copy."""
        twin = IntervalSet()
        twin._lows, twin._highs = self._lows.copy(), self._highs.copy()
        return twin

    def within(self, low: int, high: int) -> IntervalSet:
        """What of low … high is in, as a set of its own; nothing if low is above high."""
        start = bisect_left(self._highs, low)
        end = bisect_right(self._lows, high)
        part = IntervalSet()
        if low <= high and start < end:
            part._lows, part._highs = self._lows[start:end], self._highs[start:end]
            part._lows[0] = max(low, part._lows[0])
            part._highs[-1] = min(high, part._highs[-1])
        return part

    def bounds(self) -> tuple[list[int], list[int]]:
        """The lows and the highs of the intervals: not to be changed."""
        return self._lows, self._highs

    @property
    def count(self) -> int:
        """How many integers are in."""
        return sum(self._highs) - sum(self._lows) + len(self._lows)

    @property
    def low(self) -> int:
        """The smallest integer; the set must not be empty."""
        return self._lows[0]

    @property
    def high(self) -> int:
        """The largest integer; the set must not be empty."""
        return self._highs[-1]

    def pairs(self) -> tuple[Interval, ...]:
        """The intervals, in order."""
        return tuple(zip(self._lows, self._highs, strict=True))

    def __iter__(self) -> Iterator[Interval]:
        return iter(self.pairs())

    def __len__(self) -> int:
        """How many intervals (not integers: see `count`)."""
        return len(self._lows)

    def __bool__(self) -> bool:
        return bool(self._lows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IntervalSet):
            return NotImplemented
        return self.pairs() == other.pairs()

    __hash__ = None  # type: ignore[assignment]  # mutable: must not be a key

    def __repr__(self) -> str:
        return f"IntervalSet({list(self.pairs())})"
