"""What the runtime's tests share: a transport, a listener, a machine and a store that only note.

The loop is the simulator's: time passes when a test says so.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from zlib import crc32

from p2pmq.config import Limits
from p2pmq.core.packets.delivering import Detach
from p2pmq.core.packets.link import Hello
from p2pmq.core.packets.publishing import Batch, Publish
from p2pmq.core.packets.registry import Packet
from p2pmq.net.base import Connection, SendResult, TransportHandler
from p2pmq.runtime.links import Links
from p2pmq.sim.loop import SimLoop
from p2pmq.wire.bodies import PackedBodies
from p2pmq.wire.codec import CHECKSUM_BYTES, decode, encode

US, PEER, OTHER = b"node-us!", b"node-pee", b"node-oth"
ADDRESS = "127.0.0.1:1000"


@contextmanager
def virtual_loop() -> Iterator[SimLoop]:
    """A loop on which nothing takes time."""
    loop = SimLoop()
    try:
        yield loop
        assert not loop.unhandled
    finally:
        loop.close()


def advance(loop: SimLoop, seconds: float) -> None:
    """Let time pass, and everything that is due run."""

    async def wait() -> None:
        await asyncio.sleep(seconds)

    loop.run_until_complete(wait())


def hello(node_id: bytes = PEER, **changed: object) -> Hello:
    """A peer's Hello that is welcome, but for what is changed."""
    facts: dict[str, Any] = {
        "mesh": "m",
        "node_id": node_id,
        "boot": 1,
        "name": node_id.decode(),
        "addresses": (),
        "version_min": 1,
        "version_max": 1,
    }
    return Hello(**(facts | changed))


def control(number: int = 0) -> Packet:
    """A packet that goes before bulk."""
    return Detach("q", 0, b"consumer", number)


def sealed(header: bytes) -> list[bytes]:
    """A frame with whatever header and the right checksum."""
    return [header + crc32(header).to_bytes(CHECKSUM_BYTES, "little")]


def bulk(number: int, size: int) -> Publish:
    """A packet with one body of `size` bytes."""
    bodies = PackedBodies.from_bodies([bytes(size)])
    return Publish("q", 0, 0, Batch(b"session!", number, 1, size, bodies))


class FakeTransport:
    """Notes what is dialled, sent and hung up; `results` is what a send says, per connection."""

    def __init__(self) -> None:
        self.dialled: dict[Connection, str] = {}
        self.hung_up: list[Connection] = []
        self.sent: list[tuple[Connection, Packet]] = []
        self.results: dict[Connection, SendResult] = {}
        self._next = 100

    async def open(self, handler: TransportHandler) -> tuple[str, ...]:
        raise AssertionError

    async def close(self) -> None:
        raise AssertionError

    def dial(self, address: str) -> Connection:
        self._next += 1
        self.dialled[self._next] = address
        return self._next

    def hang_up(self, connection: Connection) -> None:
        self.hung_up.append(connection)

    def send(self, connection: Connection, frames: Sequence[bytes]) -> SendResult:
        result = self.results.get(connection, SendResult.SENT)
        if result is SendResult.SENT:
            self.sent.append((connection, decode(frames)))
        return result

    def take(self, connection: Connection | None = None) -> list[Packet]:
        """What was sent since the last time (on one connection)."""
        sent, self.sent = self.sent, []
        return [packet for c, packet in sent if connection in (None, c)]


class Listener:
    """A LinkEvents that notes everything."""

    def __init__(self) -> None:
        self.packets: list[tuple[bytes, Packet]] = []
        self.connected: list[Hello] = []
        self.disconnected: list[bytes] = []
        self.refusals: list[tuple[int, str, str]] = []
        self.malformed: list[tuple[str, str]] = []
        self.counts: Tally[str] = Tally()
        self.holders: dict[str, str] = {}
        self.unreadable = False
        self.on_gone: Callable[[bytes], None] = lambda _peer: None

    def on_packet(self, peer: bytes, packet: Packet) -> None:
        self.packets.append((peer, packet))

    def on_peer_connected(self, hello: Hello) -> None:
        self.connected.append(hello)

    def on_peer_disconnected(self, peer: bytes) -> None:
        self.disconnected.append(peer)
        self.on_gone(peer)

    def on_refused(self, reason: int, text: str, address: str) -> None:
        self.refusals.append((reason, text, address))

    def counted(self, what: str, count: int = 1) -> None:
        self.counts[what] += count

    def on_malformed(self, reason: str, text: str) -> None:
        self.malformed.append((reason, text))

    def resolved(self, packet: Packet) -> Packet | None:
        return None if self.unreadable else packet

    def name_holder(self, name: str, node_id: bytes) -> str | None:
        return ADDRESS if name == US.decode() else self.holders.get(name)


class Scene:
    """Links of one node, with a fake transport below and a listener above."""

    def __init__(self, loop: SimLoop, limits: Limits | None = None) -> None:
        self.loop = loop
        self.transport = FakeTransport()
        self.events = Listener()
        self.links = Links(self.transport, self.events, limits or Limits(), loop, self._make_hello)

    def _make_hello(self, *, answer: bool) -> Hello:
        return hello(US, answer=answer)

    def receive(self, connection: Connection, packet: Packet) -> None:
        """A packet comes in."""
        self.links.on_frames(connection, encode(packet))

    def accept(self, connection: Connection = 1, said: Hello | None = None) -> Connection:
        """A peer dials us and says Hello."""
        self.links.on_opened(connection, dialled=False)
        self.receive(connection, said or hello())
        return connection

    def dial(self, said: Hello | None = None, address: str = ADDRESS) -> Connection:
        """We dial a peer, and it answers."""
        before = set(self.transport.dialled)
        self.links.try_address(address)
        (connection,) = set(self.transport.dialled) - before
        self.links.on_opened(connection, dialled=True)
        self.receive(connection, said or hello(answer=True))
        return connection
