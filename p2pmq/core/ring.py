"""Ring: which members hold a partition of a queue, and in which order.

The hash circle is cut into ARCS arcs. Every member has `weight` tokens in
each of them, a partition has one position in one of them, and its ring order
is the walk through that arc from there, clockwise and round. So one walk
meets everybody, a new member touches every arc a little, and whatever a
member leaves falls to as many successors as there are arcs (Karger et al.,
*Consistent hashing and random trees*, 1997).

Only the first owner is not always the first token met: the partitions of one
queue are dealt nearest pair first, and a member takes no more than its bound
(Mirrokni, Thorup, Zadimoghaddam, *Consistent hashing with bounded loads*,
2016). docs/placement.md tells why nearest first, and what it measures.

Invariant: everything here is a function of the roster alone: not of the order
it is given in, nor of the rings before it, nor of who is alive. Two members
with one roster agree without a word.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Final

from p2pmq.core.placement import ARCS, ID_BITS, ID_MASK, KEY_MASK, NODE_ID_BYTES, position, tokens

# A unit of weight costs every member of the mesh 128 tokens of some 50 bytes.
WEIGHT_MAX: Final = 32
# c = 1.15 of the bounded loads, as a whole percentage: floats would round differently.
BOUND_PERCENT: Final = 115
# First owners that a ring remembers; beyond it the queue asked for first is forgotten.
CACHED_OWNERS_MAX: Final = 65_536


@dataclass(frozen=True, slots=True)
class Place:
    """One member of the roster as the ring sees it.

    `node_id` has 8 bytes. `zone` names what fails together (a rack, a site);
    members that name none share the zone "". `weight` is the member's part of
    the load; at 0 it never owns (a leaf). More than WEIGHT_MAX counts as that:
    a weight comes from a peer, so it may neither raise here nor fill our memory.
    `seat` is what its tokens are hashed from: members with one seat stand in
    the same places. Empty: the node id.
    """

    node_id: bytes
    zone: str = ""
    weight: int = 1
    seat: bytes = b""

    def __post_init__(self) -> None:
        assert len(self.node_id) == NODE_ID_BYTES, f"node id of {len(self.node_id)} bytes"
        assert self.weight >= 0, f"weight {self.weight}"


class Ring:
    """The placement under one roster; an immutable value (it only remembers answers)."""

    __slots__ = ("_arcs", "_cached", "_owners", "_places", "_total_weight", "_wide")

    def __init__(self, places: Iterable[Place]) -> None:
        """Build the ring of `places`, of which each has a node id of its own."""
        self._settle(_owning(places), {}, [[]] * ARCS)

    def changed(self, places: Iterable[Place]) -> Ring:
        """Return `Ring(places)`, made from this one: only what differs is hashed and merged."""
        after = _owning(places)
        if after == self._places:
            return self
        ring = Ring(())
        ring._settle(after, self._places, self._arcs)
        return ring

    @property
    def members(self) -> tuple[bytes, ...]:
        """The node ids that may own, sorted."""
        return tuple(place.node_id for place in self._places.values())

    def preference_list(self, queue: str, partition: int, partitions: int = 1) -> tuple[bytes, ...]:
        """Return every member that may own, in ring order for the partition.

        For every R the first R lie in R different zones while there are so
        many; after that each zone comes a second time before any comes a
        third. Costs a walk over all members; `homes` and `owner` walk only as
        far as they need.
        """
        return tuple(self._in_order(queue, partition, partitions))

    def homes(self, queue: str, partition: int, partitions: int, copies: int) -> tuple[bytes, ...]:
        """Return the first `copies` of the preference list, or all there are."""
        return tuple(islice(self._in_order(queue, partition, partitions), copies))

    def owner(
        self,
        queue: str,
        partition: int,
        partitions: int = 1,
        alive: Callable[[bytes], bool] | None = None,
    ) -> bytes | None:
        """Return the first of the preference list that is `alive`; None if none is.

        Without `alive` it is the first owner, remembered for each queue.
        """
        if alive is None:
            assert 0 <= partition < partitions, f"partition {partition} of {partitions}"
            return self._first_owners(queue, partitions)[partition] if self._places else None
        return next(filter(alive, self._in_order(queue, partition, partitions)), None)

    def bound(self, node_id: bytes, partitions: int) -> int:
        """Return how many of a queue's `partitions` the member may be first owner of."""
        place = self._places.get(int.from_bytes(node_id))
        return self._bound(place.weight, partitions) if place else 0

    def _settle(
        self, after: dict[int, Place], before: dict[int, Place], arcs: list[list[int]]
    ) -> None:
        """Become the ring of the roster `after`, given the `arcs` of the roster `before`."""
        standing = {node: (place.seat, place.weight) for node, place in before.items()}
        kept = {
            node
            for node, place in after.items()
            if standing.get(node) == (place.seat, place.weight)
        }
        gone = before.keys() - kept
        added = [
            tokens(place.node_id, place.weight, place.seat)
            for node, place in after.items()
            if node not in kept
        ]
        self._arcs = [_merged(arcs[arc], gone, added, arc) for arc in range(ARCS)]
        self._places = after
        self._total_weight = sum(place.weight for place in after.values())
        self._wide = _zone_widths(after.values())
        self._owners: dict[tuple[str, int], tuple[bytes, ...]] = {}
        self._cached = 0

    def _walk(self, queue: str, partition: int) -> Iterator[tuple[int, int]]:
        """Yield (distance, member) for each token of the partition's arc, nearest first."""
        arc_number, offset = position(queue, partition)
        arc = self._arcs[arc_number]
        start = offset << ID_BITS
        at = bisect_left(arc, start)
        for index in range(at - len(arc), at):  # an index below zero counts from the end
            yield (arc[index] - start) & KEY_MASK, arc[index] & ID_MASK

    def _in_order(self, queue: str, partition: int, partitions: int) -> Iterator[bytes]:
        """Yield the preference list, walking no further than it is read.

        A zone's k-th member met goes to round k. A round is yielded as it
        fills, and is full when every zone with so many members is in it.
        """
        first = self.owner(queue, partition, partitions)
        if first is None:
            return
        met: dict[int, bool] = {}
        met_in_zone: dict[str, int] = {}
        rounds: list[list[bytes]] = [[] for _ in self._wide]
        current = yielded = 0
        for _, node in chain([(0, int.from_bytes(first))], self._walk(queue, partition)):
            if node in met:
                continue
            met[node] = True
            place = self._places[node]
            turn = met_in_zone.get(place.zone, 0)
            met_in_zone[place.zone] = turn + 1
            rounds[turn].append(place.node_id)
            while current < len(rounds) and yielded < len(rounds[current]):
                yield rounds[current][yielded]
                yielded += 1
                if yielded == self._wide[current]:
                    current, yielded = current + 1, 0

    def _first_owners(self, queue: str, partitions: int) -> tuple[bytes, ...]:
        """Return the first owner of each of the queue's partitions, from the cache if it can."""
        owners = self._owners.get((queue, partitions))
        if owners is None:
            owners = self._deal(queue, partitions)
            self._owners[queue, partitions] = owners
            self._cached += partitions
            while self._cached > CACHED_OWNERS_MAX and len(self._owners) > 1:
                self._cached -= len(self._owners.pop(next(iter(self._owners))))
        return owners

    def _deal(self, queue: str, partitions: int) -> tuple[bytes, ...]:
        """Give each partition the nearest member that is not full, nearest pairs first.

        The bounds sum to 1.15 times the partitions at least, so nobody walks
        in vain. Nearest first means that a partition pushed out by a change can
        only push out one that is farther from its owner than it is itself: the
        chains of moves end soon, where a fixed order of partitions has them run on.
        """
        room: dict[int, int] = {}
        walks = [self._walk(queue, partition) for partition in range(partitions)]
        heap = [(*next(walk), partition) for partition, walk in enumerate(walks)]
        heapq.heapify(heap)
        owners = [b""] * partitions
        while heap:
            _, node, partition = heap[0]
            place = self._places[node]
            left = room[node] if node in room else self._bound(place.weight, partitions)
            if left:
                room[node] = left - 1
                owners[partition] = place.node_id
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (*next(walks[partition]), partition))
        return tuple(owners)

    def _bound(self, weight: int, partitions: int) -> int:
        """Return ceil(1.15 * partitions * weight / total weight), in whole numbers."""
        return -(-BOUND_PERCENT * partitions * weight // (100 * self._total_weight))


def _owning(places: Iterable[Place]) -> dict[int, Place]:
    """Return the places that may own, by node id as a number, sorted."""
    owning: dict[int, Place] = {}
    for place in sorted(places, key=lambda place: place.node_id):
        node = int.from_bytes(place.node_id)
        assert node not in owning, f"{place.node_id.hex()} is in the roster twice"
        if place.weight:
            owning[node] = replace(place, weight=min(place.weight, WEIGHT_MAX))
    return owning


def _merged(keys: list[int], gone: set[int], added: list[list[list[int]]], arc: int) -> list[int]:
    """Return the sorted `keys` of one arc without the tokens of `gone` and with those `added`."""
    merged = [key for key in keys if key & ID_MASK not in gone] if gone else keys.copy()
    for member in added:
        merged += member[arc]
    merged.sort()  # nearly sorted already: the sort merges runs
    return merged


def _zone_widths(places: Iterable[Place]) -> list[int]:
    """Return, for each k, how many zones have more than k members."""
    sizes: dict[str, int] = {}
    widths: list[int] = []
    for place in places:
        turn = sizes.get(place.zone, 0)
        sizes[place.zone] = turn + 1
        if turn == len(widths):
            widths.append(0)
        widths[turn] += 1
    return widths
