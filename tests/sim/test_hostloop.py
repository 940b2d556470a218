"""What a host's node has set going runs on that host's account, whoever lent a hand."""

from __future__ import annotations

import asyncio
import contextvars

from p2pmq.sim.hostloop import HOST, HostLoop, MeshLoop


def context_of(host: str) -> contextvars.Context:
    context = contextvars.copy_context()
    context.run(HOST.set, host)
    return context


def test_a_callback_that_a_paused_hosts_packet_has_armed_runs_all_the_same() -> None:
    loop = MeshLoop()
    sender = context_of("sender")
    receiver = HostLoop(loop, context_of("receiver"))
    done: list[str] = []

    async def story() -> None:
        # The packet arrives in its sender's context, and then the sender is paused.
        sender.run(receiver.call_soon, done.append, "soon")
        sender.run(receiver.call_later, 1.0, done.append, "later")
        sender.run(receiver.call_at, loop.time() + 2.0, done.append, "at")
        loop.pause_host("sender")
        sender.run(receiver.call_soon, done.append, "paused")
        await asyncio.sleep(3)

    loop.run_until_complete(story())
    loop.close()
    assert done == ["soon", "paused", "later", "at"]


def test_a_task_of_a_host_is_paused_with_it_whoever_made_it() -> None:
    loop = MeshLoop()
    other = context_of("other")
    host = HostLoop(loop, context_of("host"))
    done: list[str] = []

    async def work() -> None:
        await asyncio.sleep(1)
        done.append(HOST.get())

    async def story() -> None:
        task = other.run(host.create_task, work())
        loop.pause_host("host")
        await asyncio.sleep(5)
        assert done == []
        loop.resume_host("host")
        await task

    loop.run_until_complete(story())
    loop.close()
    assert done == ["host"]
