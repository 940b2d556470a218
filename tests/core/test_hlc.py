"""The hybrid clock: its stamps never run backwards."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pmq.core.hlc import HybridClock, wall_ms_of

walls = st.lists(st.tuples(st.booleans(), st.integers(0, 2**44)), max_size=40)


@given(walls)
def test_each_stamp_is_greater_than_all_given_or_observed(history: list[tuple[bool, int]]) -> None:
    clock = HybridClock()
    greatest = 0
    for observes, value in history:
        if observes:
            clock.observe(value)
            greatest = max(greatest, value)
        else:
            stamp = clock.stamp(value)
            assert stamp > greatest
            greatest = stamp


def test_a_stamp_shows_the_wall_clock_while_that_runs_forward() -> None:
    clock = HybridClock()
    assert wall_ms_of(clock.stamp(1_700_000_000_000)) == 1_700_000_000_000
    assert wall_ms_of(clock.stamp(1_700_000_000_005)) == 1_700_000_000_005


def test_a_clock_that_is_set_back_goes_on_counting() -> None:
    clock = HybridClock()
    first = clock.stamp(1_000)
    assert clock.stamp(10) == first + 1
