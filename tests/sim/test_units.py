"""Values in scenario files are read as they are meant, written again, and refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmq.sim.units import (
    COUNT_1,
    DURATION,
    FLAG,
    SHARE,
    SHIFT,
    SIZE,
    TEXT,
    ValueRefused,
    list_of,
    nearest,
    one_of,
    range_of,
    table_of,
)


@pytest.mark.parametrize(
    ("written", "milliseconds"),
    [("250ms", 250), ("10s", 10_000), ("1.5 m", 90_000), ("2h", 7_200_000), ("7d", 604_800_000)],
)
def test_a_duration_is_a_number_and_a_unit(written: str, milliseconds: int) -> None:
    assert DURATION.read(written) == milliseconds


@pytest.mark.parametrize("written", [10, "10", "ten s", "10 parsecs", "-1s", None, "10S"])
def test_what_is_no_duration_is_refused(written: object) -> None:
    with pytest.raises(ValueRefused):
        DURATION.read(written)


@given(st.integers(0, 10**12))
def test_a_duration_reads_as_it_was_written(milliseconds: int) -> None:
    assert DURATION.read(DURATION.write(milliseconds)) == milliseconds


@given(st.integers(-(10**12), 10**12))
def test_a_shift_may_be_negative_and_reads_as_it_was_written(milliseconds: int) -> None:
    assert SHIFT.read(SHIFT.write(milliseconds)) == milliseconds


@given(st.integers(0, 2**50))
def test_a_size_reads_as_it_was_written(size: int) -> None:
    assert SIZE.read(SIZE.write(size)) == SIZE.read(size) == size


@pytest.mark.parametrize("value", [-0.1, 1.1, "half", True])
def test_a_share_is_from_0_to_1(value: object) -> None:
    with pytest.raises(ValueRefused):
        SHARE.read(value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [(COUNT_1, 0), (COUNT_1, 1.5), (COUNT_1, True), (SIZE, -1), (SIZE, "-1B"), (FLAG, 1)],
)
def test_a_value_of_another_kind_is_refused(kind: object, value: object) -> None:
    with pytest.raises(ValueRefused):
        kind.read(value)  # type: ignore[attr-defined]  # each is a Kind


def test_a_range_is_one_value_or_two() -> None:
    kind = range_of(DURATION)
    assert kind.read("1s") == kind.read(["1s", "1s"]) == (1_000, 1_000)
    assert kind.read(["1ms", "1s"]) == (1, 1_000)
    for wrong in (["1s", "1ms"], ["1s"], ["1s", "2s", "3s"]):
        with pytest.raises(ValueRefused):
            kind.read(wrong)


@given(st.lists(st.lists(st.text(max_size=3), min_size=1, max_size=3), min_size=1, max_size=3))
def test_lists_of_lists_read_as_they_were_written(groups: list[list[str]]) -> None:
    kind = list_of(list_of(TEXT))
    value = tuple(map(tuple, groups))
    assert kind.read(kind.write(value)) == value


def test_a_table_keeps_its_order() -> None:
    kind = table_of(COUNT_1)
    assert kind.read({"b": 1, "a": 2}) == (("b", 1), ("a", 2))
    with pytest.raises(ValueRefused):
        kind.read([1])


def test_an_unknown_word_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ValueRefused, match="did you mean 'latency'"):
        one_of("latency", "loss").read("latancy")
    assert nearest("zzz", ["a", "b"]) == ": write one of a, b"
    assert nearest("zzz", []) == ""
