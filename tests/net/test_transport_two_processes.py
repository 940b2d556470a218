"""Transports in two processes: load, kill, restart, and the edge-trigger trap."""

import asyncio
import json
from collections.abc import AsyncIterator
from statistics import median

import pytest

from p2pmq.net import Connection, SendResult
from tests.net.kit import Node, be_busy, read_line, running, start_peer, stop_peer


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node(1)
    async with running(node):
        yield node


async def test_no_packet_waits_for_the_next_one_to_be_seen_after_a_time_of_load(node: Node) -> None:
    """A send or receive takes the descriptor's edge: single packets would then go unseen.

    Each single packet is sent after the answer to the one before, so an unseen one stays
    unseen. Both ends are busy for a while, in which a packet may come, and then send, which
    takes its edge, before the loop has a turn.
    """
    peer: Connection | None = None

    def answer(connection: Connection, frames: list[bytes]) -> None:
        nonlocal peer
        peer = connection
        if frames[0].startswith(b"single"):
            assert node.transport.send(connection, frames) is SendResult.SENT

    async def make_noise() -> None:
        while True:
            if peer is not None:
                be_busy(0.002)
                node.transport.send(peer, [b"noise"])
            await asyncio.sleep(0)

    node.handler.answer = answer
    process = start_peer("load", node.address, "20000", "200")
    noise = asyncio.create_task(make_noise())
    try:
        took_ms = json.loads(await read_line(process))
    finally:
        noise.cancel()
        stop_peer(process)
    assert len(took_ms) == 200
    assert median(took_ms) < 100
    assert sum(took > 100 for took in took_ms) <= 10  # the machine's noise, not ours
    loads = [frames[0] for _, frames in node.handler.packets if frames[0].startswith(b"load")]
    assert loads == [b"load-%d" % number for number in range(20_000)]


async def test_a_peer_that_is_killed_and_restarted_on_its_port_is_met_again(node: Node) -> None:
    first = start_peer("echo", "0")
    try:
        address = await read_line(first)
        connection = await node.dial(address)
        await node.send(connection, b"one")
        await node.handler.until(lambda: len(node.handler.packets) == 1)
    finally:
        stop_peer(first)
    await node.handler.until(lambda: node.handler.closed == [connection])
    second = start_peer("echo", address.rpartition(":")[2])
    try:
        assert await read_line(second) == address
        await node.handler.until(lambda: len(node.handler.opened) == 2)
        await node.send(connection, b"two")
        await node.handler.until(lambda: len(node.handler.packets) == 2)
    finally:
        stop_peer(second)
    assert node.handler.packets == [(connection, [b"one"]), (connection, [b"two"])]


async def test_a_killed_peer_that_had_dialled_us_is_told_closed_without_a_send(node: Node) -> None:
    process = start_peer("load", node.address, "10", "1")  # it waits for our answer to the last
    try:
        await node.handler.until(lambda: len(node.handler.packets) >= 10)
    finally:
        stop_peer(process)
    await node.handler.until(lambda: bool(node.handler.closed))
    assert node.handler.closed == [node.handler.opened[0][0]]


async def test_large_packets_are_echoed_whole_and_in_order(node: Node) -> None:
    process = start_peer("echo", "0")
    try:
        connection = await node.dial(await read_line(process))
        bodies = [bytes([number]) * 200_000 for number in range(100)]
        for number, body in enumerate(bodies):
            await node.send(connection, b"head", body)
            # The echo drops what does not fit; so no more on the way than fits.
            await node.handler.until_packets(number - 49)
        await node.handler.until(lambda: len(node.handler.packets) == len(bodies))
    finally:
        stop_peer(process)
    assert [frames[1] for _, frames in node.handler.packets] == bodies
