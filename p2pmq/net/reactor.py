"""The reactor: looks at ZeroMQ sockets when the loop says so, and again after each use.

A ZeroMQ descriptor is edge-triggered, and every send, receive or look at EVENTS
takes the edge: what came in meanwhile is announced to nobody. So whoever used a
socket says `look_again`, which is one dictionary entry; all such sockets are
looked at in one call, in the loop's next turn. pyzmq's own asyncio sockets do
this with a future and a timer per packet, which is why they are not used here.

Invariant: a socket that may have something to read is in `_dirty`, or its
descriptor is readable.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from time import monotonic
from typing import Protocol

import zmq

__all__ = ["LOOK_PACKETS_MAX", "Reactor", "Watched"]

LOOK_SECONDS_MAX = 0.002
"""Of one turn of the loop, for all sockets together: timers and tasks wait no longer for us."""
LOOK_PACKETS_MAX = 64
"""Of one socket at one look, so that a busy peer lets the others have their turn."""

FD = int(zmq.FD)
EVENTS = int(zmq.EVENTS)


class Watched(Protocol):
    """A socket, and who knows what to do with its events."""

    socket: zmq.Socket[bytes]

    def on_events(self, events: int, until: float) -> bool:
        """Act upon `events` (POLLIN, POLLOUT) until that time; true if there is more to do."""
        ...


class Reactor:
    """Watches the sockets of one transport."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self._descriptors: dict[Watched, int] = {}
        self._dirty: dict[Watched, None] = {}
        self._scheduled = False

    def watch(self, watched: Watched) -> None:
        """Begin to watch a socket."""
        descriptor = int(watched.socket.getsockopt(FD))
        self._descriptors[watched] = descriptor
        self.loop.add_reader(descriptor, self._on_readable, watched)
        self.look_again(watched)

    def unwatch(self, watched: Watched) -> None:
        """Stop watching it; to be called before it is closed."""
        descriptor = self._descriptors.pop(watched, None)
        if descriptor is not None:
            self.loop.remove_reader(descriptor)
            self._dirty.pop(watched, None)

    def look_again(self, watched: Watched) -> None:
        """Look at this socket in the loop's next turn: it was used, or it woke the loop."""
        self._dirty[watched] = None
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._look)

    def _on_readable(self, watched: Watched) -> None:
        """Look at once: a turn of the loop later is some microseconds of latency later."""
        self._dirty[watched] = None
        if not self._scheduled:
            self._look()

    def _look(self) -> None:
        """Give each dirty socket its turn, in order, while there is time."""
        until = monotonic() + LOOK_SECONDS_MAX
        turns = len(self._dirty)
        try:
            while self._dirty and turns > 0:
                watched = next(iter(self._dirty))
                del self._dirty[watched]
                if watched in self._descriptors:
                    self._look_at(watched, until)
                turns = turns - 1 if monotonic() < until else 0
        finally:
            self._scheduled = bool(self._dirty)
            if self._scheduled:
                self.loop.call_soon(self._look)

    def _look_at(self, watched: Watched, until: float) -> None:
        more = True  # also if a handler raises, which it must not: the edge is gone by then
        try:
            more = watched.on_events(int(watched.socket.getsockopt(EVENTS)), until)
        finally:
            if more and watched in self._descriptors:
                self._dirty[watched] = None
