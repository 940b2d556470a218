"""A node's end is known to whoever waits for it, and so is its reason."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from p2pmq import ClosedNodeError, Node, StoreError
from p2pmq.core.effects import Buried
from p2pmq.core.ids import PartitionKey, Run

if TYPE_CHECKING:
    from p2pmq.sim import Mesh


async def test_a_node_whose_disk_fails_tells_whoever_waits_for_its_end(mesh: Mesh) -> None:
    (node,) = await mesh.start("shop")
    waiting = asyncio.create_task(node.wait_stopped())
    mesh.disk_failing("shop")
    with pytest.raises((StoreError, ClosedNodeError)):
        await node.publish("orders", b"1")
    with pytest.raises(StoreError, match="EIO"):
        await waiting


async def test_waiting_for_the_end_of_a_node_that_is_closed_raises_nothing(mesh: Mesh) -> None:
    (node,) = await mesh.start("shop")
    waiting = asyncio.create_task(node.wait_stopped())
    await node.close()
    await waiting


@pytest.mark.parametrize(("leaf", "warned"), [(False, True), (True, False)])
async def test_a_full_node_without_a_disk_says_at_start_what_its_confirms_are_worth(
    leaf: bool,
    warned: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Node("shop", mdns=False, store="memory", leaf=leaf):
        pass
    assert ("keeps its queues in memory" in caplog.text) is warned


async def test_dead_letters_are_counted_by_their_reason_and_said(
    caplog: pytest.LogCaptureFixture, mesh: Mesh
) -> None:
    (node,) = await mesh.start("shop")
    runs = (Run(b"session1", 1, 4), Run(b"session2", 7, 7))
    node.on_notice(Buried(PartitionKey("orders", 0), runs, "stale-replica", "orders.dlq"))
    assert node.counters["stale_replica"] == 5
    assert node.counters["dead_letter_dropped"] == 0
    assert "5 messages moved to 'orders.dlq' (stale-replica)" in caplog.text


async def test_what_has_no_dead_letter_queue_is_counted_as_dropped_and_said_with_the_reason(
    caplog: pytest.LogCaptureFixture, mesh: Mesh
) -> None:
    (node,) = await mesh.start("shop")
    runs = (Run(b"session1", 1, 4),)
    node.on_notice(Buried(PartitionKey("a.dlq", 0), runs, "stale-replica", "", "it has none"))
    assert (node.counters["stale_replica"], node.counters["dead_letter_dropped"]) == (4, 4)
    assert "queue 'a.dlq': 4 messages dropped (stale-replica): it has none" in caplog.text
