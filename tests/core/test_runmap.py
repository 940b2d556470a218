"""Run maps, against dicts from dots to values."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from p2pmq.core.ids import Run
from p2pmq.core.runmap import RunMap

Dot = tuple[bytes, int]

runs = st.builds(
    lambda session, first, length: Run(session, first, first + length),
    st.sampled_from([b"one", b"two"]),
    st.integers(1, 25),
    st.integers(0, 6),
)
steps = st.lists(st.tuples(st.booleans(), runs, st.integers(0, 3)), max_size=25)


def flat(items: list[tuple[Run, int]]) -> dict[Dot, int]:
    return {
        (run.session, seq): value for run, value in items for seq in range(run.first, run.last + 1)
    }


def built(history: list[tuple[bool, Run, int]]) -> tuple[RunMap[int], dict[Dot, int]]:
    found: RunMap[int] = RunMap()
    model: dict[Dot, int] = {}
    for puts, run, value in history:
        covered = flat([(run, value)])
        if puts:
            found.put(run, value)
            model.update(covered)
        else:
            taken = flat(found.take(run))
            assert taken == {dot: model[dot] for dot in covered if dot in model}
            model = {dot: held for dot, held in model.items() if dot not in covered}
    return found, model


@given(steps, runs)
def test_it_holds_what_a_dict_holds(history: list[tuple[bool, Run, int]], asked: Run) -> None:
    found, model = built(history)
    items = list(found.items())
    assert flat(items) == model
    assert sum(run.length for run, _ in items) == len(model), "entries overlap"
    assert found.count == len(model)
    assert bool(found) == bool(model)
    assert found.runs() == [run for run, _ in items]
    assert found.values() == [value for _, value in items]
    covered = flat([(asked, 0)])
    assert flat(found.overlap(asked)) == {dot: model[dot] for dot in covered if dot in model}
    missing = flat([(run, 0) for run in found.missing(asked)])
    assert set(missing) == set(covered) - set(model)


@given(steps)
def test_the_entries_of_a_session_are_in_order(history: list[tuple[bool, Run, int]]) -> None:
    found, _ = built(history)
    for session in (b"one", b"two"):
        firsts = [run.first for run in found.runs() if run.session == session]
        assert firsts == sorted(firsts)


@given(steps)
def test_items_may_be_changed_while_they_are_walked(history: list[tuple[bool, Run, int]]) -> None:
    found, _ = built(history)
    for run, value in found.items():
        assert found.take(run) == [(run, value)]
    assert not found
    assert found.count == 0


@given(steps)
def test_neighbours_of_equal_value_are_one_entry(history: list[tuple[bool, Run, int]]) -> None:
    items = list(built(history)[0].items())
    for (left, left_value), (right, right_value) in pairwise(items):
        adjoin = left.session == right.session and left.last + 1 == right.first
        assert not (adjoin and left_value == right_value)


@given(steps, runs, st.integers(0, 5))
def test_the_first_parts_can_be_had_alone(
    history: list[tuple[bool, Run, int]], asked: Run, most: int
) -> None:
    found, _ = built(history)
    assert found.overlap(asked, most) == found.overlap(asked)[:most]
