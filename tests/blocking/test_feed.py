"""Bodies from an iterable: run by who gives it, as fast as they leave, to its end or an error."""

import threading
from collections.abc import Iterator

import pytest

from p2pmq import Config, OutboxFullError, OutboxPolicy
from p2pmq.blocking import Node
from p2pmq.blocking.feed import CHUNK_BYTES, CHUNK_MESSAGES, CHUNKS_AHEAD, chunks_of
from tests.blocking.kit import node
from tests.node.kit import CONFIG


@pytest.fixture
def alone() -> Iterator[Node]:
    with node("alone") as made:
        yield made


def test_chunks_are_bounded_in_number_and_bytes_and_leave_nothing_out() -> None:
    assert list(chunks_of([])) == []
    assert [len(chunk) for chunk in chunks_of(range(CHUNK_MESSAGES + 1))] == [CHUNK_MESSAGES, 1]
    large = b"x" * (CHUNK_BYTES // 2)
    assert [len(chunk) for chunk in chunks_of([large] * 5)] == [2, 2, 1]
    assert [body for chunk in chunks_of(iter("abc")) for body in chunk] == ["a", "b", "c"]


def test_an_iterable_runs_in_the_thread_that_gives_it_and_in_its_order(alone: Node) -> None:
    threads = set()

    def bodies() -> Iterator[int]:
        for number in range(3_000):
            threads.add(threading.current_thread())
            yield number

    assert alone.publish_many("q", bodies()).committed == 3_000
    assert threads == {threading.current_thread()}
    assert [message.body for message in alone.drain("q")] == list(range(3_000))


def test_an_iterable_that_fails_raises_its_own_error_and_leaves_the_node_usable(
    alone: Node,
) -> None:
    def bodies() -> Iterator[int]:
        yield from range(CHUNK_MESSAGES * 4)
        raise LookupError("no more rows")

    with pytest.raises(LookupError, match="no more rows"):
        alone.publish_many("q", bodies())
    assert alone.publish_many("q2", iter(range(10))).committed == 10


def test_an_error_of_the_node_stops_an_endless_iterable() -> None:
    config = Config(timing=CONFIG.timing, outbox=OutboxPolicy(bytes_max=1, overflow="refuse"))
    given = 0

    def bodies() -> Iterator[bytes]:
        nonlocal given
        while True:
            given += 1
            yield b"x" * 1_024

    with node("full", config=config) as made, pytest.raises(OutboxFullError):
        made.publish_many("q", bodies())
    assert 0 < given <= (CHUNKS_AHEAD + 2) * CHUNK_MESSAGES
