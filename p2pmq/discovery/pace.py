"""The pace of discovery: how often an address is offered again and a name looked up again.

Periods are jittered, or nodes that were started together would knock together for ever.
"""

from __future__ import annotations

import random

__all__ = ["REFRESH_MS", "RETRY_MS", "jittered"]

# A refused connection costs a packet each way, and five seconds are what a person waits gladly.
RETRY_MS = 5_000
# The TTL that cluster DNS gives the records of a headless service (5 to 30 s by default).
REFRESH_MS = 30_000
# A quarter each way spreads any number of nodes over half a period within a few periods, and
# still lets "every 30 s" be said in the docs.
JITTER = 0.25


def jittered(period_ms: float, rng: random.Random) -> float:
    """Return `period_ms`, up to a quarter more or less."""
    return period_ms * rng.uniform(1 - JITTER, 1 + JITTER)
