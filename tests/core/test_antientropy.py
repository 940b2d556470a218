"""What two replicas differ in, found at a cost in proportion to that."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmq.core.antientropy import (
    ALL,
    ROUNDS_MAX,
    Span,
    Told,
    cut_up,
    digest_of,
    do_tile,
    field_of,
    in_parts,
    span_of,
    tell,
    within,
)
from p2pmq.core.copies import Home
from p2pmq.core.dots import DotSet
from p2pmq.core.hlc import HybridClock
from p2pmq.core.ids import SEQ_MAX, Dot, Run
from p2pmq.core.packets.publishing import RunField
from p2pmq.core.packets.replicating import Compare, Compared
from p2pmq.core.partition import Partition
from p2pmq.wire.codec import encode
from tests.core.kit import KEY, S1, S2, B, compare_by_pieces

if TYPE_CHECKING:
    from collections.abc import Iterable

LAST = b"\xff" * 8
sessions = st.sampled_from([bytes(8), S1, S2, LAST])
runs = st.builds(
    lambda session, first, length: Run(session, first, first + length),
    sessions,
    st.integers(1, 120),
    st.integers(0, 6),
)
states = st.tuples(st.lists(runs, max_size=60), st.lists(runs, max_size=60))


def partition_of(seen: Iterable[Run], unacked: Iterable[Run]) -> Partition:
    """A state, without the batches: what lies in them is nobody's business here."""
    partition = Partition(KEY, HybridClock())
    partition.seen = DotSet(seen)
    partition.unacked = DotSet(unacked)
    for run in partition.unacked.runs():
        partition.seen.add(run)
    return partition


class Talk:
    """An owner compares with a home, round by round; what crosses the wire is counted."""

    def __init__(self, owner: Partition, home: Partition) -> None:
        self.bytes = self.rounds = 0
        self.home = Home(B)
        self.home.begin(1, owner, (), 0)
        asked: list[Span] | None = [ALL]
        while asked:
            self.rounds += 1
            assert self.rounds <= ROUNDS_MAX
            ranges = () if asked == [ALL] else tuple(map(field_of, asked))
            self.count(Compare(*KEY, 1, digest_of(owner), ranges=ranges))
            if not ranges and digest_of(home) == digest_of(owner):
                self.say(Compared(*KEY, 1, equal=True))
            else:
                told = tell(home, asked)
                self.say(Compared(*KEY, 1, equal=False, ranges=tuple(told.pieces),
                                  seen=tuple(told.seen), pending=tuple(told.pending)))  # fmt: skip
            asked = self.home.narrow(owner, ())
            assert asked is not None
            if asked:
                self.home.begin_round(1, asked, 0)

    def say(self, answer: Compared) -> None:
        self.count(answer)
        assert self.home.take_in(answer)

    def count(self, packet: Compare | Compared) -> None:
        self.bytes += sum(map(len, encode(packet)))


def reconcile_small(owner: Partition, home: Partition) -> Talk:
    with pytest.MonkeyPatch.context() as patched:
        compare_by_pieces(patched)
        return Talk(owner, home)


@given(states, states)
def test_what_a_home_has_told_is_its_state_there_and_elsewhere_the_two_are_equal(
    one: tuple[list[Run], list[Run]], other: tuple[list[Run], list[Run]]
) -> None:
    owner, home = partition_of(*one), partition_of(*other)
    talk = reconcile_small(owner, home)
    told = talk.home.told
    assert talk.home.seen == within(home.seen, told)
    assert talk.home.pending == within(home.unacked, told)
    for ours, theirs in ((owner.seen, home.seen), (owner.unacked, home.unacked)):
        assert ours.difference(within(ours, told)) == theirs.difference(within(theirs, told))


