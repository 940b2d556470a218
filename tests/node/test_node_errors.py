"""Bad input and bad surroundings: each its own error, which says what, why and what to do."""

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import zmq

from p2pmq import (
    BodyTooLargeError,
    ClosedNodeError,
    Config,
    DataDirectoryError,
    DataDirectoryLockedError,
    InsecureListenError,
    LibraryVersionError,
    Limits,
    NameTakenError,
    Node,
    NodeFailedError,
    NotSerializableError,
    PortTakenError,
    QueueNameError,
    StoreError,
    UsageError,
)
from p2pmq.config import NodeSettings
from p2pmq.core import events
from p2pmq.core.records import Record
from p2pmq.runtime.real import RealWorld
from p2pmq.store.base import Store, WriteDone
from p2pmq.store.memory import MemoryStore
from tests.node.kit import PATIENCE_S, alive, consume, node, quick, until

BAD_NAMES = ["", "x" * 256, "é" * 128, "a\nb", "a\x00b", "\x7f", "a\ud800"]


class Thing:
    """Something that msgpack cannot hold."""


# -- names, bodies, options --


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_bad_queue_name_is_refused_by_every_call(name: str) -> None:
    async with node("n") as made:
        with pytest.raises(QueueNameError):
            await made.publish(name, 1)
        with pytest.raises(QueueNameError):
            await made.publish_many(name, [1])
        with pytest.raises(QueueNameError):
            await anext(made.consume(name))
        with pytest.raises(QueueNameError):
            await anext(made.consume_batches(name))
        with pytest.raises(QueueNameError):
            await made.depth(name)
        with pytest.raises(QueueNameError):
            made.queue(name)
        assert await made.queues() == []


async def test_a_name_of_255_bytes_is_good() -> None:
    async with node("n") as made:
        for name in ("x" * 255, "é" * 127, "with spaces and ümläuts", "a/b.c:d"):
            await made.publish(name, name)
            assert await consume(made, name, 1) == [name]


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb"])
def test_a_bad_name_of_node_or_mesh_is_refused_at_once(name: str) -> None:
    with pytest.raises(UsageError, match="node name"):
        Node(name)
    with pytest.raises(UsageError, match="mesh name"):
        Node("n", mesh=name)


async def test_a_body_that_cannot_be_packed_names_its_type_before_anything_is_sent() -> None:
    async with node("n") as made:
        for body in (Thing(), {"deep": [Thing()]}, {1, 2}, 2**64):
            with pytest.raises(NotSerializableError):
                await made.publish("q", body)
        with pytest.raises(NotSerializableError, match="Thing"):
            await made.publish("q", Thing())
        with pytest.raises(NotSerializableError, match="Thing"):
            await made.publish_many("q", [1, 2, Thing()])
        assert (await made.depth("q")).total == 0


async def test_a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not() -> None:
    config = Config(limits=Limits(body_bytes_max=1_000))
    async with node("n", config=config) as made:
        await made.publish("q", bytes(1_000))
        with pytest.raises(BodyTooLargeError, match="1,001 bytes"):
            await made.publish("q", bytes(1_001))
        with pytest.raises(BodyTooLargeError):
            await made.publish_many("q", [b"", bytes(1_001)])
        assert (await made.depth("q")).total == 1


async def test_the_largest_body_that_the_default_allows_goes_through() -> None:
    async with node("n") as made:
        body = bytes(16 * 1024 * 1024)
        await made.publish("q", body, timeout=PATIENCE_S)
        (found,) = await consume(made, "q", 1)
        assert found == body


async def test_options_that_make_no_sense_are_refused() -> None:
    async with node("n") as made:
        unknown: Any = "maybe"
        for call in (
            lambda: made.publish("q", 1, confirm=unknown),
            lambda: made.publish("q", 1, timeout=-1),
            lambda: made.publish("q", 1, timeout=float("nan")),
            lambda: anext(made.consume("q", prefetch=0)),
            lambda: anext(made.consume("q", prefetch=65_537)),
            lambda: anext(made.consume("q", visibility_timeout=0)),
            lambda: anext(made.consume("q", visibility_timeout=-5)),
        ):
            with pytest.raises(UsageError):
                await call()
        await made.publish("q", 1, timeout=float("inf"))
        message = await anext(made.consume("q"))
        for seconds in (-1, float("nan")):
            with pytest.raises(UsageError):
                message.nack(delay=seconds)
            with pytest.raises(UsageError):
                message.extend(seconds)
        assert not message.settled


# -- a closed node --


def calls(made: Node) -> list[Any]:
    return [
        lambda: made.publish("q", 1),
        lambda: made.publish_many("q", [1]),
        lambda: anext(made.consume("q")),
        lambda: anext(made.consume_batches("q")),
        lambda: anext(made.drain("q")),
        lambda: made.depth("q"),
        made.queues,
        lambda: made.forget("x"),
        made.leave,
        made.flush,
    ]


async def test_every_call_on_a_node_that_does_not_run_says_so() -> None:
    made = node("n")
    for state in ("not started", "closed"):
        for call in calls(made):
            with pytest.raises(ClosedNodeError, match=state):
                await call()
        for look in (made.members, lambda: made.owner_of("q")):
            with pytest.raises(ClosedNodeError, match=state):
                look()
        if state == "not started":
            await made.start()
            await made.close()
    await made.close()
    with pytest.raises(ClosedNodeError):
        await made.start()


