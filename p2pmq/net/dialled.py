"""One dialled connection: a DEALER of its own, and the monitor that tells when it is up.

A DEALER tries again by itself, except after a breach of the protocol (a frame
over the limit, a peer that is no ROUTER, bytes that are no ZMTP): then libzmq
gives up for ever and says nothing. So where a disconnect is not followed by the
announcement of a retry, the socket is replaced after a pause.

Invariant: on_opened and on_closed alternate, and frames and sends lie between.
"""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Callable, Sequence
from math import inf
from time import monotonic

import zmq

from p2pmq.net.base import Connection, SendResult, TransportHandler
from p2pmq.net.counters import Count, Counter
from p2pmq.net.frames import (
    DONTWAIT,
    POLLIN,
    has_input,
    has_room,
    receive_rest,
    send_packet,
)
from p2pmq.net.monitor import Monitor
from p2pmq.net.reactor import LOOK_PACKETS_MAX, Reactor

__all__ = ["Dialled"]

HANDSHAKE_SUCCEEDED = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
DISCONNECTED = int(zmq.EVENT_DISCONNECTED)
CONNECT_RETRIED = int(zmq.EVENT_CONNECT_RETRIED)
CLOSED = int(zmq.EVENT_CLOSED)
WATCHED = HANDSHAKE_SUCCEEDED | DISCONNECTED | CONNECT_RETRIED | CLOSED

REDIAL_SECONDS = 2.0
"""Pause before a DEALER that gave up is replaced: its peer is broken or none of ours."""


class Dialled:
    """A connection that this node opened, to a libzmq endpoint.

    `make_socket` makes a DEALER with a new routing id. Raises zmq.ZMQError if the machine has
    no room for its sockets.
    """

    def __init__(
        self,
        connection: Connection,
        endpoint: str,
        make_socket: Callable[[], zmq.Socket[bytes]],
        reactor: Reactor,
        handler: TransportHandler,
        count: Count,
    ) -> None:
        self.connection = connection
        self.socket: zmq.Socket[bytes]
        self._endpoint = endpoint
        self._make_socket = make_socket
        self._reactor = reactor
        self._handler = handler
        self._count = count
        self._monitor: Monitor
        self._up = False
        self._full = False
        self._hung_up = False
        self._redial: TimerHandle | None = None
        self._start()

    def send(self, frames: Sequence[bytes]) -> SendResult:
        """Send one packet's frames."""
        if not self._up:
            return SendResult.GONE
        if self._full:
            return SendResult.FULL
        self._reactor.look_again(self)
        try:
            whole = send_packet(self.socket, frames)
        except zmq.Again:
            return self._send_again(frames)
        return SendResult.SENT if whole else SendResult.GONE

    def _send_again(self, frames: Sequence[bytes]) -> SendResult:
        # The socket may not have heard yet that its peer has read, or that it is gone.
        if has_room(self.socket):
            whole = send_packet(self.socket, frames)
            return SendResult.SENT if whole else SendResult.GONE
        self._full = True
        self._count(Counter.FULL, 1)
        return SendResult.FULL

    def on_events(self, events: int, until: float) -> bool:
        """Hand over what came in, and tell of room if somebody waits for it."""
        more = False
        if events & POLLIN:
            if not self._up:
                self._monitor.read()  # its handshake came before its first packet
            more = self._drain(LOOK_PACKETS_MAX, until)
        if self._full and has_room(self.socket):
            self._full = False
            self._handler.on_writable(self.connection)
        return more

    def hang_up(self) -> None:
        """Close it; nothing is called any more."""
        if not self._hung_up:
            self._hung_up = True
            self._up = False
            self._stop()

    def _start(self) -> None:
        self.socket = self._make_socket()
        try:
            self._monitor = Monitor(self._reactor, self.socket, WATCHED, self._on_event)
        except zmq.ZMQError:
            self.socket.close(0)
            raise
        self._reactor.watch(self)
        self.socket.connect(self._endpoint)  # last, so that the monitor misses nothing

    def _stop(self) -> None:
        if self._redial is not None:
            self._redial.cancel()
            self._redial = None
        if not self.socket.closed:
            self._monitor.close()
            self._reactor.unwatch(self)
            self.socket.close(0)

    def _drain(self, packets_max: float, until: float) -> bool:
        """Hand over up to so many packets; true if there may be more."""
        socket, on_frames, taken = self.socket, self._handler.on_frames, 0
        while taken < packets_max:
            try:
                frame = socket.recv(DONTWAIT, False)  # noqa: FBT003  by position: the hot path
            except zmq.Again:
                return False
            frames = receive_rest(socket, frame)
            taken += 1
            if self._up:
                on_frames(self.connection, frames)
            else:
                self._count(Counter.LATE_PACKETS, 1)
            if self._hung_up:
                return False
            if taken == 1 and not has_input(socket):
                return False  # a single packet: asking is cheaper than a receive that fails
            if monotonic() > until:
                return True
        return True

    def _on_event(self, event: int, _value: int) -> None:
        if event == HANDSHAKE_SUCCEEDED:
            self._on_handshake()
        elif event == DISCONNECTED:
            self._on_disconnected()
        elif event == CLOSED:
            self._count(Counter.DIAL_REFUSED, 1)
        elif self._redial is not None:  # CONNECT_RETRIED: libzmq goes on by itself
            self._redial.cancel()
            self._redial = None

    def _on_handshake(self) -> None:
        has_room(self.socket)  # so that a send from within on_opened finds the new pipe
        self._reactor.look_again(self)
        self._up = True
        self._full = False
        self._count(Counter.DIALLED, 1)
        self._handler.on_opened(self.connection, dialled=True)

    def _on_disconnected(self) -> None:
        if self._redial is None:
            self._redial = self._reactor.loop.call_later(REDIAL_SECONDS, self._replace)
        if not self._up:
            self._count(Counter.DIAL_HANDSHAKE_FAILED, 1)
            return
        self._drain(inf, inf)  # what came before the end belongs before it
        if self._up:
            self._up = False
            self._full = False
            self._count(Counter.CLOSED, 1)
            self._handler.on_closed(self.connection)

    def _replace(self) -> None:
        self._stop()
        try:
            self._start()
        except zmq.ZMQError:
            self._count(Counter.DIAL_NO_RESOURCES, 1)
            self._redial = self._reactor.loop.call_later(REDIAL_SECONDS, self._replace)
