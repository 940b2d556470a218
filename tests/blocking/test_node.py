"""The blocking node: the calls of `p2pmq.Node`, waited for, with its errors."""

import inspect
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import p2pmq
from p2pmq import (
    BodyTooLargeError,
    ClosedNodeError,
    Config,
    NameTakenError,
    NotCommittedError,
    NotSerializableError,
    OutboxFullError,
    OutboxPolicy,
    QueueNameError,
    UsageError,
)
from p2pmq.blocking import Node, Queue
from p2pmq.blocking.taking import Messages
from tests.blocking.kit import Working, alive, mesh, node, until
from tests.node.kit import CONFIG


@pytest.fixture
def alone() -> Iterator[Node]:
    with node("alone") as made:
        yield made


def public(of: type) -> dict[str, Any]:
    return {
        name: member
        for name, member in inspect.getmembers(of)
        if not name.startswith("_") and callable(member)
    }


@pytest.mark.parametrize(("here", "there"), [(Node, p2pmq.Node), (Queue, p2pmq.Queue)])
def test_every_call_of_the_asyncio_node_is_here_under_its_name_with_its_parameters(
    here: type, there: type
) -> None:
    ours, theirs = public(here), public(there)
    # What the driver tells the node; and what is for tests that run on a loop of their own.
    not_here = {name for name in theirs if name.startswith("on_")} | {"abort"}
    assert ours.keys() == theirs.keys() - not_here
    for name, call in ours.items():
        mine, other = inspect.signature(call).parameters, inspect.signature(theirs[name]).parameters
        assert [(p.name, p.kind, p.default) for p in mine.values()] == [
            (p.name, p.kind, p.default) for p in other.values()
        ], name
    made, other = (inspect.signature(of.__init__).parameters for of in (here, there))  # type: ignore[misc]  # of a class
    assert list(made) == [name for name in other if name != "world"]


def test_what_is_published_is_committed_and_comes_back(alone: Node) -> None:
    receipt = alone.publish("q", {"id": 1})
    assert (receipt.committed, receipt.owner) == (True, "alone")
    for message in alone.consume("q"):
        with message:
            assert message.body == {"id": 1}
            assert message.message_id == receipt.message_id
        break
    assert alone.flush()
    assert alone.depth("q").total == 0


def test_bodies_come_as_the_type_that_is_asked_for_and_what_does_not_fit_is_a_dead_letter(
    alone: Node,
) -> None:
    alone.publish_many("q", [["1", "2"], "no list", [3]])
    messages = alone.consume("q", type=list[int])
    bodies = []
    for message in messages:
        with message:
            bodies.append(message.body)
        if len(bodies) == 2:
            break
    del messages
    assert bodies == [[1, 2], [3]]
    for letter in alone.consume("q.dlq"):
        with letter:
            assert letter.body == "no list"
            assert letter.dead_letter is not None
            assert letter.dead_letter.reason == "rejected"
        break


def test_the_calls_that_look_and_set_say_what_the_asyncio_node_says(alone: Node) -> None:
    assert alone.declare("q", replicas=5).replicas == 5
    assert alone.settings_of("q").min_copies == 3
    alone.publish("q", 1)
    assert [depth.queue for depth in alone.queues()] == ["q"]
    assert [member.name for member in alone.members()] == ["alone"]
    assert alone.owner_of("q") == "alone"
    assert alone.settings.name == "alone"
    assert alone.addresses
    assert len(alone.node_id) == 8
    assert alone.counters["nothing"] == 0
    with pytest.raises(UsageError, match="no dead member"):
        alone.forget("nobody")
    alone.leave()


def test_a_replay_gives_what_was_acked_in_order(alone: Node) -> None:
    alone.declare("log", retain=3_600)
    alone.publish_many("log", range(600))
    assert [message.body for message in alone.drain("log")] == list(range(600))
    assert [message.body for message in alone.replay("log")] == list(range(600))
    assert list(alone.replay("log", since=time.time() + 60)) == []


