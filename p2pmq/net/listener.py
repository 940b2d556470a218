"""All accepted connections: one bound ROUTER, and its monitor.

ROUTER speaks of peers by routing id, its monitor of TCP connections by
descriptor. Each packet carries the descriptor that it came by (SRCFD), which
joins the two: so a peer that goes away is noticed at once, also if nothing is
sent to it, and the table holds no more entries than there are TCP connections.

Only routing ids of nodes are let in. A descriptor's number is used again soon;
hence a connection whose descriptor closed is `DEAD_FD`, and a packet by the
same number is its successor's if the monitor accepted that number since.

Invariant: an `Accepted` is in `_by_routing_id` from on_opened to on_closed; one
that was hung up stays there, deaf, until its TCP connection ends.
"""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Callable, Sequence
from errno import EHOSTUNREACH
from time import monotonic

import zmq

from p2pmq.net.base import Connection, SendResult, TransportHandler
from p2pmq.net.counters import Count, Counter
from p2pmq.net.frames import DONTWAIT, POLLIN, has_input, has_room, receive_rest, send_packet
from p2pmq.net.monitor import Monitor
from p2pmq.net.reactor import LOOK_PACKETS_MAX, Reactor

__all__ = ["ROUTING_ID_BYTES", "Accepted", "Listener", "is_routing_id"]

ACCEPTED = int(zmq.EVENT_ACCEPTED)
DISCONNECTED = int(zmq.EVENT_DISCONNECTED)
SRCFD = int(zmq.SRCFD)

DEAD_FD = -1
ROUTING_ID_BYTES = 1 + 8 + 4 + 4
"""`n`, node id, boot number, number of the dial."""

FULL_RETRY_SECONDS = 0.005
FULL_RETRY_SECONDS_MAX = 0.05
"""A ROUTER tells of no single peer's room, so it is tried. A peer that takes 10,000 packets a
second has room again (half of 1,000) after 50 ms."""


def is_routing_id(routing_id: bytes) -> bool:
    """Whether it has the form of a node's: anything else is no node of ours."""
    return len(routing_id) == ROUTING_ID_BYTES and routing_id.startswith(b"n")


class Accepted:
    """A connection that another node opened."""

    __slots__ = (
        "_listener",
        "connection",
        "descriptor",
        "full_timer",
        "hung_up",
        "retry_seconds",
        "routing_id",
    )

    def __init__(
        self, listener: Listener, connection: Connection, routing_id: bytes, descriptor: int
    ) -> None:
        self._listener = listener
        self.connection = connection
        self.routing_id = routing_id
        self.descriptor = descriptor
        self.hung_up = False
        self.full_timer: TimerHandle | None = None
        self.retry_seconds = FULL_RETRY_SECONDS

    def send(self, frames: Sequence[bytes]) -> SendResult:
        """Send one packet's frames."""
        if self.full_timer is not None:
            return SendResult.FULL
        return self._listener.send(self, frames)

    def hang_up(self) -> None:
        """Let nothing through any more; who dialled closes it."""
        self.stop_timer()
        self.hung_up = True
        self._listener.on_hung_up(self)

    def stop_timer(self) -> None:
        """Wait for room no longer."""
        if self.full_timer is not None:
            self.full_timer.cancel()
            self.full_timer = None


