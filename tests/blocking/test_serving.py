"""Functions that a blocking node calls in threads: handlers, responders, and who listens."""

import threading
from collections.abc import Iterator

import pytest

from p2pmq import Config, NoResponderError, RemoteError, Retry, UsageError
from p2pmq.blocking import Node
from p2pmq.node.message import Message
from p2pmq.node.requests import Request
from tests.blocking.kit import Working, mesh, node, python, until
from tests.node.kit import CONFIG, PATIENCE_S

QUICK = Config(timing=CONFIG.timing, retry=Retry(backoff_ms=10, backoff_max_ms=20))


@pytest.fixture
def alone() -> Iterator[Node]:
    with node("alone", config=QUICK) as made:
        yield made


def test_handlers_run_in_as_many_threads_as_asked_and_their_messages_are_acked(alone: Node) -> None:
    together = threading.Barrier(3)
    seen: list[int] = []

    @alone.handler("q", concurrency=3)
    def handle(message: Message) -> None:
        together.wait(PATIENCE_S)
        seen.append(message.body)

    alone.publish_many("q", range(9))
    until(lambda: len(seen) == 9)
    until(lambda: alone.depth("q").total == 0)
    assert sorted(seen) == list(range(9))
    threads = {t.name for t in threading.enumerate() if t.name.startswith("p2pmq-q-")}
    assert threads == {"p2pmq-q-1", "p2pmq-q-2", "p2pmq-q-3"}


def test_a_handler_that_was_given_before_the_start_begins_with_it_and_ends_with_the_node() -> None:
    made = node("n")
    seen: list[object] = []

    @made.handler("q", type=int)
    def handle(message: Message) -> None:
        seen.append(message.body)

    with made:
        made.publish("q", "7")
        until(lambda: seen == [7])
    until(lambda: "p2pmq-q-1" not in {thread.name for thread in threading.enumerate()})


def test_a_handler_that_raises_gets_the_message_again_and_at_last_makes_a_dead_letter(
    alone: Node,
) -> None:
    alone.declare("q", max_deliveries=2)
    attempts: list[int] = []

    @alone.handler("q")
    def handle(message: Message) -> None:
        attempts.append(message.attempt)
        if len(attempts) == 1:
            raise SystemExit("as sys.exit() does")
        raise ValueError("no good")

    alone.publish("q", 1)
    with alone.consume("q.dlq") as letters:
        letter = letters.get(PATIENCE_S)
        assert letter is not None
        assert letter.dead_letter is not None
        assert letter.dead_letter.error == "ValueError: no good"
        letter.ack()
    assert attempts == [1, 2]


def test_closing_lets_handlers_finish_and_gives_the_rest_to_others() -> None:
    begun, may_end = threading.Event(), threading.Event()
    done: list[object] = []
    with mesh("keeper", "worker", "third") as (keeper, worker, _):

        @worker.handler("q", prefetch=10)
        def handle(message: Message) -> None:
            begun.set()
            assert may_end.wait(PATIENCE_S)
            done.append(message.body)

        keeper.publish_many("q", range(10))
        assert begun.wait(PATIENCE_S)
        closing = Working(lambda: worker.close(PATIENCE_S))
        with keeper.consume("q") as others:
            rest = [next(others) for _ in range(9)]
            may_end.set()
            closing.result()
            assert sorted([*done, *(message.body for message in rest)], key=str) == list(range(10))
            for message in rest:
                message.ack()
            assert keeper.flush()
        assert keeper.depth("q").total == 0


def test_a_handler_that_takes_longer_than_its_visibility_timeout_keeps_its_message(
    alone: Node,
) -> None:
    attempts: list[int] = []
    may_end = threading.Event()

    @alone.handler("q", visibility_timeout=1, concurrency=2)
    def handle(message: Message) -> None:
        attempts.append(message.attempt)
        may_end.wait(PATIENCE_S)

    alone.publish("q", 1)
    until(lambda: attempts == [1])
    with alone.consume("q") as others:
        assert others.get(2.5) is None, "two timeouts and a half"
    may_end.set()
    until(lambda: alone.depth("q").total == 0)
    assert attempts == [1]


def test_a_responder_answers_in_threads_and_what_it_raises_reaches_the_caller(alone: Node) -> None:
    together = threading.Barrier(2)

    @alone.responder("double", concurrency=2)
    def double(request: Request) -> object:
        together.wait(PATIENCE_S)
        return 2 * request.body

    asking = [Working(lambda n=n: alone.request("double", n, timeout=PATIENCE_S)) for n in (1, 2)]  # type: ignore[misc]  # bound now
    assert [each.result() for each in asking] == [2, 4]

    @alone.responder("broken")
    def broken(_: object) -> None:
        raise KeyError("tin")

    with pytest.raises(RemoteError, match="tin"):
        alone.request("broken")


def test_a_responder_may_be_given_before_the_start_and_closed_again() -> None:
    made = node("n")
    answering = made.respond("name", lambda _: "n", concurrency=1)
    with made:
        assert made.request("name") == "n"
        answering.close()
        with pytest.raises(NoResponderError):
            made.request("name", timeout=1)
    answering.close()


def test_a_handler_in_a_thread_keeps_its_place_until_it_has_ended(alone: Node) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def wait(request: Request) -> object:
        if request.body == "slow":
            begun.set()
            may_end.wait(PATIENCE_S)
        return "done"

    alone.respond("one", wait, concurrency=1)
    with pytest.raises(TimeoutError):
        alone.request("one", "slow", timeout=0.1)
    assert begun.wait(PATIENCE_S)
    next_one = Working(lambda: alone.request("one", "next", timeout=PATIENCE_S))
    assert next_one.is_alive()
    may_end.set()
    assert next_one.result() == "done"


def test_asynchronous_functions_are_refused_at_once(alone: Node) -> None:
    async def handle(_: object) -> None: ...

    with pytest.raises(UsageError, match="asynchronous"):
        alone.handler("q")(handle)
    with pytest.raises(UsageError, match="asynchronous"):
        alone.respond("name", handle)
    with pytest.raises(UsageError):
        alone.handler("q", concurrency=0)


INTERRUPTED = """
import os, signal, threading
import p2pmq.blocking
serving = threading.Event()
node = p2pmq.blocking.Node("n", mdns=False, store="memory")

@node.handler("q")
def handle(message):
    assert serving.wait(30)
    os.kill(os.getpid(), signal.SIGINT)
    while not node._inner._draining:
        pass
    print("handled", message.body)

with node:
    node.publish("q", 7)
    try:
        serving.set()
        node.wait_stopped()
    except KeyboardInterrupt:
        print("interrupted")
        node.close()
        print("closed")
"""


def test_a_program_that_serves_lets_its_handlers_finish_after_an_interrupt() -> None:
    ended = python(INTERRUPTED)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split("\n") == ["interrupted", "handled 7", "closed", ""]


def test_handlers_in_threads_publish_with_their_acks_and_process_once(alone: Node) -> None:
    @alone.handler("in", concurrency=4, once=True)
    def handle(message: Message) -> None:
        message.publish("out", message.body)
        message.publish("out", str(message.body))

    alone.publish_many("in", range(100))
    with alone.consume("out", prefetch=500) as found:
        bodies = [found.get(PATIENCE_S).body for _ in range(200)]  # type: ignore[union-attr]  # they come
    assert sorted(map(str, bodies)) == sorted(str(number) for number in range(100) for _ in "12")
    until(lambda: alone.depth("in").total == 0)
