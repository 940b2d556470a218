"""The file: damaged, cut, full, another's."""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING

import lmdb
import pytest

from p2pmq.core.records import BatchRemoved, BatchStored, BatchTrimmed, SeenChanged, Space
from p2pmq.errors import (
    DataDirectoryError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
)
from p2pmq.store.datafile import FILE_NAME
from p2pmq.store.layout import seal
from p2pmq.store.lmdb_store import LmdbStore
from p2pmq.store.recovery import FORMAT_KEY
from p2pmq.wire.bodies import PackedBodies
from tests.store.scene import ORDERS, SESSION, at, body_of, give, small_disk, stored, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", "16m") as path:
        yield path


async def filled(path: Path) -> bytes:
    """A store with ten batches of ten messages; its file's bytes."""
    store = LmdbStore(path)
    await store.open()
    for number in range(10):
        await write(store, stored(number, 1 + 10 * number, 10, 1000))
    await store.close()
    return (path / FILE_NAME).read_bytes()


async def test_a_flipped_bit_costs_one_message(tmp_path: Path) -> None:
    content = bytearray(await filled(tmp_path))
    flipped = content.index(body_of(34, 1000)) + 700
    content[flipped] ^= 0x10
    (tmp_path / FILE_NAME).write_bytes(content)
    store = LmdbStore(tmp_path)
    recovered = await store.open()
    assert len(recovered.batches) == 10
    for number in range(10):
        if number != 3:
            assert len(store.read(at(number, 0, 10))) == 10
    with pytest.raises(StoreCorruptError) as caught:
        store.read(at(3, 2, 9))  # 33 … 39
    assert caught.value.bad == (1,)
    assert store.read(at(3, 0, 3)).bodies == [body_of(seq, 1000) for seq in (31, 32, 33)]
    assert store.read(at(3, 4, 10)).bodies == [body_of(seq, 1000) for seq in range(35, 41)]
    with pytest.raises(StoreCorruptError) as caught:
        store.read(at(3, 3, 4))
    assert caught.value.bad == (0,)
    await store.close()


async def test_bodies_that_cannot_even_be_unpacked_are_all_bad(tmp_path: Path) -> None:
    content = bytearray(await filled(tmp_path))
    start = content.index(body_of(31, 1000)) - 6
    content[start : start + 6] = b"\xc1" * 6
    (tmp_path / FILE_NAME).write_bytes(content)
    store = LmdbStore(tmp_path)
    await store.open()
    with pytest.raises(StoreCorruptError) as caught:
        store.read(at(3, 4, 7))
    assert caught.value.bad == (0, 1, 2)
    assert len(store.read(at(4, 0, 10))) == 10
    await store.close()


async def test_a_copy_of_damaged_bodies_is_refused_and_later_writes_go_on(tmp_path: Path) -> None:
    content = bytearray(await filled(tmp_path))
    content[content.index(body_of(34, 1000)) + 700] ^= 0x10
    (tmp_path / FILE_NAME).write_bytes(content)
    store = LmdbStore(tmp_path)
    recovered = await store.open()
    copy = BatchStored(Space.PARTITION, ORDERS, 21, recovered.batches[3].batch)
    refused = give(store, stored(20, 900, 1), copy)
    later = give(store, stored(22, 910, 1))
    error = await refused
    assert isinstance(error, StoreCorruptError)
    assert error.bad == (3,)
    assert await later is None
    for number in (20, 21):
        with pytest.raises(KeyError):
            store.read(at(number, 0, 1))
    await store.close()


@pytest.mark.parametrize("row", ["meta", "seen", "partitions"])
async def test_a_flipped_bit_in_a_row_without_bodies_stops_the_opening(
    row: str, tmp_path: Path
) -> None:
    store = LmdbStore(tmp_path)
    await store.open()
    await write(store, stored(1, 77, 1), SeenChanged(ORDERS, SESSION, ((1, 77),)))
    await store.close()
    with lmdb.open(str(tmp_path), max_dbs=8) as env:
        table = env.open_db(row.encode())
        with env.begin(write=True, db=table) as txn:
            cursor = txn.cursor()
            assert cursor.first()
            key, value = bytes(cursor.key()), bytearray(cursor.value())
            value[3] ^= 4
            txn.put(key, bytes(value))
    with pytest.raises(StoreCorruptError, match="move the directory away"):
        await LmdbStore(tmp_path).open()


