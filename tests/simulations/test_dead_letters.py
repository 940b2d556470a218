"""What cannot be processed leaves its queue, and says why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pmq.sim.mesh import seeds

if TYPE_CHECKING:
    from p2pmq.node.message import DeadLetter, Message
    from p2pmq.node.node import Node
    from p2pmq.sim.mesh import Mesh

NAMES = ("shop", "bank", "depot")


async def letters(node: Node, queue: str = "orders") -> list[tuple[object, DeadLetter | None]]:
    return [(m.body, m.dead_letter) async for m in node.drain(f"{queue}.dlq")]


@seeds(5)
async def test_a_message_that_fails_too_often_becomes_a_dead_letter_and_holds_up_nobody(
    mesh: Mesh,
) -> None:
    shop, bank, depot = await mesh.start(*NAMES)
    await shop.declare("orders", max_deliveries=3, backoff=0.1)
    attempts: list[int] = []
    done: list[object] = []

    @bank.handler("orders")
    async def on_order(message: Message) -> None:
        if message.body == "poison":
            attempts.append(message.attempt)
            raise LookupError("no such article")
        done.append(message.body)

    await shop.publish_many("orders", ["first", "poison", "last"])
    await mesh.settle()
    assert done == ["first", "last"]
    assert attempts == [1, 2, 3]
    ((body, letter),) = await letters(depot)
    assert body == "poison"
    assert letter is not None
    assert (letter.reason, letter.queue, letter.failures) == ("max-deliveries", "orders", 3)
    assert letter.error == "LookupError: no such article"
    assert (await shop.depth("orders")).total == 0
    mesh.check()


@seeds(5)
async def test_a_rejected_message_becomes_a_dead_letter_at_once(mesh: Mesh) -> None:
    shop, bank, depot = await mesh.start(*NAMES)

    @bank.handler("orders")
    async def on_order(message: Message) -> None:
        message.reject("of no use")

    await shop.publish("orders", 1)
    await mesh.settle()
    ((_, letter),) = await letters(depot)
    assert letter is not None
    assert (letter.reason, letter.failures, letter.error) == ("rejected", 1, "of no use")


@dataclass
class Order:
    number: int


@seeds(5)
async def test_a_body_that_does_not_fit_is_no_loop_of_retries(mesh: Mesh) -> None:
    shop, bank, depot = await mesh.start(*NAMES)
    done: list[object] = []

    @bank.handler("orders", type=Order)
    async def on_order(message: Message) -> None:
        done.append(message.body)

    await shop.publish_many("orders", [Order(1), {"number": "many"}, Order(2)])
    await mesh.settle()
    assert done == [Order(1), Order(2)]
    ((body, letter),) = await letters(depot)
    assert body == {"number": "many"}
    assert letter is not None
    assert letter.reason == "rejected"
    assert "does not fit" in letter.error


@seeds(5)
async def test_a_message_that_ends_its_consumers_becomes_a_dead_letter(mesh: Mesh) -> None:
    """The owner lives; whoever gets the message dies of it, and is started again."""
    names = ("a", "b", "c", "d")
    await mesh.start(*names)
    await mesh.node("a").declare("orders", max_deliveries=3)
    owner = mesh.node("a").owner_of("orders")
    assert owner is not None
    victims = [name for name in names if name != owner][:2]
    died: list[str] = []

    def serve(name: str) -> None:
        async def consume(node: Node) -> None:
            async for _ in node.consume("orders"):
                died.append(name)
                mesh.crash(name)
                return

        mesh.serve(name, consume)

    for name in victims:
        serve(name)
    await mesh.node(owner).publish("orders", "poison")
    for _ in range(40):
        await mesh.run_for(seconds=10)
        for name in victims:
            if not mesh.is_up(name):
                await mesh.restart(name)
        if len(died) >= 3 and not (await mesh.node(owner).depth("orders")).total:
            break
    # It counts when the process is there again: meanwhile another may have got it.
    assert 3 <= len(died) <= 3 + len(victims)
    ((_, letter),) = await letters(mesh.node(owner))
    assert letter is not None
    assert letter.reason == "max-deliveries"


@seeds(5)
async def test_partitions_count_for_nothing(mesh: Mesh) -> None:
    await mesh.start(*NAMES)
    await mesh.node("shop").declare("orders", max_deliveries=2)
    owner = mesh.node("shop").owner_of("orders")
    assert owner is not None
    consumer, other = (name for name in NAMES if name != owner)
    node = mesh.node(consumer)
    held: list[Message] = []

    async def hold(_node: Node) -> None:
        async for message in node.consume("orders", visibility_timeout=3_600):
            held[:] = [message]

    mesh.serve(consumer, hold)
    await mesh.node(other).publish("orders", 1)
    for _ in range(4):
        await mesh.run_for(seconds=5)
        mesh.isolate(consumer)
        await mesh.run_for(minutes=1)
        mesh.heal()
        await mesh.run_for(minutes=1)
    assert (await mesh.node(owner).depth("orders")).total == 1
    assert (await mesh.node(owner).depth("orders.dlq")).total == 0
    held[-1].ack()
    await mesh.settle()
    mesh.check()