# -- surroundings --


async def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        made = node("n", listen=f"127.0.0.1:{port}")
        with pytest.raises(PortTakenError, match=str(port)):
            await made.start()
    await made.start()  # nothing of the first try is left open
    await made.close()


async def test_off_loopback_a_node_without_credentials_refuses() -> None:
    with pytest.raises(InsecureListenError, match=r"0\.0\.0\.0"):
        await node("n", listen="0.0.0.0:0").start()
    async with node("n", listen="0.0.0.0:0", insecure=True) as made:
        assert made.addresses


async def test_a_directory_that_another_node_runs_on(tmp_path: Path) -> None:
    async with node("n", store="disk", data_dir=str(tmp_path)):
        second = node("n", store="disk", data_dir=str(tmp_path))
        with pytest.raises(DataDirectoryLockedError, match=str(tmp_path)):
            await second.start()
    await second.start()
    await second.close()


async def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    made = node("n", store="disk", data_dir=str(tmp_path / "file"))
    with pytest.raises(DataDirectoryError):
        await made.start()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc here")  # noqa: PTH112  once
async def test_a_directory_that_is_read_only() -> None:
    """Not even root may write there."""
    made = node("n", store="disk", data_dir="/proc/p2pmq")
    with pytest.raises(DataDirectoryError, match="/proc/p2pmq"):
        await made.start()


async def test_a_libzmq_that_is_too_old(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zmq, "zmq_version_info", lambda: (4, 2, 5))
    made = node("n", store="disk", data_dir=str(tmp_path))
    with pytest.raises(LibraryVersionError, match=r"4\.2\.5.*4\.3\.3"):
        await made.start()
    monkeypatch.undo()
    await made.start()
    await made.close()


# -- names in a mesh --


async def test_a_name_of_a_living_node_is_refused_to_the_newcomer() -> None:
    async with node("one") as first:
        twin = node("one", seeds=first.addresses)
        with pytest.raises(NameTakenError, match="'one'") as caught:
            await twin.start()
        assert first.addresses[0] in str(caught.value)
        assert alive(first) == {"one"}
        await first.publish("q", 1)


async def test_the_name_of_a_node_that_was_closed_is_free_for_another() -> None:
    async with node("one") as first:
        second = node("two", seeds=first.addresses)
        await second.start()
        await until(lambda: alive(first) == {"one", "two"})
        await second.close()
        await until(lambda: alive(first) == {"one"})
        again = node("two", seeds=first.addresses, config=quick(name_claim_ms=20_000))
        await again.start()
        await until(lambda: alive(first) == {"one", "two"})
        await again.close()


# -- faults within --


class FailingStore(MemoryStore):
    """A disk that fails when it is told to."""

    failure: StoreError | None = None

    def write(self, records: Sequence[Record], done: WriteDone, *, patient: bool = False) -> None:
        if self.failure is not None:
            asyncio.get_running_loop().call_soon(done, self.failure)
        else:
            super().write(records, done, patient=patient)


class FailingWorld(RealWorld):
    def store(self, settings: NodeSettings) -> Store:
        return FailingStore()


async def test_a_disk_that_fails_stops_the_node_and_everybody_who_waits_is_told() -> None:
    made = node("n", world=FailingWorld())
    await made.start()
    store = made._store
    assert isinstance(store, FailingStore)
    waiting = asyncio.ensure_future(anext(made.consume("q")))
    await asyncio.sleep(0)
    store.failure = StoreError("the disk failed")
    publishing = asyncio.ensure_future(made.publish("q", 1))
    for task in (waiting, publishing):
        with pytest.raises(StoreError, match="the disk failed"):
            await asyncio.wait_for(task, PATIENCE_S)
    with pytest.raises(ClosedNodeError, match="the disk failed"):
        await made.publish("q", 2)
    await made.close()


async def test_a_fault_of_our_own_stops_the_node_and_everybody_who_waits_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = node("n")
    await made.start()
    waiting = asyncio.ensure_future(anext(made.consume("q")))
    publishing = asyncio.ensure_future(made.publish("q", 1))
    await asyncio.sleep(0)

    def fail(*_: object) -> None:
        raise LookupError("an invariant")

    monkeypatch.setattr(made._machine, "handle", fail)
    made._driver.feed(events.TimePassed())
    for task in (waiting, publishing):
        with pytest.raises(NodeFailedError, match="an invariant") as caught:
            await asyncio.wait_for(task, PATIENCE_S)
        assert isinstance(caught.value.__cause__, LookupError)
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1
    with pytest.raises(ClosedNodeError, match="an invariant"):
        await made.depth("q")
    await made.close()


async def test_malformed_packets_are_counted_and_logged_once_a_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.setsockopt(zmq.ROUTING_ID, b"n" + bytes(16))
    stranger.setsockopt(zmq.LINGER, 0)
    stranger.setsockopt(zmq.ZAP_DOMAIN, b"p2pmq")
    try:
        async with node("n") as made:
            stranger.connect(f"tcp://{made.addresses[0]}")
            for _ in range(50):
                stranger.send(b"\xc1 this is no packet")
            await until(lambda: made.counters["packet_malformed_checksum"] == 50)
            said = [text for text in caplog.messages if "packet_malformed" in text]
            assert 1 <= len(said) <= 10, "at most once a second"
            await made.publish("q", 1)
    finally:
        stranger.close()
        context.term()
