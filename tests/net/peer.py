"""A node in a process of its own, for tests: `echo PORT`, or `load ADDRESS PACKETS SINGLES`.

`echo` listens and answers each packet with itself. `load` sends many packets at
once, then single ones, each after the answer to the one before, and noise all
the while; it prints how many milliseconds each answer took, as JSON.
"""

import asyncio
import json
import os
import sys
from time import monotonic

from p2pmq.config import Limits
from p2pmq.net import Connection, SendResult, ZmqTransport
from tests.net.kit import be_busy

GIVE_UP_SECONDS = 10.0


class Peer:
    """A handler and its transport."""

    def __init__(self, port: str = "0") -> None:
        self.transport = ZmqTransport(
            f"127.0.0.1:{port}", routing_prefix=os.urandom(12), limits=Limits()
        )
        self.echoes = False
        self.opened = asyncio.Event()
        self.writable = asyncio.Event()
        self.answers: dict[bytes, float] = {}
        self.answered = asyncio.Event()

    def on_opened(self, connection: Connection, *, dialled: bool) -> None:
        self.opened.set()

    def on_closed(self, connection: Connection) -> None:
        self.opened.clear()

    def on_writable(self, connection: Connection) -> None:
        self.writable.set()

    def on_frames(self, connection: Connection, frames: list[bytes]) -> None:
        if self.echoes:
            self.transport.send(connection, frames)
        else:
            self.answers[frames[0]] = monotonic()
            self.answered.set()

    async def send(self, connection: Connection, *frames: bytes) -> None:
        self.writable.clear()
        while self.transport.send(connection, frames) is SendResult.FULL:
            await self.writable.wait()
            self.writable.clear()


async def echo(port: str) -> None:
    peer = Peer(port)
    peer.echoes = True
    print((await peer.transport.open(peer))[0], flush=True)  # noqa: T201  to who started it
    await asyncio.to_thread(sys.stdin.read)
    await peer.transport.close()


async def make_noise(peer: Peer, connection: Connection) -> None:
    """Be busy, then send before the loop has a turn."""
    while True:
        be_busy(0.001)
        peer.transport.send(connection, [b"noise"])
        await asyncio.sleep(0)


async def load(address: str, packets: int, singles: int) -> None:
    peer = Peer()
    await peer.transport.open(peer)
    connection = peer.transport.dial(address)
    await peer.opened.wait()
    for number in range(packets):
        await peer.send(connection, b"load-%d" % number, b"x" * 100)
        if number % 64 == 0:
            await asyncio.sleep(0)
    noise = asyncio.create_task(make_noise(peer, connection))
    took_ms = []
    for number in range(singles):
        name, began = b"single-%d" % number, monotonic()
        await peer.send(connection, name)
        async with asyncio.timeout(GIVE_UP_SECONDS):
            while name not in peer.answers:
                peer.answered.clear()
                await peer.answered.wait()
        took_ms.append((peer.answers[name] - began) * 1_000)
    noise.cancel()
    print(json.dumps(took_ms), flush=True)  # noqa: T201  to who started it
    await peer.transport.close()


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        asyncio.run(echo(sys.argv[2]))
    else:
        asyncio.run(load(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
