"""The store on disk: what it finds again, and how it writes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import lmdb
import pytest

from p2pmq.core.records import (
    BatchRemoved,
    BatchTrimmed,
    Recovered,
    SeenChanged,
    Space,
)
from p2pmq.errors import DataDirectoryError, DataDirectoryLockedError, StoreError
from p2pmq.store.datafile import STEP_BYTES_MIN, DataFile
from p2pmq.store.lmdb_store import LmdbStore
from tests.store.scene import ORDERS, SESSION, at, body_of, give, stored, write

if TYPE_CHECKING:
    from pathlib import Path

    from p2pmq.store.writes import Group

HOLD = """
import asyncio, sys
from p2pmq.store.lmdb_store import LmdbStore

async def main():
    await LmdbStore(sys.argv[1]).open()
    print("open", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""


async def reopened(path: Path) -> Recovered:
    """What another start of the node finds."""
    store = LmdbStore(path)
    recovered = await store.open()
    await store.close()
    return recovered


async def test_a_store_comes_back_with_its_ids_and_a_higher_boot_number(tmp_path: Path) -> None:
    first, second, third = [await reopened(tmp_path) for _ in range(3)]
    assert first.node_id == second.node_id == third.node_id
    assert first.store_id == second.store_id == third.store_id
    assert [first.boot, second.boot, third.boot] == [1, 2, 3]


async def test_another_node_id_than_that_of_the_store_is_refused(tmp_path: Path) -> None:
    await reopened(tmp_path)
    with pytest.raises(DataDirectoryError, match="belongs to node"):
        await LmdbStore(tmp_path, node_id=b"8 bytes!").open()


async def test_a_second_process_is_locked_out_and_told_by_whom(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, str(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"open\n"
    with pytest.raises(DataDirectoryLockedError) as caught:
        await LmdbStore(tmp_path).open()
    assert caught.value.pid == process.pid
    assert str(process.pid) in str(caught.value)
    process.kill()
    await process.wait()
    assert (await reopened(tmp_path)).boot == 2


async def test_a_second_store_in_the_same_process_is_locked_out_until_the_first_closes(
    tmp_path: Path,
) -> None:
    store = LmdbStore(tmp_path)
    await store.open()
    refused = LmdbStore(tmp_path)
    with pytest.raises(DataDirectoryLockedError):
        await refused.open()
    await refused.close()
    await store.close()
    await store.close()
    assert (await reopened(tmp_path)).boot == 2


async def test_the_map_grows_with_what_is_written(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, cache_bytes_max=0)
    await store.open()
    answers = []
    for number in range(60):  # 60 x 400 KB: several steps of growth, some within one group
        answers.append(give(store, stored(number, 1 + 4 * number, 4, 100_000)))
        if number % 10 == 9:
            assert await answers[-1] is None
            assert store.read(at(number, 3, 4)).bodies == [body_of(4 * number + 4, 100_000)]
    assert [await answer for answer in answers] == [None] * 60
    assert store.file_bytes > 5 * STEP_BYTES_MIN
    await store.close()
    assert len((await reopened(tmp_path)).batches) == 60


async def test_pages_of_removed_batches_are_used_again(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, cache_bytes_max=0)
    await store.open()
    for number in range(200):
        await write(store, stored(number, 1 + number, 1, 200_000))
        if number >= 5:
            await write(store, BatchRemoved(Space.PARTITION, ORDERS, number - 5))
    assert store.file_bytes <= 2 * STEP_BYTES_MIN
    await store.close()


async def test_a_batch_with_few_survivors_is_rewritten_and_read_by_its_old_positions(
    tmp_path: Path,
) -> None:
    store = LmdbStore(tmp_path, cache_bytes_max=0)
    await store.open()
    await write(store, stored(1, 1, 100, 2000))
    await write(store, BatchTrimmed(Space.PARTITION, ORDERS, 1, ((11, 14), (100, 100))))
    with store._file._env.begin() as txn:
        assert txn.stat(store._file.tables.bodies)["overflow_pages"] <= 4
    with pytest.raises(KeyError):
        store.read(at(1, 0, 1))
    with pytest.raises(KeyError):
        store.read(at(1, 10, 15))
    await store.close()
    recovered = await (again := LmdbStore(tmp_path)).open()
    assert recovered.batches[0].alive == ((11, 14), (100, 100))
    assert recovered.batches[0].batch.count == 100
    assert again.read(at(1, 10, 14)).bodies == [body_of(seq, 2000) for seq in range(11, 15)]
    assert again.read(at(1, 99, 100)).bodies == [body_of(100, 2000)]
    await again.close()


async def test_a_batch_stored_and_removed_in_one_group_never_reaches_the_disk(
    tmp_path: Path,
) -> None:
    store = LmdbStore(tmp_path)
    await store.open()
    answers = []
    for number in range(50):
        answers.append(give(store, stored(number, 1 + number, 1, 1_000_000)))
        seen = SeenChanged(ORDERS, SESSION, ((1, 1 + number),))
        answers.append(give(store, BatchRemoved(Space.PARTITION, ORDERS, number), seen))
    assert [await answer for answer in answers] == [None] * 100
    assert store.file_bytes < 5 * STEP_BYTES_MIN  # 50 MB were stored
    await store.close()
    recovered = await reopened(tmp_path)
    assert recovered.batches == ()
    assert recovered.seen == (SeenChanged(ORDERS, SESSION, ((1, 50),)),)


async def test_after_a_failed_commit_nothing_is_written_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LmdbStore(tmp_path)
    await store.open()
    await write(store, stored(1, 1, 1))
    commits = []

    def commit_that_fails(self: DataFile, group: Group) -> list[StoreError | None]:
        commits.append(group)
        raise self._error_of(lmdb.Error("mdb_txn_commit: Input/output error"))

    monkeypatch.setattr(DataFile, "commit", commit_that_fails)
    first = await give(store, stored(2, 2, 1))
    monkeypatch.undo()
    second = await give(store, stored(3, 3, 1))
    assert type(first) is StoreError
    assert second is first
    assert len(commits) == 1
    assert store.read(at(1, 0, 1)).bodies == [body_of(1)]
    with pytest.raises(KeyError):
        store.read(at(2, 0, 1))
    await store.close()
    assert [found.number for found in (await reopened(tmp_path)).batches] == [1]


async def test_a_done_that_raises_does_not_keep_others_from_being_called(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    await store.open()
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    store.write([stored(1, 1, 1)], lambda _: [].pop())
    assert await give(store, stored(2, 2, 1)) is None
    assert len(reported) == 1
    await store.close()
