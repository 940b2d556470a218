"""The real world: ZeroMQ, LMDB, mDNS, this machine's clock and the kernel's random bytes."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from p2pmq.core.machine import Machine
from p2pmq.discovery.combined import CombinedDiscovery
from p2pmq.discovery.mdns import MdnsDiscovery
from p2pmq.discovery.seeds import SeedDiscovery
from p2pmq.net.transport import ZmqTransport
from p2pmq.store.lmdb_store import LmdbStore
from p2pmq.store.memory import MemoryStore
from p2pmq.store.paths import default_data_dir
from p2pmq.wire.codec import CODEC

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.config import Config, NodeSettings
    from p2pmq.core.ids import NodeId, Session
    from p2pmq.core.packets.membership import Rumour
    from p2pmq.discovery.base import Discovery
    from p2pmq.net.base import Transport
    from p2pmq.store.base import Store
    from p2pmq.wire.codec import Codec


class RealWorld:
    """This machine, its disks and its networks."""

    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        return asyncio.get_running_loop()

    def machine(self, own: Rumour, mesh: str, session: Session, config: Config) -> Machine:
        """The protocol, with chance that the kernel seeds."""
        return Machine(own, mesh, session, config, self._random())

    def codec(self) -> Codec:
        """This version's."""
        return CODEC

    def random_bytes(self, count: int) -> bytes:
        """Bytes from the kernel."""
        return secrets.token_bytes(count)

    def wall_clock(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def store(self, settings: NodeSettings) -> Store:
        """LMDB in the node's directory, or memory."""
        if settings.store == "memory":
            return MemoryStore()
        return LmdbStore(data_dir_of(settings))

    def transport(
        self,
        settings: NodeSettings,
        node_id: NodeId,
        boot: int,
        counted: Callable[[str, int], None],
    ) -> Transport:
        """ZeroMQ on the address to listen on."""
        return ZmqTransport(
            settings.listen,
            routing_prefix=node_id + boot.to_bytes(4, "big"),
            insecure=settings.insecure,
            limits=settings.config.limits,
            counters=counted,
        )

    def discovery(self, settings: NodeSettings) -> Discovery:
        """Seeds and names if there are any, and mDNS unless it is off."""
        sources: list[Discovery] = []
        rng = self._random()
        if settings.seeds:
            sources.append(SeedDiscovery(settings.seeds, rng=rng))
        if settings.mdns:
            sources.append(MdnsDiscovery(rng=rng))
        return CombinedDiscovery(sources)

    def _random(self) -> random.Random:
        return random.Random(secrets.randbits(128))


def data_dir_of(settings: NodeSettings) -> Path:
    """Where a node's store lies."""
    if settings.data_dir is not None:
        return Path(settings.data_dir).expanduser()
    return default_data_dir(settings.mesh, settings.name)
