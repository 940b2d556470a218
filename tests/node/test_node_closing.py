"""Closing a node: drain, keep what is left, say so, and send it after the next start."""

import asyncio
import logging
from pathlib import Path

import pytest

from p2pmq import ClosedNodeError, Node, PortTakenError
from p2pmq.core.membership import MemberState
from p2pmq.core.packets.membership import Rumour
from p2pmq.core.records import MemberSaved
from p2pmq.store.lmdb_store import LmdbStore
from tests.node.kit import ONE_COPY, PATIENCE_S, alive, consume, node, queue_of, take, until

AWAY = Rumour(b"awayaway", MemberState.ALIVE, 1, name="away", addresses=("127.0.0.1:1",))


async def with_somebody_away(folder: Path) -> Node:
    """A node on disk, of one copy, whose roster has a member that is not there."""
    store = LmdbStore(folder)
    await store.open()
    done = asyncio.get_running_loop().create_future()
    store.write([MemberSaved(AWAY)], done.set_result)
    await done
    await store.close()
    return node("here", store="disk", data_dir=str(folder), config=ONE_COPY)


def queue_of_nobody(here: Node) -> str:
    return next(f"q{n}" for n in range(10_000) if here.owner_of(f"q{n}") is None)


async def test_what_cannot_be_sent_is_stored_said_in_the_log_and_sent_after_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = await with_somebody_away(tmp_path)
    await here.start()
    queue = queue_of_nobody(here)
    for number in range(20):
        await here.publish(queue, number, confirm="none")
    await here.close(timeout=0.1)
    assert any("20 messages" in text and "are stored" in text for text in caplog.messages)

    again = node("here", store="disk", data_dir=str(tmp_path), config=ONE_COPY)
    async with again:
        await again.forget("away")
        assert await consume(again, queue, 20) == list(range(20))


async def test_without_a_disk_what_is_left_is_said_to_be_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with node("a", config=ONE_COPY) as first:
        second = node("b", seeds=first.addresses, config=ONE_COPY)
        await second.start()
        await until(lambda: alive(first) == alive(second) == {"a", "b"})
        queue = queue_of("a", second)
        await first.close()
        await until(lambda: second.owner_of(queue) is None)
        await second.publish(queue, 1, confirm="none")
        await second.close(timeout=0.1)
    assert [r.levelno for r in caplog.records if "outbox" in r.message] == [logging.ERROR]


async def test_closing_waits_until_the_outbox_is_empty() -> None:
    async with node("a", config=ONE_COPY) as first:
        second = node("b", seeds=first.addresses, config=ONE_COPY)
        await second.start()
        await until(lambda: alive(first) == alive(second) == {"a", "b"})
        queue = queue_of("a", first)
        for number in range(2_000):
            await second.publish(queue, number, confirm="none")
        await second.close(timeout=PATIENCE_S)
        assert (await first.depth(queue)).total == 2_000


async def test_acks_given_just_before_closing_are_confirmed_first() -> None:
    async with node("a", config=ONE_COPY) as first:
        second = node("b", seeds=first.addresses, config=ONE_COPY)
        await second.start()
        await until(lambda: alive(first) == alive(second) == {"a", "b"})
        queue = queue_of("a", first)
        await first.publish_many(queue, range(10))
        messages = second.consume(queue)
        for message in (await take(messages, 10))[:7]:
            message.ack()
        await second.close(timeout=PATIENCE_S)
        assert sorted(await consume(first, queue, 3)) == [7, 8, 9]
        assert (await first.depth(queue)).ready == 0


async def test_iterators_end_when_their_node_closes() -> None:
    made = node("n")
    await made.start()
    await made.publish("q", 1)
    seen = []

    async def work() -> str:
        async for message in made.consume("q"):
            async with message:
                seen.append(message.body)
        return "ended"

    task = asyncio.create_task(work())
    await until(lambda: bool(seen))
    await made.close()
    assert await asyncio.wait_for(task, PATIENCE_S) == "ended"


async def test_whoever_publishes_as_the_node_closes_gets_an_answer() -> None:
    made = node("n")
    await made.start()
    tasks = [asyncio.create_task(made.publish("q", number)) for number in range(50)]
    await asyncio.sleep(0)
    await made.close()
    done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE_S)
    assert all(
        isinstance(result, ClosedNodeError) or not isinstance(result, BaseException)
        for result in done
    )


async def test_an_aborted_node_leaves_nobody_waiting() -> None:
    made = node("n")
    await made.start()
    publishing = [asyncio.create_task(made.publish("q", number)) for number in range(5)]
    consuming = asyncio.ensure_future(anext(made.consume("empty")))
    await asyncio.sleep(0)
    made.abort()
    for task in [*publishing, consuming]:
        with pytest.raises(ClosedNodeError):
            await asyncio.wait_for(task, PATIENCE_S)
    await made._ports.aclose()


async def test_a_close_that_is_cancelled_closes_the_ports_all_the_same(tmp_path: Path) -> None:
    here = await with_somebody_away(tmp_path)
    await here.start()
    await here.publish(queue_of_nobody(here), 1, confirm="none")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(here.close(timeout=60), 0.1)
    async with node("here", store="disk", data_dir=str(tmp_path)) as again:
        assert alive(again) == {"here"}


async def test_closing_twice_is_closing_once() -> None:
    made = node("n")
    await made.start()
    await made.close()
    await made.close()
    await node("never started").close()


async def test_a_start_that_failed_is_forgotten_by_whoever_waits_for_the_next_ones_end() -> None:
    async with node("first") as first:
        made = node("second", listen=first.addresses[0])
        with pytest.raises(PortTakenError):
            await made.start()
    await made.start()
    waiting = asyncio.create_task(made.wait_stopped())
    await asyncio.sleep(0)
    assert not waiting.done()
    await made.close()
    await asyncio.wait_for(waiting, PATIENCE_S)


async def test_flush_waits_for_confirms_and_tells_whether_all_came(tmp_path: Path) -> None:
    here = await with_somebody_away(tmp_path)
    async with here:
        await here.publish("mine", 1, confirm="none") if here.owner_of("mine") else None
        assert await here.flush(timeout=PATIENCE_S)
        await here.publish(queue_of_nobody(here), 1, confirm="none")
        assert not await here.flush(timeout=0.1)
