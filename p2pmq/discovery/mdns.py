"""mDNS (RFC 6762) and DNS-SD (RFC 6763): nodes on one network find each other unasked.

A node is an instance of `_p2pmq._tcp.local.`; its TXT record has `mesh`, `id`
(the node id in hex) and `versions` (the protocol range, as "1-3"). The node id
is part of the instance name, so two nodes of one name do not clash here: that
is for the mesh to say, where both can be told apart.

What is known is sighted again every `repeat_ms`, since zeroconf tells only of
changes, and a node that comes back at its old address changes nothing.

Multicast is a gift of the network: where there is none, this source warns once
and yields nothing, and the node runs all the same.

Invariant: nothing is announced but addresses that another host could dial.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Sequence

from zeroconf import Error as ZeroconfError
from zeroconf import InterfaceChoice, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from p2pmq.discovery.address import ip_of, join_address, split_address
from p2pmq.discovery.base import Announcement, Found, Sighting
from p2pmq.discovery.pace import jittered
from p2pmq.discovery.tasks import BackgroundTasks
from p2pmq.errors import UsageError

__all__ = ["SERVICE_TYPE", "MdnsDiscovery"]

SERVICE_TYPE = "_p2pmq._tcp.local."
REPEAT_MS = 30_000
# A node hears its own announcement within milliseconds, or, where multicast is blocked, never.
SILENCE_MS = 10_000
# zeroconf asks again after about 0.2, 1.2 and 2.2 s; then the host behind the record is gone.
RESOLVE_TIMEOUT_MS = 3_000
# Both bound what a hostile network can make us hold; gossip brings whom we do not look up here.
RESOLVING_MAX = 256
KNOWN_MAX = 1_024
# RFC 6763, section 4.1.1: an instance name is one label, at most 63 bytes.
LABEL_BYTES_MAX = 63
ID_DIGITS_MAX = 32  # 128 bits: more do not make a random id any more unique
TXT_STRING_BYTES_MAX = 255  # RFC 6763, section 6.1

logger = logging.getLogger(__name__)


class MdnsDiscovery:
    """Announces this node by multicast DNS and sights the others of its mesh.

    `interfaces` are IP addresses of this host whose networks to use; None takes
    the loopback interface alone if all announced addresses are loopback, and
    every interface if not. Multicast goes over IPv4 unless `interfaces` says
    otherwise; IPv6 addresses are announced either way.
    """

    def __init__(
        self,
        *,
        rng: random.Random,
        interfaces: Sequence[str] | None = None,
        repeat_ms: int = REPEAT_MS,
        silence_ms: int = SILENCE_MS,
    ) -> None:
        self._rng = rng
        self._interfaces = None if interfaces is None else list(interfaces)
        self._repeat_ms = repeat_ms
        self._silence_ms = silence_ms
        self._tasks = BackgroundTasks()
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._found: Found | None = None
        self._mesh = b""
        self._own_id = b""
        self._known: dict[str, tuple[str, ...]] = {}
        self._heard_self = asyncio.Event()

    async def start(self, announce: Announcement, found: Found) -> None:
        """Announce this node and begin to browse; without multicast, warn and do neither.

        Raises `UsageError` if the mesh's name is too long for a TXT record (250 bytes).
        """
        assert self._zeroconf is None, "start of a source that runs"
        self._mesh = announce.mesh.encode()
        self._own_id = announce.node_id.hex().encode()
        if len(b"mesh=" + self._mesh) > TXT_STRING_BYTES_MAX:
            raise UsageError(
                f"the mesh name has {len(self._mesh)} bytes and mDNS carries 250: choose a "
                "shorter one, or switch mDNS off and use seeds"
            )
        _quieten_zeroconf()
        self._found = found
        self._heard_self.clear()
        try:
            await self._open(announce)
        except (OSError, RuntimeError, ZeroconfError) as error:
            await self.close()
            _warn_of_no_multicast(str(error) or type(error).__name__)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Say goodbye for what was announced, and stop; takes a quarter of a second."""
        self._found = None
        self._known.clear()
        await self._tasks.close()
        browser, self._browser = self._browser, None
        zeroconf, self._zeroconf = self._zeroconf, None
        with contextlib.suppress(OSError, ZeroconfError):  # the network went first: all is gone
            if browser is not None:
                await browser.async_cancel()
            if zeroconf is not None:
                await zeroconf.async_close()

    async def _open(self, announce: Announcement) -> None:
        services = _services(announce)
        self._zeroconf = AsyncZeroconf(interfaces=self._choose_interfaces(announce))
        await self._zeroconf.zeroconf.async_wait_for_start()
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._on_change]
        )
        for service in services:
            # RFC 6762, section 8.1: a name known to be unique, as ours by the node id, should not
            # be probed for; zeroconf calls that cooperating. It saves 0.7 s.
            sent = await self._zeroconf.async_register_service(service, cooperating_responders=True)
            self._tasks.spawn(_wait_for(sent), name="announcement by mDNS")
        if services:
            self._tasks.spawn(self._warn_if_unheard(), name="listening for the own announcement")
        self._tasks.spawn(self._repeat(), name="repetition of mDNS sightings")

    def _choose_interfaces(self, announce: Announcement) -> list[str] | InterfaceChoice:
        if self._interfaces is not None:
            return self._interfaces
        hosts = [ip_of(split_address(address)[0]) for address in announce.addresses]
        if hosts and all(host is not None and host.is_loopback for host in hosts):
            return ["127.0.0.1"]
        return InterfaceChoice.All

    def _on_change(
        self,
        zeroconf: Zeroconf,  # noqa: ARG002  zeroconf calls handlers by these keywords
        service_type: str,  # noqa: ARG002  as above
        name: str,
        state_change: ServiceStateChange,
    ) -> None:
        if state_change is ServiceStateChange.Removed:
            self._known.pop(name, None)
        else:
            # Not from here: this runs amid zeroconf's own reading of a packet.
            asyncio.get_running_loop().call_soon(self._resolve, name)

    def _resolve(self, name: str) -> None:
        """Sight an instance: at once if its records came along, as they mostly do, or ask."""
        if self._zeroconf is None:
            return
        try:
            info = AsyncServiceInfo(SERVICE_TYPE, name)
        except ZeroconfError:
            return  # a name that no node of ours would take
        if info.load_from_cache(self._zeroconf.zeroconf):
            self._sight(info)
        elif len(self._tasks) < RESOLVING_MAX:
            self._tasks.spawn(self._ask(info), name="lookup by mDNS")

    async def _ask(self, info: AsyncServiceInfo) -> None:
        assert self._zeroconf is not None
        with contextlib.suppress(OSError, ZeroconfError):  # the network went: it will tell again
            if await info.async_request(self._zeroconf.zeroconf, RESOLVE_TIMEOUT_MS):
                self._sight(info)

    def _sight(self, info: AsyncServiceInfo) -> None:
        if self._found is None or info.properties.get(b"mesh") != self._mesh:
            return
        if info.properties.get(b"id") == self._own_id:
            self._heard_self.set()
            return
        hosts = [host for host in info.parsed_scoped_addresses() if _dialable(host)]
        if not info.port or not hosts:
            return
        addresses = tuple(join_address(host, info.port) for host in hosts)
        if info.name in self._known or len(self._known) < KNOWN_MAX:
            self._known[info.name] = addresses
        for address in addresses:
            self._found(Sighting(address, "mdns"))

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(jittered(self._repeat_ms, self._rng) / 1000)
            for name, addresses in tuple(self._known.items()):
                self._sight_again(name, addresses)

    def _sight_again(self, name: str, addresses: tuple[str, ...]) -> None:
        """Sight what the cache has, or, as its records expire in minutes, what it last had."""
        assert self._zeroconf is not None
        assert self._found is not None
        info = AsyncServiceInfo(SERVICE_TYPE, name)
        if info.load_from_cache(self._zeroconf.zeroconf):
            self._sight(info)
            return
        for address in addresses:
            self._found(Sighting(address, "mdns"))

    async def _warn_if_unheard(self) -> None:
        try:
            async with asyncio.timeout(self._silence_ms / 1000):
                await self._heard_self.wait()
        except TimeoutError:
            _warn_of_no_multicast("not even the own announcement came back")


