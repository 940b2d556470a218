"""Ctrl-C in the main thread while it waits: at once, and the node goes on."""

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

from p2pmq import ClosedNodeError, Config
from p2pmq.blocking import Node
from p2pmq.blocking import loop_thread as loop_thread_module
from p2pmq.blocking import taking as taking_module
from tests.blocking.kit import Working, mesh, node, python, until
from tests.node.kit import quick

WAITING_IN = {loop_thread_module.__file__, taking_module.__file__}


@contextmanager
def interrupted() -> Iterator[None]:
    """The block is interrupted by SIGINT once it waits; it must not end in another way."""
    main = threading.main_thread()
    assert threading.current_thread() is main, "signals come to the main thread"
    assert main.ident is not None
    ident = main.ident

    def is_waiting() -> bool:
        frame: FrameType | None = sys._current_frames()[ident]
        names = set()
        while frame is not None:
            if frame.f_code.co_filename in WAITING_IN:
                names.add(frame.f_code.co_name)
            frame = frame.f_back
        return bool(names & {"wait", "_wait", "join"})

    def interrupt() -> None:
        until(is_waiting, "the main thread waits")
        signal.pthread_kill(ident, signal.SIGINT)

    interrupting = Working(interrupt)
    with pytest.raises(KeyboardInterrupt):
        yield
    interrupting.result()


def works(made: Node, queue: str = "works") -> bool:
    """Whether the node still does what it should."""
    made.publish(queue, "x")
    with made.consume(queue) as messages, next(messages) as message:
        return bool(message.body == "x")


def test_waiting_for_a_message_is_interrupted_and_the_same_iterator_goes_on() -> None:
    with node("n") as made:
        messages = made.consume("q")
        with interrupted():
            next(messages)
        with interrupted():
            messages.get(600)
        made.publish("q", 1)
        assert next(messages).body == 1
        assert works(made)


@pytest.mark.parametrize("bulk", [False, True])
def test_waiting_for_a_confirm_is_interrupted_and_the_node_goes_on(*, bulk: bool) -> None:
    with mesh("a", "b") as (a, b):
        queue = next(f"q{n}" for n in range(1_000) if a.owner_of(f"q{n}") == "b")
        b.close()  # two nodes need each other
        publish: Callable[[], object] = lambda: (  # noqa: E731  for its type
            a.publish_many(queue, iter(range(10)), timeout=600)
            if bulk
            else a.publish(queue, 1, timeout=600)
        )
        with interrupted():
            publish()
        assert {member.name for member in a.members()} == {"a", "b"}


def test_closing_is_interrupted_and_ends_nevertheless() -> None:
    with node("n") as made:
        made.publish("q", 1)
        may_end = threading.Event()

        def work() -> None:
            for message in made.consume("q"):
                with message:
                    taken.set()
                    may_end.wait(60)

        taken = threading.Event()
        working = Working(work)
        assert taken.wait(30)
        with interrupted():
            made.close(timeout=600)
        assert "p2pmq-n" not in {thread.name for thread in threading.enumerate()}
        may_end.set()
        with pytest.raises(ClosedNodeError):
            working.result()


def test_starting_is_interrupted_and_leaves_nothing_open() -> None:
    patient: Config = quick(join_timeout_ms=600_000)
    made = node("n", seeds=["127.0.0.1:1"], config=patient)
    with interrupted():
        made.start()
    assert "p2pmq-n" not in {thread.name for thread in threading.enumerate()}


STORM = """
import json, signal, threading
from p2pmq.blocking import Node

armed = False

def on_signal(number, frame):
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt

signal.signal(signal.SIGINT, on_signal)
main = threading.main_thread().ident
over = threading.Event()

def storm():
    pause = threading.Event()
    for number in range(400):
        signal.pthread_kill(main, signal.SIGINT)
        pause.wait(0.0005 * (number % 7))
    over.set()

node = Node("n", mdns=False, store="memory")
node.start()
thread = threading.Thread(target=storm)
thread.start()
published, hits, seen = 0, 0, set()
while not over.is_set():
    try:
        armed = True
        while not over.is_set():
            node.publish("q", published)
            published += 1
            node.publish_many("q", iter(range(-3, 0)))
            with node.consume("q") as messages:
                while (message := messages.get(0.0)) is not None:
                    with message:
                        seen.add(message.body)
        armed = False
    except KeyboardInterrupt:
        hits += 1
armed = False
thread.join()
seen |= {message.body for message in node.drain("q", patience=20)}
flushed = node.flush()
left = node.depth("q").total
node.close()
print(json.dumps({"hits": hits, "missing": len(set(range(published)) - seen), "left": left,
                  "flushed": flushed, "alive": [t.name for t in threading.enumerate()]}))
"""


@pytest.mark.slow
def test_interrupts_at_any_moment_lose_no_message_and_leave_the_node_usable() -> None:
    ended = python(STORM)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told.pop("hits") > 20
    assert told == {"missing": 0, "left": 0, "flushed": True, "alive": ["MainThread"]}
