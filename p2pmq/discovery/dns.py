"""DNS: names whose records are nodes, such as a Kubernetes headless service.

Each name is watched by a task of its own, and each lookup runs in a thread of
its own. The loop's own `getaddrinfo` would share a few threads (six on two
cores; four in uvloop), so that a handful of names on a dead name server
would hold up all others, and whatever else uses these threads, for as long as
the resolver waits. The threads are daemons: the process ends without them.

Only the A and AAAA records that the system's resolver gives are used, so
/etc/hosts, search domains and mDNS names work as everywhere else on the host.

Invariant: a name has at most one lookup under way.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import random
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from p2pmq.discovery.address import Seed, join_address, parse_seed
from p2pmq.discovery.base import Announcement, Found, Sighting
from p2pmq.discovery.pace import REFRESH_MS, RETRY_MS, jittered
from p2pmq.discovery.srv import ServiceLookup, load_service_lookup
from p2pmq.discovery.tasks import BackgroundTasks

__all__ = ["DnsDiscovery"]

# The first retry of a failed lookup; each further one waits twice as long, up to REFRESH_MS.
# The common failure is a container that has not started yet, which lasts seconds.
FAILED_RETRY_MS = 1_000
# Of a name with more records the first are used: enough to join, and gossip brings the others.
ADDRESSES_MAX = 256

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watched:
    """A name, the addresses of its last good answer, and how often it failed since."""

    seed: Seed
    addresses: tuple[str, ...] = ()
    failures: int = 0


class DnsDiscovery:
    """Sights every address that the given names have.

    `names` are "name:port", "dns+name:port" or "srv+name"; a malformed one, or
    srv+ without dnspython, raises `UsageError` here. A name is looked up every
    `refresh_ms`; between lookups, and while they fail, its last addresses are
    sighted again every `retry_ms` (both up to a quarter more or less, by `rng`).
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        rng: random.Random,
        retry_ms: int = RETRY_MS,
        refresh_ms: int = REFRESH_MS,
    ) -> None:
        self._seeds = [parse_seed(text) for text in dict.fromkeys(names)]
        services = [seed.text for seed in self._seeds if seed.kind == "service"]
        self._look_up_service: ServiceLookup | None = (
            load_service_lookup(services[0]) if services else None
        )
        self._rng = rng
        self._retry_ms = retry_ms
        self._refresh_ms = refresh_ms
        self._tasks = BackgroundTasks()
        self._own_addresses: tuple[str, ...] = ()
        self._found: Found | None = None

    async def start(self, announce: Announcement, found: Found) -> None:
        """Begin to watch all names at once; returns before any is looked up."""
        assert self._found is None, "start of a source that runs"
        self._own_addresses = announce.addresses
        self._found = found
        for seed in self._seeds:
            self._tasks.spawn(self._watch(_Watched(seed)), name=f"lookup of {seed.text}")

    async def close(self) -> None:
        """Stop; lookups under way end by themselves, unheard."""
        await self._tasks.close()
        self._found = None

    async def _watch(self, watched: _Watched) -> None:
        until_lookup_ms = 0.0
        while True:
            if until_lookup_ms <= 0:
                await self._refresh(watched)
                until_lookup_ms = jittered(self._period_ms(watched), self._rng)
            else:
                self._sight(watched.addresses)
            pause_ms = min(until_lookup_ms, jittered(self._retry_ms, self._rng))
            await asyncio.sleep(pause_ms / 1000)
            until_lookup_ms -= pause_ms

    def _period_ms(self, watched: _Watched) -> int:
        if not watched.failures:
            return self._refresh_ms
        doublings = min(watched.failures - 1, 16)  # a shift without end would be a huge integer
        return min(self._refresh_ms, FAILED_RETRY_MS << doublings)

    async def _refresh(self, watched: _Watched) -> None:
        """Look the name up and sight what it has; log it if that works no more, or again."""
        seed = watched.seed
        try:
            if seed.kind == "service":
                addresses = await self._resolve_service(seed.host)
            else:
                addresses = await self._resolve_host(seed.host, seed.port)
        except (OSError, UnicodeError) as error:
            watched.failures += 1
            if watched.failures == 1:
                logger.warning(
                    "the seed %s cannot be looked up (%s): nodes behind it stay unfound until it "
                    "can, which is tried again by itself; check the name if this lasts",
                    seed.text,
                    error,
                )
            self._sight(watched.addresses)
            return
        if watched.failures:
            logger.info("the seed %s can be looked up again", seed.text)
        watched.failures = 0
        watched.addresses = addresses

    async def _resolve_service(self, name: str) -> tuple[str, ...]:
        """Resolve all hosts of the SRV records at once; raises OSError if none has an address."""
        assert self._look_up_service is not None
        targets = await self._look_up_service(name)
        answers = await asyncio.gather(
            *(self._resolve_host(host, port) for host, port in targets[:ADDRESSES_MAX]),
            return_exceptions=True,
        )
        good = [answer for answer in answers if isinstance(answer, tuple)]
        bad = [answer for answer in answers if isinstance(answer, BaseException)]
        if not good:
            raise bad[0]
        return tuple(dict.fromkeys(address for answer in good for address in answer))

    async def _resolve_host(self, host: str, port: int) -> tuple[str, ...]:
        """Sight each address of a host as soon as it is known, and return them all."""
        addresses = await _look_up_host(host, port)
        self._sight(addresses)
        return addresses

    def _sight(self, addresses: tuple[str, ...]) -> None:
        assert self._found is not None
        for address in addresses:
            if address not in self._own_addresses:
                self._found(Sighting(address, "dns"))


async def _look_up_host(host: str, port: int) -> tuple[str, ...]:
    """Return the addresses of all A and AAAA records; raises OSError or UnicodeError."""
    answer: concurrent.futures.Future[tuple[str, ...]] = concurrent.futures.Future()
    thread = threading.Thread(
        target=_look_up_in_thread, args=(host, port, answer), name=f"p2pmq-dns-{host}", daemon=True
    )
    try:
        thread.start()
    except RuntimeError as error:  # the process is at its limit of threads
        raise OSError(str(error)) from error
    return await asyncio.wrap_future(answer)


def _look_up_in_thread(
    host: str, port: int, answer: concurrent.futures.Future[tuple[str, ...]]
) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    try:
        records = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        hosts = dict.fromkeys(str(record[4][0]) for record in records)
        answer.set_result(tuple(join_address(ip, port) for ip in list(hosts)[:ADDRESSES_MAX]))
    except Exception as error:  # noqa: BLE001  passed on: it is raised where it is awaited
        answer.set_exception(error)
