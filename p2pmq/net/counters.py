"""What the transport counts: all that happens on the network and is nobody's error here.

A peer's fault, a port scanner or a wrong address must not raise, and must not
go unseen either: each has a counter.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

__all__ = ["Count", "Counter"]


class Counter(StrEnum):
    """Names of the transport's counters."""

    ACCEPTED = "net_accepted"
    """TCP connections that came in."""
    ACCEPTED_UNUSED = "net_accepted_unused"
    """Those of them that ended before their first packet: scanners, other protocols."""
    DIALLED = "net_dialled"
    """Handshakes that succeeded on connections that we dialled."""
    DIAL_REFUSED = "net_dial_refused"
    """Attempts that found nobody: refused, or no answer in time."""
    DIAL_HANDSHAKE_FAILED = "net_dial_handshake_failed"
    """Attempts that found somebody who is no node, or wants none of us."""
    DIAL_UNRESOLVED = "net_dial_unresolved"
    """Addresses that are not `ip:port`."""
    DIAL_NO_RESOURCES = "net_dial_no_resources"
    """Dials that this machine had no sockets or descriptors for."""
    CLOSED = "net_closed"
    """Connections that were up and went down by themselves, either kind."""
    FULL = "net_full"
    """Sends that found the pipe full."""
    STRANGER_PACKETS = "net_stranger_packets"
    """Packets dropped: their routing id is none of a node."""
    LATE_PACKETS = "net_late_packets"
    """Packets dropped: they came after a hang-up, or after their connection had closed."""


Count = Callable[[str, int], None]
"""Adds a number to the counter of that name."""
