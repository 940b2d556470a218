"""Counters count, and the calm log says each kind of trouble at most once a second."""

import logging

import pytest

from p2pmq.observe.counters import LOG_INTERVAL_S, CalmLog, Counters


def test_a_counter_begins_at_nought_and_adds_up() -> None:
    counters = Counters()
    assert counters["x"] == 0
    counters.add("x")
    counters.add("x", 4)
    assert counters["x"] == 5


def test_a_snapshot_is_sorted_and_stays_as_it_was() -> None:
    counters = Counters()
    counters.add("b")
    counters.add("a", 2)
    snapshot = counters.snapshot()
    counters.add("a")
    assert list(snapshot.items()) == [("a", 2), ("b", 1)]


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def calm(clock: Clock) -> CalmLog:
    return CalmLog(logging.getLogger("p2pmq.calm"), clock)


def test_one_kind_is_said_once_a_second_with_how_much_was_left_out(
    calm: CalmLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        calm.warning("kind", "what happened")
    assert caplog.messages == ["kind: what happened"]
    clock.now += LOG_INTERVAL_S
    calm.warning("kind", "again")
    assert caplog.messages[1:] == ["kind: again (and 99 more like it)"]
    clock.now += LOG_INTERVAL_S
    calm.warning("kind", "once more")
    assert caplog.messages[2:] == ["kind: once more"]


def test_each_kind_has_its_own_second(calm: CalmLog, caplog: pytest.LogCaptureFixture) -> None:
    calm.warning("one", "a")
    calm.warning("two", "b")
    assert caplog.messages == ["one: a", "two: b"]


def test_percent_signs_in_a_peers_text_are_text(
    calm: CalmLog, caplog: pytest.LogCaptureFixture
) -> None:
    calm.warning("kind", "100 %s of %d")
    assert caplog.messages == ["kind: 100 %s of %d"]
