"""Timers, against a dict of deadlines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pmq.core.timers import Timers

steps = st.lists(
    st.tuples(
        st.sampled_from(["set", "sooner", "clear", "pop"]),
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 20),
    ),
    max_size=60,
)


@given(steps)
def test_they_hold_one_deadline_for_each_name(history: list[tuple[str, str, int]]) -> None:
    timers: Timers[str] = Timers()
    model: dict[str, int] = {}
    for what, name, at in history:
        match what:
            case "set":
                timers.set(name, at)
                model[name] = at
            case "sooner":
                timers.set_if_earlier(name, at)
                model[name] = min(at, model.get(name, at))
            case "clear":
                timers.clear(name)
                model.pop(name, None)
            case _:
                popped = timers.pop_due(at)
                earliest = min(model.values(), default=at + 1)
                assert (popped is None) == (earliest > at)
                if popped is not None:
                    assert model.pop(popped) == earliest
        assert timers.next_deadline() == min(model.values(), default=None)
        assert all((n in timers) == (n in model) for n in "abc")


def test_of_equal_deadlines_the_one_set_first_is_due_first() -> None:
    timers: Timers[str] = Timers()
    for name in ("b", "a", "c"):
        timers.set(name, 5)
    assert [timers.pop_due(5) for _ in range(4)] == ["b", "a", "c", None]


def test_a_deadline_moved_again_and_again_does_not_fill_the_memory() -> None:
    timers: Timers[str] = Timers()
    for now in range(10_000):
        timers.set("lease", now + 1_000_000)
    assert len(timers._heap) < 2_000
