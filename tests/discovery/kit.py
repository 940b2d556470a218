"""What the tests of discovery share: a node to announce, and a callback to wait on."""

import asyncio
import random
import uuid
from collections.abc import Callable

from p2pmq.discovery.base import Announcement, Sighting

DEADLINE_S = 20


def announcement(
    *addresses: str, mesh: str = "", name: str = "bank", node_id: bytes = b""
) -> Announcement:
    """Return an announcement; the mesh and node id are new ones unless given."""
    return Announcement(
        mesh=mesh or new_mesh(),
        node_id=node_id or uuid.uuid4().bytes,
        name=name,
        addresses=addresses,
        versions=(1, 2),
    )


def new_mesh() -> str:
    """Return a name that no other test, here or beside us on this machine, uses."""
    return f"test-{uuid.uuid4().hex}"


def rng() -> random.Random:
    """Return chance that is the same at every run."""
    return random.Random(7)


class Sightings:
    """A `found` callback that remembers, and can be waited on."""

    def __init__(self) -> None:
        self.all: list[Sighting] = []
        self._changed = asyncio.Event()

    def __call__(self, sighting: Sighting) -> None:
        self.all.append(sighting)
        self._changed.set()

    def count(self, address: str) -> int:
        """Return how often an address was sighted."""
        return sum(sighting.address == address for sighting in self.all)

    def addresses(self) -> set[str]:
        """Return all addresses sighted so far."""
        return {sighting.address for sighting in self.all}

    async def until(self, address: str, times: int = 1) -> None:
        """Wait until an address has been sighted so often."""
        async with asyncio.timeout(DEADLINE_S):
            while self.count(address) < times:
                self._changed.clear()
                await self._changed.wait()


async def until(condition: Callable[[], bool]) -> None:
    """Poll for what tells nobody when it happens."""
    poll_s = 0.01
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(poll_s)