def test_mail_between_blocking_nodes_of_one_process() -> None:
    with mesh("a", "b") as (a, b):
        assert a.send("b", "one").committed
        assert a.send_many("b", ("two", "three")).committed == 2
        inbox = b.inbox()
        assert [next(inbox).body for _ in range(3)] == ["one", "two", "three"]
        inbox.close()
        assert len(next(b.inbox_batches())) in (1, 2, 3)


@pytest.mark.parametrize(
    ("body", "queue", "error"),
    [
        (b"x" * (17 * 1024 * 1024), "q", BodyTooLargeError),
        (object(), "q", NotSerializableError),
        (1, "", QueueNameError),
        (1, "@alone", QueueNameError),
    ],
)
def test_errors_are_of_the_same_classes(
    alone: Node, body: object, queue: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        alone.publish(queue, body)
    with pytest.raises(error):
        alone.publish_many(queue, [body])
    with pytest.raises(error):
        alone.publish_many(queue, iter([body]))
    assert alone.publish("q", "after").committed


def test_a_traceback_shows_the_call_and_where_in_the_node_it_failed(alone: Node) -> None:
    with pytest.raises(QueueNameError) as caught:
        alone.publish("", 1)
    files = [Path(frame.filename).name for frame in traceback.extract_tb(caught.tb)]
    assert files[0] == "test_node.py"
    assert files[-1] == "names.py"


def test_a_confirm_that_does_not_come_is_not_waited_for_longer_than_asked() -> None:
    with mesh("a", "b") as (a, b):
        queue = next(f"q{n}" for n in range(1_000) if a.owner_of(f"q{n}") == "b")
        b.close()
        with pytest.raises(NotCommittedError):
            a.publish(queue, 1, timeout=0.05)


def calls(made: Node) -> list[Any]:
    return [
        lambda: made.publish("q", 1),
        lambda: made.publish_many("q", [1]),
        lambda: made.publish_many("q", iter([1])),
        lambda: made.send("n", 1),
        lambda: made.send_many("n", [1]),
        lambda: made.consume("q"),
        lambda: made.subscribe("t"),
        lambda: made.emit("t", 1),
        lambda: made.bind("t", queue="q"),
        lambda: made.unbind("t", queue="q"),
        made.bindings,
        made.inbox,
        lambda: made.consume_batches("q"),
        made.inbox_batches,
        lambda: next(made.drain("q")),
        lambda: made.replay("q"),
        lambda: made.declare("q"),
        lambda: made.settings_of("q"),
        lambda: made.depth("q"),
        made.queues,
        made.members,
        lambda: made.owner_of("q"),
        lambda: made.forget("x"),
        made.leave,
        made.flush,
        made.wait_stopped,
    ]


def test_every_call_on_a_node_that_does_not_run_says_so() -> None:
    made = node("n")
    made.close()
    for state in ("not started", "closed"):
        for call in calls(made):
            with pytest.raises(ClosedNodeError, match=state):
                call()
        if state == "not started":
            made.start()
            with pytest.raises(ClosedNodeError, match="running"):
                made.start()
            made.close()
    made.close()
    with pytest.raises(ClosedNodeError):
        made.start()


def test_a_start_that_failed_leaves_no_thread_and_may_be_tried_again() -> None:
    with node("first") as first:
        second = node("taken", seeds=first.addresses)
        with node("taken", seeds=first.addresses) as holder:
            until(lambda: alive(first) == {"first", "taken"})
            with pytest.raises(NameTakenError):
                second.start()
            # By name, since the others may begin threads of their loops' pools at any time.
            named = [thread.name for thread in threading.enumerate()]
            assert named.count("p2pmq-taken") == 1, "that of the holder"
            holder.leave()
        until(lambda: alive(first) == {"first"})
        with second:
            assert second.publish("q", 1, timeout=10).committed
            waiting = Working(second.wait_stopped)
            assert waiting.is_alive()
        waiting.result()


def test_a_node_that_is_made_wrongly_says_so_at_once() -> None:
    with pytest.raises(UsageError):
        Node("")


def test_closing_ends_the_thread_and_every_iteration_in_other_threads(alone: Node) -> None:
    seen = []

    def work() -> str:
        for message in alone.consume("q"):
            with message:
                seen.append(message.body)
        return "ended"

    workers = [Working(work) for _ in range(3)]
    alone.publish_many("q", range(10))
    until(lambda: len(seen) == 10)
    names = {thread.name for thread in threading.enumerate()}
    assert "p2pmq-alone" in names
    closers = [Working(alone.close) for _ in range(2)]
    for worker in workers:
        assert worker.result() == "ended"
    for closer in closers:
        closer.result()
    assert "p2pmq-alone" not in {thread.name for thread in threading.enumerate()}


def test_closing_lets_a_handler_in_another_thread_finish_and_gives_back_what_it_did_not_get() -> (
    None
):
    begun, may_finish = threading.Event(), threading.Event()
    with mesh("keeper", "worker", "third") as (keeper, worker, _):
        keeper.publish_many("q", range(10))

        def work() -> list[int]:
            done = []
            for message in worker.consume("q", prefetch=10):
                with message:
                    begun.set()
                    assert may_finish.wait(30)
                    done.append(message.body)
            return done

        working = Working(work)
        assert begun.wait(30)
        closing = Working(lambda: worker.close(30))
        # The nine that it did not look at come to another one while it is still at its first.
        others = keeper.consume("q")
        rest = [next(others) for _ in range(9)]
        may_finish.set()
        done = working.result()
        closing.result()
        assert sorted(done + [message.body for message in rest]) == list(range(10))
        for message in rest:
            message.ack()
        assert keeper.flush()
        assert keeper.depth("q").total == 0


def test_closing_does_not_wait_for_what_the_closing_thread_holds_itself(alone: Node) -> None:
    alone.publish("q", 1)
    message = next(alone.consume("q"))
    alone.close(timeout=600)  # it would take as long
    with pytest.raises(p2pmq.StaleReceiptError):
        message.ack()


def test_on_overflow_may_not_call_the_node_in_whose_thread_it_runs() -> None:
    caught: list[BaseException] = []

    def on_overflow(_: object) -> None:
        try:
            made.members()
        except UsageError as error:
            caught.append(error)
        with pytest.raises(UsageError):
            made.close()

    config = Config(timing=CONFIG.timing, outbox=OutboxPolicy(bytes_max=10, overflow="refuse"))
    made = node("n", config=config, on_overflow=on_overflow)
    with made, pytest.raises(OutboxFullError):
        made.publish("q", b"x" * 100)
    assert "own thread" in str(caught[0])


def test_a_node_that_is_forgotten_says_so_and_closes_by_itself(tmp_path: Path) -> None:
    made = node("n", store="disk", data_dir=str(tmp_path))
    made.start()
    made.publish("q", 1)
    with pytest.warns(ResourceWarning, match="'n'> was not closed"):
        del made
    until(lambda: "p2pmq-n" not in {thread.name for thread in threading.enumerate()})
    with node("n", store="disk", data_dir=str(tmp_path)) as again:
        assert again.depth("q").total == 1


def test_partitions_are_consumed_by_threads_and_each_message_comes_once() -> None:
    with mesh("one", "two", "three") as nodes:
        assert nodes[0].declare("orders", partitions=5).partitions == 5
        until(lambda: nodes[2].settings_of("orders").partitions == 5)
        with nodes[2].consume("orders", prefetch=50) as messages:
            nodes[1].publish_many("orders", range(300), key=lambda n: f"key {n % 30}")
            assert nodes[0].declare("orders", partitions=9).partitions == 9
            nodes[0].publish_many("orders", range(300, 600), key=lambda n: f"key {n % 30}")
            workers = [Working(lambda: taken(messages, 200)) for _ in range(3)]
            found = [body for worker in workers for body in worker.result()]
        assert sorted(found) == list(range(600))
        until(lambda: not nodes[1].depth("orders").total)
        assert nodes[1].depth("orders").partitions == 9
        assert nodes[0].owner_of("orders", 8) in ("one", "two", "three")


def taken(messages: Messages, count: int) -> list[int]:
    bodies = []
    for _ in range(count):
        with next(messages) as message:
            bodies.append(message.body)
    return bodies
