"""Runs of dots."""

from p2pmq.core.ids import Run, total


def test_a_run_counts_both_its_ends() -> None:
    assert Run(b"session1", 5, 5).length == 1
    assert Run(b"session1", 5, 9).length == 5


def test_the_total_of_runs_is_the_sum_of_their_lengths() -> None:
    assert total([]) == 0
    assert total([Run(b"session1", 1, 3), Run(b"session2", 7, 7)]) == 4


def test_runs_sort_by_session_and_then_by_seq() -> None:
    runs = [Run(b"b", 1, 2), Run(b"a", 5, 6), Run(b"a", 1, 2)]
    assert sorted(runs) == [Run(b"a", 1, 2), Run(b"a", 5, 6), Run(b"b", 1, 2)]
