"""The sockets' options, each with its reason, and the oldest libzmq that honours them.

Of the ZAP domain: a socket that has one refuses ZMTP 1 and 2. Without, libzmq
takes almost any bytes for ZMTP 1, which has neither handshake nor heartbeat: an
HTTP request that never ends would hold its connection for ever (tried with
4.3.5). ZAP_ENFORCE_DOMAIN comes with the credentials: with it, but without a ZAP
handler, nobody is let in over NULL.
"""

from __future__ import annotations

import zmq

from p2pmq.config import Limits
from p2pmq.errors import LibraryVersionError
from p2pmq.net.address import is_ipv6_endpoint

__all__ = ["dealer", "make_context", "require_libzmq", "router"]

LIBZMQ_OLDEST = (4, 3, 3)
"""Before 4.3.3 a stranger can write past a heap buffer before the handshake (CVE-2020-15166 and
its siblings), and a dialled socket takes sends before its handshake is through."""

QUEUED_PACKETS_MAX = 1_000
"""Per connection and direction, in packets. Links bound bulk by bytes long before; this bounds
what control packets can pile up for a peer that reads nothing."""

ZAP_DOMAIN = b"p2pmq"
HANDSHAKE_MS = 3_000
CONNECT_MS = 3_000
"""Else a dial into a partition that drops packets follows the kernel's own retries, which pause
for a minute and more, and the split would outlast the network's return by that."""
HEARTBEAT_MS = 5_000
HEARTBEAT_TIMEOUT_MS = 10_000
"""libzmq's thread answers heartbeats, so a busy loop passes and only a dead host or a stopped
process fails: this frees descriptors; who lives is SWIM's to say, and sooner."""
HEARTBEAT_TTL_MS = 15_000
RECONNECT_MS = 100
RECONNECT_MAX_MS = 5_000
"""A split is to heal within 60 s of the network's return."""
BACKLOG = 1_024
"""A whole mesh dials at once when it comes back."""

SOCKETS_PER_DIAL = 3
"""The DEALER, and both ends of its monitor."""
SPARE_DIALS = 256
"""Dials under way, beyond the links that are kept."""


def require_libzmq() -> None:
    """Raise LibraryVersionError if the libzmq below pyzmq is too old to be safe."""
    found = zmq.zmq_version_info()
    if found < LIBZMQ_OLDEST:
        raise LibraryVersionError(
            "libzmq", ".".join(map(str, found)), ".".join(map(str, LIBZMQ_OLDEST))
        )


def make_context(limits: Limits) -> zmq.Context[zmq.Socket[bytes]]:
    """One context per transport: its sockets, its one I/O thread, its end."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
    context.set(zmq.MAX_SOCKETS, 16 + SOCKETS_PER_DIAL * (limits.links_max + SPARE_DIALS))
    return context


def router(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, limits: Limits
) -> zmq.Socket[bytes]:
    """Return the socket to listen with, not bound yet."""
    listener = context.socket(zmq.ROUTER)
    _set_common(listener, endpoint, limits)
    # A peer's full pipe is to be told, and a peer that is gone too.
    listener.set(zmq.ROUTER_MANDATORY, 1)
    # A peer that comes back before its old connection is known to be dead gets its place.
    listener.set(zmq.ROUTER_HANDOVER, 1)
    listener.set(zmq.BACKLOG, BACKLOG)
    return listener


def dealer(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, limits: Limits, routing_id: bytes
) -> zmq.Socket[bytes]:
    """Return a socket for one dialled connection, not connected yet."""
    dialled = context.socket(zmq.DEALER)
    _set_common(dialled, endpoint, limits)
    dialled.set(zmq.ROUTING_ID, routing_id)
    # Queue for a connection, not for the hope of one: what waits for a peer waits above.
    dialled.set(zmq.IMMEDIATE, 1)
    dialled.set(zmq.CONNECT_TIMEOUT, CONNECT_MS)
    dialled.set(zmq.RECONNECT_IVL, RECONNECT_MS)
    dialled.set(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    return dialled


def _set_common(target: zmq.Socket[bytes], endpoint: str, limits: Limits) -> None:
    target.set(zmq.LINGER, 0)
    target.set(zmq.MAXMSGSIZE, limits.packet_bytes_max)
    target.set(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
    target.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    target.set(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    target.set(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    target.set(zmq.HEARTBEAT_TTL, HEARTBEAT_TTL_MS)
    target.set(zmq.SNDHWM, QUEUED_PACKETS_MAX)
    target.set(zmq.RCVHWM, QUEUED_PACKETS_MAX)
    target.set(zmq.IPV6, int(is_ipv6_endpoint(endpoint)))
