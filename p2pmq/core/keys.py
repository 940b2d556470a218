"""Turns of ordering keys: of the messages of one key one is out at a time, in their order.

A key is *held* by a message from its lease on until that message is forgotten: acked, expired,
buried. One that is given back keeps it, and so is delivered again before the next of its key.
What comes up meanwhile is *parked* under its key, in the order of delivery. When the holder is
forgotten, the next parked one holds the key at once, before it is even pushed: nothing of its key
can overtake it, and if it expires instead, its end lets the next one go as any other's does.

Keys are known by a hash alone: two that share one wait for each other, which does no harm.
After a split consumers may bring back several messages of one key: then each holds it.
What is parked is pending and nothing else, so that it may be dropped and looked for anew.

Invariant: whatever is parked is so under a key that is held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.core.ids import Run
from p2pmq.core.packets.publishing import KEY_HASH_BYTES, NO_KEY
from p2pmq.core.ready import Candidate, ReadyLine
from p2pmq.core.runmap import RunMap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from p2pmq.core.partition import Partition, Stored

SLACK = 1_024
"""Entries that are parked twice, or gone, are left alone below this."""


class KeyTurns:
    """Who holds which key of one partition, and who waits for it.

    `deliverable` gives the parts of a run that may go out, keys aside.
    """

    def __init__(self, partition: Partition, deliverable: Callable[[Run], list[Run]]) -> None:
        self._partition = partition
        self._deliverable = deliverable
        self._held: RunMap[bytes] = RunMap()
        """The messages that hold a key …"""
        self._holders: dict[bytes, int] = {}
        """… and how many of them each held key has."""
        self._parked: dict[bytes, ReadyLine] = {}
        self._parked_count = 0
        self._ageing_ms = 0

    def hold(self, run: Run) -> None:
        """The messages of the run that have a key hold it from now on."""
        for free in self._held.missing(run):
            for piece, number in self._partition.pending.overlap(free):
                stored = self._partition.batches[number]
                if stored.keys:
                    self._hold_each(piece, stored)

    def in_turn(self, part: Run, most: int) -> tuple[list[Run], Run | None]:
        """The parts of a run whose turn it is, and what is left of it beyond `most` messages.

        They hold their keys now. Others that come before the last of them are parked.
        """
        going: list[Run] = []
        for piece, number in self._partition.pending.overlap(part):
            if not most:
                return going, Run(part.session, piece.first, part.last)
            stored = self._partition.batches[number]
            if stored.keys:
                most, rest = self._sort_out(piece, stored, most, going)
            else:
                count = min(most, piece.length)
                going.append(Run(piece.session, piece.first, piece.first + count - 1))
                most, rest = most - count, piece.first + count
            if rest <= piece.last:
                return going, Run(part.session, rest, part.last)
        return going, None

    def forget(self, removed: Iterable[Run]) -> list[Run]:
        """These messages are gone: those that hold their keys now, and are to be made ready."""
        following: list[Run] = []
        for run in removed:
            for part, key in self._held.take(run):
                if self._drop_holders(key, part.length):
                    following += self._next_of(key)
        return following

    def clear_parked(self, ageing_ms: int) -> None:
        """All that may go out is looked at anew; `ageing_ms` is as in `ReadyLine` from now on."""
        self._ageing_ms = ageing_ms
        self._parked.clear()
        self._parked_count = 0

    @property
    def is_overgrown(self) -> bool:
        """Whether more is parked than there is: much of it is parked twice, or gone."""
        return self._parked_count > 2 * self._partition.pending.count + SLACK

    # -- within --

    def _sort_out(self, piece: Run, stored: Stored, most: int, going: list[Run]) -> tuple[int, int]:
        """Part what may go of one batch from what must wait: how many more may, and the end."""
        session, keys, holders = piece.session, stored.keys, self._holders
        holding = {
            seq for run, _ in self._held.overlap(piece) for seq in range(run.first, run.last + 1)
        }
        first = at = piece.first
        """Where the run of those that may go began; `at` is looked at."""
        while at <= piece.last and most:
            key = _key_at(keys, at - stored.first)
            goes = key == NO_KEY or key not in holders
            if goes and key != NO_KEY:
                self._held.put(Run(session, at, at), key)
                holders[key] = 1
            elif at in holding:  # given back; one of several that hold the key waits for the others
                goes = holders[key] == 1
                if not goes:
                    self._held.take(Run(session, at, at))
                    holders[key] -= 1
            if goes:
                most -= 1
                at += 1
                continue
            if first < at:
                going.append(Run(session, first, at - 1))
            first = at = self._park(key, at, piece.last, stored, holding)
        if first < at:
            going.append(Run(session, first, at - 1))
        return most, at

    def _park(self, key: bytes, first: int, last: int, stored: Stored, holding: set[int]) -> int:
        """Park a message, and those right after it that have its key; where that ends."""
        end = first + 1
        while (
            end <= last and end not in holding and _key_at(stored.keys, end - stored.first) == key
        ):
            end += 1
        line = self._parked.get(key)
        if line is None:
            line = self._parked[key] = ReadyLine(self._ageing_ms)
        run = Run(stored.session, first, end - 1)
        line.push(Candidate(run, stored.stamp, stored.priority))
        self._parked_count += run.length
        return end

    def _hold_each(self, piece: Run, stored: Stored) -> None:
        for seq in range(piece.first, piece.last + 1):
            key = _key_at(stored.keys, seq - stored.first)
            if key != NO_KEY:
                self._held.put(Run(piece.session, seq, seq), key)
                self._holders[key] = self._holders.get(key, 0) + 1

    def _drop_holders(self, key: bytes, count: int) -> bool:
        """Whether the key is free now."""
        left = self._holders[key] - count
        if left:
            self._holders[key] = left
        else:
            del self._holders[key]
        return not left

    def _next_of(self, key: bytes) -> list[Run]:
        """The first of what is parked under a free key and may go out; it holds the key now."""
        line = self._parked.get(key)
        while line:
            run, stamp, priority = line.pop()
            self._parked_count -= run.length
            for part in self._deliverable(run)[:1]:
                if part.first < run.last:
                    rest = Run(run.session, part.first + 1, run.last)
                    line.push(Candidate(rest, stamp, priority))
                    self._parked_count += rest.length
                following = Run(run.session, part.first, part.first)
                self.hold(following)
                if not line:
                    del self._parked[key]
                return [following]
        self._parked.pop(key, None)
        return []


def _key_at(keys: bytes, position: int) -> bytes:
    return keys[KEY_HASH_BYTES * position : KEY_HASH_BYTES * (position + 1)]
