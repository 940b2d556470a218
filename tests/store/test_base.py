"""The contract of the port, held by both stores."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest

from p2pmq.core.ids import PartitionKey
from p2pmq.core.packets.publishing import Batch
from p2pmq.core.records import (
    BatchRemoved,
    BatchStored,
    BatchTrimmed,
    PartitionRemoved,
    SeenChanged,
    Space,
)
from p2pmq.store.lmdb_store import LmdbStore
from p2pmq.store.memory import MemoryStore
from tests.store.scene import ORDERS, SESSION, at, batch_of, body_of, give, stored, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from p2pmq.errors import StoreError
    from p2pmq.store.base import Store


@pytest.fixture(params=["memory", "disk", "disk without cache"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store
    if request.param == "memory":
        made = MemoryStore()
    else:
        made = LmdbStore(tmp_path / "data", cache_bytes_max=0 if "out" in request.param else 2**20)
    await made.open()
    yield made
    await made.close()


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_a_new_store_is_empty_and_draws_its_ids(kind: str, tmp_path: Path) -> None:
    stores: list[Store] = [
        MemoryStore() if kind == "memory" else LmdbStore(tmp_path / str(at)) for at in range(2)
    ]
    found = [await store.open() for store in stores]
    for store in stores:
        await store.close()
    assert {(len(one.node_id), len(one.store_id)) for one in found} == {(8, 8)}
    assert len({one.node_id for one in found} | {one.store_id for one in found}) == 4
    assert all(not (one.batches or one.seen or one.members) for one in found)
    assert [(one.boot, one.incarnation) for one in found] == [(1, 0), (1, 0)]


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_a_new_store_takes_the_node_id_it_is_given(kind: str, tmp_path: Path) -> None:
    given = b"8 bytes!"
    store: Store = (
        MemoryStore(node_id=given) if kind == "memory" else LmdbStore(tmp_path, node_id=given)
    )
    assert (await store.open()).node_id == given
    await store.close()


async def test_bodies_are_read_back_before_and_after_they_are_durable(store: Store) -> None:
    answer = give(store, stored(1, 1, 5))
    assert store.read(at(1, 1, 4)).bodies == [body_of(2), body_of(3), body_of(4)]
    assert await answer is None
    assert store.read(at(1, 0, 5)).bodies == [body_of(seq) for seq in range(1, 6)]
    assert store.read(at(1, 4, 5)).verify() == []


async def test_done_is_called_in_order_and_never_inside_write(store: Store) -> None:
    called: list[int] = []
    all_called = asyncio.Event()

    def done(number: int, error: StoreError | None) -> None:
        assert error is None
        called.append(number)
        if number == 99:
            all_called.set()

    for number in range(100):
        records = [stored(number, 1 + number, 1)] if number % 3 else []
        store.write(records, partial(done, number))
        assert number not in called
    await all_called.wait()
    assert called == list(range(100))


async def test_a_removed_batch_is_gone(store: Store) -> None:
    await write(store, stored(1, 1, 5), stored(2, 6, 5))
    await write(store, BatchRemoved(Space.PARTITION, ORDERS, 1))
    with pytest.raises(KeyError):
        store.read(at(1, 0, 1))
    assert store.read(at(2, 0, 1)).bodies == [body_of(6)]


async def test_what_never_was_is_a_key_error(store: Store) -> None:
    with pytest.raises(KeyError):
        store.read(at(1, 0, 1))
    await write(store, stored(1, 1, 1))
    with pytest.raises(KeyError):
        store.read(at(2, 0, 1))
    await write(store, BatchRemoved(Space.OUTBOX, ORDERS, 1))
    await write(store, BatchTrimmed(Space.PARTITION, ORDERS, 9, ((1, 1),)))


async def test_a_partition_that_goes_takes_its_batches_and_no_others(store: Store) -> None:
    invoices = PartitionKey("invoices", 0)
    await write(store, stored(1, 1, 5), stored(1, 1, 5, key=invoices))
    await write(store, stored(1, 1, 5, space=Space.OUTBOX), SeenChanged(ORDERS, SESSION, ((1, 5),)))
    await write(store, PartitionRemoved(ORDERS))
    with pytest.raises(KeyError):
        store.read(at(1, 0, 1))
    assert store.read(at(1, 0, 1, key=invoices)).bodies == [body_of(1)]
    outbox = BatchStored(Space.OUTBOX, ORDERS, 1, batch_of(1, 5))
    assert outbox.batch.bodies == store.read(at(1, 0, 5, key=invoices))
    await write(store, stored(7, 1, 5))
    assert store.read(at(7, 0, 1)).bodies == [body_of(1)]


async def test_positions_stay_those_of_the_batch_as_stored_when_it_is_trimmed(
    store: Store,
) -> None:
    await write(store, stored(1, 101, 100, 2000))
    alive = ((103, 110), (150, 150), (200, 200))
    await write(store, BatchTrimmed(Space.PARTITION, ORDERS, 1, alive))
    assert store.read(at(1, 2, 10)).bodies == [body_of(seq, 2000) for seq in range(103, 111)]
    await write(store, BatchTrimmed(Space.PARTITION, ORDERS, 1, ((105, 105), (200, 200))))
    assert store.read(at(1, 4, 5)).bodies == [body_of(105, 2000)]
    assert store.read(at(1, 99, 100)).bodies == [body_of(200, 2000)]


async def test_a_batch_can_be_stored_from_bodies_that_lie_in_the_store(store: Store) -> None:
    await write(store, stored(1, 1, 10))
    part = Batch(session=SESSION, first=4, count=3, size=300, bodies=at(1, 3, 6))
    await write(
        store,
        BatchStored(Space.PARTITION, ORDERS, 2, part),
        BatchRemoved(Space.PARTITION, ORDERS, 1),
    )
    assert store.read(at(2, 0, 3)).bodies == [body_of(4), body_of(5), body_of(6)]


async def test_closing_finishes_what_was_given(store: Store) -> None:
    answers = [give(store, stored(number, 1 + number, 1)) for number in range(50)]
    await store.close()
    assert [await answer for answer in answers] == [None] * 50
