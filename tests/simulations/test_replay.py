"""What a queue retains is read again, in order, from whoever owns it by then."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from p2pmq.config import Config, Replication
from p2pmq.core.registry import Registry
from p2pmq.errors import RequestTimeoutError, UsageError
from p2pmq.sim.mesh import seeds

if TYPE_CHECKING:
    from p2pmq.core.effects import Effect
    from p2pmq.node.node import Node
    from p2pmq.node.replay import Retained
    from p2pmq.sim.mesh import Mesh

NAMES = ("shop", "bank", "depot")
WEEK = 7 * 86_400


async def replayed(node: Node, since: float | None = None) -> list[Retained]:
    return [message async for message in node.replay("orders", since=since)]


async def acked(node: Node) -> list[tuple[str, object]]:
    return [(message.message_id, message.body) async for message in node.drain("orders")]


@seeds(5)
async def test_acked_messages_are_read_again_in_order_and_are_not_consumed(mesh: Mesh) -> None:
    shop, bank, depot = await mesh.start(*NAMES)
    await shop.publish("orders", "before it was declared")
    await bank.declare("orders", retain=WEEK)
    await mesh.run_for(seconds=2)
    await shop.publish("orders", {"number": 1})
    await shop.publish_many("orders", [b"2", "3"])
    consumed = await acked(depot)
    await shop.publish("orders", 4)
    found = await replayed(bank)
    assert [message.body for message in found] == [{"number": 1}, b"2", "3", 4]
    assert [m.message_id for m in found[:3]] == [name for name, _ in consumed[1:]]
    assert [body for _, body in await acked(bank)] == [4]
    assert (await bank.depth("orders")).ready == 0
    await mesh.settle()
    mesh.check(stuck_max=0)


@seeds(5)
async def test_a_replay_may_begin_at_a_time(mesh: Mesh) -> None:
    shop, *_ = await mesh.start(*NAMES)
    await shop.declare("orders", retain=WEEK)
    await mesh.run_for(seconds=2)
    await shop.publish("orders", "old")
    (old,) = await replayed(shop)
    await mesh.run_for(seconds=60)
    await shop.publish("orders", "new")
    found = await replayed(shop, since=old.enqueued_at + 30)
    assert [message.body for message in found] == ["new"]
    with pytest.raises(UsageError, match="no time zone"):
        shop.replay("orders", since=datetime(2026, 1, 1))  # noqa: DTZ001  that is what is refused


@seeds(20)
async def test_a_newcomer_takes_nothing_for_a_mesh_of_one_copy_until_it_knows_the_settings(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = Registry.on_digest
    lost: Counter[int] = Counter()

    def lose_first(registry: Registry, *args: Any) -> list[Effect]:  # noqa: ANN401  as the method
        lost[id(registry)] += 1
        return [] if lost[id(registry)] <= 3 else compare(registry, *args)

    monkeypatch.setattr(Registry, "on_digest", lose_first)
    one_copy = Config(replication=Replication(replicas=1))
    (shop,) = await mesh.start("shop", config=one_copy)
    await shop.declare("orders", retain=WEEK)
    published = 0
    for number in range(50):
        joining = asyncio.create_task(mesh.start(f"new{number}", config=one_copy))
        while not joining.done():
            await shop.publish("orders", published)
            published += 1
        await joining
        if shop.owner_of("orders") != "shop":
            break
    await mesh.settle()
    assert shop.owner_of("orders") != "shop"
    assert [message.body for message in await replayed(shop)] == list(range(published))


@seeds(10)
async def test_an_owner_that_missed_a_declaration_hears_of_it_from_the_homes_that_it_asks_first(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Registry, "on_digest", lambda *_: [])  # all these packets are lost
    await mesh.start(*NAMES)
    owner = mesh.nodes[0].owner_of("orders")
    assert owner is not None
    other = next(name for name in NAMES if name != owner)
    await mesh.stop(owner)
    await mesh.node(other).declare("orders", retain=WEEK)
    await mesh.run_for(seconds=2)
    await mesh.restart(owner)
    while mesh.node(other).owner_of("orders") != owner:
        await mesh.run_for(seconds=0.01)
    await mesh.node(other).publish("orders", 1, confirm="committed")
    assert [message.body for message in await replayed(mesh.node(other))] == [1]


@seeds(10)
async def test_a_new_owner_has_what_was_retained_also_while_it_was_away(mesh: Mesh) -> None:
    await mesh.start(*NAMES)
    owner = mesh.nodes[0].owner_of("orders")
    assert owner is not None
    next_one, other = (name for name in NAMES if name != owner)
    await mesh.node(other).declare("orders", retain=WEEK)
    await mesh.run_for(seconds=2)
    mesh.crash(next_one)
    await mesh.run_for(seconds=20)
    await mesh.node(other).publish_many("orders", range(700))
    await acked(mesh.node(other))
    await mesh.restart(next_one)
    await mesh.run_for(seconds=20)
    mesh.power_cut(owner)
    await mesh.run_for(seconds=20)
    found = await replayed(mesh.node(other))
    assert [message.body for message in found] == list(range(700))
    mesh.check()


@seeds(5)
async def test_what_is_too_old_or_too_much_goes_and_the_queue_loses_nothing(mesh: Mesh) -> None:
    shop, *_ = await mesh.start(*NAMES)
    await shop.declare("orders", retain=100, retain_bytes=3_000)
    await mesh.run_for(seconds=2)
    for number in range(10):
        await shop.publish("orders", bytes([number]) * 1_000)
        await mesh.run_for(seconds=0.1)
    kept = [message.body[0] for message in await replayed(shop)]
    assert kept == [7, 8, 9]
    await mesh.run_for(seconds=200)
    assert await replayed(shop) == []
    assert len(await acked(shop)) == 10
    await mesh.settle()
    mesh.check(stuck_max=0)


@seeds(3)
async def test_a_side_that_cannot_know_says_so(mesh: Mesh) -> None:
    await mesh.start(*NAMES)
    owner = mesh.nodes[0].owner_of("orders")
    assert owner is not None
    node = mesh.node(owner)
    await node.declare("orders", retain=WEEK)
    await node.publish("orders", 1)
    mesh.isolate(owner)
    await mesh.run_for(seconds=30)
    with pytest.raises(RequestTimeoutError, match="did not answer in 30 s"):
        await replayed(node)
    mesh.heal()
    await mesh.run_for(seconds=60)
    assert [message.body for message in await replayed(node)] == [1]


@seeds(1)
async def test_a_limit_of_bytes_without_a_time_is_refused(mesh: Mesh) -> None:
    (shop,) = await mesh.start("shop")
    with pytest.raises(UsageError, match="retain_bytes=1 cannot be"):
        await shop.declare("orders", retain_bytes=1)


@seeds(5)
async def test_partitions_into_which_nothing_was_published_hold_up_no_replay(mesh: Mesh) -> None:
    """Nobody had compared such a partition's homes, and its owner never answered."""
    nodes = await mesh.start(*NAMES)
    assert await replayed(nodes[0]) == []
    await nodes[0].declare("orders", retain=WEEK, partitions=8)
    await mesh.settle()
    await nodes[0].publish("orders", 1)
    assert [message.body for message in await replayed(nodes[1])] == [1]
    mesh.check()
