"""The transport port: frames over connections, with no idea what is in them.

The ZeroMQ transport implements it for real networks, the simulator for virtual
ones. Connections are plain ints: one that we dialled, or one that came in,
carries frames both ways. A send never blocks and never loses silently: it says
`FULL` or `GONE`; and what was sent but had not arrived when a connection went
down is lost, which `on_closed` tells.
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

    SENT = "handed to the transport, in order"
    FULL = "the pipe is full: wait for on_writable, then try again"
    GONE = "there is no such connection, or it is not up"


class TransportHandler(Protocol):
    """Who the transport calls, in the loop's thread. None of these may raise."""

    def on_opened(self, connection: Connection, *, dialled: bool) -> None:
        """A dialled connection is up (or up again), or the first frames of an accepted one came.

        An accepted one is named once; a peer that comes back may keep its old name (if the
        breakdown went unnoticed here) or get a new one.
        """

    def on_frames(self, connection: Connection, frames: list[bytes]) -> None:
        """One packet's frames arrived."""

    def on_closed(self, connection: Connection) -> None:
        """The connection went down. A dialled one tries again by itself until hung up."""

    def on_writable(self, connection: Connection) -> None:
        """A connection that was FULL is worth another try, which may be FULL again.

        Not called for one that went down meanwhile: on_closed is, and on_opened if it is back.
        """


class Transport(Protocol):
    """Frames over connections."""

    async def open(self, handler: TransportHandler) -> tuple[str, ...]:
        """Listen; give the addresses (`host:port`) under which others can dial this node.

        Best first, loopback last. Raises PortTakenError, InsecureListenError,
        LibraryVersionError, UsageError (the address to listen on is malformed).
        """
        ...

    def dial(self, address: str) -> Connection:
        """Begin to connect to `host:port`; on_opened follows if somebody is there.

        Nothing is called while nobody is: it tries on, with growing pauses, until hung up. The
        host is an IP address: names are looked up by discovery. Never raises: what cannot be
        dialled is like an address where nobody is, and counted.
        """
        ...

    def hang_up(self, connection: Connection) -> None:
        """Close a connection, either kind; nothing is called for it afterwards.

        A dialled one is closed for both ends. Of an accepted one, what still comes is dropped:
        only who dialled can close it.
        """
        ...

    def send(self, connection: Connection, frames: Sequence[bytes]) -> SendResult:
        """Send one packet's frames (at least one), without blocking.

        Frames up to Limits.packet_bytes_max each.
        """
        ...

    async def close(self) -> None:
        """Close everything; nothing is called afterwards. Closing twice is closing once."""
        ...
