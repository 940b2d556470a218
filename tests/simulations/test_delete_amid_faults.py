"""Deleting a queue while members are cut off, crash and come back: nothing goes unsaid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.errors import NotDeletedError
from p2pmq.sim.mesh import seeds
from tests.simulations.kit import bodies_of, on_disks

if TYPE_CHECKING:
    from p2pmq.sim.mesh import Mesh


@seeds(10)
async def test_what_others_that_know_of_the_deletion_get_from_an_owner_that_does_not_is_told_of(
    mesh: Mesh,
) -> None:
    names = ("a", "b", "c", "d")
    await mesh.start(*names)
    await mesh.node("a").declare("q", min_copies=1)
    await mesh.node("a").publish_many("q", range(50))
    await mesh.settle()
    owner = mesh.node("a").owner_of("q")
    assert owner is not None
    others = [name for name in names if name != owner]
    mesh.partition({owner}, set(others))
    await mesh.run_for(seconds=30)
    await mesh.node(owner).publish("q", "taken there before")
    await mesh.run_for(seconds=1)
    await mesh.node(others[0]).delete("q")
    await mesh.run_for(seconds=1)
    await mesh.node(owner).publish("q", "taken there after")
    mesh.heal()
    await mesh.settle()
    await mesh.run_for(seconds=40)
    assert await bodies_of(mesh.node(others[1])) == ["taken there after"]
    await mesh.settle()
    assert on_disks(mesh) == 0
    mesh.check()


@seeds(25)
async def test_what_only_a_home_that_was_away_had_is_told_of_when_it_is_not_taken_in(
    mesh: Mesh,
) -> None:
    names = ("a", "b", "c", "d")
    await mesh.start(*names)
    await mesh.node("a").declare("q", min_copies=1)
    await mesh.settle()
    owner = mesh.node("a").owner_of("q")
    assert owner is not None
    others = [name for name in names if name != owner]
    mesh.partition({owner}, set(others))
    await mesh.run_for(seconds=30)
    takes = mesh.node(others[0]).owner_of("q")
    assert takes is not None
    await mesh.node(takes).publish_many("q", range(50))
    mesh.partition({takes}, {name for name in names if name != takes})
    await mesh.run_for(seconds=30)
    await mesh.node(takes).publish_many("q", range(50, 100))
    await mesh.run_for(seconds=30)
    asking = mesh.node(next(name for name in others if name != takes))
    await asking.delete("q")
    mesh.heal()
    mesh.loss(0.3)  # what it has may come before it hears of the deletion
    await mesh.run_for(seconds=60)
    mesh.heal()
    await mesh.settle()
    assert await bodies_of(asking) == []
    await mesh.settle()
    assert on_disks(mesh) == 0
    mesh.check()


@seeds(20)
async def test_whatever_fails_meanwhile_all_that_was_published_after_it_comes(mesh: Mesh) -> None:
    names = ("a", "b", "c", "d", "e")
    await mesh.start(*names)
    if mesh.random.random() < 0.5:
        await mesh.node("a").declare("q", min_copies=1)
    deleting, published = mesh.random.randrange(10, 50), set[int]()
    up = set(names)
    for second in range(60):
        if mesh.random.random() < 0.2:
            side = set(mesh.random.sample(names, 2))
            mesh.partition(side, set(names) - side)
        elif mesh.random.random() < 0.2:
            mesh.heal()
        if mesh.random.random() < 0.15 and len(up) > 3:
            crashed = mesh.random.choice(sorted(up))
            mesh.crash(crashed)
            up.discard(crashed)
        elif mesh.random.random() < 0.3 and len(up) < len(names):
            back = mesh.random.choice(sorted(set(names) - up))
            await mesh.restart(back)
            up.add(back)
        name = mesh.random.choice(sorted(up))
        if second == deleting:
            try:
                await mesh.node(name).delete("q")
            except NotDeletedError:
                deleting = -1  # on a side that may not: then all of it comes
        else:
            await mesh.node(name).publish("q", second, confirm="stored")
            published.add(second)
        await mesh.run_for(seconds=1)
    mesh.heal()
    for name in sorted(set(names) - up):
        await mesh.restart(name)
    await mesh.settle()
    found = await bodies_of(mesh.node("a"))
    assert {each for each in published if each > deleting} <= set(found)
    await mesh.settle()
    assert on_disks(mesh) == 0
    mesh.check()
