"""Addresses of the transport: where to listen, what can be dialled, what to tell others.

Invariant: what is dialled holds an IP address. libzmq would look a name up in
its own way and time; looking names up is discovery's work.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import ifaddr

from p2pmq.errors import InsecureListenError, PortTakenError, UsageError

__all__ = ["dialable_addresses", "endpoint_of", "is_ipv6_endpoint", "join", "resolve_listen"]

PORT_MAX = 65_535

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def join(host: str, port: int) -> str:
    """`host:port`, with the brackets that IPv6 needs (RFC 3986, section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _split(address: str) -> tuple[str, int] | None:
    """Host and port, or None if `address` is not `host:port` or `[ipv6]:port`."""
    host, _, port_text = address.rpartition(":")
    if not (port_text.isascii() and port_text.isdecimal() and int(port_text[:6]) <= PORT_MAX):
        return None
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None  # an IPv6 address without brackets: where would its port begin?
    return (host, int(port_text)) if host else None


def endpoint_of(address: str) -> str | None:
    """The libzmq endpoint to dial, or None if `address` is not `ip:port`."""
    parts = _split(address)
    if parts is None or parts[1] == 0:
        return None
    try:
        ip = ipaddress.ip_address(parts[0])
    except ValueError:
        return None
    if ip.is_unspecified or ip.is_multicast:
        return None
    return f"tcp://{join(str(ip), parts[1])}"


def is_ipv6_endpoint(endpoint: str) -> bool:
    """Whether the endpoint's host is an IPv6 address (which libzmq wants to be told)."""
    return endpoint.startswith("tcp://[")


async def resolve_listen(listen: str, *, insecure: bool) -> tuple[str, int]:
    """IP address and port to bind; a host name is looked up, off the loop.

    Raises UsageError (malformed), PortTakenError (unknown name), InsecureListenError.
    """
    parts = _split(listen)
    if parts is None:
        raise UsageError(
            f"{listen!r} is not an address to listen on: write host:port, such as "
            "127.0.0.1:7070, [::1]:7070, or 127.0.0.1:0 for any free port"
        )
    host, port = parts
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        ip = ipaddress.ip_address(await _look_up(listen, host, port))
    if not (ip.is_loopback or insecure):
        raise InsecureListenError(listen)
    return str(ip), port


async def _look_up(listen: str, host: str, port: int) -> str:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise PortTakenError(listen, f"the name {host!r} cannot be looked up ({error})") from error
    return str(found[0][4][0])


def dialable_addresses(bound_ip: str, port: int) -> tuple[str, ...]:
    """Addresses that reach a socket bound to `bound_ip`: itself, or those of all interfaces."""
    ip = ipaddress.ip_address(bound_ip)
    if not ip.is_unspecified:
        return (join(bound_ip, port),)
    found = [
        candidate
        for adapter in ifaddr.get_adapters()
        for one in adapter.ips
        for candidate in [ipaddress.ip_address(one.ip if isinstance(one.ip, str) else one.ip[0])]
        if _reaches(candidate, ip)
    ]
    found.sort(key=lambda candidate: (candidate.is_loopback, candidate.is_link_local))
    return tuple(dict.fromkeys(join(str(candidate), port) for candidate in found))


def _reaches(candidate: IpAddress, bound: IpAddress) -> bool:
    """Whether who dials `candidate` comes to a socket bound to `0.0.0.0` or `::`.

    The latter takes IPv4 too. A link-local IPv6 address means nothing without its interface.
    """
    if isinstance(candidate, ipaddress.IPv4Address):
        return True
    return isinstance(bound, ipaddress.IPv6Address) and not candidate.is_link_local
