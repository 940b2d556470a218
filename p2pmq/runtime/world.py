"""The world that a node lives in: where its ports, its clock and its chance come from.

`runtime.real` is this machine's; the simulator passes its own. Nothing above
or below can tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from p2pmq.config import Config, NodeSettings
    from p2pmq.core.ids import NodeId, Session
    from p2pmq.core.machine import Machine
    from p2pmq.core.packets.membership import Rumour
    from p2pmq.discovery.base import Discovery
    from p2pmq.net.base import Transport
    from p2pmq.store.base import Store
    from p2pmq.wire.codec import Codec


class World(Protocol):
    """What a node takes from outside."""

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that the node runs on."""
        ...

    def machine(self, own: Rumour, mesh: str, session: Session, config: Config) -> Machine:
        """The protocol of one node, with a source of chance of its own; a simulation listens in."""
        ...

    def codec(self) -> Codec:
        """The protocol versions that the node speaks, and how it says packets in them."""
        ...

    def random_bytes(self, count: int) -> bytes:
        """Bytes for an id that nobody else will draw."""
        ...

    def wall_clock(self) -> float:
        """Seconds since 1970, as far as this machine knows."""
        ...

    def store(self, settings: NodeSettings) -> Store:
        """The store of a node, not open yet."""
        ...

    def transport(
        self,
        settings: NodeSettings,
        node_id: NodeId,
        boot: int,
        counted: Callable[[str, int], None],
    ) -> Transport:
        """The transport of a node, not open yet."""
        ...

    def discovery(self, settings: NodeSettings) -> Discovery:
        """Where the node hears of addresses, not started yet."""
        ...


def real_world() -> World:
    """This machine; imported only here, so that a simulation needs no LMDB and no zeroconf."""
    from p2pmq.runtime.real import RealWorld  # noqa: PLC0415  see above

    return RealWorld()