@given(states, st.integers(1, 5))
def test_pieces_tile_what_they_are_pieces_of(
    state: tuple[list[Run], list[Run]], wanted: int
) -> None:
    partition = partition_of(*state)
    span = Span(Dot(S1, 5), Dot(S2, 40))
    for whole in (ALL, span):
        pieces = cut_up(partition, whole, wanted * 64)
        assert do_tile(pieces, [whole])
        assert do_tile(pieces[::-1], [whole]), "parts may come in any order"


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [Span(ALL.low, Dot(S1, 5))],
        [Span(ALL.low, Dot(S1, 5)), Span(Dot(S1, 7), ALL.high)],
        [Span(ALL.low, Dot(S1, 5)), Span(Dot(S1, 5), ALL.high)],
        [ALL, ALL],
        [Span(ALL.high, ALL.low)],
    ],
)
def test_a_hole_or_an_overlap_is_no_tiling(pieces: list[Span]) -> None:
    assert not do_tile(pieces, [ALL])


def test_tiles_meet_across_sessions() -> None:
    here, there = bytes(7) + b"\x01", bytes(7) + b"\x02"
    pieces = [Span(ALL.low, Dot(here, SEQ_MAX)), Span(Dot(there, 0), ALL.high)]
    assert do_tile(pieces, [ALL])


def test_equal_states_cost_less_than_200_bytes_however_fragmented() -> None:
    holes = [Run(S1, at, at) for at in range(1, 20_000, 2)]
    talk = Talk(partition_of(holes, holes), partition_of(holes, holes))
    assert talk.bytes < 200
    assert not talk.home.told


def test_one_message_among_a_hundred_thousand_holes_costs_some_kilobytes() -> None:
    """All of it would be four megabytes."""
    holes = [Run(S1, at, at) for at in range(1, 200_000, 2)]
    seen = [Run(S1, 1, 200_000)]
    missed = 123_457
    owner = partition_of(seen, holes)
    home = partition_of(seen, holes)
    home.unacked.remove(Run(S1, missed, missed))
    talk = Talk(owner, home)
    assert talk.bytes < 20_000
    assert talk.rounds <= 4
    assert owner.unacked.difference(home.unacked).count == 1
    assert within(owner.unacked, talk.home.told).difference(talk.home.pending) == DotSet(
        [Run(S1, missed, missed)]
    )


def test_a_hundred_missed_at_the_end_of_a_million_are_told_at_once() -> None:
    seen = [Run(S1, 1, 1_000_000)]
    talk = Talk(partition_of([], seen), partition_of([], [Run(S1, 1, 999_900)]))
    assert talk.bytes < 300
    assert talk.rounds == 1


def test_differences_cost_in_proportion_among_many_publishers() -> None:
    rng = random.Random(1)
    ids = sorted(rng.randbytes(8) for _ in range(20_000))
    state = [Run(session, 1, 3) for session in ids]
    one = Talk(partition_of(state, ()), partition_of(state[:-1], ()))
    lacking = [run for at, run in enumerate(state) if at % 400]
    fifty = Talk(partition_of(state, ()), partition_of(lacking, ()))
    assert one.bytes < 15_000
    assert fifty.bytes < 50 * one.bytes
    assert sum(1 for _ in fifty.home.seen.runs()) < len(state)


def test_a_digest_is_worked_out_again_when_something_has_changed() -> None:
    partition = partition_of([Run(S1, 1, 9)], [])
    before = digest_of(partition)
    assert digest_of(partition) == before
    partition.seen.add(Run(S1, 10, 10))
    assert digest_of(partition) != before


def test_an_answer_is_cut_into_parts_with_nothing_lost() -> None:
    pieces = [field_of(Span(Dot(S1, at), Dot(S1, at))) for at in range(7)]
    seen = [RunField(S1, at, at) for at in range(1, 4)]
    pending = [RunField(S2, at, at) for at in range(1, 12)]
    parts = in_parts(Told(pieces, seen, pending), 5)
    assert [len(part.pieces) + len(part.seen) + len(part.pending) for part in parts] == [
        5,
        5,
        5,
        5,
        1,
    ]
    for at, column in enumerate((pieces, seen, pending)):
        assert [item for part in parts for item in part[at]] == column
    assert in_parts(Told([], [], []), 5) == [Told([], [], [])]


def test_a_span_is_the_same_as_a_field() -> None:
    span = Span(Dot(S1, 5), Dot(S2, 40))
    assert span_of(field_of(span)) == span
