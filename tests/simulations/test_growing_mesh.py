"""A mesh that grows from one node to three by the defaults: copies follow, and what is said."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from p2pmq.core.ids import PartitionKey
from p2pmq.errors import NotCommittedError

if TYPE_CHECKING:
    from p2pmq.sim.mesh import Mesh

KEY = PartitionKey("orders", 0)
PAIR = "two full nodes"


def copies_of(mesh: Mesh, *names: str) -> list[int]:
    """How many messages of the queue each of these nodes holds."""
    found = []
    for name in names:
        machine = mesh.host(name).machine
        assert machine is not None
        partition = machine.owner.partitions.get(KEY)
        found.append(partition.pending.count if partition is not None else 0)
    return found


async def test_a_lone_node_commits_alone_and_says_nothing(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    (a,) = await mesh.start("a")
    receipt = await a.publish("orders", b"1")
    assert (receipt.committed, receipt.copies) == (True, 1)
    await mesh.run_for(seconds=10)
    assert PAIR not in caplog.text
    assert [m.body async for m in a.drain("orders")] == [b"1"]


async def test_what_a_lone_node_confirmed_is_copied_to_the_second_and_the_third(
    mesh: Mesh,
) -> None:
    (a,) = await mesh.start("a")
    for number in range(50):
        await a.publish("orders", number)
    await mesh.start("b")
    await mesh.settle()
    assert copies_of(mesh, "a", "b") == [50, 50]
    await mesh.start("c")
    await mesh.settle()
    assert copies_of(mesh, "a", "b", "c") == [50, 50, 50]
    mesh.crash("a")
    bodies = [m.body async for m in mesh.node("c").drain("orders")]
    assert bodies == list(range(50))
    mesh.check(duplicates_max=0, stuck_max=0)


async def test_thousands_of_batches_of_one_message_are_copied_too(mesh: Mesh) -> None:
    """A packet holds 4,096 batches at most: once, more than that in a row were never copied."""
    (a,) = await mesh.start("a")
    for number in range(5_000):
        await a.publish("orders", number, confirm="none")
        await asyncio.sleep(0)
    await a.flush()
    machine = mesh.host("a").machine
    assert machine is not None
    assert len(machine.owner.partitions[KEY].batches) == 5_000
    await mesh.start("b")
    await mesh.settle()
    assert copies_of(mesh, "a", "b") == [5_000, 5_000]
    mesh.crash("a")
    mesh.wipe("a")
    await mesh.restart("a")
    await mesh.settle()
    assert copies_of(mesh, "a", "b") == [5_000, 5_000]


async def test_with_two_nodes_neither_may_be_away_and_the_log_says_so_once(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    a, _ = await mesh.start("a", "b")
    receipt = await a.publish("orders", b"both")
    assert receipt.copies == 2
    await mesh.run_for(seconds=60)
    said = [text for text in caplog.messages if PAIR in text]
    assert len(said) == 2, "each node says it, once"
    assert "min_copies=1" in said[0]

    mesh.crash("b")
    await mesh.run_for(seconds=30)
    with pytest.raises(NotCommittedError):
        await a.publish("orders", b"waits", timeout=5)
    await mesh.restart("b")
    await mesh.settle()
    assert sorted([m.body async for m in a.drain("orders")]) == [b"both", b"waits"]
    mesh.check(duplicates_max=0, stuck_max=0)


async def test_of_three_nodes_any_one_may_be_away_and_nothing_is_said(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("a", "b", "c")
    await mesh.start(*names)
    for away in names:
        there = next(name for name in names if name != away)
        mesh.crash(away)
        receipt = await mesh.node(there).publish("orders", away.encode(), timeout=30)
        assert receipt.copies == 2
        await mesh.restart(away)
        await mesh.settle()
    assert PAIR not in caplog.text
    assert sorted([m.body async for m in mesh.node("a").drain("orders")]) == [b"a", b"b", b"c"]
    mesh.check(duplicates_max=0, stuck_max=0)
