"""What else comes in at an open port: it is counted, and the listener lives."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import zmq
import zmq.asyncio

from p2pmq.net import Counter, options
from p2pmq.net import dialled as dialled_module
from tests.net.kit import Node, connected, running

ZMTP_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01NULL" + bytes(16 + 1 + 31)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node(1)
    async with running(node):
        yield node


async def assert_lives(node: Node) -> None:
    """Another node can still connect and be heard."""
    friend = Node(2)
    async with running(friend):
        await friend.send(await friend.dial(node.address), b"friend")
        await node.handler.until(
            lambda: [b"friend"] in [frames for _, frames in node.handler.packets]
        )


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):  # the node may have been first
        await writer.wait_closed()


@pytest.mark.parametrize(
    "first_bytes",
    [
        b"",
        b"\x00" * 500,
        b"\xff" * 500,
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        ZMTP_GREETING + b"\xff" * 200,
        ZMTP_GREETING + b"\x06\xff\xff\xff\xff\xff\xff\xff\xff",
        ZMTP_GREETING + b"\x04\x05READY\x00" * 5,
    ],
)
async def test_bytes_that_are_no_zmtp_are_counted_and_the_listener_lives(
    node: Node, first_bytes: bytes
) -> None:
    host, port = node.address.split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(first_bytes)
    await node.until_counted(Counter.ACCEPTED)
    await hang_up(writer)
    await node.until_counted(Counter.ACCEPTED_UNUSED)
    assert not node.handler.calls
    await assert_lives(node)


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"", id="silence"),
        pytest.param(b"GET / HTTP/1.1\r\n", id="http"),
        pytest.param(ZMTP_GREETING, id="greeting"),
    ],
)
async def test_a_request_that_never_ends_is_cut_off_and_holds_up_nobody(
    start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "HANDSHAKE_MS", 500)
    node = Node(1)
    async with running(node):
        host, port = node.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(start)
            await assert_lives(node)
            async with asyncio.timeout(20):
                with contextlib.suppress(ConnectionError):
                    while await reader.read(100):
                        pass
        finally:
            await hang_up(writer)
        await node.until_counted(Counter.ACCEPTED_UNUSED)


@pytest.mark.parametrize("kind", [zmq.PUB, zmq.SUB, zmq.PUSH, zmq.PULL, zmq.REP])
async def test_a_zmtp_peer_of_another_kind_is_turned_away(node: Node, kind: int) -> None:
    with zmq.asyncio.Context() as context, context.socket(kind) as stranger:
        stranger.set(zmq.LINGER, 0)
        stranger.connect(f"tcp://{node.address}")
        await node.until_counted(Counter.ACCEPTED)
    await node.until_counted(Counter.ACCEPTED_UNUSED)
    assert not node.handler.calls
    await assert_lives(node)


@pytest.mark.parametrize("kind", [zmq.REQ, zmq.DEALER, zmq.ROUTER])
async def test_a_packet_under_a_routing_id_that_is_no_nodes_is_dropped(
    node: Node, kind: int
) -> None:
    with zmq.asyncio.Context() as context, context.socket(kind) as stranger:
        stranger.set(zmq.LINGER, 0)
        stranger.set(zmq.ROUTING_ID, b"n" + b"x" * 15)
        if kind == zmq.ROUTER:
            stranger.set(zmq.CONNECT_ROUTING_ID, b"node")
            stranger.set(zmq.ROUTER_MANDATORY, 1)
        stranger.connect(f"tcp://{node.address}")
        await node.until_counted(Counter.ACCEPTED)
        await stranger.send_multipart([b"node", b"knock"])
        await node.until_counted(Counter.STRANGER_PACKETS)
        assert not node.handler.calls
        await assert_lives(node)
    await node.until_counted(Counter.ACCEPTED_UNUSED)


async def test_what_answers_at_a_dialled_address_may_be_anything_and_is_tried_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialled_module, "REDIAL_SECONDS", 0.05)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(500))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection = node.transport.dial(f"127.0.0.1:{port}")
    await node.until_counted(Counter.DIAL_HANDSHAKE_FAILED, 3)
    server.close()
    await server.wait_closed()
    assert not node.handler.calls
    successor = Node(2, f"127.0.0.1:{port}")
    async with running(successor):
        await node.handler.until(lambda: bool(node.handler.opened))
        assert node.handler.opened == [(connection, True)]


async def test_a_peer_that_comes_back_under_its_routing_id_keeps_its_place() -> None:
    """ROUTER_HANDOVER: the old connection need not be known to be dead."""
    node = Node(1)
    async with running(node):
        with zmq.asyncio.Context() as context:
            sockets = [context.socket(zmq.DEALER) for _ in range(2)]
            for number, socket in enumerate(sockets):
                socket.set(zmq.LINGER, 0)
                socket.set(zmq.ROUTING_ID, b"n" + bytes(16))
                socket.connect(f"tcp://{node.address}")
                await socket.send(b"%d" % number)
                await node.handler.until_packets(number + 1)
            (first, _), (second, _) = node.handler.packets
            assert first == second
            sockets[0].close(0)  # the end of the old one is not the end of the new one
            await node.until_counted(Counter.ACCEPTED_UNUSED)
            await node.send(first, b"to the second")
            assert await sockets[1].recv() == b"to the second"
            assert not node.handler.closed
            sockets[1].close(0)
            await node.handler.until(lambda: node.handler.closed == [first])


async def test_two_sockets_under_one_routing_id_shut_each_other_out() -> None:
    """Why each dial has its own routing id: the first one's packets vanish, and nobody is told."""
    async with connected() as pair:
        with zmq.asyncio.Context() as context:
            first, second = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
            for socket in (first, second):
                socket.set(zmq.LINGER, 0)
                socket.set(zmq.ROUTING_ID, b"n" + bytes(16))
                socket.connect(f"tcp://{pair.listener.address}")
                await socket.send(b"here")
                await pair.listener.handler.until_packets(1)
                pair.listener.handler.packets.clear()
            await first.send(b"lost")  # sent, as far as the sender can know
            for _ in range(50):
                await second.send(b"heard")
            packets = pair.listener.handler.packets
            await pair.listener.handler.until(lambda: len(packets) == 50)
            assert [b"lost"] not in [frames for _, frames in packets]
            first.close(0)
            second.close(0)
