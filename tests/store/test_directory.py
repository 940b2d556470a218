"""The data directory: made, private, locked; or an error that says why not."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

import pytest

from p2pmq.errors import DataDirectoryError, DataDirectoryLockedError
from p2pmq.store.directory import DirectoryLock, make_directory, sync_directory
from p2pmq.store.lmdb_store import LmdbStore
from tests.store.scene import small_disk

if TYPE_CHECKING:
    from pathlib import Path

MS_RDONLY, MS_REMOUNT = 1, 32


def test_a_directory_is_made_with_its_parents_and_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c"
    assert make_directory(path)
    assert path.stat().st_mode & 0o777 == 0o700
    assert not make_directory(path)
    sync_directory(path)


def test_a_file_in_its_place_or_on_its_way_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(DataDirectoryError, match="not a directory"):
        make_directory(file)
    with pytest.raises(DataDirectoryError, match="part of the path is a file"):
        make_directory(file / "below")


async def test_a_store_on_a_file_says_so_when_it_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    store = LmdbStore(file)
    with pytest.raises(DataDirectoryError, match="not a directory"):
        await store.open()
    await store.close()


async def test_a_read_only_directory_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as path:
        libc = ctypes.CDLL(None)
        target = os.fsencode(path)
        assert libc.mount(b"tmpfs", target, b"tmpfs", MS_RDONLY | MS_REMOUNT, b"") == 0
        for below in (path, path / "data"):
            with pytest.raises(DataDirectoryError, match="Read-only"):
                await LmdbStore(below).open()


def test_a_lock_is_held_until_it_is_released(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    with pytest.raises(DataDirectoryLockedError) as caught:
        DirectoryLock(tmp_path)
    assert caught.value.pid == os.getpid()
    lock.release()
    lock.release()
    DirectoryLock(tmp_path).release()