@pytest.mark.parametrize("length", [1, 100, 4096, 8192, 12_288, 65_536])
async def test_a_cut_file_is_an_error_and_no_crash(length: int, tmp_path: Path) -> None:
    content = await filled(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(content[:length])
    with pytest.raises((StoreCorruptError, DataDirectoryError)):
        await LmdbStore(tmp_path).open()


@pytest.mark.parametrize("content", [b"x" * 10_000, b"\0" * 100_000, b"\xff" * 3])
async def test_a_file_of_something_else_is_an_error_and_no_crash(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises((StoreCorruptError, DataDirectoryError)):
        await LmdbStore(tmp_path).open()


async def test_a_file_that_was_only_just_made_is_a_new_store(tmp_path: Path) -> None:
    lmdb.open(str(tmp_path), map_size=2**20).close()  # killed before the first commit
    store = LmdbStore(tmp_path)
    assert (await store.open()).boot == 1
    await store.close()


async def test_another_format_is_refused_with_both_numbers(tmp_path: Path) -> None:
    await filled(tmp_path)
    with lmdb.open(str(tmp_path), max_dbs=8) as env:
        table = env.open_db(b"identity")
        with env.begin(write=True, db=table) as txn:
            txn.put(FORMAT_KEY, seal(FORMAT_KEY, (99).to_bytes(8, "big")))
    with pytest.raises(DataDirectoryError, match=r"format 99, and this p2pmq reads format 1"):
        await LmdbStore(tmp_path).open()


async def test_anothers_lmdb_database_is_left_alone(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path)) as env, env.begin(write=True) as txn:
        txn.put(b"a", b"b")
    with pytest.raises(DataDirectoryError, match="something else"):
        await LmdbStore(tmp_path).open()
    with lmdb.open(str(tmp_path)) as env, env.begin() as txn:
        assert dict(txn.cursor()) == {b"a": b"b"}


async def test_a_32_bit_python_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    with pytest.raises(StoreError, match="64-bit"):
        await LmdbStore(tmp_path).open()


# ------------------------------------------------------------------------------------ a full disk


async def fill(store: LmdbStore, size: int = 100_000) -> int:
    """Store batches of one message until one is refused; how many were stored."""
    for number in range(1, 10_000):
        error = await give(store, stored(number, number, 1, size))
        if error is not None:
            assert isinstance(error, StoreFullError)
            return number - 1
    raise AssertionError("the disk is never full")


async def test_a_full_disk_refuses_messages_serves_and_removes_and_recovers(disk: Path) -> None:
    store = LmdbStore(disk, cache_bytes_max=0)
    await store.open()
    count = await fill(store)
    assert count > 100
    assert store.read(at(count, 0, 1)).bodies == [body_of(count, 100_000)]
    with pytest.raises(KeyError):
        store.read(at(count + 1, 0, 1))
    for number in range(1, 31):
        await write(
            store,
            BatchRemoved(Space.PARTITION, ORDERS, number),
            SeenChanged(ORDERS, SESSION, ((1, number),)),
        )
    for number in range(20_000, 20_010):  # what was freed is room again
        await write(store, stored(number, number, 1, 100_000))
    await store.close()
    store = LmdbStore(disk)
    recovered = await store.open()
    numbers = [one.number for one in recovered.batches]
    assert numbers == [*range(31, count + 1), *range(20_000, 20_010)]
    assert recovered.seen == (SeenChanged(ORDERS, SESSION, ((1, 30),)),)
    await store.close()


async def test_a_disk_that_stays_full_lets_messages_be_removed_for_ever(disk: Path) -> None:
    store = LmdbStore(disk, cache_bytes_max=0)
    await store.open()
    count = await fill(store, 10_000)
    number = 10_000
    for gone in range(1, 401):  # each round: one is removed, and what then fits is stored
        await write(store, BatchRemoved(Space.PARTITION, ORDERS, gone))
        while await give(store, stored(number, number, 1, 10_000)) is None:
            number += 1
    assert number > 10_000 + 300
    for gone in range(401, count + 1):
        await write(store, BatchTrimmed(Space.PARTITION, ORDERS, gone, ((gone, gone),)))
        await write(store, BatchRemoved(Space.PARTITION, ORDERS, gone))
    await store.close()


async def test_room_that_returns_is_used(disk: Path) -> None:
    other = disk / "other"
    other.write_bytes(b"x" * 8_000_000)
    store = LmdbStore(disk / "data")
    await store.open()
    count = await fill(store)
    other.unlink()
    for number in range(500, 520):
        await write(store, stored(number, number, 1, 100_000))
    await store.close()
    store = LmdbStore(disk / "data")
    assert len((await store.open()).batches) == count + 20
    await store.close()


async def test_on_a_full_disk_the_small_writes_of_a_refused_group_pass(disk: Path) -> None:
    store = LmdbStore(disk)
    await store.open()
    await fill(store)
    answers = [
        give(store, stored(20_000, 20_000, 1, 2_000_000)),
        give(store, BatchRemoved(Space.PARTITION, ORDERS, 1)),
        give(store, stored(20_001, 20_001, 1, 2_000_000)),
        give(store, SeenChanged(ORDERS, SESSION, ((1, 1),))),
    ]
    errors = [await answer for answer in answers]
    assert [isinstance(error, StoreFullError) for error in errors] == [True, False, True, False]
    assert errors[1] is errors[3] is None
    await store.close()


async def test_seen_claims_no_message_that_a_full_disk_refused(disk: Path) -> None:
    store = LmdbStore(disk)
    await store.open()
    count = await fill(store)
    refused = give(store, stored(20_000, 5001, 10, 200_000))
    claim = give(store, SeenChanged(ORDERS, SESSION, ((1, count), (5001, 5020))))
    assert isinstance(await refused, StoreFullError)
    assert await claim is None
    await store.close()
    store = LmdbStore(disk)
    recovered = await store.open()
    assert recovered.seen == (SeenChanged(ORDERS, SESSION, ((1, count), (5011, 5020))),)
    await store.close()


async def test_what_a_refused_write_would_have_removed_stays(disk: Path) -> None:
    store = LmdbStore(disk)
    await store.open()
    await fill(store)
    await write(store, *(BatchRemoved(Space.PARTITION, ORDERS, gone) for gone in range(1, 9)))
    large, small, larger = (
        stored(20_000, 20_000, 1, 2_000_000),
        stored(20_001, 20_001, 1),
        stored(20_002, 20_002, 1, 2_000_000),
    )
    for one in (large, small, larger):
        assert isinstance(one.batch.bodies, PackedBodies)
        assert one.batch.bodies.blob  # packed now: the three writes are to make one group
    too_large = give(store, large)
    fits = give(store, small)
    moved = give(store, BatchRemoved(Space.PARTITION, ORDERS, 20_001), larger)
    assert isinstance(await too_large, StoreFullError)
    assert await fits is None
    assert isinstance(await moved, StoreFullError)
    assert store.read(at(20_001, 0, 1)).bodies == [body_of(20_001)]
    await store.close()


async def test_a_full_store_opens_again(disk: Path) -> None:
    for _ in range(5):
        store = LmdbStore(disk)
        await store.open()
        for number in range(1, 10_000):
            if await give(store, stored(number, number, 1, 100_000)) is not None:
                break
        await store.close()


async def test_a_disk_too_small_for_a_store_is_said_to_be_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "tiny", "16k") as path, pytest.raises(StoreError):
        await LmdbStore(path).open()


async def test_a_disk_that_is_full_in_the_middle_of_a_commit_is_full_and_not_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LmdbStore(tmp_path)
    await store.open()
    apply = store._file._apply
    failures = iter([lmdb.DiskError("mdb_txn_commit: " + errno.errorcode[errno.ENOSPC])] * 2)

    def apply_and_fail(*args: object, **kwargs: object) -> None:
        apply(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they came
        for failure in failures:
            raise failure

    monkeypatch.setattr(store._file, "_apply", apply_and_fail)
    assert isinstance(await give(store, stored(1, 1, 1)), StoreFullError)
    await write(store, SeenChanged(ORDERS, SESSION, ((1, 1),)))
    await write(store, stored(2, 2, 1))
    await store.close()
