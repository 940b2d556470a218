"""Seeds and addresses as text: the one place that takes them apart.

A seed is written by a person, so it is checked when the node is made, and
each refusal says what to write instead:

    10.0.0.5:7070, [fd00::5]:7070   an address
    bank:7070, dns+bank:7070        a name, with all its A and AAAA records
    srv+_p2pmq._tcp.example.org     a name, with the hosts and ports of its SRV records

Invariant: what `parse_seed` returns can be looked up or dialled as it is.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from p2pmq.errors import UsageError

__all__ = ["Seed", "ip_of", "join_address", "parse_seed", "split_address"]

# RFC 1035, section 2.3.4, and RFC 2181, section 11: a label has 1 to 63 bytes, a name 255 on the
# wire, which are 253 as text. The underscore is no host name's, but SRV and container names use it.
NAME_LENGTH_MAX = 253
LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
PORT_MAX = 65_535

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Seed:
    """A seed taken apart: an "address" or a "name" with its port, or a "service" without."""

    text: str
    kind: Literal["address", "name", "service"]
    host: str
    port: int


def ip_of(host: str) -> IpAddress | None:
    """Return the IP address that `host` spells, or None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def join_address(host: str, port: int) -> str:
    """Return "host:port", with the brackets that IPv6 needs (RFC 3986, section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """Return host (without brackets) and port of "host:port"; `UsageError` if it is not that."""
    host, colon, port_text = address.rpartition(":")
    if not colon or port_text.endswith("]"):
        raise _malformed(address, "the port is missing: write host:port, such as bank:7070")
    if not (port_text.isascii() and port_text.isdecimal()):
        raise _malformed(address, f"the port {port_text!r} is not a number: write bank:7070")
    port = int(port_text)
    if not 1 <= port <= PORT_MAX:
        raise _malformed(address, f"the port {port_text} is not between 1 and {PORT_MAX}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        ip = ip_of(host)
        if ip is None or ip.version != 6:  # noqa: PLR2004  IPv6 is no magic number
            raise _malformed(address, f"{host!r} in brackets is not an IPv6 address")
    elif ":" in host:
        raise _malformed(address, "an IPv6 address needs brackets: write [::1]:7070")
    if not host:
        raise _malformed(address, "the host is missing: write host:port, such as bank:7070")
    return host, port


def parse_seed(text: str) -> Seed:
    """Take a seed apart; `UsageError` says what is wrong with it and what to write instead."""
    if "://" in text:
        raise _malformed(text, "a seed has no scheme: write host:port, such as bank:7070")
    if text.startswith("srv+"):
        name = text.removeprefix("srv+")
        if ":" in name:
            raise _malformed(text, "SRV records bring their own ports: write srv+name, without one")
        return Seed(text, "service", _checked_name(name, text), 0)
    host, port = split_address(text.removeprefix("dns+"))
    ip = ip_of(host)
    if ip is None:
        return Seed(text, "name", _checked_name(host, text), port)
    if ip.is_unspecified or ip.is_multicast:
        raise _malformed(text, f"{host} cannot be dialled: name one host of the mesh")
    return Seed(text, "address", str(ip), port)


def _checked_name(name: str, text: str) -> str:
    try:
        ascii_name = name.encode("idna").decode("ascii")
    except UnicodeError:
        ascii_name = ""  # a label that is empty or too long, or a letter that no name may have
    labels = ascii_name.removesuffix(".").split(".")
    if len(ascii_name) > NAME_LENGTH_MAX or not all(LABEL.fullmatch(label) for label in labels):
        raise _malformed(text, f"{name!r} is neither an IP address nor a host name")
    if labels[-1].isdecimal():  # no top-level domain is a number, so an IP address was meant
        raise _malformed(text, f"{name!r} looks like an IP address but is none")
    return ascii_name


def _malformed(text: str, why: str) -> UsageError:
    return UsageError(f"{text!r} is not an address to look for nodes at: {why}")
