"""Settings of single queues in whole simulated meshes: declared, changed, split and healed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from p2pmq import Config, NotCommittedError, Replication
from p2pmq.sim import seeds
from tests.simulations.kit import bodies_of

if TYPE_CHECKING:
    from p2pmq.node.node import Node
    from p2pmq.sim.mesh import Mesh

NAMES = ("a", "b", "c", "d", "e")


def known(nodes: list[Node], queue: str) -> list[tuple[int, int]]:
    """R and W of the queue at each node."""
    return [(info.replicas, info.min_copies) for info in (n.settings_of(queue) for n in nodes)]


@seeds(3)
async def test_a_declaration_holds_on_every_node_and_after_a_restart_of_all(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES)
    info = await nodes[0].declare("orders", replicas=5, min_copies=4)
    assert (info.replicas, info.min_copies, info.declared) == (5, 4, True)
    await mesh.run_for(seconds=2)
    assert known(nodes, "orders") == [(5, 4)] * 5
    receipt = await nodes[1].publish("orders", 1)
    assert receipt.copies >= 4
    for name in NAMES:
        mesh.crash(name)
    nodes = [await mesh.restart(name) for name in NAMES]
    assert known(nodes, "orders") == [(5, 4)] * 5
    await mesh.settle()
    assert await bodies_of(nodes[2], "orders") == [1]
    mesh.check()


@seeds(3)
async def test_who_was_away_learns_it_and_the_latest_of_two_sides_holds(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].declare("orders", replicas=3)
    await mesh.run_for(seconds=2)
    mesh.partition({"a", "b"}, {"c", "d", "e"})
    await mesh.run_for(seconds=30)
    await nodes[0].declare("orders", replicas=4)
    await mesh.run_for(seconds=5)
    await nodes[4].declare("orders", replicas=5, min_copies=2)
    await mesh.run_for(seconds=5)
    assert known(nodes, "orders") == [(4, 3), (4, 3), (5, 2), (5, 2), (5, 2)]
    mesh.heal()
    await mesh.settle()
    assert known(nodes, "orders") == [(5, 2)] * 5


async def test_how_many_copies_a_queue_has_is_its_owners_to_say(mesh: Mesh) -> None:
    """A passing node has not heard of every declaration, and may have other defaults."""
    nodes = await mesh.start("a", "b", "c", config=Config(replication=Replication(replicas=2)))
    (passing,) = await mesh.start(
        "passing", leaf=True, config=Config(replication=Replication(replicas=1))
    )
    await nodes[0].publish("orders", 1)
    assert [(d.replicas, d.min_copies) for d in await passing.queues()] == [(2, 2)]
    assert (await passing.depth("orders")).replicas == 2


@seeds(5)
async def test_raised_to_three_copies_a_queue_outlives_its_owner(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].declare("orders", replicas=1)
    await mesh.run_for(seconds=2)
    owner = nodes[0].owner_of("orders")
    assert owner is not None
    other = next(node for node in nodes if node.settings.name != owner)
    await other.publish_many("orders", range(50))
    await other.declare("orders", replicas=3)
    await mesh.settle()
    mesh.crash(owner)
    await mesh.run_for(seconds=30)
    assert await bodies_of(other, "orders") == list(range(50))
    await mesh.restart(owner)
    await mesh.settle()
    mesh.check()


@seeds(5)
async def test_lowered_to_one_copy_the_others_keep_nothing(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].declare("orders", replicas=3)
    await mesh.run_for(seconds=2)
    await nodes[0].publish_many("orders", range(50))
    await nodes[0].declare("orders", replicas=1)
    await mesh.settle()
    await mesh.run_for(minutes=1)
    holding = [name for name in NAMES if any(True for _ in mesh.host(name).disk.alive())]
    assert holding == [nodes[0].owner_of("orders")]
    assert await bodies_of(nodes[3], "orders") == list(range(50))
    mesh.check()


@seeds(5)
async def test_one_copy_of_three_goes_on_on_every_side_and_all_meet_again(mesh: Mesh) -> None:
    nodes = await mesh.start("a", "b", "c")
    await nodes[0].declare("orders", replicas=3, min_copies=1)
    await nodes[0].declare("bills", replicas=3)
    await mesh.run_for(seconds=2)
    mesh.partition({"a"}, {"b", "c"})
    await mesh.run_for(minutes=1)
    for number, node in enumerate(nodes):
        receipt = await node.publish("orders", number)
        assert receipt.committed
    with pytest.raises(NotCommittedError):
        await nodes[0].publish("bills", 1)
    assert (await nodes[1].publish("bills", 2)).copies == 2
    mesh.heal()
    await mesh.settle()
    assert sorted(await bodies_of(nodes[2], "orders"), key=str) == [0, 1, 2]
    assert sorted(await bodies_of(nodes[2], "bills"), key=str) == [1, 2]
    mesh.check()


@seeds(3)
async def test_a_message_under_way_waits_for_as_many_copies_as_are_wanted_now(mesh: Mesh) -> None:
    nodes = await mesh.start("a", "b", "c")
    await nodes[0].declare("orders", replicas=3, min_copies=1)
    await mesh.run_for(seconds=2)
    owner = nodes[0].owner_of("orders")
    away = [name for name in ("a", "b", "c") if name != owner]
    here = next(node for node in nodes if node.settings.name == owner)
    for name in away:
        mesh.crash(name)
    await mesh.run_for(minutes=1)
    assert (await here.publish("orders", 1)).copies == 1
    await here.declare("orders", replicas=3, min_copies=2)
    with pytest.raises(NotCommittedError):
        await here.publish("orders", 2)
    await mesh.restart(away[0])
    await mesh.settle()
    assert (await here.depth("orders")).total == 2
    assert await bodies_of(here, "orders") == [1, 2]
    mesh.check()