class Listener:
    """The bound ROUTER.

    `admit` gives a new Accepted its Connection and notes it; `forget` undoes that.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        admit: Callable[[Listener, bytes, int], Accepted],
        forget: Callable[[Accepted], None],
        reactor: Reactor,
        handler: TransportHandler,
        count: Count,
    ) -> None:
        self.socket = socket
        self._admit = admit
        self._forget = forget
        self._reactor = reactor
        self._handler = handler
        self._count = count
        self._live: dict[int, Accepted | None] = {}
        """By descriptor of each TCP connection: who speaks through it, None before it spoke."""
        self._by_routing_id: dict[bytes, Accepted] = {}
        self._closing: list[Accepted] = []
        self._monitor = Monitor(reactor, socket, ACCEPTED | DISCONNECTED, self._on_event)
        reactor.watch(self)

    def send(self, accepted: Accepted, frames: Sequence[bytes]) -> SendResult:
        """Send one packet's frames to that peer."""
        self._reactor.look_again(self)
        parts = (accepted.routing_id, *frames)
        try:
            send_packet(self.socket, parts)
        except zmq.Again:
            has_room(self.socket)  # it may not have heard yet that the peer has read
            try:
                send_packet(self.socket, parts)
            except zmq.ZMQError as error:
                return self._refused(accepted, error)
        except zmq.ZMQError as error:
            return self._refused(accepted, error)
        accepted.retry_seconds = FULL_RETRY_SECONDS
        return SendResult.SENT

    def _refused(self, accepted: Accepted, error: zmq.ZMQError) -> SendResult:
        if isinstance(error, zmq.Again):
            self._count(Counter.FULL, 1)
            accepted.full_timer = self._reactor.loop.call_later(
                accepted.retry_seconds, self._on_full_timeout, accepted
            )
            accepted.retry_seconds = min(2 * accepted.retry_seconds, FULL_RETRY_SECONDS_MAX)
            return SendResult.FULL
        if error.errno != EHOSTUNREACH:
            raise error
        self._bury(accepted)
        return SendResult.GONE

    def _on_full_timeout(self, accepted: Accepted) -> None:
        accepted.full_timer = None
        self._handler.on_writable(accepted.connection)

    def on_events(self, events: int, until: float) -> bool:
        """Hand over what came in, then tell of those that closed."""
        more = False
        if events & POLLIN:
            self._monitor.read()
            more = self._drain(until)
        if not more:
            closing, self._closing = self._closing, []
            for accepted in closing:
                self._close(accepted)
        return more

    def _drain(self, until: float) -> bool:
        """Hand over a bounded number of packets; true if there may be more."""
        socket, on_frames, by_routing_id = self.socket, self._handler.on_frames, self._by_routing_id
        for taken in range(LOOK_PACKETS_MAX):
            try:
                frame = socket.recv(DONTWAIT, False)  # noqa: FBT003  by position: the hot path
            except zmq.Again:
                return False
            descriptor = int(frame.get(SRCFD))
            routing_id, *frames = receive_rest(socket, frame)
            accepted = by_routing_id.get(routing_id)
            if accepted is None or accepted.descriptor != descriptor:
                accepted = self._identify(routing_id, descriptor, accepted)
            if accepted is not None:
                if accepted.hung_up:
                    self._count(Counter.LATE_PACKETS, 1)
                else:
                    on_frames(accepted.connection, frames)
            if socket.closed:
                return False
            if taken == 0 and not has_input(socket):
                return False  # a single packet: asking is cheaper than a receive that fails
            if monotonic() > until:
                return True
        return True

    def _identify(
        self, routing_id: bytes, descriptor: int, known: Accepted | None
    ) -> Accepted | None:
        """Return whose packet it is that came by another descriptor than we knew, or None."""
        if not is_routing_id(routing_id):
            self._count(Counter.STRANGER_PACKETS, 1)
            return None
        if descriptor not in self._live:
            self._monitor.read()
        if descriptor not in self._live:  # it has ended; these are its last packets
            if known is None:
                self._count(Counter.LATE_PACKETS, 1)
            return known
        if known is not None and not known.hung_up and known.descriptor != DEAD_FD:
            # The peer came back before its old connection was known to be dead.
            self._live[known.descriptor] = None
            known.descriptor = descriptor
            self._live[descriptor] = known
            return known
        if known is not None:
            self._close(known)
        accepted = self._admit(self, routing_id, descriptor)
        self._live[descriptor] = accepted
        self._by_routing_id[routing_id] = accepted
        self._handler.on_opened(accepted.connection, dialled=False)
        return accepted

    def _on_event(self, event: int, descriptor: int) -> None:
        if event == ACCEPTED:
            self._count(Counter.ACCEPTED, 1)
            assert descriptor not in self._live
            self._live[descriptor] = None
            return
        accepted = self._live.pop(descriptor, None)
        if accepted is None:
            self._count(Counter.ACCEPTED_UNUSED, 1)
        else:
            self._bury(accepted)

    def _bury(self, accepted: Accepted) -> None:
        """It is dead; on_closed follows once the packets that it left are handed over."""
        if accepted.descriptor in self._live:
            self._live[accepted.descriptor] = None
        accepted.descriptor = DEAD_FD
        self._closing.append(accepted)
        self._reactor.look_again(self)

    def _close(self, accepted: Accepted) -> None:
        if self._by_routing_id.get(accepted.routing_id) is not accepted:
            return  # told already
        del self._by_routing_id[accepted.routing_id]
        accepted.stop_timer()
        if not accepted.hung_up:
            self._count(Counter.CLOSED, 1)
            self._forget(accepted)
            self._handler.on_closed(accepted.connection)

    def on_hung_up(self, accepted: Accepted) -> None:
        """Keep the deaf one until its TCP connection ends, if that has not happened."""
        if accepted.descriptor == DEAD_FD:
            self._close(accepted)

    def close(self) -> None:
        """Listen no more; nothing is called any more."""
        for accepted in self._by_routing_id.values():
            accepted.stop_timer()
        self._monitor.close()
        self._reactor.unwatch(self)
        self.socket.close(0)
