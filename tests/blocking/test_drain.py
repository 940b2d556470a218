"""Draining: until the queue is empty, each message acked as the next is asked for."""

import pytest

from p2pmq import RequestTimeoutError
from tests.blocking.kit import Working, node, until


def test_a_drain_ends_when_the_queue_is_empty_and_everything_is_acked() -> None:
    with node("n") as made:
        made.publish_many("q", range(300))
        assert [message.body for message in made.drain("q")] == list(range(300))
        assert made.flush()
        assert made.depth("q").total == 0


def test_what_is_drained_is_given_back_when_its_processing_fails() -> None:
    with node("n") as made:
        made.publish_many("q", range(3))
        drain = made.queue("q").drain()
        assert next(drain).body == 0
        assert next(drain).body == 1
        drain.close()  # type: ignore[attr-defined]  # it is a generator
        assert made.flush()
        assert made.depth("q").total == 2


def test_a_drain_gives_up_when_somebody_else_holds_messages() -> None:
    with node("n") as made:
        made.publish("q", 1)
        with made.consume("q") as others:
            held = next(others)
            with pytest.raises(RequestTimeoutError, match="was not drained"):
                next(made.drain("q", patience=0.2))
            held.ack()
        assert list(made.drain("q", patience=30)) == []


def test_a_drain_that_waits_ends_when_the_node_closes() -> None:
    with node("n") as made:
        made.publish("q", 1)
        others = made.consume("q")
        next(others)  # held, so that the queue is not empty
        draining = Working(lambda: list(made.drain("q", patience=600)))
        until(lambda: made.depth("q").consumers == 2)
        made.close()
        assert draining.result() == []
