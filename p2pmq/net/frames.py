"""Packets' frames in and out of a ZeroMQ socket, in the way that measured fastest.

See docs/transport.md for the figures: receiving as `zmq.Frame` and copying out
beats receiving bytes at every size; sending without a copy pays from 64 KiB.
"""

from __future__ import annotations

from collections.abc import Sequence

import zmq

__all__ = ["has_input", "has_room", "receive_rest", "send_packet"]

DONTWAIT = int(zmq.DONTWAIT)
MORE = int(zmq.DONTWAIT) | int(zmq.SNDMORE)
EVENTS = int(zmq.EVENTS)
POLLIN = int(zmq.POLLIN)
POLLOUT = int(zmq.POLLOUT)

COPY_BELOW_BYTES = 64 * 1024


def has_input(socket: zmq.Socket[bytes]) -> bool:
    """Whether a packet waits; cheaper than a receive that finds none."""
    return bool(int(socket.getsockopt(EVENTS)) & POLLIN)


def has_room(socket: zmq.Socket[bytes]) -> bool:
    """Whether a send could succeed; also makes the socket hear what its I/O thread told it."""
    return bool(int(socket.getsockopt(EVENTS)) & POLLOUT)


def receive_rest(socket: zmq.Socket[bytes], frame: zmq.Frame) -> list[bytes]:
    """`frame` and those that belong to the same packet after it."""
    frames = [frame.bytes]
    while frame.more:
        frame = socket.recv(DONTWAIT, False)  # noqa: FBT003  by position: this is the hot path
        frames.append(frame.bytes)
    return frames


def send_packet(socket: zmq.Socket[bytes], frames: Sequence[bytes]) -> bool:
    """Send one packet; false if the connection broke in its middle.

    Raises zmq.Again (full) or zmq.ZMQError (no such peer) at the first frame, and then nothing
    was sent. In the middle, libzmq refuses one frame and drops the rest up to the packet's last,
    which has to be sent for that; or the next packet would be taken for the rest.
    """
    last = len(frames) - 1
    whole = True
    for place, frame in enumerate(frames):
        try:
            socket.send(frame, DONTWAIT if place == last else MORE, len(frame) < COPY_BELOW_BYTES)
        except zmq.Again:
            if place == 0:
                raise
            whole = False
    return whole
