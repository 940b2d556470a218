"""Interval sets, against sets of integers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from p2pmq.core.intervals import Interval, IntervalSet


def interval(ends: tuple[int, int]) -> Interval:
    return min(ends), max(ends)


intervals = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(interval)
steps = st.lists(st.tuples(st.sampled_from(["add", "remove"]), intervals), max_size=30)


def integers(pairs: list[Interval] | tuple[Interval, ...]) -> set[int]:
    return {value for low, high in pairs for value in range(low, high + 1)}


def built(history: list[tuple[str, Interval]]) -> tuple[IntervalSet, set[int]]:
    found, model = IntervalSet(), set[int]()
    for what, (low, high) in history:
        if what == "add":
            found.add(low, high)
            model |= set(range(low, high + 1))
        else:
            found.remove(low, high)
            model -= set(range(low, high + 1))
        check_form(found)
    return found, model


def check_form(found: IntervalSet) -> None:
    pairs = found.pairs()
    assert all(low <= high for low, high in pairs)
    assert all(one[1] + 1 < two[0] for one, two in pairwise(pairs))


@given(steps)
def test_it_holds_what_a_set_of_integers_holds(history: list[tuple[str, Interval]]) -> None:
    found, model = built(history)
    assert integers(found.pairs()) == model
    assert found.count == len(model)
    assert bool(found) == bool(model)
    assert len(found) == len(found.pairs())
    assert all((value in found) == (value in model) for value in range(-1, 43))
    if model:
        assert (found.low, found.high) == (min(model), max(model))


@given(steps, intervals)
def test_overlap_and_missing_part_an_interval_in_two(
    history: list[tuple[str, Interval]], asked: Interval
) -> None:
    found, model = built(history)
    values = integers([asked])
    assert integers(found.overlap(*asked)) == values & model
    assert integers(found.missing(*asked)) == values - model
    assert found.covers(*asked) == (values <= model)
    assert found.overlap(*asked) == sorted(found.overlap(*asked))
    assert found.missing(*asked) == sorted(found.missing(*asked))


@given(steps, steps)
def test_sets_are_united_cut_and_subtracted(
    one: list[tuple[str, Interval]], two: list[tuple[str, Interval]]
) -> None:
    (a, model_a), (b, model_b) = built(one), built(two)
    union, rest = a.copy(), a.copy()
    union.update(b)
    rest.subtract(b)
    assert integers(union.pairs()) == model_a | model_b
    assert integers(rest.pairs()) == model_a - model_b
    assert integers(a.intersection(b).pairs()) == model_a & model_b
    assert integers(a.pairs()) == model_a
    for result in (union, rest, a.intersection(b)):
        check_form(result)


@given(steps)
def test_equal_contents_are_equal_sets_however_they_came(
    history: list[tuple[str, Interval]],
) -> None:
    found, model = built(history)
    assert found == IntervalSet((value, value) for value in sorted(model))
    assert found.copy() == found
    assert found.copy() is not found


def test_a_million_seqs_in_order_are_one_interval() -> None:
    found = IntervalSet()
    for first in range(1, 1_000_000, 1000):
        found.add(first, first + 999)
    assert found.pairs() == ((1, 1_000_000),)


@given(st.lists(intervals, max_size=8), st.integers(0, 45), st.integers(0, 45))
def test_within_is_the_part_between_two_integers_and_nothing_where_they_are_reversed(
    pairs: list[Interval], low: int, high: int
) -> None:
    """A hostile range that ended before it began gave an interval that did."""
    whole = IntervalSet(pairs)
    part = whole.within(low, high)
    assert list(part) == (whole.overlap(low, high) if low <= high else [])
    assert whole == IntervalSet(pairs), "and the whole stays as it was"
