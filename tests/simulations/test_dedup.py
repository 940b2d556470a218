"""An id that was published of late is not taken again, whoever owns the queue by then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from p2pmq.errors import NotCommittedError, UsageError
from p2pmq.sim.mesh import seeds
from tests.simulations.kit import bodies_of

if TYPE_CHECKING:
    from p2pmq.sim.mesh import Mesh

NAMES = ("shop", "bank", "depot")


def owner_and_others(mesh: Mesh) -> tuple[str, list[str]]:
    owner = mesh.nodes[0].owner_of("orders")
    assert owner is not None
    return owner, [name for name in mesh.names if name != owner]


@seeds(5)
async def test_the_first_of_an_id_is_kept_and_the_others_are_confirmed(mesh: Mesh) -> None:
    shop, bank, depot = await mesh.start(*NAMES)
    assert (await shop.publish("orders", "first", id="order-1")).committed
    assert (await bank.publish("orders", "again", id="order-1")).committed
    assert (await bank.publish("orders", "other", id="order-2")).committed
    assert (await bank.publish("orders", "no id")).committed
    await asyncio.gather(*(depot.publish("orders", "at once", id="order-3") for _ in range(5)))
    assert await bodies_of(depot, "orders") == ["first", "other", "no id", "at once"]
    assert sum(node.counters["deduplicated"] for node in mesh.nodes) == 5
    await mesh.settle()
    mesh.check(stuck_max=0)


@seeds(5)
async def test_many_with_ids_of_their_own_are_compared_one_by_one(mesh: Mesh) -> None:
    shop, bank, depot = await mesh.start(*NAMES)
    await shop.publish_many("orders", range(600), id=str)
    receipt = await bank.publish_many("orders", range(300, 900), id=str)
    assert receipt.committed == 600
    assert sorted(await bodies_of(depot, "orders"), key=str) == sorted(range(900), key=str)
    await shop.publish_many("orders", [7, 7, 7], id=lambda body: f"seven {body}")
    assert await bodies_of(depot, "orders") == [7]
    mesh.check()


@seeds(10)
async def test_a_new_owner_knows_the_ids_even_of_what_was_acked_while_it_was_away(
    mesh: Mesh,
) -> None:
    await mesh.start(*NAMES)
    owner, (next_one, other) = owner_and_others(mesh)
    mesh.crash(next_one)
    await mesh.run_for(seconds=20)
    assert (await mesh.node(other).publish("orders", "first", id="order-1")).committed
    assert await bodies_of(mesh.node(other), "orders") == ["first"]
    await mesh.restart(next_one)
    await mesh.run_for(seconds=20)
    mesh.crash(owner)
    await mesh.run_for(seconds=20)
    assert (await mesh.node(other).publish("orders", "again", id="order-1")).committed
    assert await bodies_of(mesh.node(other), "orders") == []
    mesh.check()


@seeds(5)
async def test_a_restart_of_all_forgets_no_id_and_the_window_ends(mesh: Mesh) -> None:
    shop, *_ = await mesh.start(*NAMES)
    await shop.declare("orders", dedup_window=60)
    await shop.publish("orders", "first", id="order-1")
    assert await bodies_of(shop, "orders") == ["first"]
    for name in NAMES:
        mesh.power_cut(name)
    shop, *_ = [await mesh.restart(name) for name in NAMES]
    await shop.publish("orders", "again", id="order-1")
    assert await bodies_of(shop, "orders") == []
    await mesh.run_for(seconds=70)
    await shop.publish("orders", "much later", id="order-1")
    assert await bodies_of(shop, "orders") == ["much later"]
    await mesh.settle()
    mesh.check(stuck_max=0)


@seeds(10)
async def test_a_cut_off_owner_takes_no_id_that_the_others_have(mesh: Mesh) -> None:
    await mesh.start(*NAMES)
    owner, (one, other) = owner_and_others(mesh)
    mesh.isolate(owner)
    with pytest.raises(NotCommittedError):
        await mesh.node(owner).publish("orders", "alone", id="order-1", timeout=5)
    await mesh.run_for(seconds=30)
    assert (await mesh.node(one).publish("orders", "first", id="order-1")).committed
    mesh.heal()
    await mesh.run_for(seconds=60)
    found = await bodies_of(mesh.node(other), "orders")
    assert found == ["first"]
    await mesh.settle()
    mesh.check(stuck_max=0)


@seeds(1)
async def test_an_empty_id_is_refused(mesh: Mesh) -> None:
    (shop,) = await mesh.start("shop")
    with pytest.raises(UsageError, match="empty id"):
        await shop.publish("orders", 1, id="")
