"""Dot sets against sets of pairs; and the merge, on which no message may be lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pmq.core.dots import DotSet, Replica, merge
from p2pmq.core.ids import Run

Dot = tuple[bytes, int]

SESSIONS = (b"one", b"two")
runs = st.builds(
    lambda session, first, length: Run(session, first, first + length),
    st.sampled_from(SESSIONS),
    st.integers(1, 25),
    st.integers(0, 6),
)
steps = st.lists(st.tuples(st.booleans(), runs), max_size=20)


def dots(of: DotSet | list[Run]) -> set[Dot]:
    found = of.runs() if isinstance(of, DotSet) else of
    return {(run.session, seq) for run in found for seq in range(run.first, run.last + 1)}


def built(history: list[tuple[bool, Run]]) -> tuple[DotSet, set[Dot]]:
    found, model = DotSet(), set[Dot]()
    for adds, run in history:
        if adds:
            found.add(run)
            model |= dots([run])
        else:
            found.remove(run)
            model -= dots([run])
    return found, model


@given(steps, runs)
def test_a_dot_set_holds_what_a_set_of_dots_holds(
    history: list[tuple[bool, Run]], asked: Run
) -> None:
    found, model = built(history)
    assert dots(found) == model
    assert found.count == len(model)
    assert bool(found) == bool(model)
    assert dots(found.overlap(asked)) == dots([asked]) & model
    assert dots(found.missing(asked)) == dots([asked]) - model
    assert found.covers(asked) == (dots([asked]) <= model)
    assert found.has(asked.session, asked.first) == ((asked.session, asked.first) in model)
    assert found == DotSet(found.runs())
    assert found.seqs(asked.session).count == sum(dot[0] == asked.session for dot in model)


@given(steps, steps)
def test_dot_sets_are_united_cut_and_subtracted(
    one: list[tuple[bool, Run]], two: list[tuple[bool, Run]]
) -> None:
    (a, model_a), (b, model_b) = built(one), built(two)
    assert dots(a.union(b)) == model_a | model_b
    assert dots(a.intersection(b)) == model_a & model_b
    assert dots(a.difference(b)) == model_a - model_b
    assert dots(a) == model_a


# ---------------------------------------------------------------------------------- the merge

REPLICAS = 3
actions = st.lists(
    st.tuples(
        st.sampled_from(["add", "ack", "merge", "merge"]),
        st.integers(0, REPLICAS - 1),
        st.integers(0, REPLICAS - 1),
        st.integers(0, 50),
    ),
    max_size=40,
)


def empty() -> Replica:
    return Replica(DotSet(), DotSet())


def history_of(taken: list[tuple[str, int, int, int]]) -> tuple[list[Replica], set[Dot], set[Dot]]:
    """Replicas that lived: each dot is added once, anywhere, and acked where it is pending."""
    replicas = [empty() for _ in range(REPLICAS)]
    added, acked = set[Dot](), set[Dot]()
    for what, at, other, number in taken:
        here = replicas[at]
        if what == "add":
            run = Run(SESSIONS[number % 2], len(added) + 1, len(added) + 1 + number % 3)
            replicas[at] = Replica(
                here.seen.union(DotSet([run])), here.pending.union(DotSet([run]))
            )
            added |= dots([run])
        elif what == "ack":
            pending = list(here.pending.runs())
            if pending:
                run = pending[number % len(pending)]
                replicas[at] = Replica(here.seen, here.pending.difference(DotSet([run])))
                acked |= dots([run])
        else:
            replicas[at] = merge(here, replicas[other])
    return replicas, added, acked


@given(actions)
def test_the_merge_is_commutative_associative_and_idempotent(
    taken: list[tuple[str, int, int, int]],
) -> None:
    (a, b, c), _, _ = history_of(taken)
    assert merge(a, b) == merge(b, a)
    assert merge(a, merge(b, c)) == merge(merge(a, b), c)
    assert merge(a, a) == a
    assert merge(merge(a, b), b) == merge(a, b)


@given(actions)
def test_the_union_of_all_replicas_loses_nothing_and_resurrects_no_ack(
    taken: list[tuple[str, int, int, int]],
) -> None:
    replicas, added, acked = history_of(taken)
    everything = empty()
    for replica in replicas:
        everything = merge(everything, replica)
    assert dots(everything.seen) == added
    assert dots(everything.pending) == added - acked


@given(actions)
def test_pending_stays_a_subset_of_seen(taken: list[tuple[str, int, int, int]]) -> None:
    replicas, _, _ = history_of(taken)
    for replica in replicas:
        assert dots(replica.pending) <= dots(replica.seen)
