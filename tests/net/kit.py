"""What the transport's tests share: a handler that notes what happens, and a way to await it."""

import asyncio
import contextlib
import subprocess
import sys
from collections import Counter as Tally
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic

from p2pmq.config import Limits
from p2pmq.net import Connection, SendResult, ZmqTransport

PATIENCE_SECONDS = 20.0
"""Only a broken transport takes this long, however slow the machine."""
PEER = Path(__file__).with_name("peer.py")
ROOT = Path(__file__).parents[2]


class Recorder:
    """A TransportHandler that notes all calls; `until` waits for what it is to have noted."""

    def __init__(self) -> None:
        self.opened: list[tuple[Connection, bool]] = []
        self.closed: list[Connection] = []
        self.packets: list[tuple[Connection, list[bytes]]] = []
        self.writable: list[Connection] = []
        self.calls: list[str] = []
        self.answer: Callable[[Connection, list[bytes]], None] | None = None
        self._news = asyncio.Event()

    def on_opened(self, connection: Connection, *, dialled: bool) -> None:
        self.opened.append((connection, dialled))
        self._note("opened")

    def on_frames(self, connection: Connection, frames: list[bytes]) -> None:
        self.packets.append((connection, frames))
        if self.answer is not None:
            self.answer(connection, frames)
        self._note("frames")

    def on_closed(self, connection: Connection) -> None:
        self.closed.append(connection)
        self._note("closed")

    def on_writable(self, connection: Connection) -> None:
        self.writable.append(connection)
        self._note("writable")

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition that a call to this handler makes true."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def until_packets(self, number: int) -> None:
        """Wait until so many packets have come."""
        await self.until(lambda: len(self.packets) >= number)

    async def until_writable(self, number: int) -> None:
        """Wait until on_writable has been called so often."""
        await self.until(lambda: len(self.writable) >= number)


def be_busy(seconds: float) -> None:
    """Keep the loop from its turn, as a slow handler does."""
    until = monotonic() + seconds
    while monotonic() < until:
        pass


class Node:
    """A transport with its handler and counters."""

    def __init__(
        self,
        number: int,
        listen: str = "127.0.0.1:0",
        *,
        limits: Limits | None = None,
        insecure: bool = False,
    ) -> None:
        self.counts: Tally[str] = Tally()
        self.handler = Recorder()
        self.transport = ZmqTransport(
            listen,
            routing_prefix=number.to_bytes(12, "big"),
            insecure=insecure,
            limits=limits or Limits(),
            counters=self._count,
        )
        self.addresses: tuple[str, ...] = ()
        self._counted = asyncio.Event()

    def _count(self, name: str, number: int) -> None:
        self.counts[name] += number
        self._counted.set()

    async def until_counted(self, name: str, number: int = 1) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.counts[name] < number:
                self._counted.clear()
                await self._counted.wait()

    async def open(self) -> "Node":
        self.addresses = await self.transport.open(self.handler)
        return self

    @property
    def address(self) -> str:
        return self.addresses[0]

    async def dial(self, address: str) -> Connection:
        """Dial and wait until it is up."""
        connection = self.transport.dial(address)
        await self.handler.until(lambda: (connection, True) in self.handler.opened)
        return connection

    async def send(self, connection: Connection, *frames: bytes) -> None:
        """Send, waiting while the pipe is full."""
        while True:
            told = len(self.handler.writable)
            result = self.transport.send(connection, frames)
            if result is SendResult.SENT:
                return
            assert result is SendResult.FULL
            await self.handler.until_writable(told + 1)


class Pair:
    """Two nodes, and the connection between them as each names it."""

    def __init__(self, dialler: Node, listener: Node, dialled: int, accepted: int) -> None:
        self.dialler = dialler
        self.listener = listener
        self.dialled = dialled
        self.accepted = accepted


@contextlib.asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    """Open the nodes and close them again."""
    try:
        for node in nodes:
            await node.open()
        yield
    finally:
        for node in nodes:
            await node.transport.close()


@contextlib.asynccontextmanager
async def connected(
    *, limits: Limits | None = None, listener_limits: Limits | None = None
) -> AsyncIterator[Pair]:
    """Two nodes; the first has dialled the second and said hello."""
    dialler, listener = Node(1, limits=limits), Node(2, limits=listener_limits or limits)
    async with running(dialler, listener):
        dialled = await dialler.dial(listener.address)
        await dialler.send(dialled, b"hello")
        await listener.handler.until(lambda: bool(listener.handler.packets))
        yield Pair(dialler, listener, dialled, listener.handler.packets.pop()[0])


def start_peer(*arguments: str) -> subprocess.Popen[bytes]:
    """Start peer.py, which is in another process what Node is here."""
    return subprocess.Popen(
        [sys.executable, str(PEER), *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


async def read_line(process: subprocess.Popen[bytes]) -> str:
    """Return the next line that the peer prints."""
    assert process.stdout is not None
    line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), PATIENCE_SECONDS)
    return line.decode().strip()


def stop_peer(process: subprocess.Popen[bytes]) -> None:
    """End it, and leave no descriptor."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()
