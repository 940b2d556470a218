"""Tripwires: a crash at a telling moment, when a node sends the packet that shows it.

A crash at a fixed time hits a handover of a few milliseconds only by luck.

Invariant: of those who are named, one is hit, once; then all wires are down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.core.packets.delivering import Handover, HandoverTaken
from p2pmq.core.packets.replicating import Compare, Fetch
from p2pmq.sim.host import HostState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2pmq.core.packets.registry import Packet
    from p2pmq.sim.mesh import Mesh

PACKETS: dict[str, tuple[type[Packet], ...]] = {
    "handover": (Handover, HandoverTaken),
    "recovery": (Compare, Fetch),
}
"""By which packets a node shows that it gives or takes a partition; that it merges a copy."""


class Tripwire:
    """Crashes the first of some hosts that has sent `times` packets of a moment."""

    def __init__(
        self,
        mesh: Mesh,
        hosts: Sequence[str],
        during: str,
        times: int,
        crashed: Callable[[str], None],
    ) -> None:
        self.during = during
        self._mesh = mesh
        self._times = times
        self._crashed = crashed
        self._wires = {name: self._wire(name) for name in hosts}
        for name, wire in self._wires.items():
            mesh.host(name).tripwires.append(wire)

    @property
    def is_set(self) -> bool:
        """Whether nobody was hit so far."""
        return bool(self._wires)

    def cut(self) -> None:
        """Take the wires down."""
        wires, self._wires = self._wires, {}
        for name, wire in wires.items():
            self._mesh.host(name).tripwires.remove(wire)

    def _wire(self, name: str) -> Callable[[Packet], None]:
        sent = 0

        def on_sent(packet: Packet) -> None:
            nonlocal sent
            if isinstance(packet, PACKETS[self.during]):
                sent += 1
                if sent == self._times:  # it is amid its work: the crash comes when that is done
                    self._mesh.network.loop.call_soon(self._trip, name)

        return on_sent

    def _trip(self, name: str) -> None:
        if self._wires and self._mesh.host(name).state is not HostState.DOWN:
            self.cut()
            self._mesh.crash(name)
            self._crashed(name)
