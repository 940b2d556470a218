"""kill -9 at random moments: what was said to be durable is there, and nothing else half."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from typing import TYPE_CHECKING

import pytest

from p2pmq.core.records import BatchRemoved, SeenChanged, Space
from p2pmq.store.lmdb_store import LmdbStore
from tests.store.scene import ORDERS, SESSION, body_of, stored

if TYPE_CHECKING:
    from pathlib import Path

    from p2pmq.core.records import Record, StoredBodies
    from p2pmq.errors import StoreError

KILLS = 100
PER_BATCH = 3


async def write_until_killed(path: Path, start: int, told: int) -> None:
    """Store batch after batch, remove every second one, and tell each write that is durable."""
    store = LmdbStore(path)
    await store.open()
    given = asyncio.Semaphore(64)

    def done(number: int, error: StoreError | None) -> None:
        assert error is None
        os.write(told, number.to_bytes(8, "big"))
        given.release()

    for number in range(start, 2**60):
        await given.acquire()
        first = 1 + PER_BATCH * number
        records: list[Record] = [stored(number, first, PER_BATCH, 200 + 5000 * (number % 5 == 0))]
        if number % 2:
            gone = number - 1 if number % 4 == 1 else max(0, number - 33)
            records += [BatchRemoved(Space.PARTITION, ORDERS, gone)]
            records += [SeenChanged(ORDERS, SESSION, ((1, first - 1),))]
        store.write(records, lambda error, number=number: done(number, error))  # type: ignore[misc]  # mypy infers no default
        if number % 7 == 0:
            await asyncio.sleep(0)


def kill_one(path: Path, start: int, chance: random.Random) -> int:
    """Run a writer, kill it, and give back the last number that it said was durable."""
    reader, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            asyncio.run(write_until_killed(path, start, told))
        finally:
            os._exit(1)
    os.close(told)
    last = start - 1
    wanted = chance.randrange(150)
    with os.fdopen(reader, "rb") as pipe:
        for _ in range(wanted):  # random moments, counted in writes: no clock
            number = pipe.read(8)
            assert len(number) == 8, "the writer ended by itself"
            last = int.from_bytes(number, "big")
        os.kill(pid, signal.SIGKILL)
        rest = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    whole = len(rest) // 8 * 8
    return int.from_bytes(rest[whole - 8 : whole], "big") if whole else last


async def check(path: Path, durable: int) -> int:
    """Open what the dead left; the number to go on from."""
    store = LmdbStore(path)
    recovered = await store.open()
    found = {one.number: one for one in recovered.batches}
    last = max(found, default=-1)
    assert last >= durable
    for number in range(max(0, last - 200), last + 1):
        gone = number % 2 == 0 and (
            (number % 4 == 0 and number + 1 <= last) or (number + 33 <= last)
        )
        assert (number not in found) is gone, (number, last, durable)
    # Writes are whole: `seen` was written together with the batch that follows what it covers.
    odd = last if last % 2 else last - 1
    if recovered.seen:
        assert recovered.seen == (SeenChanged(ORDERS, SESSION, ((1, PER_BATCH * odd),)),)
    for one in recovered.batches[-40:]:
        where: StoredBodies = one.batch.bodies  # type: ignore[assignment]  # so it is at start
        size = one.batch.size // PER_BATCH
        wanted = [body_of(one.batch.first + offset, size) for offset in range(PER_BATCH)]
        assert store.read(where).bodies == wanted
    await store.close()
    return last + 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_a_hundred_times_a_store_keeps_what_was_durable_and_nothing_half(
    tmp_path: Path,
) -> None:
    chance = random.Random(os.environ.get("P2PMQ_SEED", "kills"))
    start = 0
    for _ in range(KILLS):
        durable = kill_one(tmp_path, start, chance)
        start = asyncio.run(check(tmp_path, durable))
