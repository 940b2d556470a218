"""Events for threads: the same subscription, read under a lock."""

import threading

import pytest

from p2pmq import ClosedNodeError, TopicError, UsageError
from p2pmq.blocking import Node
from tests.blocking.kit import Working, mesh, node, until
from tests.node.kit import PATIENCE_S


def emitted(made: Node, topic: str) -> bool:
    """Emit 7; true."""
    made.emit(topic, 7)
    return True


def test_events_come_in_order_to_who_listens_within_with() -> None:
    with mesh("a", "b") as (a, b), b.subscribe("t.>") as events:
        until(lambda: emitted(a, "t.ready") and len(events), "b's patterns are known to a")
        while events.get(0.1) is not None:
            pass
        for number in range(5):
            a.emit(f"t.{number}", number)
        heard = [event for _ in range(5) if (event := events.get(PATIENCE_S)) is not None]
        assert [(event.topic, event.body, event.sender) for event in heard] == [
            (f"t.{number}", number, "a") for number in range(5)
        ]
        assert (events.dropped, events.patterns) == (0, ("t.>",))


def test_threads_share_a_subscription_and_the_nodes_end_ends_them_all() -> None:
    with node("n") as made:
        heard: list[object] = []
        with made.subscribe("t", buffer=10_000) as events:

            def listen() -> None:
                heard.extend(event.body for event in events)

            listeners = [Working(listen) for _ in range(3)]
            for number in range(300):
                made.emit("t", number)
            until(lambda: len(heard) == 300)
            assert sorted(heard, key=str) == sorted(range(300), key=str)
            made.close()
            for listener in listeners:
                listener.result()
            assert events.get(0) is None


def test_iterated_as_it_is_a_subscription_lasts_as_long_as_its_loop() -> None:
    with node("n") as made:
        begun = threading.Event()

        def listen() -> object:
            begun.set()
            for event in made.subscribe("t"):
                return event.body
            return None

        listening = Working(listen)
        assert begun.wait(PATIENCE_S)
        until(lambda: emitted(made, "t") and not listening.is_alive())
        assert listening.result() == 7
        until(lambda: not list(made._inner._emitter.subscriptions()))


def test_a_slow_reader_loses_the_oldest_and_is_told_how_many() -> None:
    with node("n") as made, made.subscribe("t", buffer=2) as events:
        for number in range(5):
            made.emit("t", number)
        until(lambda: events.dropped == 3)
        assert len(events) == 2
        assert [events.get(1).body, events.get(1).body] == [3, 4]  # type: ignore[union-attr]  # they are there
        assert events.get(0) is None


def test_what_cannot_be_subscribed_to_says_so() -> None:
    with node("n") as made:
        with pytest.raises(TopicError):
            made.subscribe("a*")
        with pytest.raises(UsageError):
            made.subscribe("t", buffer=0)
        with made.subscribe("t") as events, pytest.raises(UsageError):
            events.get(-1)
    with pytest.raises(ClosedNodeError):
        made.subscribe("t")
