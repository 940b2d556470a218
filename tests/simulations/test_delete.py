"""A queue that is deleted is gone everywhere, and no member that was away brings it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from p2pmq.errors import NotDeletedError
from p2pmq.sim.mesh import seeds
from tests.simulations.kit import bodies_of, on_disks

if TYPE_CHECKING:
    from p2pmq.sim.mesh import Mesh

NAMES = ("a", "b", "c")


@seeds(5)
async def test_messages_settings_bindings_and_schedules_go_and_what_comes_later_is_new(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].declare("q", retain=3_600, max_deliveries=3)
    await nodes[0].bind("a.>", queue="q")
    await nodes[0].bind("a.>", queue="other")
    await nodes[0].schedule("tick", "0 0 1 1 *", queue="q")
    await mesh.settle()
    await nodes[0].publish_many("q", range(2_500))
    await nodes[0].publish("q", "once", id="x")
    messages = nodes[1].consume("q", prefetch=2)
    held = await anext(messages)
    await nodes[2].delete("q")
    await mesh.run_for(seconds=2)
    assert on_disks(mesh) == 0
    held.ack()
    await messages.aclose()  # type: ignore[attr-defined]  # an async generator
    assert [node.settings_of("q").max_deliveries for node in nodes] == [20, 20, 20]
    assert [(b.pattern, b.queue) for b in nodes[0].bindings()] == [("a.>", "other")]
    assert nodes[0].schedules() == []
    receipt = await nodes[0].publish("q", "anew", id="x")
    assert receipt.committed
    assert await bodies_of(nodes[2]) == ["anew"]
    mesh.check()


@seeds(10)
async def test_a_home_that_was_away_and_an_owner_that_dies_bring_nothing_back(mesh: Mesh) -> None:
    names = ("a", "b", "c", "d")
    await mesh.start(*names)
    await mesh.node("a").publish_many("q", range(200))
    await mesh.settle()
    owner = mesh.node("a").owner_of("q")
    assert owner is not None
    away = mesh.random.choice([name for name in names if name != owner])
    mesh.crash(away)
    await mesh.run_for(seconds=30)
    asking = mesh.node(next(name for name in names if name not in (owner, away)))
    await asking.delete("q")
    await asking.publish("q", "new")
    await mesh.settle()
    mesh.crash(owner)
    await mesh.restart(away)
    await mesh.run_for(seconds=60)
    assert await bodies_of(asking) == ["new"]
    await mesh.restart(owner)
    await mesh.settle()
    assert (await asking.depth("q")).total == 0
    mesh.check()


@seeds(10)
async def test_all_but_one_lose_power_right_after_and_the_deletion_holds(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].publish_many("q", range(50))
    await mesh.settle()
    asking = mesh.random.choice(NAMES)
    await mesh.node(asking).delete("q")
    for name in NAMES:
        if name != asking:
            mesh.crash(name)
    await mesh.run_for(seconds=5)
    mesh.crash(asking)
    for name in NAMES:
        await mesh.restart(name)
    await mesh.settle()
    await mesh.run_for(seconds=60)
    assert await bodies_of(mesh.node("a")) == []
    assert on_disks(mesh) == 0
    mesh.check()


@seeds(10)
async def test_a_declaration_made_in_ignorance_of_the_deletion_does_not_undo_it(mesh: Mesh) -> None:
    names = ("a", "b", "c", "d", "e")
    nodes = await mesh.start(*names)
    await nodes[0].declare("q", partitions=3)
    await mesh.settle()
    await nodes[0].publish_many("q", range(300))
    await mesh.settle()
    parted = mesh.random.choice([n for n in names if n not in nodes[0]._owners_of("q")])
    mesh.partition([parted], [name for name in names if name != parted])
    await mesh.run_for(seconds=30)
    deleting = mesh.node(next(name for name in names if name != parted))
    await deleting.delete("q")
    await mesh.run_for(seconds=5)
    await mesh.node(parted).declare("q", max_deliveries=4)
    mesh.heal()
    await mesh.run_for(seconds=90)
    assert {node.settings_of("q").max_deliveries for node in nodes} == {4}
    assert {node.settings_of("q").partitions for node in nodes} == {3}
    assert await bodies_of(deleting) == []
    assert on_disks(mesh) == 0
    mesh.check()


@seeds(5)
async def test_what_waits_in_an_outbox_is_in_no_queue_yet_and_comes_later(mesh: Mesh) -> None:
    names = ("a", "b", "c", "d")
    nodes = await mesh.start(*names)
    await nodes[0].publish_many("q", range(10))
    await mesh.settle()
    homes = mesh.node("a")._machine.homes_of(mesh.node("a")._machine.partitions_of("q")[0])[0]
    publisher = next(node for node in nodes if node.node_id not in homes)
    name = names[nodes.index(publisher)]
    mesh.partition([name], [other for other in names if other != name])
    await publisher.publish("q", "waits", confirm="stored")
    other = next(node for node in nodes if node is not publisher)
    await mesh.run_for(seconds=20)
    await other.delete("q")
    mesh.heal()
    await mesh.run_for(seconds=60)
    assert await bodies_of(other) == ["waits"]
    mesh.check()


@seeds(5)
async def test_owners_whose_clocks_differ_by_minutes_delete_all_and_keep_what_is_new(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start(*NAMES)
    for name, skew in zip(NAMES, (240, -240, 0), strict=True):
        mesh.clock_skew(name, skew)
    await nodes[0].declare("q", partitions=6)
    await mesh.settle()
    await nodes[0].publish_many("q", range(600))
    for node in nodes:
        await node.delete("q")
        await mesh.run_for(seconds=2)
        assert (await nodes[0].depth("q")).total == 0
        await nodes[1].publish_many("q", range(60))
        assert (await nodes[2].depth("q")).total == 60
    mesh.check()


@seeds(3)
async def test_an_owner_that_is_alone_deletes_nothing_and_says_so(mesh: Mesh) -> None:
    await mesh.start(*NAMES)
    await mesh.node("a").publish_many("q", range(5))
    await mesh.settle()
    owner = mesh.node("a").owner_of("q")
    assert owner is not None
    for name in NAMES:
        if name != owner:
            mesh.crash(name)
    await mesh.run_for(seconds=30)
    with pytest.raises(NotDeletedError, match="cannot reach enough"):
        await mesh.node(owner).delete("q")
    for name in NAMES:
        if name != owner:
            await mesh.restart(name)
    await mesh.settle()
    assert await bodies_of(mesh.node("a")) == list(range(5))
    mesh.check()


@seeds(15)
async def test_what_a_cut_off_side_took_before_the_deletion_is_deleted_when_it_comes_back(
    mesh: Mesh,
) -> None:
    """Nobody else has ever seen it, so nothing but the deletion can tell."""
    nodes = await mesh.start(*NAMES)
    await nodes[0].declare("q", min_copies=1)
    await mesh.settle()
    parted = mesh.random.choice(NAMES)
    mesh.partition([parted], [name for name in NAMES if name != parted])
    await mesh.run_for(seconds=30)
    assert (await mesh.node(parted).publish("q", "old")).committed
    deleting = mesh.node(next(name for name in NAMES if name != parted))
    await deleting.delete("q")
    await mesh.run_for(seconds=1)
    declares = mesh.random.random() < 0.5
    if declares:  # in ignorance of the deletion, and later
        await mesh.node(parted).declare("q", min_copies=1, max_deliveries=4)
    if mesh.random.random() < 0.5:
        mesh.crash(parted)
        mesh.heal()
        await mesh.restart(parted)
    else:
        mesh.heal()
    await mesh.run_for(seconds=90)
    assert {node.settings_of("q").max_deliveries for node in mesh.nodes} == {4 if declares else 20}
    assert on_disks(mesh) == 0
    await deleting.publish("q", "new")
    assert await bodies_of(mesh.node(parted)) == ["new"]
    mesh.check()
