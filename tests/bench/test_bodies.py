"""Bodies carry their number; the tally knows what is missing and what came twice."""

import time

from p2pmq.bench.bodies import Bodies, Tally


def test_bodies_have_the_size_that_was_asked_for() -> None:
    bodies = Bodies(128)
    assert {len(body) for body in bodies.numbered(10)} == {128}
    assert len(bodies.stamped(3)) == 128


def test_nothing_is_left_when_every_number_came_in_any_order() -> None:
    tally = Tally(10)
    for body in reversed(list(Bodies(16).numbered(10))):
        assert tally.left
        tally.handle(body)
    assert tally.left == 0
    assert tally.duplicates == 0


def test_what_comes_twice_is_a_duplicate_and_no_progress() -> None:
    tally = Tally(2)
    first, _ = Bodies(16).numbered(2)
    tally.handle(first)
    tally.handle(first)
    assert (tally.left, tally.duplicates) == (1, 1)


def test_latency_is_taken_from_the_stamp_but_not_of_the_first_messages() -> None:
    tally = Tally(3, skip=1, timed=True)
    bodies = Bodies(16)
    before = time.monotonic_ns()
    for number in range(3):
        tally.handle(bodies.stamped(number))
    elapsed_us = (time.monotonic_ns() - before) / 1000
    assert len(tally.latencies_ns) == 2
    figures = tally.percentiles_us()
    assert 0 <= figures["p50_us"] <= figures["p99_us"] <= figures["max_us"] <= elapsed_us


def test_without_stamps_there_are_no_percentiles() -> None:
    tally = Tally(1)
    tally.handle(next(Bodies(16).numbered(1)))
    assert tally.percentiles_us() == {}
