"""Two transports in one process: connections, packets both ways, ends."""

import asyncio
import gc
import os
import socket
import warnings
from pathlib import Path

import pytest
import uvloop
import zmq

from p2pmq.config import Limits
from p2pmq.errors import (
    InsecureListenError,
    LibraryVersionError,
    PortTakenError,
    UsageError,
)
from p2pmq.net import Connection, Counter, SendResult, options
from p2pmq.net import dialled as dialled_module
from tests.net.kit import Node, Recorder, connected, running


async def test_both_directions_travel_over_one_dialled_connection() -> None:
    async with connected() as pair:
        listener, dialler = pair.listener, pair.dialler
        await listener.send(pair.accepted, b"answer", b"", b"last")
        await dialler.handler.until(lambda: bool(dialler.handler.packets))
        assert dialler.handler.packets == [(pair.dialled, [b"answer", b"", b"last"])]
        assert dialler.handler.opened == [(pair.dialled, True)]
        assert listener.handler.opened == [(pair.accepted, False)]


async def test_two_connections_of_one_node_to_another_do_not_disturb_each_other() -> None:
    async with connected() as pair:
        second = await pair.dialler.dial(pair.listener.address)
        for number in range(20):
            for connection in (pair.dialled, second):
                await pair.dialler.send(connection, b"%d" % number)
        await pair.listener.handler.until(lambda: len(pair.listener.handler.packets) == 40)
        by_connection: dict[Connection, list[bytes]] = {}
        for connection, frames in pair.listener.handler.packets:
            by_connection.setdefault(connection, []).append(frames[0])
        assert list(by_connection.values()) == [[b"%d" % number for number in range(20)]] * 2
        assert not pair.dialler.handler.closed


async def test_ten_thousand_packets_arrive_in_order_each_way() -> None:
    async with connected() as pair:
        numbers = [b"%d" % number for number in range(10_000)]

        async def send_all(node: Node, connection: Connection) -> None:
            for number in numbers:
                await node.send(connection, number)

        await asyncio.gather(
            send_all(pair.dialler, pair.dialled), send_all(pair.listener, pair.accepted)
        )
        for node in (pair.dialler, pair.listener):
            await node.handler.until_packets(len(numbers))
            assert [frames[0] for _, frames in node.handler.packets] == numbers


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 1_000_000])
async def test_a_frame_arrives_as_it_was_sent_whatever_its_size(size: int) -> None:
    async with connected() as pair:
        body = os.urandom(size)
        await pair.dialler.send(pair.dialled, b"head", body, b"tail")
        await pair.listener.send(pair.accepted, body)
        await pair.listener.handler.until(lambda: bool(pair.listener.handler.packets))
        await pair.dialler.handler.until(lambda: bool(pair.dialler.handler.packets))
        assert pair.listener.handler.packets[0][1] == [b"head", body, b"tail"]
        assert pair.dialler.handler.packets[0][1] == [body]


@pytest.mark.parametrize("by_dialler", [True, False])
async def test_a_full_pipe_says_so_and_tells_when_it_takes_packets_again(by_dialler: bool) -> None:
    async with connected() as pair:
        node, connection, other = pair.listener, pair.accepted, pair.dialler
        if by_dialler:
            node, connection, other = pair.dialler, pair.dialled, pair.listener
        sent = 0
        while node.transport.send(connection, [bytes(50_000)]) is SendResult.SENT:
            sent += 1  # nobody reads: the loop has no turn
            assert sent < 10_000
        assert node.transport.send(connection, [b"too much"]) is SendResult.FULL
        assert not node.handler.writable
        await node.handler.until_writable(1)
        assert node.handler.writable[0] == connection
        await node.send(connection, b"after")
        await other.handler.until_packets(sent + 1)
        assert [len(frames[0]) for _, frames in other.handler.packets] == [50_000] * sent + [5]
        assert node.counts[Counter.FULL] >= 1


async def test_after_hanging_up_a_dialled_connection_only_the_other_end_is_told() -> None:
    async with connected() as pair:
        pair.dialler.transport.hang_up(pair.dialled)
        await pair.listener.handler.until(lambda: bool(pair.listener.handler.closed))
        assert pair.listener.handler.closed == [pair.accepted]
        assert pair.listener.transport.send(pair.accepted, [b"x"]) is SendResult.GONE
        assert pair.dialler.transport.send(pair.dialled, [b"x"]) is SendResult.GONE
        assert not pair.dialler.handler.closed


async def test_an_accepted_connection_that_was_hung_up_is_heard_no_more() -> None:
    async with connected() as pair:
        pair.listener.transport.hang_up(pair.accepted)
        await pair.dialler.send(pair.dialled, b"to nobody")
        await pair.listener.until_counted(Counter.LATE_PACKETS)
        assert pair.listener.transport.send(pair.accepted, [b"x"]) is SendResult.GONE
        assert not pair.listener.handler.packets
        again = await pair.dialler.dial(pair.listener.address)
        await pair.dialler.send(again, b"a new connection")
        await pair.listener.handler.until(lambda: bool(pair.listener.handler.packets))
        assert pair.listener.handler.packets[0][0] != pair.accepted
        assert not pair.listener.handler.closed


