"""The transport port over the simulated network: one for each run of a node's process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.net.base import SendResult
from p2pmq.sim.later import UNKNOWN_EVERY, unknown_packet

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from p2pmq.net.base import Connection, TransportHandler
    from p2pmq.sim.hostloop import HostLoop
    from p2pmq.sim.network import Pipe, SimNetwork

RECONNECT_FIRST_S = 0.1
RECONNECT_MAX_S = 2.0


class SimTransport:
    """What `net.transport.ZmqTransport` is, between simulated hosts."""

    def __init__(
        self,
        network: SimNetwork,
        host: str,
        address: str,
        loop: HostLoop,
        *,
        of_later_version: bool = False,
    ) -> None:
        self.host = host
        self.pipes: dict[Connection, tuple[Pipe, int]] = {}
        self._network = network
        self._address = address
        self._loop = loop
        self._handler: TransportHandler
        self._next = 1
        self._dialled: dict[Connection, str] = {}
        self._retries: dict[Connection, asyncio.TimerHandle] = {}
        self._closed = False
        self._until_unknown = UNKNOWN_EVERY if of_later_version else 0

    def new_name(self) -> Connection:
        """A number for a new connection."""
        name = self._next
        self._next += 1
        return name

    # -- the port --

    async def open(self, handler: TransportHandler) -> tuple[str, ...]:
        """Listen on the host's address."""
        self._handler = handler
        self._network.listen(self._address, self)
        return (self._address,)

    def dial(self, address: str) -> Connection:
        """Begin to connect."""
        name = self.new_name()
        self._dialled[name] = address
        self._retries[name] = self._loop.call_later(0.001, self._try, name, RECONNECT_FIRST_S)
        return name

    def hang_up(self, connection: Connection) -> None:
        """Close one connection."""
        self._dialled.pop(connection, None)
        retry = self._retries.pop(connection, None)
        if retry is not None:
            retry.cancel()
        found = self.pipes.get(connection)
        if found is not None:
            self._network.close(found[0], by=self)

    def send(self, connection: Connection, frames: Sequence[bytes]) -> SendResult:
        """Hand one packet to the network."""
        found = self.pipes.get(connection)
        if found is None:
            return SendResult.GONE
        pipe, end = found
        if self._until_unknown:
            self._until_unknown -= 1
            if not self._until_unknown:
                self._until_unknown = UNKNOWN_EVERY
                self._network.carry(pipe, end, unknown_packet())
        return SendResult.SENT if self._network.carry(pipe, end, frames) else SendResult.FULL

    async def close(self) -> None:
        """Close everything."""
        self.kill()

    # -- what the network does --

    def kill(self) -> None:
        """The process is gone: its sockets close."""
        self._closed = True
        self._network.stop_listening(self._address)
        for retry in self._retries.values():
            retry.cancel()
        self._retries.clear()
        self._dialled.clear()
        for pipe, _ in list(self.pipes.values()):
            self._network.close(pipe, by=self)

    def arrived(self, connection: Connection, frames: list[bytes], *, accept: bool) -> None:
        """A packet came; the first on a connection that somebody dialled opens it here."""
        if not self._closed:
            self._loop.call_now(self._take, connection, frames, accept)

    def _take(self, connection: Connection, frames: list[bytes], accept: bool) -> None:  # noqa: FBT001  callbacks take it by position
        if self._closed or connection not in self.pipes:
            return
        if accept:
            self._handler.on_opened(connection, dialled=False)
        self._handler.on_frames(connection, frames)

    def lost(self, connection: Connection) -> None:
        """A connection has died; what we dialled is tried again."""
        if self._closed:
            return
        self._loop.call_now(self._handler.on_closed, connection)
        if connection in self._dialled:
            self._retries[connection] = self._loop.call_later(
                RECONNECT_FIRST_S, self._try, connection, RECONNECT_FIRST_S * 2
            )

    def writable(self, connection: Connection) -> None:
        """A full pipe has room again."""
        if not self._closed:
            self._loop.call_now(self._handler.on_writable, connection)

    def _try(self, connection: Connection, next_s: float) -> None:
        if self._closed or connection not in self._dialled:
            return
        if self._network.connect(self, connection, self._dialled[connection]):
            self._retries.pop(connection, None)
            self._handler.on_opened(connection, dialled=True)
            return
        self._retries[connection] = self._loop.call_later(
            next_s, self._try, connection, min(RECONNECT_MAX_S, next_s * 2)
        )
