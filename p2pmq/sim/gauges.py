"""How much a node's buffers hold, each with its limit: for the check that none exceeds it.

A buffer of the product that has a bound is listed here with it.

Invariant: it only reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from p2pmq.core.copies import UNANSWERED_BYTES_MAX
from p2pmq.core.deadletters import UNDER_WAY_MAX
from p2pmq.core.early import HELD_MAX
from p2pmq.core.healing import STRANGERS_MAX
from p2pmq.core.limits import BLOCKED_MAX, REJECTED_MAX
from p2pmq.core.membership import MEMBERS_MAX, TOMBSTONES_MAX
from p2pmq.core.replication import SETTLING_MAX
from p2pmq.runtime.lanes import BULK_QUEUE_MAX, CONTROL_QUEUE_MAX, EMIT_QUEUE_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pmq.config import Limits
    from p2pmq.core.machine import Machine
    from p2pmq.runtime.links import Links

EVERY = 16
"""Levels are read at each so-many-th packet that a node sends."""


class Level(NamedTuple):
    """What a buffer holds now, and the most that it may."""

    what: str
    held: int
    limit: int


def levels(machine: Machine, links: Links, limits: Limits) -> Iterator[Level]:
    """Every bounded buffer of a node; some may be one packet above their setting."""
    outbox_max = limits.outbox_bytes_max + limits.packet_bytes_max
    yield Level("outbox, bytes", machine.outbox.bytes_in_memory, outbox_max)
    yield Level("members", len(machine.swim.members), MEMBERS_MAX)
    # What follows is nobody's business but its own room's, and a check's.
    yield Level("tombstones", len(machine.swim._roster.tombstones), TOMBSTONES_MAX)  # noqa: SLF001  no room tells its size to anybody else
    yield Level("strangers", len(machine.swim._strangers._tries), STRANGERS_MAX)  # noqa: SLF001  no room tells its size to anybody else
    yield Level("dead letters under way", len(machine.dead_letters._letters), UNDER_WAY_MAX)  # noqa: SLF001  no room tells its size to anybody else
    for held in machine.owner.early.counts():
        yield Level("batches that wait for a merge", held, HELD_MAX)
    blocked, rejected = machine.owner.limits.counts()
    for held in blocked:
        yield Level("publishers of a full queue", held, BLOCKED_MAX)
    for held in rejected:
        yield Level("rejected runs of a queue", held, REJECTED_MAX)
    for copies in machine.replication._copies.values():  # noqa: SLF001  no room tells its size to anybody else
        yield Level("settles that wait for copies", len(copies.settling), SETTLING_MAX)
        for home in copies.homes.values():
            unanswered = home.unanswered_bytes
            yield Level("unanswered copies, bytes", unanswered, UNANSWERED_BYTES_MAX)
    for link in links._links.values():  # noqa: SLF001  no room tells its size to anybody else
        yield Level("control packets of a link", len(link.lanes.control), CONTROL_QUEUE_MAX)
        yield Level("bulk packets of a link", len(link.lanes.bulk), BULK_QUEUE_MAX)
        yield Level("emit packets of a link", len(link.lanes.emits), EMIT_QUEUE_MAX)
    window_max = limits.link_window_bytes + limits.packet_bytes_max
    for state in links._connections.values():  # noqa: SLF001  no room tells its size to anybody else
        yield Level("window of a link, bytes", state.bulk_sent - state.bulk_taken, window_max)
    dialled = sum(1 for state in links._connections.values() if state.address is not None)  # noqa: SLF001  no room tells its size to anybody else
    yield Level("dialled connections", dialled, limits.links_max + 1)
