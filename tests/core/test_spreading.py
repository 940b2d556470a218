"""Spreading: what must meet comes to one place, and everything is spread."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from hashlib import blake2b
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmq.core.packets.publishing import KEY_HASH_BYTES, NO_KEY, Batch
from p2pmq.core.packets.registering import PARTITIONS_MAX, QueueSettings
from p2pmq.core.spreading import (
    by_partition,
    message_name,
    of_derived,
    of_hash,
    partitions_of,
    shares_of,
)
from tests.core.kit import Texts

counts = st.integers(1, PARTITIONS_MAX)


def hashed(number: int) -> bytes:
    return blake2b(number.to_bytes(8), digest_size=8).digest()


@pytest.mark.parametrize("partitions", [2, 3, 8, 60])
def test_keys_are_spread_evenly_and_always_alike(partitions: int) -> None:
    found = Counter(of_hash(hashed(number), partitions) for number in range(partitions * 500))
    assert set(found) == set(range(partitions))
    assert min(found.values()) > 380
    assert max(found.values()) < 620
    assert of_hash(bytes.fromhex("00000000000001ff"), 8) == 7, "the same on every machine"


def test_derived_dots_go_in_blocks_so_that_one_publishers_are_spread_and_stay_intervals() -> None:
    into = [of_derived(hashed(1), seq, 4) for seq in range(4 * 512)]
    assert Counter(into) == dict.fromkeys(range(4), 512)
    assert sum(one != other for one, other in pairwise(into)) == 3


def test_one_partition_is_number_0_and_named_as_ever() -> None:
    assert of_hash(hashed(1), 1) == of_derived(hashed(1), 10_000, 1) == 0
    assert message_name(b"\x0a" * 8, 3, 0) == "0a0a0a0a0a0a0a0a-3"
    assert message_name(b"\x0a" * 8, 3, 1) == "0a0a0a0a0a0a0a0a.1-3"
    assert partitions_of(None) == partitions_of(QueueSettings()) == 1
    assert partitions_of(QueueSettings(partitions=9)) == 9


@given(counts, st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 2_000))
def test_a_batch_is_cut_so_that_each_message_is_once_where_it_belongs(
    partitions: int, keys: list[int], first: int
) -> None:
    column = b"".join(hashed(key) if key else NO_KEY for key in keys)
    batch = Batch(hashed(0), first, len(keys), 10, Texts(tuple(map(str, keys))), keys=column)
    pieces = list(by_partition(batch, partitions))
    assert [seq for _, piece in pieces for seq in range(piece.first, piece.last + 1)] == list(
        range(first, first + len(keys))
    )
    for number, piece in pieces:
        for position in range(piece.count):
            at = KEY_HASH_BYTES * position
            key = piece.keys[at : at + KEY_HASH_BYTES]
            seq = piece.first + position
            expected = of_derived(hashed(0), seq, partitions)
            assert number == (expected if key == NO_KEY else of_hash(key, partitions))
    assert list(by_partition(replace(batch, keys=b""), 1)) == [(0, replace(batch, keys=b""))]


@given(counts, st.integers(0, 10_000))
def test_shares_are_together_at_least_the_limit_and_no_limit_stays_none(
    partitions: int, limit: int
) -> None:
    settings = QueueSettings(
        max_messages=limit, max_bytes=limit, retain_bytes=limit, partitions=partitions
    )
    shares = shares_of(settings)
    assert shares.max_messages == shares.max_bytes == shares.retain_bytes
    assert limit <= shares.max_messages * partitions < limit + partitions
