"""The discovery port: what the runtime asks of any source of addresses.

It is one call in and one callback out, so that mDNS, seeds, DNS and the
simulator's fake are alike to the runtime.

Invariant: `found` is called from the event loop only, and never after `close`
has returned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Announcement", "Discovery", "Found", "Sighting"]


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a node tells the network about itself.

    `addresses` are "host:port", an IPv6 host in brackets; a node that only
    dials out has none, and is not announced. `versions` is the range of
    protocol versions that it speaks, both ends included.
    """

    mesh: str
    node_id: bytes
    name: str
    addresses: tuple[str, ...]
    versions: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sighting:
    """An address to try: "host:port", the host an IP address, IPv6 as "[::1]:7070".

    `source` says who came up with it: "mdns", "seed", "dns", or a name of another source.
    """

    address: str
    source: str


Found = Callable[[Sighting], None]


class Discovery(Protocol):
    """A source of addresses to try.

    An address is sighted again and again while it may be of use, so that
    whoever could not connect can try again: take repeats for granted.
    """

    async def start(self, announce: Announcement, found: Found) -> None:
        """Announce this node where the source can, and call `found` from now until `close`.

        Returns soon: what is slow goes on in the background. A network that
        does not play along is logged, not raised; only a `UsageError` is.
        """

    async def close(self) -> None:
        """Withdraw what was announced and stop. A second call does nothing."""
