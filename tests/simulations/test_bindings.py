"""Bindings in whole simulated meshes: what they promise on both sides of a split."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from p2pmq.sim import seeds

if TYPE_CHECKING:
    from p2pmq.node.node import Node
    from p2pmq.sim.mesh import Mesh

SPREADS_S = 2.0
NAMES = ("a", "b", "c", "d", "e")


async def drained(node: Node, queue: str) -> list[tuple[str | None, object]]:
    return [(message.topic, message.body) async for message in node.drain(queue, patience=60)]


@seeds(5)
async def test_an_emitter_on_the_other_side_copies_what_it_emits_from_when_it_learns_of_it(
    mesh: Mesh,
) -> None:
    a, _, _, d, e = await mesh.start(*NAMES)
    mesh.partition({"a", "b", "c"}, {"d", "e"})
    await mesh.run_for(seconds=20)
    await a.bind("t.>", queue="archive")
    await a.emit("t.1", "a, bound", confirm="stored")
    await d.emit("t.2", "d, not heard of it", confirm="stored")
    assert (len(a.bindings()), len(d.bindings())) == (1, 0)
    mesh.heal()
    await mesh.run_for(seconds=60)
    assert len(d.bindings()) == len(e.bindings()) == 1
    await d.emit("t.3", "d, after the heal", confirm="stored")
    await mesh.settle(timeout=120)
    found = await drained(e, "archive")
    assert sorted(found, key=str) == [("t.1", "a, bound"), ("t.3", "d, after the heal")]
    mesh.check(stuck_max=0)


@seeds(5)
async def test_what_an_emitter_copied_in_a_split_is_kept_as_any_published_message(
    mesh: Mesh,
) -> None:
    a, _, _, d, _ = await mesh.start(*NAMES)
    await a.bind("t.*", queue="archive")
    await mesh.run_for(seconds=SPREADS_S)
    mesh.partition({"a", "b", "c"}, {"d", "e"})
    for number in range(20):
        await a.emit("t.a", number, confirm="stored")
        await d.emit("t.d", number, confirm="stored")
        await mesh.run_for(seconds=1)
    mesh.power_cut("d")
    await mesh.run_for(seconds=5)
    await mesh.restart("d")
    mesh.heal()
    await mesh.settle(timeout=120)
    found = await drained(a, "archive")
    assert [body for topic, body in found if topic == "t.a"] == list(range(20))
    assert [body for topic, body in found if topic == "t.d"] == list(range(20))
    mesh.check(stuck_max=0)


@seeds(5)
async def test_a_binding_that_was_parted_does_not_come_back_with_a_member_that_was_away(
    mesh: Mesh,
) -> None:
    a, *_ = await mesh.start(*NAMES)
    await a.bind("t", queue="archive")
    await mesh.run_for(seconds=SPREADS_S)
    mesh.crash("e")
    await mesh.run_for(seconds=60)
    await a.unbind("t", queue="archive")
    await mesh.run_for(seconds=60)
    e = await mesh.restart("e")
    await mesh.run_for(seconds=60)
    assert [len(node.bindings()) for node in mesh.nodes] == [0] * 5
    await e.emit("t", 1, confirm="stored")
    await mesh.settle(timeout=60)
    assert (await a.depth("archive")).total == 0


@seeds(3)
async def test_each_group_gets_every_event_and_within_a_group_one_member_does(mesh: Mesh) -> None:
    a, *_ = await mesh.start("a", "b", "c")
    got: dict[str, list[int]] = {"billing": [], "search": []}

    def member_of(group: str) -> None:
        async def work(node: Node) -> None:
            async for message in node.consume(group):
                got[group].append(message.body)
                message.ack()
                await asyncio.sleep(0.01)

        for name in ("b", "c"):
            mesh.serve(name, work)

    for group in got:
        await a.bind("orders.*", queue=group)
        member_of(group)
    await mesh.run_for(seconds=SPREADS_S)
    for number in range(30):
        await a.emit("orders.new", number, confirm="committed")
    await mesh.settle(timeout=60)
    assert {group: sorted(bodies) for group, bodies in got.items()} == {
        "billing": list(range(30)),
        "search": list(range(30)),
    }
