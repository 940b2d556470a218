"""The line of runs that wait for a consumer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmq.core.hlc import COUNTER_BITS
from p2pmq.core.ids import Run
from p2pmq.core.ready import Candidate, ReadyLine
from tests.core.kit import S1, S2, S3


def popped(line: ReadyLine) -> list[Run]:
    return [line.pop().run for _ in range(len(line))]


def test_publishers_take_turns_by_the_stamps_of_what_waits_first() -> None:
    line = ReadyLine()
    for run, stamp in ((Run(S1, 1, 1), 10), (Run(S2, 1, 1), 20), (Run(S1, 2, 2), 30)):
        line.push(Candidate(run, stamp))
    assert popped(line) == [Run(S1, 1, 1), Run(S2, 1, 1), Run(S1, 2, 2)]


def test_a_publishers_messages_go_in_its_order_whatever_their_stamps() -> None:
    """The second owner's clock was behind."""
    line = ReadyLine()
    line.push(Candidate(Run(S1, 3, 5), 50))
    line.push(Candidate(Run(S1, 1, 2), 100))
    line.push(Candidate(Run(S2, 1, 1), 70))
    assert popped(line) == [Run(S2, 1, 1), Run(S1, 1, 2), Run(S1, 3, 5)]


def test_the_higher_priority_goes_first_also_of_one_publisher() -> None:
    line = ReadyLine()
    line.push(Candidate(Run(S1, 1, 3), 10))
    line.push(Candidate(Run(S1, 4, 4), 20, priority=9))
    line.push(Candidate(Run(S2, 1, 1), 15, priority=5))
    assert popped(line) == [Run(S1, 4, 4), Run(S2, 1, 1), Run(S1, 1, 3)]


def test_with_ageing_a_level_of_priority_is_worth_so_much_waiting() -> None:
    line = ReadyLine(ageing_ms=100)
    for session, at_ms, priority in ((S1, 1_000, 0), (S2, 1_199, 2), (S3, 1_201, 2)):
        line.push(Candidate(Run(session, 1, 1), at_ms << COUNTER_BITS, priority))
    assert popped(line) == [Run(S2, 1, 1), Run(S1, 1, 1), Run(S3, 1, 1)]


def test_what_is_left_of_a_run_comes_before_what_follows_it() -> None:
    line = ReadyLine()
    line.push(Candidate(Run(S1, 1, 4), 10))
    line.push(Candidate(Run(S1, 5, 6), 11))
    first = line.pop()
    line.push(first._replace(run=Run(S1, 3, first.run.last)))
    assert popped(line) == [Run(S1, 3, 4), Run(S1, 5, 6)]


def test_an_empty_line_gives_nothing() -> None:
    line = ReadyLine()
    line.push(Candidate(Run(S1, 1, 1), 1))
    line.pop()
    with pytest.raises(IndexError):
        line.pop()


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.builds(
                lambda session, seq, *rest: Candidate(Run(session, seq, seq), *rest),
                st.sampled_from((S1, S2)),
                st.integers(1, 9),
                st.integers(1, 9),
                st.integers(0, 2),
            ),
        )
    )
)
def test_each_pop_gives_the_highest_priority_and_of_that_a_publishers_lowest_seq(
    steps: list[Candidate | None],
) -> None:
    line, waiting = ReadyLine(), list[Candidate]()
    for step in steps:
        if step is not None:
            line.push(step)
            waiting.append(step)
        elif waiting:
            given_ = line.pop()
            waiting.remove(given_)
            assert all(given_.priority >= other.priority for other in waiting)
            rivals = [other for other in waiting if other.priority == given_.priority]
            mine = [other.run for other in rivals if other.run.session == given_.run.session]
            assert all(given_.run.first <= run.first for run in mine)
        assert len(line) == len(waiting)
    rest = [line.pop() for _ in range(len(line))]
    assert sorted(rest) == sorted(waiting)
