"""Print the tables of docs/placement.md: who carries how much, and what a change moves.

    python simulations/placement_table.py [members ...]

All is drawn from fixed seeds, so the same code prints the same tables; the whole
takes a few minutes, the smaller meshes seconds. Moves are given in units of
1/N, where N is the larger of the two rosters: 1.00 is the least that a balanced
placement can move, 1.20 is what the design allows.
"""

from __future__ import annotations

import random
import statistics
import sys
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator

from p2pmq.core.placement import ARCS, ID_BITS, ID_MASK, KEY_MASK, OFFSET_BITS, tokens
from p2pmq.core.ring import BOUND_PERCENT, Place, Ring

PARTITIONS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 1024)
Owners = tuple[bytes | None, ...]
Placement = Callable[[str, int], Owners]


def mesh(chance: random.Random, members: int) -> list[Place]:
    """Return so many members with random ids."""
    return [Place(chance.randbytes(8)) for _ in range(members)]


def changes_at(members: int) -> int:
    """Return over how many changes of the roster a figure is taken."""
    return 20 if members >= 1000 else 40


def shares(places: list[Place]) -> dict[bytes, float]:
    """Return each member's exact part of the circle: what it owns of single-partition queues."""
    layers = [tokens(place.node_id, place.weight) for place in places]
    found: Counter[bytes] = Counter()
    for arc in range(ARCS):
        keys = sorted(key for layer in layers for key in layer[arc])
        for before, key in zip([keys[-1], *keys], keys, strict=False):
            gap = ((key - before) & KEY_MASK) >> ID_BITS
            found[(key & ID_MASK).to_bytes(8)] += gap
    return {node_id: gap / ARCS / (1 << OFFSET_BITS) for node_id, gap in found.items()}


