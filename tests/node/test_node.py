"""A node as its user sees it: publish, consume, settle, look. One node, or a few on loopback."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import pytest

import p2pmq
from p2pmq import Node, RequestTimeoutError, StaleReceiptError
from tests.node.kit import consume, is_empty, mesh, node, queue_of, take, until, until_async

BODIES: list[Any] = [
    b"",
    b"\x00\xff raw",
    "text: äöü \n",
    "",
    None,
    True,
    False,
    0,
    -1,
    2**63,
    1.5,
    [1, [2, [3]]],
    {"id": 1, "nested": {"a": [1, "x", None]}},
    b"x" * 300_000,
]


@pytest.fixture
async def alone() -> AsyncIterator[Node]:
    async with node("alone") as made:
        yield made


# -- one node --


async def test_every_kind_of_body_comes_out_as_it_went_in_and_in_order(alone: Node) -> None:
    for body in BODIES:
        receipt = await alone.publish("q", body)
        assert receipt.committed
    assert await consume(alone, "q", len(BODIES)) == BODIES
    await until_async(lambda: is_empty(alone, "q"))


async def test_on_disk_as_in_memory(tmp_path: Path) -> None:
    async with node("disk", store="disk", data_dir=str(tmp_path)) as made:
        await made.publish_many("q", BODIES)
        assert await consume(made, "q", len(BODIES)) == BODIES


async def test_a_receipt_says_what_became_of_the_message(alone: Node) -> None:
    receipt = await alone.publish("q", 1)
    assert (receipt.queue, receipt.committed, receipt.copies) == ("q", True, 1)
    assert receipt.owner == "alone"
    stored = await alone.publish("q", 2, confirm="stored")
    assert stored.stored or stored.committed
    nothing = await alone.publish("q", 3, confirm="none")
    assert not nothing.committed
    assert not nothing.stored
    (first, *_) = await take(alone.consume("q"), 1)
    assert first.message_id == receipt.message_id


async def test_one_publisher_s_messages_keep_their_order_whatever_they_wait_for(
    alone: Node,
) -> None:
    kinds: list[Literal["committed", "stored", "none"]] = ["none", "committed", "stored"]
    tasks = [
        asyncio.create_task(alone.publish("q", number, confirm=kinds[number % 3]))
        for number in range(99)
    ]
    await asyncio.gather(*tasks)
    await alone.publish_many("q", range(99, 500))
    await alone.publish("q", 500)
    assert await consume(alone, "q", 501) == list(range(501))


async def test_publish_many_takes_any_iterable(alone: Node) -> None:
    async def slowly() -> AsyncIterator[int]:
        for number in range(3):
            await asyncio.sleep(0)
            yield number

    def generated() -> Iterator[int]:
        yield from range(3, 2_000)

    first = await alone.publish_many("q", slowly())
    second = await alone.publish_many("q", generated())
    empty = await alone.publish_many("q", [])
    assert [receipt.published for receipt in (first, second, empty)] == [3, 1_997, 0]
    assert first.committed == 3
    assert second.owners == ("alone",)
    assert await consume(alone, "q", 2_000) == list(range(2_000))


async def test_batches_are_settled_whole_or_one_by_one(alone: Node) -> None:
    await alone.publish_many("q", range(10))
    async for batch in alone.consume_batches("q"):
        assert batch.bodies == list(range(10))
        assert [message.body for message in batch] == batch.bodies
        assert len(batch) == 10
        for message in batch:
            if message.body != 4:
                message.ack()
        next(message for message in batch if message.body == 4).nack()
        break
    gc.collect()
    assert await consume(alone, "q", 1) == [4]
    await until_async(lambda: is_empty(alone, "q"))


def fail_before(attempt: int, message: p2pmq.Message) -> None:
    """A handler that succeeds only then."""
    if message.attempt < attempt:
        raise LookupError


async def test_an_exception_gives_the_message_back_and_it_comes_marked(alone: Node) -> None:
    await alone.publish("q", "x")
    attempts = []
    async for message in alone.consume("q"):
        attempts.append((message.attempt, message.redelivered, message.message_id))
        try:
            async with message:
                fail_before(3, message)
        except LookupError:
            continue
        break
    assert [attempt[:2] for attempt in attempts] == [(1, False), (2, True), (3, True)]
    assert len({message_id for *_, message_id in attempts}) == 1


async def test_a_nack_with_a_delay_rests_for_so_long(alone: Node) -> None:
    await alone.publish("q", "x")
    messages = alone.consume("q")
    (message,) = await take(messages, 1)
    loop = asyncio.get_running_loop()
    given_back_at = loop.time()
    message.nack(delay=0.3)

    async def is_delayed() -> bool:
        return (await alone.depth("q")).delayed == 1

    await until_async(is_delayed)
    (again,) = await take(messages, 1)
    assert loop.time() - given_back_at >= 0.29
    assert again.attempt == 2


async def test_what_is_not_settled_in_time_goes_to_somebody_else(alone: Node) -> None:
    await alone.publish("q", "x")
    messages = alone.consume("q", prefetch=1, visibility_timeout=0.1)
    (first,) = await take(messages, 1)
    other = alone.consume("q")
    (again,) = await take(other, 1)
    assert (again.redelivered, again.attempt) == (True, 2)
    assert again.message_id == first.message_id
    assert alone.counters["visibility_timeout"] == 1
    first.ack()
    await until_async(lambda: is_empty(alone, "q"))


async def test_what_is_not_settled_in_time_comes_again_where_nobody_else_is(alone: Node) -> None:
    await alone.publish("q", "x")
    messages = alone.consume("q", visibility_timeout=0.1)
    first, again = await take(messages, 2)
    assert (first.attempt, again.attempt, again.redelivered) == (1, 2, True)
    assert again.message_id == first.message_id


async def test_an_extension_keeps_the_message(alone: Node) -> None:
    await alone.publish("q", "x")
    messages = alone.consume("q", visibility_timeout=0.3)
    (message,) = await take(messages, 1)
    other = asyncio.ensure_future(anext(alone.consume("q")))
    message.extend(30)
    await asyncio.wait((other,), timeout=0.5)
    assert not other.done()
    message.ack()
    await until_async(lambda: is_empty(alone, "q"))
    other.cancel()
    await asyncio.wait((other,))


async def test_no_more_than_the_prefetch_is_held_unsettled(alone: Node) -> None:
    await alone.publish_many("q", range(50))
    messages = alone.consume("q", prefetch=7)
    held = await take(messages, 7)
    beyond = asyncio.ensure_future(anext(messages))
    depth = await alone.depth("q")
    assert (depth.in_flight, depth.ready) == (7, 43)
    assert not beyond.done()
    held[0].ack()
    await asyncio.wait_for(beyond, 30)
    assert (await alone.depth("q")).in_flight <= 7


async def test_breaking_out_gives_the_rest_back_at_once(alone: Node) -> None:
    await alone.publish_many("q", range(50))
    async for message in alone.consume("q"):
        async with message:
            assert message.body == 0
        break
    assert sorted(await consume(alone, "q", 49)) == list(range(1, 50))


async def test_an_ack_after_its_consumer_ended_says_that_it_comes_too_late(alone: Node) -> None:
    await alone.publish("q", "x")
    messages = alone.consume("q")
    (message,) = await take(messages, 1)
    await messages.aclose()  # type: ignore[attr-defined]  # it is an async generator
    with pytest.raises(StaleReceiptError, match="given back"):
        message.ack()
    assert not message.settled
    message.nack()  # that is what has happened: no error
    (again,) = await take(alone.consume("q"), 1)
    assert again.message_id == message.message_id


async def test_the_rest_of_a_delivery_is_not_handed_out_after_the_end(alone: Node) -> None:
    await alone.publish_many("q", range(50))
    seen = []
    async for message in alone.consume("q"):
        async with message:
            seen.append(message.body)
        if message.body == 2:
            await asyncio.wait_for(alone.close(), 30)
    assert seen == [0, 1, 2]


async def test_depth_tells_ready_held_and_delayed(alone: Node) -> None:
    await alone.publish_many("q", [b"12345"] * 10)
    messages = alone.consume("q", prefetch=3)
    held = await take(messages, 3)
    held[0].nack(delay=100)

    async def is_so() -> bool:
        depth = await alone.depth("q")
        return (depth.ready, depth.in_flight, depth.delayed, depth.total) == (6, 3, 1, 10)

    await until_async(is_so)
    depth = await alone.depth("q")
    assert (depth.consumers, depth.owner, depth.queue) == (1, "alone", "q")
    assert depth.size >= 50
    assert (await alone.depth("never used")).total == 0


async def test_queues_are_listed_by_name(alone: Node) -> None:
    for name in ("b", "a", "c"):
        await alone.publish(name, 1)
    assert [depth.queue for depth in await alone.queues()] == ["a", "b", "c"]


async def test_a_queue_handle_makes_the_same_calls(alone: Node) -> None:
    queue = alone.queue("q")
    await queue.put({"id": 1})
    await queue.publish_many([2, 3])
    assert (await queue.depth()).total == 3
    async for message in queue.consume(prefetch=1):
        message.ack()
        if message.body == 2:
            break
    async for batch in queue.batches(visibility_timeout=10):
        batch.ack()
        assert batch.bodies == [3]
        break
    assert repr(queue) == "<Queue 'q'>"
    assert [message.body async for message in queue.drain()] == []


async def test_drain_takes_what_is_there_and_ends(alone: Node) -> None:
    await alone.publish_many("q", range(1_000))
    assert [message.body async for message in alone.drain("q")] == list(range(1_000))
    assert await is_empty(alone, "q")


async def test_drain_gives_up_when_somebody_holds_on(alone: Node) -> None:
    await alone.publish("q", 1)
    holding = alone.consume("q")
    await take(holding, 1)
    with pytest.raises(RequestTimeoutError, match="not drained"):
        await anext(alone.drain("q", patience=0.3))


async def test_a_cancelled_publish_leaves_the_others_of_its_batch_alone(alone: Node) -> None:
    tasks = [asyncio.create_task(alone.publish("q", number)) for number in range(10)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    receipts = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(receipts[3], asyncio.CancelledError)
    good = [receipt for receipt in receipts if isinstance(receipt, p2pmq.Receipt)]
    assert len(good) == 9
    bodies = await consume(alone, "q", 10)
    assert bodies == list(range(10)), "what was asked for in time is published all the same"


# -- several nodes --


async def test_messages_go_from_any_node_to_any_node() -> None:
    async with mesh("a", "b", "c") as nodes:
        for owner in ("a", "b", "c"):
            queue = queue_of(owner, nodes[0])
            receipt = await nodes[1].publish(queue, owner)
            assert receipt.owner == owner
            assert await consume(nodes[2], queue, 1) == [owner]
            assert {each.owner_of(queue) for each in nodes} == {owner}
        assert [member.name for member in nodes[0].members()] == ["a", "b", "c"]
        assert [m.name for m in nodes[1].members() if m.is_self] == ["b"]


async def test_scarce_work_is_shared_evenly_over_the_nodes() -> None:
    async with mesh("a", "b", "c") as nodes:
        queue = queue_of("a", nodes[0])
        got: dict[str, list[int]] = {each.settings.name: [] for each in nodes}

        async def work(at: Node) -> None:
            async for message in at.consume(queue):
                async with message:
                    got[at.settings.name].append(message.body)

        tasks = [asyncio.create_task(work(each)) for each in nodes]

        async def all_attached() -> bool:
            return (await nodes[0].depth(queue)).consumers == 3

        await until_async(all_attached)
        for number in range(60):
            await nodes[1].publish(queue, number)
        await until(lambda: sum(map(len, got.values())) >= 60)
        assert sorted(chain.from_iterable(got.values())) == list(range(60))
        assert min(map(len, got.values())) >= 10, got
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_backlog_is_shared_and_nothing_is_delivered_twice() -> None:
    async with mesh("a", "b") as nodes:
        queue = queue_of("a", nodes[0])
        await nodes[1].publish_many(queue, range(3_000))
        got: list[int] = []

        async def work(at: Node) -> int:
            mine = 0
            async for batch in at.consume_batches(queue, prefetch=100):
                got.extend(batch.bodies)
                mine += len(batch)
                batch.ack()
                if len(got) >= 3_000:
                    break
            return mine

        tasks = [asyncio.create_task(work(each)) for each in (nodes[0], nodes[1], nodes[1])]
        await until(lambda: len(got) >= 3_000)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert sorted(got) == list(range(3_000))
