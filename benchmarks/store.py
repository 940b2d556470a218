# ruff: noqa: INP001 - a script to be run, no package
"""Measure the store on disk: python benchmarks/store.py [DIRECTORY]. Takes one to two minutes.

Prints the tables of docs/store.md as Markdown. DIRECTORY is where stores are
made and deleted again (default: the working directory); it decides which disk
is measured, so no tmpfs, please. Each figure is the median of ROUNDS runs; the
spread is printed beside it, and is what neighbours on the machine cost.
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import lmdb

from p2pmq.core.ids import PartitionKey
from p2pmq.core.packets.publishing import Batch
from p2pmq.core.records import (
    BatchRemoved,
    BatchStored,
    BatchTrimmed,
    SeenChanged,
    Space,
    StoredBodies,
)
from p2pmq.store.lmdb_store import LmdbStore
from p2pmq.wire.bodies import PackedBodies

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from p2pmq.core.records import Record
    from p2pmq.errors import StoreError

ROUNDS = 3
KIB, MIB = 1024, 1024**2
KEY = PartitionKey("bench", 0)
SESSION = b"session1"
IN_FLIGHT_WRITES = 64
IN_FLIGHT_BYTES = 8 * MIB
"""What the loop gives before it waits, as a node that is bounded by its outbox does."""
CELL_BYTES = 48 * MIB
CELL_BATCHES = 6000
BACKLOG = 1_000_000
BACKLOG_BATCH = 100
CHURN_DEPTH = 1500
CHURN_TURNS = 6


def say(line: str = "") -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def memory_mib() -> tuple[float, float]:
    """(own, mapped from files) memory of this process, in MiB."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, mapped = (int(rows[name].split()[0]) / KIB for name in ("RssAnon", "RssFile"))
    return own, mapped


def blob_of(messages: int, size: int) -> bytes:
    """Bodies that no file system compresses."""
    return PackedBodies.from_bodies([os.urandom(size) for _ in range(messages)]).blob


def stored(number: int, messages: int, size: int, blob: bytes) -> BatchStored:
    """The record of batch `number`; its bodies are not decoded, as those of a peer are not."""
    bodies = PackedBodies.from_blob(blob)
    batch = Batch(SESSION, 1 + number * messages, messages, messages * size, bodies)
    return BatchStored(Space.PARTITION, KEY, number, batch)


def removed(number: int, messages: int) -> tuple[BatchRemoved, SeenChanged]:
    """The records of batch `number` wholly acked."""
    seen = SeenChanged(KEY, SESSION, ((1, (number + 1) * messages),))
    return BatchRemoved(Space.PARTITION, KEY, number), seen


async def write_all(store: LmdbStore, writes: Iterable[Sequence[Record]], in_flight: int) -> float:
    """Give the writes, `in_flight` at a time; seconds until the last is durable."""
    room = asyncio.Semaphore(in_flight)

    def done(error: StoreError | None) -> None:
        if error is not None:
            raise error
        room.release()

    began = time.perf_counter()
    for records in writes:
        await room.acquire()
        store.write(records, done)
    for _ in range(in_flight):
        await room.acquire()
    return time.perf_counter() - began


