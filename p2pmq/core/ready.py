"""Ready: the runs that wait for a consumer with credit, in the order they go out.

The higher priority goes first: always, or, where the queue ages its messages,
unless one of a lower priority has waited longer by `ageing_ms` for each level
between them. That needs no clock here: each level is worth a head start of so
many ms in the stamps. Within a priority, a publisher's messages go in
the order of their seqs, whatever their stamps: two owners of a split stamp by
clocks that may differ by minutes, and after a merge a later message may bear the
smaller stamp. Between publishers the stamp of the first that waits decides, so
that the order is that of arrival.

Each publisher has a lane for each priority, a heap by seq; a heap of all lanes'
heads says whose turn it is. An entry of a head that is none any more is left in there and passed
over.

Invariant: every lane that is not empty has an entry for its head.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

from p2pmq.core.hlc import wall_ms_of
from p2pmq.core.ids import Run

if TYPE_CHECKING:
    from p2pmq.core.ids import Session


class Waiting(NamedTuple):
    """A run of one lane; it may overlap another, and its messages may be gone."""

    first: int
    last: int
    stamp: int


class Candidate(NamedTuple):
    """A run that waits, with what its place in the line depends on."""

    run: Run
    stamp: int
    priority: int = 0


class ReadyLine:
    """Candidates in order. `len()` counts the runs, not their messages."""

    def __init__(self, ageing_ms: int = 0) -> None:
        self.ageing_ms = ageing_ms
        """How much earlier a message counts as stamped for each level of its priority; 0: strict"""
        self._lanes: dict[tuple[int, Session], list[Waiting]] = {}
        self._heads: list[tuple[int, int, Session, int, int]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, candidate: Candidate) -> None:
        """A run waits."""
        run, stamp, priority = candidate
        lane = self._lanes.setdefault((priority, run.session), [])
        heapq.heappush(lane, Waiting(run.first, run.last, stamp))
        self._count += 1
        if lane[0].first == run.first:
            self._push_head(priority, run.session, lane[0])

    def pop(self) -> Candidate:
        """The next. Raises IndexError if none waits."""
        while True:
            _, stamp, session, first, priority = heapq.heappop(self._heads)
            lane = self._lanes.get((priority, session))
            if lane is not None and lane[0].first == first and lane[0].stamp == stamp:
                break
        _, last, _ = heapq.heappop(lane)
        self._count -= 1
        if lane:
            self._push_head(priority, session, lane[0])
        else:
            del self._lanes[priority, session]
        return Candidate(Run(session, first, last), stamp, priority)

    def _push_head(self, priority: int, session: Session, head: Waiting) -> None:
        rank = -priority
        if self.ageing_ms:
            rank = wall_ms_of(head.stamp) - priority * self.ageing_ms
        heapq.heappush(self._heads, (rank, head.stamp, session, head.first, priority))
