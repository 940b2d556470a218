"""What the store's tests share: batches to write, and waiting for a write."""

from __future__ import annotations

import asyncio
import ctypes
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from p2pmq.core.ids import PartitionKey
from p2pmq.core.packets.publishing import Batch
from p2pmq.core.records import BatchStored, Space, StoredBodies
from p2pmq.wire.bodies import PackedBodies

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from p2pmq.core.records import Record
    from p2pmq.errors import StoreError
    from p2pmq.store.base import Store

ORDERS = PartitionKey("orders", 0)
SESSION = b"session1"


def body_of(seq: int, size: int = 100) -> bytes:
    """The body of a seq, which tells it from all others."""
    return (b"%d:" % seq).ljust(size, b"%d" % (seq % 10))


def batch_of(first: int, count: int, size: int = 100, session: bytes = SESSION) -> Batch:
    """Messages first … first + count - 1, each of `size` bytes."""
    bodies = PackedBodies.from_bodies([body_of(first + at, size) for at in range(count)])
    return Batch(session=session, first=first, count=count, size=size * count, bodies=bodies)


def stored(
    number: int,
    first: int,
    count: int,
    size: int = 100,
    *,
    key: PartitionKey = ORDERS,
    space: Space = Space.PARTITION,
    session: bytes = SESSION,
) -> BatchStored:
    """The record of a new batch."""
    return BatchStored(space, key, number, batch_of(first, count, size, session))


def at(number: int, start: int, stop: int, key: PartitionKey = ORDERS) -> StoredBodies:
    """Where bodies of a batch lie."""
    return StoredBodies(Space.PARTITION, key, number, start, stop)


def give(store: Store, *records: Record) -> asyncio.Future[StoreError | None]:
    """Write, and get a future of what `done` is called with."""
    answer: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
    store.write(records, answer.set_result)
    return answer


async def write(store: Store, *records: Record) -> None:
    """Write durably; fail otherwise."""
    error = await give(store, *records)
    assert error is None, error


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of that size; the test is skipped where none can be mounted."""
    libc = ctypes.CDLL(None, use_errno=True)
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    target = os.fsencode(path)
    if libc.mount(b"tmpfs", target, b"tmpfs", 0, f"size={size}".encode()) != 0:
        pytest.skip(f"a small file system cannot be mounted: {os.strerror(ctypes.get_errno())}")
    try:
        yield path
    finally:
        assert libc.umount2(target, 2) == 0  # MNT_DETACH
