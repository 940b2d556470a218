"""Suspicion: how long a member has to refute, and how healthy this node itself is.

Two parts of Lifeguard (Dadgar, Phillips, Currey: *Lifeguard: local health
awareness for more accurate failure detection*, 2018), with the formulas that
memberlist made of them. A suspicion that nobody else shares may be this
node's own fault, so it runs long; each independent accuser shortens it. And a
node whose own probes fail, or that must refute, gives others more time.

Invariant: a suspicion lasts from `min_ms` to `max_ms`; a confirmation never
lengthens it.
"""

from __future__ import annotations

import math

from p2pmq.config import SwimConfig
from p2pmq.core.ids import NodeId


class Awareness:
    """Lifeguard's local health multiplier: 0 is healthy; each point adds one more timeout."""

    __slots__ = ("_limit", "score")

    def __init__(self, config: SwimConfig) -> None:
        self._limit = config.awareness_max - 1 if config.lifeguard else 0
        self.score = 0

    def apply(self, change: int) -> None:
        """Worsen (positive) or better (negative) this node's idea of itself."""
        self.score = min(max(self.score + change, 0), self._limit)

    def scale(self, duration_ms: int) -> int:
        """The duration as a node of this health should wait."""
        return duration_ms * (self.score + 1)


def suspicion_min_ms(config: SwimConfig, members: int) -> int:
    """How long a shared suspicion lasts: mult · max(1, log10 N) · interval (memberlist)."""
    scale = max(1.0, math.log10(max(1, members)))
    return int(config.suspicion_mult * scale * config.probe_interval_ms)


class Suspicion:
    """Who accuses a member, since when, and when it counts as dead.

    With c independent confirmations of the k that are awaited it lasts
    max - (max - min) · log(c + 1) / log(k + 1) (memberlist). k is
    `suspicion_mult` - 2: the two are accuser and accused, of those that a
    small mesh has.
    """

    __slots__ = ("_accusers", "_confirmations_max", "max_ms", "min_ms", "since_ms")

    def __init__(self, config: SwimConfig, members: int, accuser: NodeId, now: int) -> None:
        wanted = config.suspicion_mult - 2
        self._confirmations_max = wanted if config.lifeguard and members - 2 >= wanted else 0
        self._accusers = [accuser]
        self.since_ms = now
        self.min_ms = suspicion_min_ms(config, members)
        self.max_ms = self.min_ms * config.suspicion_max_timeout_mult

    def confirm(self, accuser: NodeId) -> bool:
        """Count an accuser; whether it is a new one of those that count."""
        if len(self._accusers) > self._confirmations_max or accuser in self._accusers:
            return False
        self._accusers.append(accuser)
        return True

    def deadline(self) -> int:
        """When the member is dead, unless it refutes."""
        if self._confirmations_max < 1:
            return self.since_ms + self.min_ms
        confirmations = len(self._accusers) - 1
        part = math.log(confirmations + 1) / math.log(self._confirmations_max + 1)
        return self.since_ms + max(
            self.min_ms, int(self.max_ms - part * (self.max_ms - self.min_ms))
        )
