"""Rows: what is packed is unpacked again, and what was changed is found."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmq.core.ids import PartitionKey
from p2pmq.core.packets.membership import Rumour
from p2pmq.core.packets.publishing import Death
from p2pmq.core.records import Space
from p2pmq.store.layout import (
    Kept,
    LayoutError,
    Meta,
    batch_key,
    horizon_key,
    pack_intervals,
    pack_meta,
    pack_partition,
    pack_rumour,
    pack_seen,
    pack_stamp,
    seal,
    split_batch_key,
    split_id_key,
    unpack_horizon,
    unpack_intervals,
    unpack_meta,
    unpack_partition,
    unpack_rumour,
    unpack_seen,
    unseal,
)

U64 = st.integers(0, 2**64 - 1)
PAIRS = st.lists(st.tuples(U64, U64), max_size=5).map(tuple)
METAS = st.builds(
    Meta,
    session=st.binary(min_size=8, max_size=8),
    first=U64,
    length=st.integers(1, 4096),
    size=U64,
    stamp=U64,
    alive=st.none() | PAIRS,
    kept=st.lists(st.builds(Kept, *[st.integers(0, 2**40)] * 3), min_size=1, max_size=5).map(tuple),
    unseen=PAIRS,
)
KEYS = st.integers(0, 2**64 - 1).map(lambda number: number.to_bytes(8, "big"))
"""Hashes of ordering keys."""
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
DEAD = st.builds(Death, TEXT, TEXT, TEXT, st.integers(0, 2**32 - 1))


@given(meta=METAS)
def test_a_batchs_row_is_read_as_it_was_written(meta: Meta) -> None:
    assert unpack_meta(pack_meta(meta)) == meta


@given(meta=METAS, key=KEYS, dead=st.just(()) | DEAD.map(lambda dead: (dead,)))
def test_the_row_of_messages_with_keys_is_read_as_it_was_written(
    meta: Meta, key: bytes, dead: tuple[Death, ...]
) -> None:
    keyed = meta._replace(keys=key * meta.length, dead=dead)
    assert unpack_meta(pack_meta(keyed)) == keyed


@given(meta=METAS, key=KEYS, data=st.data())
def test_a_cut_row_of_messages_with_keys_is_found(
    meta: Meta, key: bytes, data: st.DataObject
) -> None:
    row = pack_meta(meta._replace(keys=key * meta.length, unseen=()))
    with pytest.raises(LayoutError):
        unpack_meta(row[: data.draw(st.integers(0, len(row) - 1))])


@given(meta=METAS, dead=DEAD)
def test_the_row_of_dead_letters_is_read_as_it_was_written(meta: Meta, dead: Death) -> None:
    letters = meta._replace(dead=(dead,))
    assert unpack_meta(pack_meta(letters)) == letters


@given(meta=METAS, dead=DEAD, data=st.data())
def test_a_cut_row_of_dead_letters_is_found(meta: Meta, dead: Death, data: st.DataObject) -> None:
    letters = meta._replace(dead=(dead,), unseen=())
    row = pack_meta(letters)
    with pytest.raises(LayoutError):
        unpack_meta(row[: data.draw(st.integers(0, len(row) - 1))])


@given(seqs=PAIRS, touched=U64)
def test_what_was_seen_is_read_with_when_it_changed_and_an_older_row_without(
    seqs: tuple[tuple[int, int], ...], touched: int
) -> None:
    assert unpack_seen(pack_seen(seqs, touched)) == (seqs, touched)
    assert unpack_seen(pack_intervals(seqs)) == (seqs, 0)


def test_a_row_of_an_older_version_is_read_as_of_no_dead_letters() -> None:
    """As 0.1 wrote it before there were any: the bytes are fixed."""
    row = bytes.fromhex(
        "73657373696f6e310700000000000000030000001e0000000000000005000000000000004000000000000000"
        "ffffffff00000000000000000000000004"
    )
    meta = Meta(b"session1", 7, 3, 30, 5, None, (Kept(0, 3, 64),), priority=4)
    assert unpack_meta(row) == meta
    assert pack_meta(meta) == row


def test_a_horizon_is_read_as_it_was_written() -> None:
    key = PartitionKey("orders", 3)
    assert unpack_horizon(horizon_key(key), pack_stamp(2**63)) == (key, 2**63)
    with pytest.raises(LayoutError):
        unpack_horizon(horizon_key(key), b"short")


@given(pairs=PAIRS)
def test_intervals_are_read_as_they_were_written(pairs: tuple[tuple[int, int], ...]) -> None:
    assert unpack_intervals(pack_intervals(pairs)) == pairs


@given(space=st.sampled_from(Space), queue=st.text(), number=st.integers(0, 2**16 - 1))
def test_a_partition_is_read_as_it_was_written(space: Space, queue: str, number: int) -> None:
    key = PartitionKey(queue, number)
    assert unpack_partition(pack_partition(space, key)) == (space, key)


@given(value=st.binary(max_size=50), data=st.data())
def test_one_flipped_bit_of_a_sealed_row_is_found(value: bytes, data: st.DataObject) -> None:
    row = bytearray(seal(b"key", value))
    assert unseal(b"key", bytes(row)) == value
    bit = data.draw(st.integers(0, 8 * len(row) - 1))
    row[bit // 8] ^= 1 << bit % 8
    with pytest.raises(LayoutError):
        unseal(b"key", bytes(row))


def test_a_row_under_another_key_is_found() -> None:
    with pytest.raises(LayoutError):
        unseal(b"other", seal(b"key", b"value"))


@given(value=st.binary(max_size=200))
def test_no_row_whatever_it_holds_raises_anything_but_a_layout_error(value: bytes) -> None:
    unpackers = (unpack_meta, unpack_partition, unpack_intervals, unpack_rumour, split_batch_key)
    for unpack in (*unpackers, split_id_key):
        with contextlib.suppress(LayoutError):
            unpack(value)


def test_keys_sort_by_partition_and_number() -> None:
    keys = [batch_key(0, 255), batch_key(0, 256), batch_key(0, 2**40), batch_key(1, 0)]
    assert keys == sorted(keys)
    assert split_batch_key(keys[2]) == (0, 2**40)


def test_members_of_other_versions_are_read() -> None:
    rumour = Rumour(node_id=b"\xff" * 8, state=1, incarnation=7, name="n", addresses=("h:1", "i:2"))
    plain = json.loads(pack_rumour(rumour))
    assert unpack_rumour(pack_rumour(rumour)) == rumour
    newer = json.dumps({**plain, "colour": "red"}).encode()
    assert unpack_rumour(newer) == rumour
    del plain["weight"]
    assert unpack_rumour(json.dumps(plain).encode()) == rumour
