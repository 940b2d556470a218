"""The ZeroMQ transport: one ROUTER that listens, and a DEALER per dialled connection.

Either side's connection carries both directions, so a node behind NAT is
reached through the connection that it opened. docs/transport.md tells the
choices and their figures.

Invariant: `_links` holds every connection that the handler knows and has not
hung up, and those dialled that are not up yet.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from itertools import count
from os import strerror
from threading import Thread

import zmq

from p2pmq.config import Limits
from p2pmq.errors import PortTakenError
from p2pmq.net import address as addresses
from p2pmq.net import options
from p2pmq.net.base import Connection, SendResult, TransportHandler
from p2pmq.net.counters import Count, Counter
from p2pmq.net.dialled import Dialled
from p2pmq.net.listener import ROUTING_ID_BYTES, Accepted, Listener
from p2pmq.net.reactor import Reactor

__all__ = ["ZmqTransport"]

CLOSE_SECONDS_MAX = 5.0
"""libzmq's end takes a millisecond; if it ever hangs, the node's close is not to hang with it."""
DIAL_NUMBERS = 1 << 32


class ZmqTransport:
    """Transport over ZeroMQ.

    `listen` is `host:port`, port 0 for any that is free; off the loopback interface it needs
    `insecure=True`. `routing_prefix` is the node id (8 bytes) and the boot number (4 bytes).
    `counters` adds to the counter of a name (`Counter`). After `close` it does not open again.
    """

    def __init__(
        self,
        listen: str = "127.0.0.1:0",
        *,
        routing_prefix: bytes,
        insecure: bool = False,
        limits: Limits,
        counters: Callable[[str, int], None] | None = None,
    ) -> None:
        assert 1 + len(routing_prefix) + 4 == ROUTING_ID_BYTES
        self._listen = listen
        self._routing_prefix = routing_prefix
        self._insecure = insecure
        self._limits = limits
        self._count: Count = counters or _count_nothing
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._reactor: Reactor
        self._handler: TransportHandler
        self._listener: Listener | None = None
        self._links: dict[Connection, Dialled | Accepted] = {}
        self._connections = count(1)
        self._dials = count()

    async def open(self, handler: TransportHandler) -> tuple[str, ...]:
        """Listen; return the addresses under which others can dial this node, best first."""
        assert self._context is None
        options.require_libzmq()
        ip, port = await addresses.resolve_listen(self._listen, insecure=self._insecure)
        self._reactor = Reactor(asyncio.get_running_loop())
        self._handler = handler
        self._context = options.make_context(self._limits)
        try:
            router = self._bind(self._context, ip, port)
        except BaseException:
            await self.close()
            raise
        bound = router.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(bound, bytes)
        self._listener = Listener(
            router, self._admit, self._forget, self._reactor, handler, self._count
        )
        return addresses.dialable_addresses(ip, int(bound.rpartition(b":")[2]))

    def _bind(
        self, context: zmq.Context[zmq.Socket[bytes]], ip: str, port: int
    ) -> zmq.Socket[bytes]:
        endpoint = f"tcp://{addresses.join(ip, port)}"
        router = options.router(context, endpoint, self._limits)
        try:
            router.bind(endpoint)
        except zmq.ZMQError as error:
            router.close(0)
            reason = strerror(error.errno) if error.errno else str(error)
            raise PortTakenError(self._listen, reason.lower()) from error
        return router

    def dial(self, address: str) -> Connection:
        """Begin to connect to `ip:port`; whoever cannot be dialled stays unreachable."""
        assert self._context is not None, "dial comes between open and close"
        connection = next(self._connections)
        endpoint = addresses.endpoint_of(address)
        if endpoint is None:
            self._count(Counter.DIAL_UNRESOLVED, 1)
            return connection

        context = self._context
        try:
            self._links[connection] = Dialled(
                connection,
                endpoint,
                lambda: options.dealer(context, endpoint, self._limits, self._new_routing_id()),
                self._reactor,
                self._handler,
                self._count,
            )
        except zmq.ZMQError:
            self._count(Counter.DIAL_NO_RESOURCES, 1)
        return connection

    def _new_routing_id(self) -> bytes:
        """Return an id that no other socket of this boot has.

        Two sockets of one id at one ROUTER would take each other's place there for ever.
        """
        number = next(self._dials) % DIAL_NUMBERS
        return b"n" + self._routing_prefix + number.to_bytes(4, "big")

    def hang_up(self, connection: Connection) -> None:
        """Close a connection, either kind; nothing is called for it afterwards."""
        link = self._links.pop(connection, None)
        if link is not None:
            link.hang_up()

    def send(self, connection: Connection, frames: Sequence[bytes]) -> SendResult:
        """Send one packet's frames, without blocking."""
        link = self._links.get(connection)
        return SendResult.GONE if link is None else link.send(frames)

    async def close(self) -> None:
        """Close everything."""
        context, self._context = self._context, None
        if context is None:
            return
        links, self._links = self._links, {}
        for link in links.values():
            link.hang_up()
        if self._listener is not None:
            self._listener.close()
        await _end(context)

    def _admit(self, listener: Listener, routing_id: bytes, descriptor: int) -> Accepted:
        accepted = Accepted(listener, next(self._connections), routing_id, descriptor)
        self._links[accepted.connection] = accepted
        return accepted

    def _forget(self, accepted: Accepted) -> None:
        self._links.pop(accepted.connection, None)


def _count_nothing(_name: str, _number: int) -> None:
    """Count nothing: nobody asked for figures."""


async def _end(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Wait for libzmq's own threads to end, off the loop and not for ever."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def end() -> None:
        context.term()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(ended.set)

    # Not the loop's executor: who closes the loop waits for its threads, and without a bound.
    try:
        Thread(target=end, name="p2pmq-net-close", daemon=True).start()
    except RuntimeError:  # the interpreter ends, and starts no thread any more: the process's end
        return  # ends them
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(ended.wait(), CLOSE_SECONDS_MAX)
