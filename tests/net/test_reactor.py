"""The loop keeps its turns, whatever comes in and whatever a handler does."""

import asyncio
from typing import Any

from p2pmq.net import Connection
from p2pmq.net.reactor import LOOK_PACKETS_MAX
from tests.net.kit import Node, be_busy, connected


async def test_slow_handlers_of_many_packets_do_not_keep_the_loop_from_its_turns() -> None:
    async with connected() as pair:
        turns = 0
        turn_of_packet: list[int] = []

        def take_long(_connection: Connection, _frames: list[bytes]) -> None:
            be_busy(0.003)  # more than a turn may have
            turn_of_packet.append(turns)

        pair.listener.handler.answer = take_long
        for _ in range(50):
            await pair.dialler.send(pair.dialled, b"x")
        async with asyncio.timeout(20):
            while len(turn_of_packet) < 50:
                turns += 1
                await asyncio.sleep(0)
        assert len(set(turn_of_packet)) == 50


async def test_quick_handlers_hand_over_a_bounded_number_in_one_turn() -> None:
    async with connected() as pair:
        turns = 0
        turn_of_packet: list[int] = []
        pair.listener.handler.answer = lambda _connection, _frames: turn_of_packet.append(turns)
        for _ in range(900):
            await pair.dialler.send(pair.dialled, b"x")
        async with asyncio.timeout(20):
            while len(turn_of_packet) < 900:
                turns += 1
                await asyncio.sleep(0)
        assert max(map(turn_of_packet.count, set(turn_of_packet))) <= LOOK_PACKETS_MAX


async def test_a_handler_that_raises_loses_its_packet_and_no_other() -> None:
    """It must not; if it does, the loop reports it, and the descriptor's edge is not lost."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))

    def make_raise(node: Node) -> None:
        def answer(_connection: Connection, frames: list[bytes]) -> None:
            if frames == [b"bad"]:
                raise RuntimeError

        node.handler.answer = answer

    async with connected() as pair:
        for node in (pair.dialler, pair.listener):
            make_raise(node)
        for frame in (b"one", b"bad", b"two"):
            await pair.dialler.send(pair.dialled, frame)
            await pair.listener.send(pair.accepted, frame)
        for node in (pair.dialler, pair.listener):
            await node.handler.until_packets(3)
            assert node.handler.packets[-1][1] == [b"two"]
    assert [type(report["exception"]) for report in reports] == [RuntimeError] * 2
