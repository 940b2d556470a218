"""A queue of several partitions is one queue to its users, whatever becomes of its owners."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pytest

from p2pmq.errors import NotDeclaredError, UsageError
from p2pmq.sim.mesh import seeds
from tests.simulations.kit import bodies_of

if TYPE_CHECKING:
    from p2pmq.node.message import Message
    from p2pmq.node.node import Node
    from p2pmq.sim.mesh import Mesh

NAMES = ("a", "b", "c", "d", "e")
KEYS = ("ann", "bob", "eve", "joe", "sue", "tim")


async def declared(mesh: Mesh, partitions: int = 4, queue: str = "orders") -> list[Node]:
    """Nodes that all know of the partitions."""
    nodes = await mesh.start(*NAMES)
    await nodes[0].declare(queue, partitions=partitions)
    await mesh.settle()
    assert {node.settings_of(queue).partitions for node in nodes} == {partitions}
    return nodes


def owners_of(node: Node, partitions: int = 4, queue: str = "orders") -> list[str | None]:
    return [node.owner_of(queue, number) for number in range(partitions)]


class Taken:
    """What handlers were given, by body and by key."""

    def __init__(self) -> None:
        self.bodies: Counter[object] = Counter()
        self.by_key: dict[object, list[object]] = defaultdict(list)

    def by(self, node: Node, seconds: float = 0.0, concurrency: int = 8) -> None:
        @node.handler("orders", concurrency=concurrency)
        async def on_order(message: Message) -> None:
            await asyncio.sleep(seconds)
            self.bodies[message.body] += 1
            self.by_key[message.key].append(message.body)

    async def until(self, mesh: Mesh, count: int) -> None:
        for _ in range(600):
            if len(self.bodies) >= count:
                return
            await mesh.run_for(seconds=0.5)
        raise AssertionError(f"{len(self.bodies)} of {count} came in 300 s")


@seeds(5)
async def test_its_partitions_have_different_owners_and_messages_go_to_all(mesh: Mesh) -> None:
    nodes = await declared(mesh)
    assert all(owners_of(node) == owners_of(nodes[0]) for node in nodes)
    assert len(set(owners_of(nodes[0]))) >= 2
    await nodes[1].publish_many("orders", [bytes(1_000)] * 2_000)
    for number in range(8):
        await nodes[2].publish("orders", number)
    receipts = [await nodes[2].publish("orders", number) for number in range(4)]
    assert {receipt.partition for receipt in receipts} == {0, 1, 2, 3}
    assert len({receipt.message_id for receipt in receipts}) == 4
    depth = await nodes[3].depth("orders")
    assert (depth.ready, depth.partitions) == (2_012, 4)
    assert set(depth.owners) == set(owners_of(nodes[0]))
    assert await nodes[4].queues() == [depth]
    assert len(await bodies_of(nodes[3], "orders")) == 2_012
    await mesh.settle()
    mesh.check(stuck_max=0, duplicates_max=0)


@seeds(10)
async def test_all_messages_come_though_owners_are_killed(mesh: Mesh) -> None:
    nodes = await declared(mesh)
    taken = Taken()
    for name in ("a", "b"):
        taken.by(mesh.node(name))
    victims = [name for name in dict.fromkeys(owners_of(nodes[0])) if name not in ("a", "b", None)]
    for number in range(60):
        await nodes[0].publish("orders", number, confirm="stored")
        if number in (20, 40) and victims:
            victim = victims.pop()
            assert victim is not None
            mesh.crash(victim)
    await mesh.run_for(seconds=20)
    for name in NAMES:
        if not mesh.is_up(name):
            await mesh.restart(name)
    await taken.until(mesh, 60)
    await mesh.settle()
    mesh.check(stuck_max=0)


@seeds(10)
async def test_a_key_is_in_one_partition_and_keeps_its_order_when_owners_die(mesh: Mesh) -> None:
    nodes = await declared(mesh)
    taken = Taken()
    taken.by(mesh.node("a"), seconds=0.02)
    taken.by(mesh.node("b"), seconds=0.02)
    await nodes[0].publish_many("orders", range(60), key=lambda n: KEYS[n % 6])
    owners = [name for name in owners_of(nodes[0]) if name not in ("a", "b", None)]
    if owners and owners[0] is not None:
        mesh.crash(owners[0])
    for number in range(60, 90):
        await nodes[0].publish("orders", number, key=KEYS[number % 6], confirm="stored")
    await taken.until(mesh, 90)
    firsts = {key: list(dict.fromkeys(bodies)) for key, bodies in taken.by_key.items()}
    assert firsts == {key: list(range(at, 90, 6)) for at, key in enumerate(KEYS)}
    for name in NAMES:
        if not mesh.is_up(name):
            await mesh.restart(name)
    await mesh.settle()
    mesh.check(stuck_max=0)


@seeds(5)
async def test_an_id_is_taken_once_over_all_partitions_whoever_says_it(mesh: Mesh) -> None:
    nodes = await declared(mesh)
    for node in nodes:
        await asyncio.gather(*(node.publish("orders", n, id=f"order {n}") for n in range(20)))
    await nodes[1].publish_many("orders", range(25), id=lambda n: f"order {n}")
    assert sorted(await bodies_of(nodes[2], "orders"), key=str) == sorted(range(25), key=str)
    await mesh.settle()
    mesh.check(stuck_max=0)


@seeds(10)
async def test_more_partitions_come_to_consumers_that_run_and_nothing_is_lost(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES)
    taken = Taken()
    taken.by(nodes[1], seconds=0.01)
    await nodes[0].publish_many("orders", range(100), key=lambda n: KEYS[n % 6])
    mesh.partition(["a", "b", "c"], ["d", "e"])
    await nodes[0].declare("orders", partitions=3)
    await nodes[0].publish_many("orders", range(100, 200), confirm="stored")
    mesh.heal()
    await nodes[0].declare("orders", partitions=7)
    for node in (nodes[0], nodes[3]):  # the latter may not have heard of it
        start = 200 if node is nodes[0] else 300
        await node.publish_many("orders", range(start, start + 100), key=lambda n: KEYS[n % 6])
    await taken.until(mesh, 400)
    assert nodes[4].settings_of("orders").partitions == 7
    await nodes[4].publish_many("orders", range(400, 500))
    for number in range(500, 514):
        await nodes[4].publish("orders", number)
    await taken.until(mesh, 514)
    await mesh.settle()
    depth = await nodes[2].depth("orders")
    assert (depth.total, depth.consumers, depth.partitions) == (0, 1, 7)
    mesh.check(stuck_max=0)


@seeds(5)
async def test_their_number_never_falls_whatever_two_sides_declare(mesh: Mesh) -> None:
    nodes = await declared(mesh, 3)
    with pytest.raises(NotDeclaredError, match="3 partitions"):
        await nodes[2].declare("orders", partitions=2)
    assert (await nodes[2].declare("orders", ttl=100)).partitions == 3
    await mesh.settle()
    mesh.partition(["a", "b"], ["c", "d", "e"])
    await nodes[0].declare("orders", partitions=6, ttl=200)
    await mesh.run_for(seconds=1)
    await nodes[2].declare("orders", partitions=5, ttl=300)
    await mesh.run_for(seconds=5)
    mesh.heal()
    await mesh.run_for(seconds=90)
    await mesh.settle()
    for node in nodes:
        assert node.settings_of("orders").partitions == 6
        assert node.settings_of("orders").ttl == 300
    for partitions in (0, 257, -1):
        with pytest.raises(UsageError, match="1 to 256"):
            await nodes[0].declare("orders", partitions=partitions)
    with pytest.raises(UsageError, match="one partition"):
        await nodes[0].declare("orders.dlq", partitions=2)
    mesh.check()


@seeds(5)
async def test_dead_letters_of_equal_dots_are_letters_each_and_go_back_to_their_keys(
    mesh: Mesh,
) -> None:
    nodes = await declared(mesh)
    await nodes[0].declare("orders", max_deliveries=1, retain=3_600)
    ids = set()
    for number in range(24):
        receipt = await nodes[0].publish(
            "orders", number, key=KEYS[number % 6] if number % 2 else None
        )
        ids.add(receipt.message_id)
    assert len(ids) == 24
    assert len({name.partition("-")[2] for name in ids}) < 24, "some have the same seq"
    messages = nodes[1].consume("orders", prefetch=100)
    for _ in range(24):
        (await anext(messages)).reject("no")
    await messages.aclose()  # type: ignore[attr-defined]  # an async generator
    for _ in range(60):
        if (await nodes[2].depth("orders.dlq")).ready == 24:
            break
        await mesh.run_for(seconds=1)
    assert (await nodes[2].depth("orders.dlq")).ready == 24
    report = await nodes[3].redrive("orders")
    assert (report.redriven, report.left) == (24, 0)
    again = [message async for message in nodes[4].drain("orders")]
    assert sorted(message.body for message in again) == list(range(24))
    of_key = defaultdict(set)
    for message in again:
        of_key[message.key].add(message.message_id.partition("-")[0].partition(".")[2])
    assert all(len(places) == 1 for key, places in of_key.items() if key is not None)
    retained = [message async for message in nodes[0].replay("orders")]
    assert Counter(message.body for message in retained) == dict.fromkeys(range(24), 2)
    assert ids <= {message.message_id for message in retained}
    stamps = [message.enqueued_at for message in retained]
    assert stamps == sorted(stamps)
    await mesh.settle()
    mesh.check(stuck_max=0)


@seeds(5)
async def test_outputs_and_ids_of_equal_dots_are_one_each_and_once_tells_them_apart(
    mesh: Mesh,
) -> None:
    nodes = await declared(mesh)
    await nodes[0].declare("bills", partitions=3)
    await mesh.settle()
    for number in range(20):
        await nodes[0].publish("orders", number)
    done: Counter[object] = Counter()

    @nodes[1].handler("orders", once=True)
    async def on_order(message: Message) -> None:
        done[message.body] += 1
        message.publish("bills", message.body)

    await mesh.run_for(seconds=20)
    assert done == dict.fromkeys(range(20), 1)
    assert Counter(await bodies_of(nodes[2], "bills")) == dict.fromkeys(range(20), 1)
    await mesh.settle()
    mesh.check(stuck_max=0, duplicates_max=0)


@seeds(5)
async def test_a_purge_and_its_limits_are_over_all_partitions(mesh: Mesh) -> None:
    nodes = await declared(mesh)
    await nodes[0].publish_many("orders", [bytes(1_000)] * 1_500)
    for number in range(9):
        await nodes[0].publish("orders", number)
    assert await nodes[1].purge("orders") == 1_509
    assert (await nodes[2].depth("orders")).total == 0
    await nodes[0].declare("orders", max_messages=100, overflow="drop-oldest")
    await mesh.settle()
    await nodes[3].publish_many("orders", range(400), key=lambda n: f"key {n % 40}")
    await mesh.settle()
    assert 80 <= (await nodes[2].depth("orders")).ready <= 100
    mesh.check()


@seeds(5)
async def test_a_consumer_of_few_holds_about_as_many_as_it_asked_for(mesh: Mesh) -> None:
    nodes = await declared(mesh)
    await nodes[0].publish_many("orders", range(200), key=lambda n: f"key {n}")
    messages = nodes[1].consume("orders", prefetch=10)
    first = await anext(messages)
    await mesh.run_for(seconds=2)
    assert (await nodes[2].depth("orders")).in_flight == 12, "3 of each partition"
    first.ack()
    await messages.aclose()  # type: ignore[attr-defined]  # an async generator
    assert len(await bodies_of(nodes[1], "orders")) == 199
    await mesh.settle()
    mesh.check(stuck_max=0)


@seeds(5)
async def test_a_slow_handler_keeps_what_more_partitions_than_it_has_hands_gave_it(
    mesh: Mesh,
) -> None:
    nodes = await declared(mesh, 8)
    taken = Taken()
    taken.by(nodes[1], seconds=20, concurrency=1)
    await mesh.run_for(seconds=2)
    for number in range(8):
        await nodes[0].publish("orders", number, key=f"key {number * number}")
    await mesh.run_for(seconds=2)
    taken.by(nodes[2], seconds=20, concurrency=1)
    await taken.until(mesh, 8)
    assert taken.bodies == dict.fromkeys(range(8), 1)
    await mesh.settle()
    mesh.check(stuck_max=0, duplicates_max=0)