def textbook(places: list[Place]) -> Placement:
    """Return the placement we did not take: scattered tokens, partitions dealt in their order."""
    circle: list[tuple[int, bytes]] = []
    for place in places:
        chance = random.Random(place.node_id)
        circle += [(chance.getrandbits(64), place.node_id) for _ in range(ARCS)]
    circle.sort()
    at = [offset for offset, _ in circle]

    def owners(queue: str, partitions: int) -> Owners:
        chance = random.Random(queue)
        room = dict.fromkeys(
            (place.node_id for place in places),
            -(-BOUND_PERCENT * partitions // (100 * len(places))),
        )
        found: list[bytes] = []
        for _ in range(partitions):
            index = bisect(at, chance.getrandbits(64)) % len(at)
            while not room[circle[index][1]]:
                index = (index + 1) % len(at)
            room[circle[index][1]] -= 1
            found.append(circle[index][1])
        return tuple(found)

    return owners


def ours(ring: Ring) -> Placement:
    """Return the placement of the ring as a function of queue and partitions."""
    return lambda queue, partitions: tuple(
        ring.owner(queue, partition, partitions) for partition in range(partitions)
    )


def moved(before: Placement, after: Placement, queues: list[str], partitions: int) -> float:
    """Return the part of the queues' partitions that the two give to different owners."""
    different = sum(
        one != other
        for queue in queues
        for one, other in zip(before(queue, partitions), after(queue, partitions), strict=True)
    )
    return different / (partitions * len(queues))


def p95(values: list[float]) -> float:
    """Return the value that 95 % do not exceed."""
    return sorted(values)[-(-95 * len(values) // 100) - 1]


def share_rows(sizes: list[int]) -> Iterator[str]:
    """Yield the table of single-partition queues; a leaving member moves just its share."""
    yield "| members | lightest | p5 | p95 | busiest | busiest of the three copies |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: |"
    for members in sizes:
        chance = random.Random(members)
        parts: list[float] = []
        peaks: list[float] = []
        lows: list[float] = []
        for _ in range(max(2, 200 // members)):
            one = [share * members for share in shares(mesh(chance, members)).values()]
            parts += one
            peaks.append(max(one))
            lows.append(min(one))
        ring = Ring(mesh(chance, members))
        queues = min(1000 * members, 200_000)
        held: Counter[bytes] = Counter()
        for queue in range(queues):
            held.update(ring.homes(f"queue-{queue}", 0, 1, 3))
        copies = max(held.values()) * members / held.total()
        yield (
            f"| {members:,} | {statistics.mean(lows):.2f} | {-p95([-part for part in parts]):.2f}"
            f" | {p95(parts):.2f} | {statistics.mean(peaks):.2f} | {copies:.2f} |"
        )


def bounds(members: int, partitions: int) -> str:
    """Return the bound with one member less, as it is, and with one more."""
    sizes = (members - 1, members, members + 1)
    return ", ".join(str(-(-BOUND_PERCENT * partitions // (100 * size))) for size in sizes)


def move_row(members: int, partitions: int) -> tuple[str, list[float]]:
    """Return the row of one kind of queue, and its three means of what a change moves."""
    chance = random.Random(members * 10_000 + partitions)
    sample = 10_000 if members >= 1000 else max(40 * members, 1500)
    queues = [f"queue-{chance.getrandbits(32)}" for _ in range(-(-sample // partitions))]
    peak = 0
    added, removed, plain = [], [], []
    places = mesh(chance, members)
    ring = Ring(places)
    for change in range(changes_at(members)):
        if members < 1000 and change:  # small rings differ: draw a new one for each change
            places = mesh(chance, members)
            ring = Ring(places)
        before = ours(ring)
        peak = max(peak, *(max(Counter(before(queue, partitions)).values()) for queue in queues))
        less = chance.sample(places, members - 1)
        grown, shrunk = ours(ring.changed([*places, *mesh(chance, 1)])), ours(ring.changed(less))
        added.append(moved(before, grown, queues, partitions) * (members + 1))
        removed.append(moved(before, shrunk, queues, partitions) * members)
        if members < 1000:
            old, new = textbook(places), textbook(less)
            plain.append(moved(old, new, queues, partitions) * members)
    means = [statistics.mean(added), statistics.mean(removed), statistics.mean(plain or [0.0])]
    tails = (f"{p95(added):.2f}", f"{p95(removed):.2f}") if plain else ("–", "–")
    row = (
        f"| {partitions:,} | {bounds(members, partitions)} | {peak} | {means[0]:.2f} | {tails[0]}"
        f" | {means[1]:.2f} | {tails[1]} | {f'{means[2]:.2f}' if plain else '–'} |"
    )
    return row, means


def move_rows(members: int) -> Iterator[str]:
    """Yield the table of multi-partition queues in a mesh of so many members."""
    yield "| partitions | bound, ∓1 member | busiest | added | p95 | removed | p95 | textbook |"
    yield "| ---: | :---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    means: list[list[float]] = []
    for partitions in PARTITIONS:
        row, mean = move_row(members, partitions)
        means.append(mean)
        yield row
    grown, shrunk, plain = (statistics.mean(column) for column in zip(*means, strict=True))
    last = f"{plain:.2f}" if plain else "–"
    yield f"| mean | | | **{grown:.2f}** | | **{shrunk:.2f}** | | {last} |"


def weight_rows() -> Iterator[str]:
    """Yield the table of shares by weight, in a mesh of 4 members of each weight."""
    yield "| weight | fair share | mean share | lightest | busiest |"
    yield "| ---: | ---: | ---: | ---: | ---: |"
    chance = random.Random(7)
    weights = (1, 2, 4, 8)
    places = [Place(chance.randbytes(8), weight=weight) for weight in weights for _ in range(4)]
    found = shares(places)
    for weight in weights:
        fair = weight / sum(place.weight for place in places)
        parts = [found[place.node_id] for place in places if place.weight == weight]
        yield (
            f"| {weight} | {fair:.2%} | {statistics.mean(parts):.2%}"
            f" | {min(parts):.2%} | {max(parts):.2%} |"
        )


def main() -> None:
    """Print every table as Markdown."""
    sizes = [int(argument) for argument in sys.argv[1:]] or [3, 10, 100, 1000]
    print("Single-partition queues: a member's share, 1.00 being the mean\n")
    print("\n".join(share_rows(sizes)))
    for members in sizes:
        print(f"\n{members:,} members: first owners of a queue, and what one change moves\n")
        for row in move_rows(members):
            print(row, flush=True)
    print("\nWeights\n")
    print("\n".join(weight_rows()))


if __name__ == "__main__":
    main()
