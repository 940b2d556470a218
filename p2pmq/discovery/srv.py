"""SRV records (RFC 2782), through dnspython, which is an extra: p2pmq[dns].

The system's resolver answers no SRV questions, and a resolver of our own
would be one more parser of hostile bytes to keep safe. Only who writes
`srv+name` needs the library, so it is imported by who does.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable

from p2pmq.errors import UsageError

__all__ = ["ServiceLookup", "load_service_lookup"]

ServiceLookup = Callable[[str], Awaitable[list[tuple[str, int]]]]
"""From a service's name to its (host, port) pairs, best first; raises OSError."""


def load_service_lookup(seed: str) -> ServiceLookup:
    """Return the SRV lookup; `UsageError` if dnspython is not installed, which `seed` needs."""
    try:
        resolver = importlib.import_module("dns.asyncresolver")
        errors = importlib.import_module("dns.exception")
    except ImportError as error:
        raise UsageError(
            f"the seed {seed!r} needs SRV records, and dnspython to look them up is not "
            "installed: pip install 'p2pmq[dns]', or write dns+name:port, which needs only "
            "A and AAAA records"
        ) from error

    async def look_up(name: str) -> list[tuple[str, int]]:
        try:
            answer = await resolver.resolve(name, "SRV", search=True)
        except errors.DNSException as error:
            raise OSError(str(error) or type(error).__name__) from error
        records = sorted(answer, key=lambda r: (r.priority, -r.weight, r.port, str(r.target)))
        targets = [(str(record.target).removesuffix("."), record.port) for record in records]
        # RFC 2782: the target "." says that the service is decidedly not available here.
        usable = [(host, port) for host, port in targets if host and port]
        if not usable:
            raise OSError("its SRV records name no host")
        return list(dict.fromkeys(usable))

    return look_up
