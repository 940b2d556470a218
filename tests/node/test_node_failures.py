"""A node whose peers die, come back, join and leave: nothing is lost, and nobody has to act."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from p2pmq import Node, NotCommittedError, RequestTimeoutError, UsageError
from tests.node.kit import (
    ONE_COPY,
    PATIENCE_S,
    WATCHFUL,
    WATCHFUL_ONE_COPY,
    alive,
    consume,
    is_empty,
    mesh,
    node,
    queue_of,
    service,
    take,
    until,
    until_async,
)


async def collect(at: Node, queue: str, into: list[int]) -> None:
    async for message in at.consume(queue):
        async with message:
            into.append(message.body)


async def test_an_owner_is_killed_and_restarted_and_everybody_goes_on_by_themselves(
    tmp_path: Path,
) -> None:
    async with node("here", config=WATCHFUL_ONE_COPY) as here:
        async with service("bank", tmp_path, here.addresses, replicas=1):
            await until(lambda: alive(here) == {"here", "bank"})
            queue = queue_of("bank", here)
            got: list[int] = []
            consuming = asyncio.create_task(collect(here, queue, got))
            await here.publish_many(queue, range(200))
            await until(lambda: len(got) >= 100)
        # It was killed. What is published now waits here.
        await until(lambda: here.owner_of(queue) is None)
        with pytest.raises(NotCommittedError) as caught:
            await here.publish(queue, 200, timeout=0.3)
        stored = await here.publish(queue, 201, confirm="stored")
        assert stored.stored
        await here.publish_many(queue, range(202, 400), confirm="stored")
        with pytest.raises(RequestTimeoutError, match=r"bank|away"):
            await here.depth(queue)
        async with service("bank", tmp_path, here.addresses, replicas=1):
            await until(lambda: set(got) >= set(range(400)))
            assert caught.value.receipt.owner in (None, "bank")
            await until_async(lambda: is_empty(here, queue))
            assert not consuming.done()
            consuming.cancel()
            await asyncio.wait((consuming,))
    assert set(got) == set(range(400))


async def test_what_was_held_when_the_owner_died_is_not_delivered_a_second_time(
    tmp_path: Path,
) -> None:
    async with node("here", config=WATCHFUL_ONE_COPY) as here:
        async with service("bank", tmp_path, here.addresses, replicas=1):
            await until(lambda: alive(here) == {"here", "bank"})
            queue = queue_of("bank", here)
            await here.publish_many(queue, range(10))
            messages = here.consume(queue)
            held = await take(messages, 10)
        await until(lambda: here.owner_of(queue) is None)
        for message in held:
            message.ack()  # the owner is away: kept here until it is back
        async with service("bank", tmp_path, here.addresses, replicas=1):
            await here.publish(queue, 10, timeout=PATIENCE_S)
            (last,) = await take(messages, 1)
            assert last.body == 10
            last.ack()
            await until_async(lambda: is_empty(here, queue))


async def test_a_publish_whose_owner_is_away_is_stored_and_sent_later(tmp_path: Path) -> None:
    folder = str(tmp_path / "here")
    async with node("here", store="disk", data_dir=folder, config=WATCHFUL_ONE_COPY) as here:
        async with service("bank", tmp_path, here.addresses, replicas=1):
            await until(lambda: alive(here) == {"here", "bank"})
            queue = queue_of("bank", here)
        await until(lambda: here.owner_of(queue) is None)
        with pytest.raises(NotCommittedError, match="stays in the outbox") as caught:
            await here.publish(queue, "late", timeout=0.5)
        assert caught.value.receipt.stored
        assert not caught.value.receipt.committed
        with pytest.raises(NotCommittedError):
            await here.publish_many(queue, ["later", "last"], timeout=0.5)
        async with service("bank", tmp_path, here.addresses, replicas=1):
            assert await consume(here, queue, 3) == ["late", "later", "last"]


async def test_a_consumer_whose_node_dies_gives_its_messages_back() -> None:
    async with mesh("a", "b", config=WATCHFUL) as (first, second):
        queue = queue_of("a", first)
        await first.publish_many(queue, range(10))
        messages = second.consume(queue)
        held = await take(messages, 10)
        assert len(held) == 10
        second.abort()
        await second._transport.close()
        got = await consume(first, queue, 10)
        assert sorted(got) == list(range(10))
        await second._ports.aclose()


# -- joining and leaving --


async def test_a_node_joins_while_consumers_run_and_nothing_is_lost() -> None:
    async with node("a") as first:
        queues = [f"q{number}" for number in range(12)]
        for queue in queues:
            await first.publish_many(queue, range(50))
        got: dict[str, list[int]] = {queue: [] for queue in queues}
        tasks = [asyncio.create_task(collect(first, queue, got[queue])) for queue in queues[:6]]
        async with node("b", seeds=first.addresses) as second:
            await until(lambda: alive(first) == alive(second) == {"a", "b"})
            moved = [queue for queue in queues if first.owner_of(queue) == "b"]
            assert moved
            tasks += [
                asyncio.create_task(collect(second, queue, got[queue])) for queue in queues[6:]
            ]
            for queue in queues:
                await first.publish_many(queue, range(50, 80), timeout=PATIENCE_S)
            await until(lambda: all(set(got[q]) == set(range(80)) for q in queues))
            for queue in queues:
                await until_async(partial(is_empty, first, queue))
                assert len(got[queue]) == 80, "nothing came twice, for nobody died"
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def test_leaving_moves_queues_and_messages_to_the_others() -> None:
    async with mesh("a", "b") as (first, second):
        queue = queue_of("b", first)
        await second.publish_many(queue, range(500))
        await asyncio.wait_for(second.leave(), PATIENCE_S)
        await until(lambda: first.owner_of(queue) == "a")
        assert [member.name for member in first.members()] == ["a"]
        assert await consume(first, queue, 500) == list(range(500))


async def test_closing_keeps_the_place_and_the_messages_come_back_with_the_node(
    tmp_path: Path,
) -> None:
    async with node("a", config=ONE_COPY) as first:
        on_disk = partial(
            node, seeds=first.addresses, store="disk", data_dir=str(tmp_path), config=ONE_COPY
        )
        second = on_disk("b")
        await second.start()
        await until(lambda: alive(first) == alive(second) == {"a", "b"})
        queue = queue_of("b", first)
        await first.publish_many(queue, range(10))
        await second.close()
        await until(lambda: first.owner_of(queue) is None)
        assert [member.name for member in first.members()] == ["a", "b"]
        async with on_disk("b"):
            assert await consume(first, queue, 10) == list(range(10))


async def test_a_forgotten_member_s_queues_get_a_living_owner() -> None:
    async with mesh("a", "b", config=ONE_COPY) as (first, second):
        queue = queue_of("b", first)
        with pytest.raises(UsageError, match="no dead member"):
            await first.forget("b")
        await second.close()
        await until(lambda: first.owner_of(queue) is None)
        await first.publish(queue, "waits", confirm="stored")
        await first.forget("b")
        assert first.owner_of(queue) == "a"
        assert await consume(first, queue, 1) == ["waits"]
        with pytest.raises(UsageError, match="'b'"):
            await first.forget("b")


async def test_a_leaf_owns_nothing_and_still_publishes_and_consumes() -> None:
    async with node("a") as first, node("leaf", seeds=first.addresses, leaf=True) as leaf:
        await until(lambda: alive(leaf) == {"a", "leaf"})
        queues = [f"q{number}" for number in range(20)]
        assert {leaf.owner_of(queue) for queue in queues} == {"a"}
        await leaf.publish("q", 1)
        assert await consume(leaf, "q", 1) == [1]
        assert [m.leaf for m in first.members() if m.name == "leaf"] == [True]


async def test_an_iterator_waits_for_an_owner_that_is_not_there_yet(tmp_path: Path) -> None:
    async with node("leaf", leaf=True) as leaf:
        messages: AsyncIterator[object] = leaf.consume("q")
        waiting = asyncio.ensure_future(anext(messages))
        stored = await leaf.publish("q", "early", confirm="stored")
        assert not stored.committed
        async with service("full", tmp_path, leaf.addresses):
            message = await asyncio.wait_for(waiting, PATIENCE_S)
            assert getattr(message, "body", None) == "early"
