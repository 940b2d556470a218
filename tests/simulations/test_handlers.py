"""Functions that a node calls with each message: as many at once as they want, and no longer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from p2pmq.config import Config, Replication
from p2pmq.errors import UsageError
from p2pmq.sim.mesh import seeds

if TYPE_CHECKING:
    from p2pmq.node.message import Message
    from p2pmq.sim.mesh import Mesh


@seeds(5)
async def test_handlers_work_side_by_side_up_to_their_concurrency(mesh: Mesh) -> None:
    shop, bank, _ = await mesh.start("shop", "bank", "depot")
    at_work = most = 0
    done: list[object] = []

    @bank.handler("orders", concurrency=3)
    async def on_order(message: Message) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(1)
        at_work -= 1
        done.append(message.body)

    await shop.publish_many("orders", range(9))
    await mesh.settle()
    assert sorted(done, key=str) == list(range(9))
    assert most == 3
    mesh.check()


@seeds(5)
async def test_a_handler_that_takes_long_keeps_its_message(mesh: Mesh) -> None:
    shop, bank, depot = await mesh.start("shop", "bank", "depot")
    done: list[str] = []

    def register(name: str) -> None:
        @mesh.node(name).handler("orders", visibility_timeout=2)
        async def on_order(_message: Message) -> None:
            await asyncio.sleep(60)
            done.append(name)

    register("bank")
    register("depot")
    del bank, depot
    await shop.publish_many("orders", range(6))
    await mesh.run_for(minutes=8)
    assert len(done) == 6, "nor does one that waits for its turn go to somebody else"
    assert len(set(done)) == 2


@seeds(5)
async def test_a_handler_that_raises_gets_the_message_again_after_a_pause(mesh: Mesh) -> None:
    shop, bank, _ = await mesh.start("shop", "bank", "depot")
    await shop.declare("orders", backoff=10)
    attempts: list[tuple[float, int]] = []

    @bank.handler("orders")
    async def on_order(message: Message) -> None:
        attempts.append((mesh.now, message.attempt))
        if message.attempt < 3:
            raise LookupError("not yet")

    await shop.publish("orders", 1)
    await mesh.settle()
    assert [attempt for _, attempt in attempts] == [1, 2, 3]
    (first, _), (second, _), (third, _) = attempts
    assert 5 <= second - first <= 11
    assert 10 <= third - second <= 21


@seeds(5)
async def test_a_node_that_closes_lets_its_handlers_finish(mesh: Mesh) -> None:
    shop, bank, _ = await mesh.start("shop", "bank", "depot")
    begun: list[object] = []
    done: list[object] = []

    @bank.handler("orders", concurrency=2)
    async def on_order(message: Message) -> None:
        begun.append(message.body)
        await asyncio.sleep(3)
        done.append(message.body)

    await shop.publish_many("orders", range(10))
    await mesh.run_for(seconds=1)
    await mesh.stop("bank")
    assert sorted(done, key=str) == sorted(begun, key=str)
    assert len(done) == 2
    drained = [message.body async for message in shop.drain("orders")]
    assert sorted([*drained, *done], key=str) == list(range(10))


@seeds(5)
async def test_a_node_that_leaves_the_mesh_lets_its_handlers_finish(mesh: Mesh) -> None:
    config = Config(replication=Replication(replicas=1))
    shop, bank, depot = await mesh.start("shop", "bank", "depot", config=config)
    begun: list[object] = []
    done: list[object] = []

    @bank.handler("orders", concurrency=2)
    async def on_order(message: Message) -> None:
        begun.append(message.body)
        await asyncio.sleep(3)
        done.append(message.body)

    await shop.publish_many("orders", range(10))
    await mesh.run_for(seconds=1)
    elsewhere: list[object] = []

    @depot.handler("orders")
    async def on_another(message: Message) -> None:
        elsewhere.append(message.body)

    await mesh.leave("bank")
    await mesh.settle()
    assert len(done) == 2
    assert done == begun
    assert sorted([*elsewhere, *done], key=str) == list(range(10))


@seeds(2)
async def test_a_concurrency_below_one_is_refused(mesh: Mesh) -> None:
    (shop,) = await mesh.start("shop")
    with pytest.raises(UsageError, match="concurrency=0"):
        shop.handler("orders", concurrency=0)
