"""Placement: where members and partitions lie on the hash circle.

The circle is cut into ARCS arcs; an offset is a place within one, in units of
2**-64 of its length. A member has `weight` tokens in every arc. A partition has
one position, in one arc, whatever the number of its queue's partitions.

Why not scatter tokens at random: a queue of few partitions would meet one
member often and another never, by chance alone, and its bound on loads would
move partitions to and fro to make up for it (docs/placement.md measures it).

Invariant: the result is a function of the arguments, by BLAKE2b alone; all
nodes of a mesh must agree on it, so a change here is a change of protocol.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Final

NODE_ID_BYTES: Final = 8
ID_BITS: Final = 8 * NODE_ID_BYTES
ID_MASK: Final = (1 << ID_BITS) - 1
OFFSET_BITS: Final = 64
KEY_MASK: Final = (1 << (OFFSET_BITS + ID_BITS)) - 1

ARC_BITS: Final = 7
ARCS: Final = 1 << ARC_BITS
# A member's share of the circle is the mean of as many gaps as it has tokens, so it
# strays by about 1/sqrt(tokens): 9 % at weight 1. Twice the tokens would make it 6 %.
TOKENS_PER_WEIGHT: Final = ARCS
REMEMBERED_MAX: Final = 1_024
"""So many members' tokens are remembered: some 14 KiB each, which their ring holds anyway."""

_LOW_MASK: Final = (1 << (OFFSET_BITS - ARC_BITS)) - 1
_REVERSED: Final = tuple(int(f"{arc:0{ARC_BITS}b}"[::-1], 2) for arc in range(ARCS))


def position(queue: str, partition: int) -> tuple[int, int]:
    """Return the arc of a partition and its offset there.

    The partitions of a queue lie at one offset in arcs of their own, 128 to a
    lap, and fill blocks of arcs in which every member's tokens are spread
    evenly (see `tokens`). It does not depend on how many partitions there are.
    """
    lap, index = divmod(partition, ARCS)
    data = lap.to_bytes(4) + queue.encode()
    digest = blake2b(data, digest_size=16, person=b"p2pmq position").digest()
    return (digest[0] % ARCS) ^ index, int.from_bytes(digest[8:])


def seat_of(name: str) -> bytes:
    """Return what the tokens of members of this name are hashed from.

    Not the node id: that goes with a disk, and who comes back on a new one under its old name
    is to stand where it stood, or every lost disk would move partitions about, twice.
    """
    data = name.encode("utf-8", "surrogatepass")
    return blake2b(data, digest_size=8, person=b"p2pmq seat").digest()


@lru_cache(REMEMBERED_MAX)
def tokens(node_id: bytes, weight: int, seat: bytes = b"") -> list[list[int]]:
    """Return the member's tokens, sorted, for each arc: offset << 64 | node id.

    The offsets follow from `seat`, or from the node id where it is empty.

    Each of the `weight` layers is a scrambled net (van der Corput's points;
    Owen, *Randomly permuted (t,m,s)-nets and (t,s)-sequences*, 1995): in any
    aligned block of 2**b arcs the 2**b tokens lie in the 2**b different parts
    of an arc. So a queue meets a member near and far as often as it should,
    and loads stray less than by chance; the bound has less to do.

    The answer is remembered, and not to be changed: nodes that share a process
    (in simulations, a thousand) share the tokens too.
    """
    node = int.from_bytes(node_id)
    arcs: list[list[int]] = [[] for _ in range(ARCS)]
    for layer in range(weight):
        words = _words(seat or node_id, layer, ARCS + 8)
        across, along = _scrambled(words[:4]), _scrambled(words[4:8])
        for arc, word in enumerate(words[8:]):
            part = along[_REVERSED[across[arc]]]
            offset = part << (OFFSET_BITS - ARC_BITS) | word & _LOW_MASK
            arcs[arc].append(offset << ID_BITS | node)
    for keys in arcs:
        keys.sort()
    return arcs


def _words(seat: bytes, layer: int, count: int) -> list[int]:
    """Return `count` 64-bit words of hash, eight to a digest."""
    words: list[int] = []
    for block in range(0, count, 8):
        data = seat + layer.to_bytes(2) + block.to_bytes(2)
        digest = blake2b(data, person=b"p2pmq tokens").digest()
        words += [int.from_bytes(digest[at : at + 8]) for at in range(0, 64, 8)]
    return words


def _scrambled(words: list[int]) -> list[int]:
    """Return 0 .. ARCS - 1 with the halves of every aligned block swapped or not, by a bit each."""
    bits = int.from_bytes(b"".join(word.to_bytes(8) for word in words))
    values = [0]
    for _ in range(ARC_BITS):
        doubled: list[int] = []
        for value in values:
            flip = bits & 1
            bits >>= 1
            doubled += (2 * value + flip, 2 * value + 1 - flip)
        values = doubled
    return values
