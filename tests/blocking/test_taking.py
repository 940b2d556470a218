"""What `consume()` gives: an iterator that waits, for one thread or several, and its end."""

import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from p2pmq import ClosedNodeError, Message, StaleReceiptError, UsageError
from p2pmq.blocking import Batches, Messages, Node
from tests.blocking.kit import Working, node, until


@pytest.fixture
def alone() -> Iterator[Node]:
    with node("alone") as made:
        yield made


def left_in(of: Node, queue: str) -> int:
    assert of.flush()
    return of.depth(queue).total


def test_leaving_the_block_acks_and_an_exception_in_it_nacks(alone: Node) -> None:
    alone.publish_many("q", range(2))
    messages = alone.consume("q")
    first = next(messages)
    with first:
        assert not first.redelivered
    second = next(messages)
    with pytest.raises(LookupError), second:
        raise LookupError
    again = next(messages)
    assert (again.body, again.redelivered) == (1, True)
    again.ack()
    assert left_in(alone, "q") == 0


def test_a_loop_that_is_left_gives_the_rest_back_at_once(alone: Node) -> None:
    alone.publish_many("q", range(100))
    for message in alone.consume("q", prefetch=100):
        message.ack()
        if message.body == 9:
            break
    others = alone.consume("q", prefetch=100)
    assert [next(others).body for _ in range(90)] == list(range(10, 100))


def test_a_message_is_held_back_extended_or_given_back_later(alone: Node) -> None:
    alone.publish("q", 1)
    messages = alone.consume("q", visibility_timeout=1.0)
    first = next(messages)
    first.extend(60)
    assert messages.get(0.05) is None
    first.nack(delay=0.05)
    assert alone.depth("q").total == 1
    assert next(messages).attempt == 2


def test_what_does_not_come_in_time_is_none(alone: Node) -> None:
    messages = alone.consume("q")
    assert messages.get(0.0) is None
    assert messages.get(0.01) is None
    with pytest.raises(UsageError):
        messages.get(-1)
    with pytest.raises(UsageError):
        messages.get(float("nan"))
    alone.publish("q", 1)
    message = messages.get(30)
    assert message is not None
    assert message.body == 1


def test_the_end_of_an_iterator_is_the_end_for_what_it_gave(alone: Node) -> None:
    alone.publish_many("q", range(3))
    with alone.consume("q") as messages:
        first, second = next(messages), next(messages)
        first.ack()
    messages.close()
    with pytest.raises(StaleReceiptError):
        second.ack()
    with pytest.raises(StaleReceiptError):
        second.extend(1)
    second.nack()
    assert list(messages) == []
    with pytest.raises(ClosedNodeError):
        messages.get(1)
    assert left_in(alone, "q") == 2


def test_a_close_wakes_every_thread_that_waits(alone: Node) -> None:
    messages = alone.consume("q")
    waiting = [Working(lambda: list(messages)) for _ in range(3)]
    awaiting = Working(lambda: messages.get(600))
    messages.close()
    assert [thread.result() for thread in waiting] == [[], [], []]
    with pytest.raises(ClosedNodeError):
        awaiting.result()


def test_several_threads_share_one_iterator_and_each_message_comes_to_one(alone: Node) -> None:
    messages = alone.consume("q", prefetch=64)
    got: list[int] = []

    def work() -> None:
        for message in messages:
            with message:
                got.append(message.body)

    workers = [Working(work) for _ in range(4)]
    alone.publish_many("q", range(2_000))
    until(lambda: len(got) >= 2_000)
    messages.close()
    for worker in workers:
        worker.result()
    assert Counter(got) == Counter(range(2_000))
    assert left_in(alone, "q") == 0


def test_one_thread_takes_and_others_settle(alone: Node) -> None:
    alone.publish_many("q", range(500))
    messages = alone.consume("q", prefetch=50)
    parted: list[list[Message]] = [[] for _ in range(4)]
    may_settle = [threading.Semaphore(0) for _ in parted]

    def settle(number: int) -> None:
        for _ in range(125):
            assert may_settle[number].acquire(timeout=30)
            parted[number].pop().ack()

    settling = [Working(lambda number=number: settle(number)) for number in range(4)]  # type: ignore[misc]  # bound now
    for number in range(500):
        parted[number % 4].append(next(messages))
        may_settle[number % 4].release()
    for thread in settling:
        thread.result()
    assert left_in(alone, "q") == 0


def test_no_more_than_the_prefetch_is_held_here(alone: Node) -> None:
    alone.publish_many("q", range(100))
    messages = alone.consume("q", prefetch=7)
    held = [next(messages) for _ in range(7)]
    assert messages.get(0.1) is None
    assert alone.depth("q").in_flight == 7
    held[0].ack()
    assert next(messages).body == 7


def test_batches_come_whole_and_are_settled_as_one(alone: Node) -> None:
    alone.publish_many("q", range(1_000))
    bodies: list[int] = []
    with alone.consume_batches("q") as batches:
        while len(bodies) < 1_000:
            with next(batches) as batch:
                bodies += batch.bodies
        assert batches.get(0.0) is None
    assert bodies == list(range(1_000))
    assert left_in(alone, "q") == 0


def test_an_iterator_says_what_it_iterates_over(alone: Node) -> None:
    assert repr(alone.consume("q")) == "<Messages of 'q'>"
    batches = alone.queue("q").consume_batches()
    assert repr(batches) == "<Batches of 'q'>"
    assert isinstance(batches, Batches)
    assert isinstance(alone.inbox(), Messages)


def test_a_node_is_not_taken_for_forgotten_while_its_messages_are_awaited() -> None:
    made = node("held")
    made.start()
    addresses = made.addresses
    messages = made.consume("q")
    del made
    with node("other", seeds=addresses) as other:
        until(lambda: len(other.members()) == 2)
        other.publish("q", 1, timeout=30)
        assert next(messages).body == 1
    messages._node.close()  # type: ignore[attr-defined]  # the node, which has no other name left