async def test_a_handler_may_hang_up_while_packets_of_that_connection_are_handed_over() -> None:
    async with connected() as pair:
        pair.listener.handler.answer = lambda connection, _: pair.listener.transport.hang_up(
            connection
        )
        pair.dialler.handler.answer = lambda connection, _: pair.dialler.transport.hang_up(
            connection
        )
        for number in range(10):
            pair.listener.transport.send(pair.accepted, [b"%d" % number])
        await pair.dialler.handler.until(lambda: bool(pair.dialler.handler.packets))
        second = await pair.dialler.dial(pair.listener.address)
        for number in range(10):
            await pair.dialler.send(second, b"%d" % number)
        await pair.listener.until_counted(Counter.LATE_PACKETS, 9)
        assert len(pair.dialler.handler.packets) == 1
        assert len(pair.listener.handler.packets) == 1


async def test_a_dialled_connection_comes_back_when_its_peer_restarts_on_the_same_port() -> None:
    dialler, first = Node(1), Node(2)
    async with running(dialler):
        await first.open()
        connection = await dialler.dial(first.address)
        await first.transport.close()
        await dialler.handler.until(lambda: bool(dialler.handler.closed))
        assert dialler.transport.send(connection, [b"x"]) is SendResult.GONE
        second = Node(3, first.address)
        async with running(second):
            await dialler.handler.until(lambda: len(dialler.handler.opened) == 2)
            assert dialler.handler.opened[1] == (connection, True)
            await dialler.send(connection, b"to the second")
            await second.handler.until(lambda: bool(second.handler.packets))
        assert dialler.handler.calls[:3] == ["opened", "closed", "opened"]


async def test_a_frame_over_the_limit_closes_the_connection_which_then_comes_back() -> None:
    limits = Limits(packet_bytes_max=100_000)
    async with connected(listener_limits=limits) as pair:
        await pair.dialler.send(pair.dialled, bytes(100_001))
        await pair.listener.handler.until(lambda: bool(pair.listener.handler.closed))
        await pair.dialler.handler.until(lambda: len(pair.dialler.handler.opened) == 2)
        await pair.dialler.send(pair.dialled, bytes(100_000))
        await pair.listener.handler.until(lambda: bool(pair.listener.handler.packets))
        assert [len(frames[0]) for _, frames in pair.listener.handler.packets] == [100_000]


async def test_a_frame_over_twenty_mebibytes_is_never_taken_in() -> None:
    async with connected(limits=Limits(packet_bytes_max=1 << 40), listener_limits=Limits()) as pair:
        await pair.dialler.send(pair.dialled, bytes(Limits().packet_bytes_max + 1))
        await pair.listener.handler.until(lambda: bool(pair.listener.handler.closed))
        assert not pair.listener.handler.packets


