"""A socket's monitor: libzmq tells of connections made, lost and refused.

Its events come through a PAIR of sockets. Ours takes any number of them: libzmq's
I/O thread blocks, with a lock held, on a monitor that is full, and the one who
reads it may be the one who waits for that lock.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from struct import Struct

import zmq

from p2pmq.net.frames import DONTWAIT, POLLIN
from p2pmq.net.reactor import Reactor

__all__ = ["Monitor"]

NUMBERS = count()
EVENT = Struct("=HI")
"""Event number and value, in the machine's byte order (zmq_socket_monitor(3))."""


class Monitor:
    """Calls `on_event(event, value)` for each event of `target`."""

    def __init__(
        self,
        reactor: Reactor,
        target: zmq.Socket[bytes],
        events: int,
        on_event: Callable[[int, int], None],
    ) -> None:
        self._reactor = reactor
        self._target = target
        self._on_event = on_event
        self.socket: zmq.Socket[bytes] = target.context.socket(zmq.PAIR)
        try:
            self.socket.set(zmq.LINGER, 0)
            self.socket.set(zmq.RCVHWM, 0)
            endpoint = f"inproc://monitor-{next(NUMBERS)}"
            target.monitor(endpoint, events)
            self.socket.connect(endpoint)
        except BaseException:
            self.socket.close(0)
            raise
        reactor.watch(self)

    def on_events(self, events: int, until: float) -> bool:  # noqa: ARG002  the port's shape
        """Read what there is: events are few, and later packets depend on them."""
        if events & POLLIN:
            self.read()
        return False

    def read(self) -> None:
        """Handle all events so far."""
        while not self.socket.closed:
            try:
                frames = self.socket.recv_multipart(DONTWAIT)
            except zmq.Again:
                return
            self._on_event(*EVENT.unpack(frames[0]))

    def close(self) -> None:
        """Stop; to be called before the target is closed."""
        self._reactor.unwatch(self)
        self._target.disable_monitor()
        self.socket.close(0)
