"""Dead letters go back to their queue: all of them, and each once, whatever ends a redrive."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from p2pmq.errors import NotRedrivenError, P2PMQError, UsageError
from p2pmq.sim.mesh import seeds
from tests.simulations.kit import bodies_of

if TYPE_CHECKING:
    from p2pmq.node.node import Node
    from p2pmq.sim.mesh import Mesh

NAMES = ("shop", "bank", "depot")


async def buried(node: Node, count: int, queue: str = "orders") -> None:
    """Publish so many messages, and make dead letters of all."""
    await node.publish_many(queue, range(count))
    left = count
    async for message in node.consume(queue):
        message.reject("no such article")
        left -= 1
        if not left:
            break


@seeds(5)
async def test_every_letter_is_a_message_again_in_order_and_the_letters_are_gone(
    mesh: Mesh,
) -> None:
    shop, bank, depot = await mesh.start(*NAMES)
    await buried(shop, 300)
    await mesh.settle()
    (listed,) = await depot.dead_letter_queues()
    assert (listed.queue, listed.ready) == ("orders.dlq", 300)
    report = await depot.redrive("orders")
    assert (report.queue, report.source, report.redriven, report.left) == (
        "orders.dlq", "orders", 300, 0,
    )  # fmt: skip
    await mesh.settle()
    assert await bank.dead_letter_queues() == []
    assert await bodies_of(bank, "orders") == list(range(300))
    mesh.check()


@seeds(3)
async def test_a_redriven_message_that_fails_again_is_a_letter_again_and_can_go_back_again(
    mesh: Mesh,
) -> None:
    shop, bank, _ = await mesh.start(*NAMES)
    await buried(shop, 5)
    await mesh.settle()
    for _ in range(3):
        assert (await bank.redrive("orders.dlq")).redriven == 5
        rejected = 0
        async for message in bank.consume("orders"):
            assert (message.dead_letter, message.attempt) == (None, 1)
            message.reject()
            rejected += 1
            if rejected == 5:
                break
        await mesh.settle()
    (listed,) = await shop.dead_letter_queues()
    assert listed.ready == 5
    mesh.check()


@seeds(3)
async def test_a_letter_whose_id_its_queue_remembers_comes_back_all_the_same(mesh: Mesh) -> None:
    """It is no repeat of the message that it was: that one is gone."""
    shop, bank, _ = await mesh.start(*NAMES)
    await shop.publish("orders", "once", id="order-7")
    async for message in bank.consume("orders"):
        message.reject()
        break
    await mesh.settle()
    assert (await bank.redrive("orders")).redriven == 1
    assert await bodies_of(bank, "orders") == ["once"]
    mesh.check()


@seeds(3)
async def test_a_limit_and_a_rate_are_kept(mesh: Mesh) -> None:
    shop, bank, _ = await mesh.start(*NAMES)
    await buried(shop, 50)
    await mesh.settle()
    began_s = mesh.now
    report = await bank.redrive("orders", rate=10, limit=30)
    assert (report.redriven, report.left) == (30, 20)
    assert 2.9 <= mesh.now - began_s < 5
    await mesh.settle()
    assert (await bank.depth("orders")).ready == 30
    assert (await bank.depth("orders.dlq")).ready == 20
    mesh.check()


@seeds(3)
async def test_letters_that_are_looked_at_stay_and_have_not_failed(mesh: Mesh) -> None:
    shop, bank, _ = await mesh.start(*NAMES)
    await shop.declare("orders", ttl=3600)
    await buried(shop, 30)
    await mesh.settle()
    seen = await bank.dead_letters("orders", limit=7)
    assert [message.body for message in seen] == list(range(7))
    assert seen[0].dead_letter is not None
    assert (seen[0].dead_letter.reason, seen[0].dead_letter.error) == (
        "rejected", "no such article",
    )  # fmt: skip
    await mesh.settle()
    assert (await bank.depth("orders.dlq")).ready == 30
    assert await bank.dead_letters("nothing-here") == []
    with pytest.raises(UsageError):
        await bank.dead_letters("orders", limit=0)
    mesh.check()


@seeds(12)
async def test_a_crash_amid_a_redrive_loses_no_letter_and_makes_no_second_message(
    mesh: Mesh,
) -> None:
    """The node that redrives dies between the messages' commit and their letters' acks."""
    await mesh.start(*NAMES)
    await buried(mesh.node("shop"), 200)
    await mesh.settle()
    for _ in range(4):
        redrive = asyncio.ensure_future(mesh.node("bank").redrive("orders"))
        await mesh.run_for(seconds=mesh.random.uniform(0.0, 0.2))
        mesh.crash("bank")
        await asyncio.wait((redrive,), timeout=1)
        redrive.cancel()
        await mesh.restart("bank")
        await mesh.settle()
    shop = mesh.node("shop")
    while (await shop.depth("orders.dlq")).total:
        await shop.redrive("orders")
        await mesh.settle()
    assert sorted(await bodies_of(shop, "orders")) == list(range(200))  # type: ignore[type-var]  # ints
    mesh.check(duplicates_max=200)


@seeds(5)
async def test_a_redrive_over_a_change_of_owners_makes_no_second_message(mesh: Mesh) -> None:
    names = ("a", "b", "c", "d")
    await mesh.start(*names)
    await buried(mesh.node("a"), 100)
    await mesh.settle()
    owner = mesh.node("a").owner_of("orders")
    assert owner is not None
    other = next(name for name in names if name != owner)
    redrive = asyncio.ensure_future(mesh.node(other).redrive("orders", rate=20))
    await mesh.run_for(seconds=1)
    mesh.crash(owner)
    with suppress(P2PMQError):  # its patience may be over before there is another owner
        await redrive
    await mesh.restart(owner)
    await mesh.settle()
    while (await mesh.node(other).depth("orders.dlq")).total:
        await mesh.node(other).redrive("orders")
        await mesh.settle()
    assert sorted(await bodies_of(mesh.node(other), "orders")) == list(range(100))  # type: ignore[type-var]  # ints
    mesh.check()


@seeds(3)
async def test_letters_stay_where_their_queue_cannot_take_them_and_the_error_says_so(
    mesh: Mesh,
) -> None:
    """The queue wants more disks than are there; its dead-letter queue does not."""
    shop, bank, _ = await mesh.start(*NAMES)
    await buried(shop, 3)
    await shop.declare("orders", replicas=3, min_copies=3)
    await shop.declare("orders.dlq", replicas=3, min_copies=1)
    await mesh.settle()
    mesh.crash("depot")
    await mesh.run_for(seconds=30)
    with pytest.raises(NotRedrivenError, match=r"0 dead letters of 'orders.dlq'"):
        await bank.redrive("orders")
    await mesh.restart("depot")
    await mesh.settle()
    assert (await bank.redrive("orders")).redriven + (await bank.depth("orders")).total >= 3
    await mesh.settle()
    assert sorted(await bodies_of(bank, "orders")) == [0, 1, 2]  # type: ignore[type-var]  # ints
    mesh.check()
