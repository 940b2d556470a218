"""Healing: nobody is given up, so that a split of any age ends when the network is back.

Plain SWIM forgets its dead, and a split stays for ever. Here every node keeps
trying some of those that it has lost, for ever: by a ping that tells the
target what is believed of it, a hundred bytes, so that a wrong belief is
refuted with the first answer. States are exchanged only with those that do
answer.

Invariant: one node makes at most `healing_fanout` tries per turn, and a whole
mesh some TRIES_PER_LOST per lost member and turn, whatever its size.
"""

from __future__ import annotations

import random

from p2pmq.config import SwimConfig
from p2pmq.core.ids import NodeId
from p2pmq.core.membership import Member, Roster

TRIES_PER_LOST = 8
"""Tries for each lost member in one interval, over the whole mesh. Each node makes its share by
lot: that nobody tries in an interval has probability e⁻⁸."""

STRANGERS_MAX = 256
STRANGER_TRIES_MAX = 5
STRANGER_RETRY_MS = 1_000
"""Exchanges with a peer that is no member: the first again after this, then doubling."""


class Healing:
    """Whom of the lost to try next, and when."""

    __slots__ = ("_config", "_lonely_turns", "_rng", "_roster", "_waiting")

    def __init__(self, roster: Roster, config: SwimConfig, rng: random.Random) -> None:
        self._roster = roster
        self._config = config
        self._rng = rng
        self._waiting: list[Member] = []
        self._lonely_turns = 0

    def pick(self) -> list[Member]:
        """The lost members to try in this turn."""
        wanted = self._fanout()
        picked: list[Member] = []
        while len(picked) < wanted:
            if not self._waiting:
                self._waiting = list(self._roster.lost())
                self._rng.shuffle(self._waiting)
            member = self._waiting.pop()
            if member.alive or member.node_id not in self._roster.members or member in picked:
                wanted -= member in picked  # fewer are left than were wanted
                continue
            picked.append(member)
        return picked

    def interval_ms(self) -> int:
        """The time to the next turn: jittered, and short at first while nobody is there."""
        interval_ms = self._config.healing_interval_ms
        if self._roster.alive_count <= 1:
            early_ms = self._config.probe_interval_ms << min(self._lonely_turns, 16)
            interval_ms = min(interval_ms, early_ms)
            self._lonely_turns += 1
        else:
            self._lonely_turns = 0
        return int(interval_ms * self._rng.uniform(0.75, 1.25))

    def _fanout(self) -> int:
        lost = self._roster.lost_count
        if lost == 0:
            return 0
        share = TRIES_PER_LOST * lost / max(1, self._roster.alive_count)
        by_lot = int(share) + (self._rng.random() < share % 1)
        return min(by_lot, self._config.healing_fanout, lost)


class Strangers:
    """Authentic peers that are no members yet: exchange states, a few times at most."""

    __slots__ = ("_tries",)

    def __init__(self) -> None:
        self._tries: dict[NodeId, int] = {}

    def __contains__(self, node_id: NodeId) -> bool:
        return node_id in self._tries

    def note(self, node_id: NodeId) -> bool:
        """Begin with a stranger; False where it has begun already or too many are waiting."""
        if node_id in self._tries or len(self._tries) >= STRANGERS_MAX:
            return False
        self._tries[node_id] = 0
        return True

    def next_try_ms(self, node_id: NodeId) -> int | None:
        """Count a try: the time to the next one, or None if that was enough or it is known."""
        tries = self._tries.get(node_id)
        if tries is None:
            return None
        if tries >= STRANGER_TRIES_MAX:
            del self._tries[node_id]
            return None
        self._tries[node_id] = tries + 1
        return STRANGER_RETRY_MS << tries

    def forget(self, node_id: NodeId) -> None:
        """It is a member now, or gone."""
        self._tries.pop(node_id, None)
