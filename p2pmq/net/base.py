"""The transport port: frames over connections, with no idea what is in them.

The ZeroMQ transport implements it for real networks, the simulator for virtual
ones. Connections are plain ints: one that we dialled, or one that came in,
carries frames both ways. A send never blocks and never loses silently: it says
`FULL` or `GONE`.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

Connection = int
"""Names one connection of this node, dialled or accepted; never used again for another."""


class SendResult(Enum):
    """What became of a send."""

    SENT = "handed to the transport"
    FULL = "the pipe is full: wait for on_writable, then try again"
    GONE = "there is no such connection any more"


class TransportHandler(Protocol):
    """Who the transport calls, in the loop's thread. None of these may raise."""

    def on_opened(self, connection: Connection, *, dialled: bool) -> None:
        """A dialled connection is up (or up again), or the first frames of an accepted one came."""

    def on_frames(self, connection: Connection, frames: list[bytes]) -> None:
        """One packet's frames arrived."""

    def on_closed(self, connection: Connection) -> None:
        """The connection went down. A dialled one tries again by itself until hung up."""

    def on_writable(self, connection: Connection) -> None:
        """A connection that was FULL takes frames again."""


class Transport(Protocol):
    """Frames over connections."""

    async def open(self, handler: TransportHandler) -> tuple[str, ...]:
        """Listen; give the addresses (`host:port`) under which others can dial this node.

        Raises PortTakenError, InsecureListenError, LibraryVersionError.
        """
        ...

    def dial(self, address: str) -> Connection:
        """Begin to connect to `host:port`; on_opened follows if somebody is there."""
        ...

    def hang_up(self, connection: Connection) -> None:
        """Close a connection, either kind; nothing is called for it afterwards."""
        ...

    def send(self, connection: Connection, frames: Sequence[bytes]) -> SendResult:
        """Send one packet's frames, without blocking."""
        ...

    async def close(self) -> None:
        """Close everything."""
        ...
