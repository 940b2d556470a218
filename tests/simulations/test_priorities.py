"""The more urgent message is delivered first, from whichever owner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.sim.mesh import seeds

if TYPE_CHECKING:
    from p2pmq.node.node import Node
    from p2pmq.sim.mesh import Mesh


async def taken(node: Node, count: int) -> list[object]:
    """One by one: what a consumer holds already is not overtaken."""
    bodies: list[object] = []
    async for message in node.consume("orders", prefetch=1):
        bodies.append(message.body)
        message.ack()
        if len(bodies) == count:
            break
    return bodies


@seeds(5)
async def test_the_urgent_overtake_what_waits_and_keep_their_order(mesh: Mesh) -> None:
    shop, bank, depot = await mesh.start("shop", "bank", "depot")
    await shop.publish_many("orders", ["low 1", "low 2", "low 3"])
    await bank.publish_many("orders", ["high 1", "high 2"], priority=9)
    await shop.publish("orders", "middle", priority=4)
    assert await taken(depot, 6) == ["high 1", "high 2", "middle", "low 1", "low 2", "low 3"]
    mesh.check()


@seeds(5)
async def test_a_new_owner_knows_the_priorities(mesh: Mesh) -> None:
    names = ("shop", "bank", "depot")
    await mesh.start(*names)
    owner = mesh.node("shop").owner_of("orders")
    assert owner is not None
    other = mesh.node(next(name for name in names if name != owner))
    await other.publish("orders", "low")
    await other.publish("orders", "high", priority=1)
    mesh.crash(owner)
    await mesh.run_for(seconds=30)
    assert await taken(other, 2) == ["high", "low"]


@seeds(5)
async def test_with_ageing_what_has_waited_long_enough_goes_first(mesh: Mesh) -> None:
    names = ("shop", "bank", "depot")
    shop, *_ = await mesh.start(*names)
    await shop.declare("orders", ageing=10)
    await shop.publish("orders", "low")
    await mesh.run_for(seconds=15)
    await shop.publish("orders", "one level more, 15 s later", priority=1)
    await shop.publish("orders", "two levels more, 15 s later", priority=2)
    owner = shop.owner_of("orders")
    assert owner is not None
    mesh.crash(owner)
    await mesh.run_for(seconds=30)
    other = mesh.node(next(name for name in names if name != owner))
    expected = ["two levels more, 15 s later", "low", "one level more, 15 s later"]
    assert await taken(other, 3) == expected
    await other.publish_many("orders", ["low", "low"])
    await mesh.run_for(seconds=15)
    await other.publish("orders", "high", priority=1)
    await other.declare("orders")  # strict again, for what waits already as well
    assert await taken(other, 3) == ["high", "low", "low"]
