"""Many threads on one node, publishing and consuming: everything comes once, and is counted."""

from collections import Counter

import pytest

from p2pmq.blocking import Node
from tests.blocking.kit import Working, mesh, node, until

THREADS = 6
EACH = 300


def publish(at: Node, number: int) -> int:
    """One by one, in bulk from a list, in bulk from a generator: a third each."""
    first = number * EACH
    third = EACH // 3
    for body in range(first, first + third):
        assert at.publish("q", body, timeout=30).committed
    bulk = list(range(first + third, first + 2 * third))
    committed = at.publish_many("q", bulk, timeout=30).committed
    rest = (body for body in range(first + 2 * third, first + EACH))
    return third + committed + at.publish_many("q", rest, timeout=30).committed


def consume(at: Node, into: list[int], number: int) -> None:
    """Half of the threads take messages, half take batches."""
    if number % 2:
        for message in at.consume("q", prefetch=20):
            with message:
                into.append(message.body)
    else:
        for batch in at.consume_batches("q", prefetch=100):
            with batch:
                into.extend(batch.bodies)


@pytest.mark.parametrize("names", [("n",), ("a", "b", "c")])
def test_what_many_threads_publish_comes_to_many_threads_each_message_once(
    names: tuple[str, ...],
) -> None:
    with mesh(*names) as nodes:
        publisher, consumer = nodes[0], nodes[-1]
        got: list[int] = []
        consuming = [
            Working(lambda number=number: consume(consumer, got, number))  # type: ignore[misc]  # bound now
            for number in range(THREADS)
        ]
        publishing = [
            Working(lambda number=number: publish(publisher, number))  # type: ignore[misc]  # bound now
            for number in range(THREADS)
        ]
        assert sum(thread.result() for thread in publishing) == THREADS * EACH
        until(lambda: len(got) >= THREADS * EACH, "all have come")
        assert consumer.flush(30)
        assert publisher.depth("q").total == 0
        consumer.close()
        for thread in consuming:
            thread.result()
        assert Counter(got) == Counter(range(THREADS * EACH))


def test_a_thread_that_publishes_while_another_closes_gets_an_answer() -> None:
    for _ in range(5):
        with node("n") as made:

            def work(at: Node = made) -> int:
                done = 0
                while True:
                    at.publish("q", done)
                    done += 1

            workers = [Working(work) for _ in range(4)]
            until(lambda of=made: of.depth("q").total > 10)  # type: ignore[misc]  # bound now
            made.close()
            for worker in workers:
                with pytest.raises(Exception, match="'n' is clos"):
                    worker.result()
