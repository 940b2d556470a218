"""A queue that is purged is empty everywhere, and stays so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from p2pmq.errors import NotPurgedError
from p2pmq.sim.mesh import seeds
from tests.simulations.kit import bodies_of, on_disks

if TYPE_CHECKING:
    from p2pmq.sim.mesh import Mesh

NAMES = ("a", "b", "c")


@seeds(5)
async def test_what_waits_goes_from_every_disk_and_what_comes_after_stays(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].publish_many("q", range(3_000))
    assert await nodes[1].purge("q") == 3_000
    await nodes[0].publish("q", "after it")
    await mesh.settle()
    assert on_disks(mesh) == 3
    assert await bodies_of(nodes[2]) == ["after it"]
    assert await nodes[2].purge("q") == 0
    assert await nodes[2].purge("nothing-here") == 0
    assert sum(node.counters["purged"] for node in nodes) == 3_000
    mesh.check()


@seeds(3)
async def test_single_messages_go_a_piece_at_a_time(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES)
    for _ in range(25):
        await asyncio.gather(*(nodes[0].publish("q", n, priority=n % 2) for n in range(100)))
    assert await nodes[1].purge("q") == 2_500
    await mesh.settle()
    assert on_disks(mesh) == 0
    mesh.check()


@seeds(5)
async def test_what_is_held_or_rests_stays_and_can_be_acked(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].publish_many("q", range(10))
    messages = nodes[1].consume("q", prefetch=3)
    held = [await anext(messages) for _ in range(3)]
    held[0].nack(30)
    await mesh.run_for(seconds=1)
    held.append(await anext(messages))
    assert await nodes[2].purge("q") == 6
    depth = await nodes[2].depth("q")
    assert (depth.ready, depth.in_flight, depth.delayed) == (0, 3, 1)
    for message in held[1:]:
        message.ack()
    assert (await anext(messages)).body == held[0].body
    await messages.aclose()  # type: ignore[attr-defined]  # an async generator
    await mesh.settle()
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
    assert await asking.purge("q") == 200
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


@seeds(3)
async def test_an_owner_that_is_alone_purges_nothing_and_says_so(mesh: Mesh) -> None:
    await mesh.start(*NAMES)
    await mesh.node("a").publish_many("q", range(5))
    await mesh.settle()
    owner = mesh.node("a").owner_of("q")
    assert owner is not None
    for name in NAMES:
        if name != owner:
            mesh.crash(name)
    await mesh.run_for(seconds=30)
    with pytest.raises(NotPurgedError, match="cannot reach enough"):
        await mesh.node(owner).purge("q")
    for name in NAMES:
        if name != owner:
            await mesh.restart(name)
    await mesh.settle()
    assert await bodies_of(mesh.node("a")) == list(range(5))
    mesh.check()


@seeds(3)
async def test_a_purge_that_nobody_answers_ends_with_an_error(mesh: Mesh) -> None:
    await mesh.start(*NAMES)
    await mesh.node("a").publish("q", 1)
    owner = mesh.node("a").owner_of("q")
    assert owner is not None
    other = mesh.node(next(name for name in NAMES if name != owner))
    mesh.pause(owner)
    with pytest.raises(NotPurgedError, match="did not answer in time"):
        await other.purge("q")
    mesh.resume(owner)
    await mesh.settle()
    mesh.check()
