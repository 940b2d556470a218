"""The store in memory: what is its own beside the contract (test_base)."""

from __future__ import annotations

from p2pmq.store.memory import MemoryStore
from tests.store.scene import stored, write


async def test_it_is_empty_and_another_store_when_it_is_opened_again() -> None:
    store = MemoryStore(node_id=b"8 bytes!")
    first = await store.open()
    await write(store, stored(1, 1, 1))
    await store.close()
    second = await store.open()
    assert first.node_id == second.node_id == b"8 bytes!"
    assert first.store_id != second.store_id
    assert second.batches == ()
    await store.close()