async def test_a_dialled_connection_survives_a_breach_of_the_protocol_by_its_peer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Libzmq itself would never dial again, and not say so."""
    monkeypatch.setattr(dialled_module, "REDIAL_SECONDS", 0.05)
    limits = Limits(packet_bytes_max=1_000)
    async with connected(limits=limits, listener_limits=Limits()) as pair:
        await pair.listener.send(pair.accepted, bytes(1_001))
        await pair.dialler.handler.until(lambda: len(pair.dialler.handler.opened) == 2)
        assert pair.dialler.handler.opened[1] == (pair.dialled, True)
        assert pair.dialler.handler.closed == [pair.dialled]
        await pair.dialler.send(pair.dialled, b"still here")
        await pair.listener.handler.until(lambda: bool(pair.listener.handler.packets))


@pytest.mark.parametrize(
    "address",
    ["", "bank", "bank:7070", "1.2.3.4", "1.2.3.4:0", "1.2.3.4:65536", "::1:7070", "[x]:1"],
)
async def test_an_address_that_cannot_be_dialled_is_like_one_where_nobody_is(address: str) -> None:
    node = Node(1)
    async with running(node):
        connection = node.transport.dial(address)
        assert node.transport.send(connection, [b"x"]) is SendResult.GONE
        node.transport.hang_up(connection)
        assert node.counts == {Counter.DIAL_UNRESOLVED: 1}


async def test_a_refused_dial_is_counted_and_tried_again_in_silence() -> None:
    node, gone = Node(1), Node(2)
    async with running(gone):
        pass
    async with running(node):
        node.transport.dial(gone.address)
        await node.until_counted(Counter.DIAL_REFUSED, 2)
        assert not node.handler.calls


@pytest.mark.parametrize("spare", [0, 1, 2])  # the DEALER fails, or either end of its monitor
async def test_a_machine_out_of_sockets_fails_the_dial_and_raises_nothing(
    spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_small_context(_limits: Limits) -> zmq.Context[zmq.Socket[bytes]]:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        context.set(zmq.MAX_SOCKETS, 3 + spare)  # the listener has three
        return context

    monkeypatch.setattr(options, "make_context", make_small_context)
    node = Node(1)
    async with running(node):
        connection = node.transport.dial(node.address)
        assert node.counts[Counter.DIAL_NO_RESOURCES] == 1
        assert node.transport.send(connection, [b"x"]) is SendResult.GONE


async def test_a_taken_port_is_an_error_that_names_it() -> None:
    first = Node(1)
    async with running(first):
        second = Node(2, first.address)
        with pytest.raises(PortTakenError, match=first.address):
            await second.open()


async def test_an_address_of_another_host_is_an_error() -> None:
    with pytest.raises(PortTakenError, match="cannot assign"):
        await Node(1, "192.0.2.200:0", insecure=True).open()


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.200:0"])
async def test_off_the_loopback_interface_it_refuses_to_listen_unless_told(listen: str) -> None:
    with pytest.raises(InsecureListenError):
        await Node(1, listen).open()


@pytest.mark.parametrize("listen", ["", "7070", "127.0.0.1", "127.0.0.1:x", "::1:0", ":7070"])
async def test_a_malformed_address_to_listen_on_is_refused(listen: str) -> None:
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:0"):
        await Node(1, listen).open()


async def test_a_host_name_to_listen_on_is_looked_up() -> None:
    node = Node(1, "localhost:0")
    async with running(node):
        assert node.address.rpartition(":")[0] in {"127.0.0.1", "[::1]"}
    with pytest.raises(PortTakenError, match="looked up"):
        await Node(1, "no-such-host.invalid:0").open()


async def test_ipv6_works_like_ipv4() -> None:
    if not has_ipv6_loopback():
        pytest.skip("no IPv6 on this machine")
    node, other = Node(1, "[::1]:0"), Node(2)
    async with running(node, other):
        assert node.address.startswith("[::1]:")
        await other.send(await other.dial(node.address), b"six")
        await node.handler.until(lambda: bool(node.handler.packets))


async def test_listening_everywhere_tells_the_interfaces_addresses_loopback_last() -> None:
    node, other = Node(1, "0.0.0.0:0", insecure=True), Node(2)
    async with running(node, other):
        assert node.addresses[-1].startswith("127.")
        assert not any(address.startswith("0.0.0.0") for address in node.addresses)
        for address in node.addresses:
            await other.dial(address)


async def test_a_libzmq_that_is_too_old_is_refused_by_its_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zmq, "zmq_version_info", lambda: (4, 3, 2))
    with pytest.raises(LibraryVersionError, match=r"4\.3\.2 was found, 4\.3\.3"):
        await Node(1).open()


async def test_nothing_is_left_behind_after_close() -> None:
    async def use_all() -> None:
        async with connected() as pair:
            await pair.dialler.send(pair.dialled, bytes(100_000))
            await pair.listener.handler.until(lambda: bool(pair.listener.handler.packets))
            pair.dialler.transport.dial("127.0.0.1:9")
            pair.dialler.transport.hang_up(await pair.dialler.dial(pair.listener.address))
            await pair.dialler.dial(pair.dialler.address)
            await pair.dialler.transport.close()  # closing twice is closing once
        with pytest.raises(PortTakenError):
            await Node(1, "192.0.2.200:0", insecure=True).open()

    await use_all()  # pyzmq's collector of sent buffers starts once per process
    before = count_descriptors()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            await use_all()
        gc.collect()
    assert count_descriptors() <= before


async def test_closing_is_quick_and_silent_with_packets_still_queued() -> None:
    async with connected() as pair:
        for _ in range(100):
            pair.dialler.transport.send(pair.dialled, [bytes(100_000)])
        calls = list(pair.dialler.handler.calls)
        async with asyncio.timeout(4):
            await pair.dialler.transport.close()
        assert pair.dialler.handler.calls == calls
        assert pair.dialler.transport.send(pair.dialled, [b"x"]) is SendResult.GONE


def test_it_runs_on_uvloop_too() -> None:
    async def talk() -> None:
        async with connected() as pair:
            echo: Recorder = pair.listener.handler
            echo.answer = lambda connection, frames: assert_sent(
                pair.listener.transport.send(connection, frames)
            )
            for number in range(500):
                await pair.dialler.send(pair.dialled, b"%d" % number)
            await pair.dialler.handler.until(lambda: len(pair.dialler.handler.packets) == 500)

    uvloop.run(talk())


def assert_sent(result: SendResult) -> None:
    assert result is SendResult.SENT


def has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def count_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
