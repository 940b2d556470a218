"""Gossip: rumours on their way, each sent so often that it reaches everybody.

A rumour is sent λ·⌈log10(N + 1)⌉ times by each who hears it (SWIM, section
4.1, with memberlist's λ and logarithm), on probes and on packets of its own;
the least sent goes first, so that new ones are never starved by old ones.

Invariant: at most one rumour per member waits, the latest.
"""

from __future__ import annotations

import math
from itertools import islice

from p2pmq.config import SwimConfig
from p2pmq.core.ids import NodeId
from p2pmq.core.packets.membership import Rumour

PUSH_PULL_MEMBERS = 32
"""Up to so many members exchange states at the plain interval (memberlist's pushPullScale)."""


BURST_PART = 8
BURST_MAX = 128
"""Of many waiting rumours a packet of gossip takes this part, up to so many: a mass event (a mesh
that starts, a split) is over sooner, and in fewer packets."""


def burst(config: SwimConfig, waiting: int) -> int:
    """How many rumours a packet of gossip takes while so many wait."""
    return max(config.rumours_per_packet, min(waiting // BURST_PART, BURST_MAX))


def sends_max(config: SwimConfig, members: int) -> int:
    """How often a rumour is sent by one node of a mesh of so many."""
    return config.retransmit_mult * math.ceil(math.log10(members + 1))


def push_pull_interval_ms(config: SwimConfig, members: int) -> int:
    """How often to exchange states: less often the larger they are, one step per doubling."""
    if members <= PUSH_PULL_MEMBERS:
        return config.push_pull_interval_ms
    steps = math.ceil(math.log2(members / PUSH_PULL_MEMBERS))
    return config.push_pull_interval_ms * (steps + 1)


class RumourQueue:
    """The rumours that this node still passes on, in rows by how often each was sent."""

    __slots__ = ("_row_of", "_rows")

    def __init__(self) -> None:
        self._rows: list[dict[NodeId, Rumour]] = [{}]
        self._row_of: dict[NodeId, int] = {}

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, node_id: NodeId) -> bool:
        return node_id in self._row_of

    def put(self, rumour: Rumour) -> None:
        """Pass on a rumour, in place of an older one about the same member."""
        self.discard(rumour.node_id)
        self._rows[0][rumour.node_id] = rumour
        self._row_of[rumour.node_id] = 0

    def discard(self, node_id: NodeId) -> None:
        """Pass on nothing more about a member."""
        row = self._row_of.pop(node_id, None)
        if row is not None:
            del self._rows[row][node_id]

    def take(self, count: int, sends: int) -> tuple[Rumour, ...]:
        """Up to `count` rumours for one packet; what was sent `sends` times is done."""
        if not self._row_of:
            return ()
        taken: list[Rumour] = []
        moves: list[tuple[int, list[Rumour]]] = []
        for row, waiting in enumerate(self._rows):
            if waiting:
                part = list(islice(waiting.values(), count - len(taken)))
                moves.append((row, part))
                taken += part
                if len(taken) >= count:
                    break
        for row, part in moves:
            self._move_on(row, part, sends)
        return tuple(taken)

    def _move_on(self, row: int, part: list[Rumour], sends: int) -> None:
        waiting = self._rows[row]
        following = row + 1
        if following >= sends:
            for rumour in part:
                del waiting[rumour.node_id]
                del self._row_of[rumour.node_id]
            return
        if following == len(self._rows):
            self._rows.append({})
        target = self._rows[following]
        for rumour in part:
            del waiting[rumour.node_id]
            target[rumour.node_id] = rumour
            self._row_of[rumour.node_id] = following
