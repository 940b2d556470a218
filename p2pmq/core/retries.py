"""Retries: how often a message has failed, how long it rests then, and when it is given up.

A failure is a nack, or the end of a consumer's process. Neither a visibility
timeout nor a partition is one: a node that is away may only be cut off, so what
it held counts as failed once it is seen to have started anew.

The pause after a failure doubles with each, up to a limit, and half of it is
drawn by lot, so that what failed together does not come back together (equal
jitter: Brooker, *Exponential Backoff And Jitter*, AWS Architecture Blog, 2015).

The counts are the owner's and live with its ownership: a new owner begins anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from p2pmq.config import Retry
from p2pmq.core.packets.publishing import ERROR_BYTES_MAX
from p2pmq.core.runmap import RunMap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from p2pmq.core.ids import NodeId, Run

PROCESS_DIED = "the process of the node that worked on it ended"
DOUBLINGS_MAX = 40


def bounded(error: str) -> str:
    """As much of an error's text as is kept, and nothing that could not travel."""
    return error.encode("utf-8", "replace")[:ERROR_BYTES_MAX].decode("utf-8", "ignore")


class Failing(NamedTuple):
    """How often a message has failed, and what was said the last time."""

    times: int
    error: str
    rejected: bool = False


class Retries:
    """The failures of one partition's messages. `policy` gives the rules in force."""

    def __init__(self, policy: Callable[[], Retry] = Retry, rng: Random | None = None) -> None:
        self._policy = policy
        self._rng = rng
        self.failures: RunMap[Failing] = RunMap()
        self._died_with: RunMap[NodeId] = RunMap()
        """What was in the hands of nodes that are away: perhaps it was the end of them."""
        self._given_up: list[tuple[Run, Failing]] = []

    def fail(self, run: Run, error: str) -> list[tuple[Run, Failing]]:
        """Count one more failure; the parts to be tried again. The others are given up."""
        again: list[tuple[Run, Failing]] = []
        known = [(part, failing.times) for part, failing in self.failures.overlap(run)]
        fresh = [(part, 0) for part in self.failures.missing(run)]
        most = self._policy().max_deliveries
        for part, count in known + fresh:
            failing = Failing(count + 1, error)
            self.failures.put(part, failing)
            (self._given_up if failing.times >= most else again).append((part, failing))
        return again

    def reject(self, run: Run, error: str) -> None:
        """Give up at once."""
        known = [(part, failing.times) for part, failing in self.failures.overlap(run)]
        fresh = [(part, 0) for part in self.failures.missing(run)]
        for part, times in known + fresh:
            self._given_up.append((part, Failing(times + 1, error, rejected=True)))

    def pause_ms(self, count: int) -> int:
        """How long a message rests that has failed so often (at least once)."""
        policy = self._policy()
        doublings = min(max(0, count - 1), DOUBLINGS_MAX)
        longest = min(policy.backoff_max_ms, policy.backoff_ms << doublings)
        share = self._rng.random() if self._rng is not None else 1.0
        return longest // 2 + int(longest / 2 * share)

    def on_away(self, node_id: NodeId, held: Iterable[Run]) -> None:
        """A node is away that held these: it may have died of one of them."""
        for run in held:
            self._died_with.put(run, node_id)

    def on_restarted(self, node_id: NodeId) -> list[Run]:
        """The node did die; what it had held and nobody has acked since."""
        died_of = [run for run, holder in self._died_with.items() if holder == node_id]
        for run in died_of:
            self._died_with.take(run)
        return died_of

    def take_given_up(self) -> list[tuple[Run, Failing]]:
        """What has failed too often since this was asked for."""
        given_up, self._given_up = self._given_up, []
        return given_up

    def forget(self, run: Run) -> None:
        """The dots are acked."""
        self.failures.take(run)
        self._died_with.take(run)
