"""A hybrid logical clock: wall-clock stamps that never run backwards.

Kulkarni, Demirbas et al., *Logical Physical Clocks*, 2014. A stamp is one
integer, `wall_ms << 16 | counter`, so that it sorts and travels as it is.

Invariant: each stamp is greater than every one given or observed before.
"""

from __future__ import annotations

COUNTER_BITS = 16
AHEAD_MS_MAX = 86_400_000
"""A stamp from elsewhere is believed if it is at most so far ahead of the wall clock here."""


class HybridClock:
    """Stamps for one node."""

    __slots__ = ("last", "now", "wall_offset_ms")

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self.now = 0
        """Monotonic ms of the event that is being handled: the machine sets it."""
        self.wall_offset_ms = 0
        """The wall clock minus `now`, when it was last read."""

    @property
    def wall_ms(self) -> int:
        """What the wall clock says now."""
        return self.now + self.wall_offset_ms

    @property
    def reading(self) -> int:
        """What time it is, as a stamp; no message gets this one."""
        return max(self.last, self.wall_ms << COUNTER_BITS)

    def stamp(self, wall_ms: int) -> int:
        """The next stamp, at wall-clock time `wall_ms`."""
        self.last = max(self.last + 1, wall_ms << COUNTER_BITS)
        return self.last

    def believes(self, stamp: int, wall_ms: int) -> bool:
        """Whether a stamp from elsewhere may be observed: an absurd one would stand for ever."""
        return 0 < stamp <= max(self.last, (wall_ms + AHEAD_MS_MAX) << COUNTER_BITS)

    def observe(self, stamp: int) -> None:
        """Be ahead of a stamp that came from elsewhere."""
        self.last = max(self.last, stamp)


def wall_ms_of(stamp: int) -> int:
    """The wall-clock milliseconds within a stamp."""
    return stamp >> COUNTER_BITS