def _services(announce: Announcement) -> list[AsyncServiceInfo]:
    """Return an instance for each port announced; mostly that is one."""
    hosts_by_port = _announced_hosts(announce)
    node = announce.node_id.hex()[:ID_DIGITS_MAX]
    readable = "".join(
        c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in announce.name
    )
    first, last = announce.versions
    services = []
    for number, (port, hosts) in enumerate(hosts_by_port.items(), start=1):
        suffix = f"-{node}" if number == 1 else f"-{node}-{number}"
        label = f"{readable[: LABEL_BYTES_MAX - len(suffix)]}{suffix}"
        services.append(
            AsyncServiceInfo(
                SERVICE_TYPE,
                f"{label}.{SERVICE_TYPE}",
                port=port,
                parsed_addresses=hosts,
                server=f"p2pmq{suffix}.local.",
                properties={
                    "mesh": announce.mesh,
                    "id": announce.node_id.hex(),
                    "versions": f"{first}-{last}",
                },
            )
        )
    return services


def _announced_hosts(announce: Announcement) -> dict[int, list[str]]:
    """Return the IP addresses to announce, by port; loopback only if there is nothing else.

    To another host, our loopback address would be its own. Names and wildcards
    cannot be announced: an address record holds one address.
    """
    pairs = [split_address(address) for address in announce.addresses]
    usable = [(host, port) for host, port in pairs if _dialable(host)]
    if len(usable) < len(pairs):
        logger.warning(
            "mDNS announces IP addresses only, so not %s: give the node addresses to advertise "
            "that others can dial, or let them find it by seeds",
            ", ".join(join_address(host, port) for host, port in pairs if not _dialable(host)),
        )
    outside = [(host, port) for host, port in usable if not _loopback(host)]
    hosts_by_port: dict[int, list[str]] = {}
    for host, port in outside or usable:
        hosts_by_port.setdefault(port, []).append(host.partition("%")[0])
    return hosts_by_port


def _dialable(host: str) -> bool:
    ip = ip_of(host)
    return ip is not None and not ip.is_unspecified and not ip.is_multicast


def _loopback(host: str) -> bool:
    ip = ip_of(host)
    return ip is not None and ip.is_loopback


async def _wait_for(sent: Awaitable[None]) -> None:
    await sent


def _warn_of_no_multicast(reason: str) -> None:
    logger.warning(
        "mDNS does not work here (%s): nodes on this network are not found by themselves; name "
        "some, as seeds=['host:port'] or seeds=['dns+name:port'], and switch mDNS off",
        reason,
    )


def _quieten_zeroconf() -> None:
    """Silence zeroconf's own warnings, which ours replace, unless its level was set by somebody.

    On import it sets its level to WARNING if nobody had set one.
    """
    zeroconf_logger = logging.getLogger("zeroconf")
    if zeroconf_logger.level == logging.WARNING:
        zeroconf_logger.setLevel(logging.CRITICAL)
