"""Requests between real nodes on loopback, over real sockets."""

from __future__ import annotations

import asyncio

import pytest

from p2pmq import ClosedNodeError, RemoteError, Request, RequestTimeoutError, TopicError
from p2pmq.errors import UsageError
from tests.node.kit import PATIENCE_S, mesh, node, until


async def test_requests_cross_real_sockets_and_come_back() -> None:
    async with mesh("a", "b", "c") as (a, b, c):

        @b.responder("square", concurrency=4)
        async def square(request: Request) -> object:
            await asyncio.sleep(0)
            return request.body**2

        c.respond("square", square)
        await until(lambda: len(a._machine.ephemeral.interests.match("$r.square")) == 2)
        async with asyncio.timeout(PATIENCE_S):
            replies = await asyncio.gather(
                *(a.request("square", number, timeout=PATIENCE_S) for number in range(60))
            )
            large = await a.request("square", 10**9)
        assert replies == [number**2 for number in range(60)]
        assert large == 10**18
        assert b.counters["requests_answered"] > 0
        assert c.counters["requests_answered"] > 0
        with pytest.raises(RemoteError) as caught:
            await a.request("square", "x")
        assert caught.value.kind == "TypeError"


async def test_a_timeout_and_a_cancellation_reach_the_handler() -> None:
    async with mesh("a", "b") as (a, b):
        cancelled: list[object] = []

        async def slow(request: Request) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(request.body)
                raise

        b.respond("slow", slow)
        await until(lambda: bool(a._machine.ephemeral.interests.match("$r.slow")))
        with pytest.raises(RequestTimeoutError):
            await a.request("slow", 1, timeout=0.2)
        await until(lambda: cancelled == [1])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await a.request("slow", 2, timeout=PATIENCE_S)
        await until(lambda: cancelled == [1, 2])
        assert not a._waiting


async def test_responders_may_be_given_before_the_node_runs_and_end_with_it() -> None:
    late = node("late")
    ended: list[str] = []

    @late.responder("wait")
    async def wait(_: Request) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async with late:
        asked = asyncio.ensure_future(late.request("wait", timeout=PATIENCE_S))
        await until(lambda: bool(late._requests._tasks))
        await late.close(timeout=0.1)
        assert ended == ["cancelled"]
        with pytest.raises((RemoteError, ClosedNodeError)):
            await asked
    with pytest.raises(ClosedNodeError):
        late.respond("more", wait)
    with pytest.raises(ClosedNodeError):
        await late.request("wait")


async def test_a_users_faults_are_raised_before_anything_is_sent() -> None:
    async with node("a") as a:
        with pytest.raises(TopicError, match="name"):
            await a.request("a.*")
        with pytest.raises(TopicError):
            await a.request("x" * 253)
        with pytest.raises(UsageError):
            await a.request("a", timeout=0)
        with pytest.raises(UsageError):
            await a.request("a", timeout=float("nan"))
