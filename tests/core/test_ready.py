"""The line of runs that wait for a consumer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmq.core.ids import Run
from p2pmq.core.ready import ReadyLine
from tests.core.kit import S1, S2


def popped(line: ReadyLine) -> list[Run]:
    return [line.pop()[0] for _ in range(len(line))]


def test_publishers_take_turns_by_the_stamps_of_what_waits_first() -> None:
    line = ReadyLine()
    for run, stamp in ((Run(S1, 1, 1), 10), (Run(S2, 1, 1), 20), (Run(S1, 2, 2), 30)):
        line.push(run, stamp)
    assert popped(line) == [Run(S1, 1, 1), Run(S2, 1, 1), Run(S1, 2, 2)]


def test_a_publishers_messages_go_in_its_order_whatever_their_stamps() -> None:
    """The second owner's clock was behind."""
    line = ReadyLine()
    line.push(Run(S1, 3, 5), 50)
    line.push(Run(S1, 1, 2), 100)
    line.push(Run(S2, 1, 1), 70)
    assert popped(line) == [Run(S2, 1, 1), Run(S1, 1, 2), Run(S1, 3, 5)]


def test_what_is_left_of_a_run_comes_before_what_follows_it() -> None:
    line = ReadyLine()
    line.push(Run(S1, 1, 4), 10)
    line.push(Run(S1, 5, 6), 11)
    run, stamp = line.pop()
    line.push(Run(S1, 3, run.last), stamp)
    assert popped(line) == [Run(S1, 3, 4), Run(S1, 5, 6)]


def test_an_empty_line_gives_nothing() -> None:
    line = ReadyLine()
    line.push(Run(S1, 1, 1), 1)
    line.pop()
    with pytest.raises(IndexError):
        line.pop()


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.tuples(st.sampled_from((S1, S2)), st.integers(1, 9), st.integers(1, 9)),
        )
    )
)
def test_each_pop_gives_the_lowest_seq_of_some_publisher_and_nothing_is_lost(
    steps: list[tuple[bytes, int, int] | None],
) -> None:
    line, waiting = ReadyLine(), list[tuple[Run, int]]()
    for step in steps:
        if step is not None:
            session, first, stamp = step
            line.push(Run(session, first, first), stamp)
            waiting.append((Run(session, first, first), stamp))
        elif waiting:
            run, stamp = line.pop()
            waiting.remove((run, stamp))
            assert all(run.first <= other.first for other, _ in waiting if other[0] == run.session)
        assert len(line) == len(waiting)
    rest = [line.pop() for _ in range(len(line))]
    assert sorted(rest) == sorted(waiting)
