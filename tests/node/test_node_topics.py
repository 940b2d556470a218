"""Topics between real nodes on loopback, over real sockets."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from p2pmq import BodyTooLargeError, ClosedNodeError, Limits, NotSerializableError, TopicError
from p2pmq.errors import StoreError, UsageError
from p2pmq.node.emitter import BATCH_EVENTS
from p2pmq.node.subscription import Event, Subscription
from tests.node.kit import CONFIG, PATIENCE_S, mesh, node, until


async def take(subscription: Subscription, count: int) -> list[Event]:
    """The next so many events."""
    iterator = subscription.__aiter__()
    return [await anext(iterator) for _ in range(count)]


async def test_events_cross_real_sockets_to_whoever_subscribed() -> None:
    async with mesh("a", "b", "c") as (a, b, c):
        async with (
            b.subscribe("site.*.temp") as temps,
            c.subscribe("site.>", buffer=2_000) as everything,
        ):
            await until(lambda: len(a._machine.ephemeral.interests.match("site.7.temp")) == 2)
            for number in range(1_000):
                await a.emit("site.7.temp", number)
            await a.emit("site.7.door", {"open": True})
            async with asyncio.timeout(PATIENCE_S):
                heard = await take(temps, 1_000)
                last = await take(everything, 1_001)
        assert [event.body for event in heard] == list(range(1_000))
        assert {event.sender for event in heard} == {"a"}
        assert (last[-1].topic, last[-1].body) == ("site.7.door", {"open": True})
        await until(lambda: not a._machine.ephemeral.interests.match("site.7.temp"))


async def test_a_loop_that_only_emits_lets_others_run_and_holds_a_bounded_batch() -> None:
    async with node("alone") as alone, alone.subscribe("n", buffer=10_000) as events:
        ran: list[int] = []

        async def count() -> None:
            for number in range(1_000):
                ran.append(number)
                await asyncio.sleep(0)

        beside = asyncio.ensure_future(count())
        for number in range(BATCH_EVENTS * 4):
            await alone.emit("n", number)
        assert len(ran) >= 4
        async with asyncio.timeout(PATIENCE_S):
            bodies = [event.body for event in await take(events, BATCH_EVENTS * 4)]
        assert bodies == list(range(BATCH_EVENTS * 4))
        await beside


async def test_a_users_faults_are_raised_before_anything_is_sent() -> None:
    config = replace(CONFIG, limits=Limits(body_bytes_max=100))
    async with node("a", config=config) as a:
        with pytest.raises(TopicError, match="wildcard"):
            await a.emit("a.*", 1)
        with pytest.raises(BodyTooLargeError):
            await a.emit("a", bytes(101))
        with pytest.raises(NotSerializableError):
            await a.emit("a", object())
        with pytest.raises(TopicError):
            a.subscribe("a.>.b")
        with pytest.raises(UsageError, match="one or more"):
            a.subscribe()
        assert a.counters["events_emitted"] == 0
    with pytest.raises(ClosedNodeError):
        await a.emit("a", 1)
    with pytest.raises(ClosedNodeError):
        a.subscribe("a")


async def test_what_was_emitted_just_before_the_close_still_leaves() -> None:
    async with mesh("a", "b") as (a, b), b.subscribe("bye") as events:
        await until(lambda: bool(a._machine.ephemeral.interests.match("bye")))
        await a.emit("bye", 1)
        await a.close()
        async with asyncio.timeout(PATIENCE_S):
            async for event in events:
                assert (event.sender, event.body) == ("a", 1)
                break


async def test_who_iterates_when_the_node_fails_gets_the_error() -> None:
    async with node("a") as a, a.subscribe("n") as events:
        waiting = asyncio.ensure_future(anext(events.__aiter__()))
        await asyncio.sleep(0)
        a.on_failed(StoreError("the disk is gone"))
        with pytest.raises(StoreError, match="the disk is gone"):
            await waiting
