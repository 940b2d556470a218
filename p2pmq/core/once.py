"""Once: which messages this node's consumers have processed, so that none is processed again.

Ids are dots, kept as intervals in blocks of consecutive seqs, each a row of its
own on disk: a settle rewrites some bytes, however long the queue lives. A block of
which nothing has changed for as long as partitions remember (`context_retention_ms`)
is forgotten, and so is the oldest one where there are too many.

Invariant: a dot that is in here is on disk, or on its way there; what may only
follow then is `settling`'s to hold back.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from p2pmq.core.effects import Counted, Notify, Persist
from p2pmq.core.ids import PartitionKey, Run
from p2pmq.core.intervals import IntervalSet
from p2pmq.core.records import ProcessedChanged

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pmq.core.effects import Effect
    from p2pmq.core.hlc import HybridClock
    from p2pmq.core.ids import Session

BLOCK_BITS = 12
"""Seqs of a block: at the worst, every second one processed here, a row has 32 KiB."""
BLOCKS_MAX = 16_384
"""At the most: some 67 million messages, where publishers' seqs are consecutive."""
LOOK_MS = 3_600_000
"""How often is looked for blocks that are old enough to be forgotten."""
FULL = (
    f"this node remembers {BLOCKS_MAX:,} blocks of messages that were processed once; the oldest "
    "are forgotten, and would be processed again if they came back"
)


class Block(NamedTuple):
    """Consecutive seqs of a session: those whose upper bits are `number`."""

    key: PartitionKey
    session: Session
    number: int


class Kept:
    """What is kept of a block; `touched` is the wall clock's ms when it last changed."""

    __slots__ = ("seqs", "touched")

    def __init__(self, seqs: IntervalSet, touched: int) -> None:
        self.seqs = seqs
        self.touched = touched


class Once:
    """What was processed here."""

    def __init__(self, clock: HybridClock, retention_ms: int) -> None:
        self._clock = clock
        self._retention_ms = retention_ms
        self._blocks: dict[Block, Kept] = {}
        """Those that changed last are last."""
        self._look_at: int | None = None

    def recover(self, records: Iterable[ProcessedChanged], now: int) -> None:
        """Take up what the store holds."""
        for record in sorted(records, key=lambda record: record.touched):
            block = Block(record.key, record.session, record.block)
            self._blocks[block] = Kept(IntervalSet(record.seqs), record.touched)
            self._look_at = now

    @property
    def blocks(self) -> int:
        """How many blocks are remembered."""
        return len(self._blocks)

    def processed(self, key: PartitionKey, run: Run) -> list[Run]:
        """The parts of the run that were processed here, in order."""
        found: list[Run] = []
        if not self._blocks:
            return found
        for block, low, high in _parts(key, run):
            kept = self._blocks.get(block)
            if kept is not None:
                found += [Run(run.session, *part) for part in kept.seqs.overlap(low, high)]
        return found

    def record(self, key: PartitionKey, runs: Iterable[Run], now: int) -> list[Effect]:
        """Remember the runs, and count what is forgotten for them. `records` writes them."""
        effects: list[Effect] = []
        for run in runs:
            for block, low, high in _parts(key, run):
                kept = self._blocks.pop(block, None) or Kept(IntervalSet(), 0)
                kept.seqs.add(low, high)
                kept.touched = self._clock.wall_ms
                self._blocks[block] = kept
        if self._look_at is None and self._blocks:
            self._look_at = now + LOOK_MS
        if len(self._blocks) > BLOCKS_MAX:
            forgotten = list(islice(self._blocks, len(self._blocks) - BLOCKS_MAX))
            effects += self._forget(forgotten)
            effects.append(Notify(Counted("once_full", len(forgotten), FULL, alarming=True)))
        return effects

    def records(self, key: PartitionKey, runs: Iterable[Run]) -> tuple[ProcessedChanged, ...]:
        """The rows of the runs, as they are now."""
        blocks = dict.fromkeys(block for run in runs for block, _, _ in _parts(key, run))
        return tuple(
            ProcessedChanged(*block, kept.seqs.pairs(), kept.touched)
            for block in blocks
            if (kept := self._blocks.get(block)) is not None
        )

    def next_deadline(self) -> int | None:
        """When to look for what is old; never, where nothing is kept."""
        return self._look_at

    def on_timeout(self, now: int) -> list[Effect]:
        """Forget what is old enough."""
        if self._look_at is None or now < self._look_at:
            return []
        before = self._clock.wall_ms - self._retention_ms
        old = []
        for block, kept in self._blocks.items() if self._retention_ms else ():
            if kept.touched >= before:
                break
            old.append(block)
        effects = self._forget(old)
        self._look_at = now + LOOK_MS if self._blocks else None
        return effects

    def _forget(self, blocks: list[Block]) -> list[Effect]:
        for block in blocks:
            del self._blocks[block]
        if not blocks:
            return []
        gone = tuple(ProcessedChanged(*block, (), 0) for block in blocks)
        return [Persist(gone, patient=True), Notify(Counted("once_forgotten", len(blocks)))]


def _parts(key: PartitionKey, run: Run) -> list[tuple[Block, int, int]]:
    """The blocks that a run touches, each with the first and last of its seqs there."""
    session, first, last = run
    return [
        (
            Block(key, session, number),
            max(first, number << BLOCK_BITS),
            min(last, (number + 1 << BLOCK_BITS) - 1),
        )
        for number in range(first >> BLOCK_BITS, (last >> BLOCK_BITS) + 1)
    ]
