"""Static seeds: addresses that somebody wrote down.

Each is sighted at start and again every `retry_ms`, since the node behind it
may come up later than this one. A seed that is a name goes to DNS.

Only relative timers are used, so the source also runs on a virtual-time loop.

Invariant: each address has exactly one timer pending while the source runs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from p2pmq.discovery.address import join_address, parse_seed
from p2pmq.discovery.base import Announcement, Found, Sighting
from p2pmq.discovery.dns import DnsDiscovery
from p2pmq.discovery.pace import REFRESH_MS, RETRY_MS, jittered

__all__ = ["SeedDiscovery"]


class SeedDiscovery:
    """Sights the given seeds, again and again.

    `seeds` are texts as `p2pmq.discovery.address` lists them; a malformed one
    raises `UsageError` here. `retry_ms` is how long until an address is sighted
    again, `refresh_ms` until a name is looked up again, both up to a quarter
    more or less, by `rng`. A seed that is an address of this node is passed over,
    so that all nodes of a mesh can be given the same list.
    """

    def __init__(
        self,
        seeds: Sequence[str],
        *,
        rng: random.Random,
        retry_ms: int = RETRY_MS,
        refresh_ms: int = REFRESH_MS,
    ) -> None:
        parsed = [parse_seed(text) for text in dict.fromkeys(seeds)]
        self._addresses = tuple(
            dict.fromkeys(join_address(s.host, s.port) for s in parsed if s.kind == "address")
        )
        self._names = DnsDiscovery(
            [seed.text for seed in parsed if seed.kind != "address"],
            rng=rng,
            retry_ms=retry_ms,
            refresh_ms=refresh_ms,
        )
        self._rng = rng
        self._retry_ms = retry_ms
        self._timers: dict[str, asyncio.Handle] = {}

    async def start(self, announce: Announcement, found: Found) -> None:
        """Sight every seed as soon as the loop turns, and from then on every `retry_ms`."""
        assert not self._timers, "start of a source that runs"
        loop = asyncio.get_running_loop()
        for address in self._addresses:
            if address not in announce.addresses:
                self._timers[address] = loop.call_soon(self._sight, address, found)
        await self._names.start(announce, found)

    async def close(self) -> None:
        """Stop; nothing was announced, so there is nothing to withdraw."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await self._names.close()

    def _sight(self, address: str, found: Found) -> None:
        pause_ms = jittered(self._retry_ms, self._rng)
        loop = asyncio.get_running_loop()
        # First the timer: should `found` fail, the seed is tried again all the same.
        self._timers[address] = loop.call_later(pause_ms / 1000, self._sight, address, found)
        found(Sighting(address, "seed"))
