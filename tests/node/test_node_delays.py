"""Scheduled messages on real nodes: on disk, counted, and not early."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.node.kit import PATIENCE_S, mesh, node, take


async def test_a_message_with_a_delay_comes_when_it_is_due_and_not_before() -> None:
    loop = asyncio.get_running_loop()
    async with mesh("a", "b") as (a, b):
        began = loop.time()
        await a.publish("q", "later", delay=0.5)
        await a.queue("q").publish("at", at=datetime.now(UTC) + timedelta(seconds=0.7))
        await a.publish("q", "now")
        async with asyncio.timeout(PATIENCE_S):
            messages = await take(b.consume("q"), 3)
        assert [message.body for message in messages] == ["now", "later", "at"]
        assert loop.time() - began >= 0.69


async def test_mail_may_have_a_delay_too() -> None:
    async with mesh("a", "b") as (a, b):
        await a.send("b", "later", delay=0.3)
        await a.send_many("b", ["now"])
        assert [message.body for message in await take(b.inbox(), 2)] == ["now", "later"]


async def test_it_is_on_disk_and_a_restart_keeps_what_is_left(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with node("alone", store="disk", data_dir=tmp_path) as alone:
        await alone.publish("q", "soon", delay=1.0)
        await alone.publish_many("q", range(10), delay=3_600)
        assert (await alone.depth("q")).scheduled == 11
    async with node("alone", store="disk", data_dir=tmp_path) as alone:
        depth = await alone.depth("q")
        assert (depth.total, depth.in_flight) == (11, 0)
        (message,) = await take(alone.consume("q"), 1)
        assert message.body == "soon"
        assert loop.time() - began >= 0.99
        assert [m.body async for m in alone.drain("q")] == ["soon"]
        assert (await alone.depth("q")).scheduled == 10
