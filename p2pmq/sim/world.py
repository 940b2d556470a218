"""The world of one run of a simulated process: its ports, its clock and its chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from p2pmq.discovery.base import Sighting
from p2pmq.sim.disk import SimStore
from p2pmq.sim.history import Process
from p2pmq.sim.transport import SimTransport
from p2pmq.sim.watch import WatchedMachine, Witness

if TYPE_CHECKING:
    import asyncio
    import random
    from collections.abc import Callable

    from p2pmq.config import Config, NodeSettings
    from p2pmq.core.ids import NodeId, Session
    from p2pmq.core.machine import Machine
    from p2pmq.core.packets.membership import Rumour
    from p2pmq.discovery.base import Announcement, Discovery, Found
    from p2pmq.net.base import Transport
    from p2pmq.sim.disk import SimDisk
    from p2pmq.sim.history import History
    from p2pmq.sim.hostloop import HostLoop
    from p2pmq.sim.loop import SimLoop
    from p2pmq.sim.network import SimNetwork
    from p2pmq.store.base import Store


@dataclass(slots=True)
class WallClock:
    """A host's wall clock: the loop's, set wrong by `skew_s` and running `drift` too fast."""

    loop: SimLoop
    skew_s: float = 0.0
    drift: float = 0.0
    _drifts_since_s: float = 0.0

    def read(self) -> float:
        """Seconds since 1970, as this host believes."""
        drifted_s = self.drift * (self.loop.time() - self._drifts_since_s)
        return self.loop.wall_time() + self.skew_s + drifted_s

    def set_drift(self, drift: float) -> None:
        """Run too fast by this share from now on (negative: too slow); no jump."""
        self.skew_s += self.drift * (self.loop.time() - self._drifts_since_s)
        self.drift = drift
        self._drifts_since_s = self.loop.time()


class SimDiscovery:
    """Sights every address of the mesh again and again, as mDNS on a LAN would."""

    def __init__(self, addresses: Callable[[], list[str]], loop: HostLoop, again_s: float) -> None:
        self._addresses = addresses
        self._loop = loop
        self._again_s = again_s
        self._timer: asyncio.TimerHandle | None = None
        self._found: Found

    async def start(self, announce: Announcement, found: Found) -> None:
        """Sight what is there, now and then."""
        self._own = announce.addresses
        self._found = found
        self._sight()

    def _sight(self) -> None:
        for address in self._addresses():
            if address not in self._own:
                self._found(Sighting(address, "seed"))
        self._timer = self._loop.call_later(self._again_s, self._sight)

    async def close(self) -> None:
        """Sight no more."""
        self.stop()

    def stop(self) -> None:
        """Sight no more, at once."""
        if self._timer is not None:
            self._timer.cancel()


class SimWorld:
    """What `runtime.real.RealWorld` is, for one run of a process on a simulated host."""

    def __init__(
        self,
        *,
        network: SimNetwork,
        disk: SimDisk,
        host_loop: HostLoop,
        clock: WallClock,
        rng: random.Random,
        address: str,
        addresses: Callable[[], list[str]],
        history: History,
    ) -> None:
        self.host = disk.host
        self.watched: WatchedMachine | None = None
        """The node's protocol, once it has started."""
        self._host_loop = host_loop
        self._clock = clock
        self._rng = rng
        self._history = history
        self._discovery = SimDiscovery(addresses, host_loop, again_s=30.0)
        self._disk = disk
        self._store = SimStore(disk, host_loop)
        self._transport = SimTransport(network, disk.host, address, host_loop)

    def loop(self) -> asyncio.AbstractEventLoop:
        """The host's view of the simulation's loop."""
        return cast("asyncio.AbstractEventLoop", self._host_loop)

    def machine(self, own: Rumour, mesh: str, session: Session, config: Config) -> Machine:
        """The real protocol, watched; its chance follows from the simulation's seed."""
        # The constructor draws nothing from outside: it is given its seed.
        rng = type(self._rng)(self._rng.getrandbits(64))
        process = Process(self.host, self._disk.opened)
        witness = Witness(self._history, process, session, self._store)
        self.watched = WatchedMachine(own, mesh, session, config, rng, witness)
        return self.watched

    def random_bytes(self, count: int) -> bytes:
        """Bytes that follow from the simulation's seed."""
        return self._rng.randbytes(count)

    def wall_clock(self) -> float:
        """What the host's clock shows."""
        return self._clock.read()

    def store(self, settings: NodeSettings) -> Store:
        """The store on the host's disk."""
        del settings
        return self._store

    def transport(
        self,
        settings: NodeSettings,
        node_id: NodeId,
        boot: int,
        counted: Callable[[str, int], None],
    ) -> Transport:
        """The host's transport."""
        del settings, node_id, boot, counted
        return self._transport

    def discovery(self, settings: NodeSettings) -> Discovery:
        """Every other host's address."""
        del settings
        return self._discovery

    def kill(self, *, unsynced_may_survive: bool) -> None:
        """The process is gone, at once; see `SimStore.kill`."""
        self._store.kill(unsynced_may_survive=unsynced_may_survive)
        self._transport.kill()
        self._discovery.stop()