class Lag:
    """How late the loop is, sampled all the time."""

    def __init__(self) -> None:
        self.samples_ms: list[float] = []
        self._task = asyncio.create_task(self._sample())

    async def _sample(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            self.samples_ms.append((time.perf_counter() - began) * 1000 - 1)

    def stop(self) -> float:
        """The 99th percentile in ms."""
        self._task.cancel()
        return statistics.quantiles(self.samples_ms, n=100)[-1] if self.samples_ms[2:] else 0.0


async def rates(path: Path, messages: int, size: int) -> tuple[float, float, float, float]:
    """(appended a second, removed a second, file / bodies, the loop's lag in ms)."""
    blob = blob_of(messages, size)
    batches = max(20, min(CELL_BATCHES, CELL_BYTES // len(blob)))
    in_flight = max(2, min(IN_FLIGHT_WRITES, IN_FLIGHT_BYTES // len(blob)))
    store = LmdbStore(path)
    await store.open()
    lag = Lag()
    records = [[stored(number, messages, size, blob)] for number in range(batches)]
    appended = await write_all(store, records, in_flight)
    late = lag.stop()
    with store._file._env.begin() as txn:  # noqa: SLF001 - what is used of the file is no API
        stats = [txn.stat(table) for table in store._file.tables]  # noqa: SLF001 - as above
    used = sum(s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"] for s in stats)
    took = await write_all(store, (removed(n, messages) for n in range(batches)), in_flight)
    await store.close()
    total = batches * messages
    return total / appended, total / took, used * stats[0]["psize"] / (total * size), late


def spread(values: Sequence[float]) -> str:
    """The median, and how far the runs lie apart."""
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


def table_of_rates(folder: Path) -> None:
    """Appends and removals."""
    say(f"### Written and removed a second\n\nMedian of {ROUNDS} runs (least-most).\n")
    say("| bytes | batch of | appended/s | removed/s | pages / bodies | loop lag p99, ms |")
    say("| --: | --: | --: | --: | --: | --: |")
    for size in (128, KIB, 16 * KIB):
        for messages in (1, 10, 100, 1000):
            runs = []
            for _ in range(ROUNDS):
                path = Path(tempfile.mkdtemp(dir=folder))
                runs.append(asyncio.run(rates(path, messages, size)))
                shutil.rmtree(path)
            appended, took, ratio, late = zip(*runs, strict=True)
            say(
                f"| {size:,} | {messages:,} | {spread(appended)} | {spread(took)} "
                f"| {statistics.median(ratio):.2f} | {statistics.median(late):.1f} |"
            )


async def latencies(path: Path, messages: int, writes: int) -> list[float]:
    """How long each write takes by itself, in µs."""
    blob = blob_of(messages, KIB)
    store = LmdbStore(path)
    await store.open()
    took = [
        await write_all(store, [[stored(number, messages, KIB, blob)]], 1) * 1e6
        for number in range(writes)
    ]
    await store.close()
    return took


def table_of_latencies(folder: Path) -> None:
    """One write at a time."""
    say("\n### One write at a time\n")
    say("| write | median, µs | p99, µs |\n| :-- | --: | --: |")
    for messages in (1, 100):
        path = Path(tempfile.mkdtemp(dir=folder))
        took = asyncio.run(latencies(path, messages, 2000))
        shutil.rmtree(path)
        p99 = statistics.quantiles(took, n=100)[-1]
        say(f"| {messages} x 1 KiB, durable | {statistics.median(took):,.0f} | {p99:,.0f} |")


async def backlog(path: Path) -> None:
    """A million messages: put down, found again, read."""
    blob = blob_of(BACKLOG_BATCH, KIB)
    batches = BACKLOG // BACKLOG_BATCH
    own_before, _ = memory_mib()
    store = LmdbStore(path)
    await store.open()
    writes = ([stored(number, BACKLOG_BATCH, KIB, blob)] for number in range(batches))
    took = await write_all(store, writes, IN_FLIGHT_WRITES)
    own, _ = memory_mib()
    say(f"| append {BACKLOG:,} | {took:.2f} s ({BACKLOG / took:,.0f}/s) |")
    say(f"| own memory, cache of 32 MiB included | +{own - own_before:.0f} MiB |")
    say(f"| file / bodies | {store.file_bytes / (BACKLOG * KIB):.3f} |")
    await store.close()
    del store
    gc.collect()
    own_before, mapped_before = memory_mib()
    began = time.perf_counter()
    store = LmdbStore(path)
    recovered = await store.open()
    took = time.perf_counter() - began
    own, mapped = memory_mib()
    say(f"| open again | {took * 1000:.0f} ms |")
    say(f"| own memory after opening | +{own - own_before:.1f} MiB |")
    say(f"| mapped pages of the file after opening | +{mapped - mapped_before:.1f} MiB |")
    began = time.perf_counter()
    count = 0
    for found in recovered.batches:
        where = found.batch.bodies
        assert isinstance(where, StoredBodies)
        count += len(store.read(where))
    took = time.perf_counter() - began
    say(f"| read it all, from the page cache, checksums checked | {count / took:,.0f}/s |")
    trims = [
        [
            BatchTrimmed(
                Space.PARTITION, KEY, found.number, ((found.batch.first, found.batch.first),)
            )
        ]
        for found in recovered.batches[: batches // 10]
    ]
    took = await write_all(store, trims, IN_FLIGHT_WRITES)
    say(f"| trim to 1 of {BACKLOG_BATCH}, rewritten | {len(trims) / took:,.0f} batches/s |")
    del recovered, trims
    removals = (removed(number, BACKLOG_BATCH) for number in range(batches))
    took = await write_all(store, removals, IN_FLIGHT_WRITES)
    say(f"| remove it all | {took:.2f} s ({BACKLOG / took:,.0f}/s) |")
    await store.close()


async def churn(path: Path, *, in_order: bool) -> list[float]:
    """File / live bodies after each turn of a store that stays as deep."""
    chance = random.Random(1)
    sizes = [1, 3, 10, 30, 100]
    blobs = {messages: blob_of(messages, KIB) for messages in sizes}
    store = LmdbStore(path, cache_bytes_max=0)
    await store.open()
    live: list[tuple[int, int]] = []
    ratios = []
    for number in range(CHURN_DEPTH * CHURN_TURNS):
        messages = chance.choice(sizes)
        records: list[Record] = [stored(number, messages, KIB, blobs[messages])]
        live.append((number, messages))
        if len(live) > CHURN_DEPTH:
            gone, gone_messages = live.pop(0 if in_order else chance.randrange(len(live)))
            records += removed(gone, gone_messages)
        await write_all(store, [records], 1)
        if number % CHURN_DEPTH == CHURN_DEPTH - 1:
            ratios.append(store.file_bytes / (sum(n for _, n in live) * KIB))
    await store.close()
    return ratios


def main() -> None:
    """Print all tables."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    python, libversion = platform.python_version(), ".".join(map(str, lmdb.version()))
    say(f"Python {python}, LMDB {libversion}, {os.cpu_count()} cores, {platform.machine()}.\n")
    say(f"### A backlog of {BACKLOG:,} messages of 1 KiB in batches of {BACKLOG_BATCH}\n")
    say("| what | measured |\n| :-- | --: |")
    path = Path(tempfile.mkdtemp(dir=folder))
    asyncio.run(backlog(path))
    shutil.rmtree(path)
    say()
    table_of_rates(folder)
    table_of_latencies(folder)
    say(f"\n### File size over live bodies, {CHURN_DEPTH:,} batches of 1 to 100 messages deep\n")
    heads = " | ".join(f"turn {turn}" for turn in range(1, CHURN_TURNS + 1))
    say(f"| removed | {heads} |\n| :-- |{' --: |' * CHURN_TURNS}")
    for name, in_order in (("oldest first", True), ("in random order", False)):
        path = Path(tempfile.mkdtemp(dir=folder))
        ratios = asyncio.run(churn(path, in_order=in_order))
        shutil.rmtree(path)
        say(f"| {name} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")


if __name__ == "__main__":
    main()
