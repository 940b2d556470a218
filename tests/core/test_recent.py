"""Recent: no number is new twice, whatever comes in which order, and memory is bounded."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from p2pmq.core.recent import REMEMBERED_MAX, Recent


@given(st.lists(st.integers(1, 40), max_size=100))
def test_a_number_is_new_exactly_once_while_all_are_remembered(numbers: list[int]) -> None:
    recent, seen = Recent(), set[int]()
    for number in numbers:
        assert recent.is_new(number) == (number not in seen)
        seen.add(number)


def test_beyond_what_is_remembered_the_oldest_are_taken_for_known() -> None:
    recent, rng = Recent(), Random(1)
    numbers = list(range(1, 5 * REMEMBERED_MAX))
    for at in range(0, len(numbers), 50):
        part = numbers[at : at + 50]
        rng.shuffle(part)
        assert all(recent.is_new(number) for number in part)
        assert len(recent._numbers) <= REMEMBERED_MAX
    assert not any(recent.is_new(number) for number in numbers)
