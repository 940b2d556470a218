"""Messages of one ordering key are processed one after another, whatever fails."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

from p2pmq.config import Config, Replication, Timing
from p2pmq.sim.mesh import seeds

if TYPE_CHECKING:
    from p2pmq.node.message import Message
    from p2pmq.node.node import Node
    from p2pmq.sim.mesh import Mesh

NAMES = ("shop", "bank", "depot")
KEYS = ("ann", "bob", "eve")


class Ledger:
    """What handlers are at, and what they have done, by key."""

    def __init__(self) -> None:
        self.at: dict[object, set[object]] = defaultdict(set)
        self.done: dict[object, list[object]] = defaultdict(list)
        self.side_by_side: list[object] = []

    async def work(self, message: Message, seconds: float) -> None:
        """Process a message; note if another of its key is being processed."""
        self.side_by_side += [(message.key, message.body)] if self.at[message.key] else []
        self.at[message.key].add(message.message_id)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.at[message.key].discard(message.message_id)
        self.done[message.key].append(message.body)

    def count(self) -> int:
        return sum(map(len, self.done.values()))


def handled_by(ledger: Ledger, node: Node, seconds: float = 0.05, concurrency: int = 8) -> None:
    @node.handler("orders", concurrency=concurrency)
    async def on_order(message: Message) -> None:
        await ledger.work(message, seconds)


async def until(mesh: Mesh, ledger: Ledger, count: int) -> None:
    for _ in range(600):
        if ledger.count() >= count:
            return
        await mesh.run_for(seconds=0.5)
    raise AssertionError(f"{ledger.count()} of {count} were processed in 300 s")


def key_of(number: int) -> str:
    return KEYS[number % len(KEYS)]


@seeds(10)
async def test_a_key_is_processed_in_order_and_one_by_one_on_many_nodes(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES)
    ledger = Ledger()
    for node in nodes:
        handled_by(ledger, node)
    await nodes[0].publish_many("orders", range(30), key=key_of)
    await until(mesh, ledger, 30)
    assert not ledger.side_by_side
    assert ledger.done == {key: [n for n in range(30) if key_of(n) == key] for key in KEYS}
    await mesh.settle()
    mesh.check(stuck_max=0, duplicates_max=0)


@seeds(10)
async def test_keys_run_side_by_side_and_a_failing_one_holds_up_itself_alone(mesh: Mesh) -> None:
    shop, bank, _ = await mesh.start(*NAMES)
    done: list[tuple[object, object]] = []
    failures = 0

    @bank.handler("orders", concurrency=4)
    async def on_order(message: Message) -> None:
        nonlocal failures
        if message.body == 0 and message.attempt <= 3:
            failures += 1
            raise RuntimeError("not yet")
        done.append((message.key, message.body))

    await shop.declare("orders", backoff=2.0, backoff_max=2.0)
    await shop.publish_many("orders", range(12), key=key_of)
    await mesh.run_for(seconds=0.9)
    others = [body for key, body in done if key != key_of(0)]
    assert set(others) == {n for n in range(12) if key_of(n) != key_of(0)}
    assert len(done) == len(others), "the messages behind the failing one wait for it"
    await mesh.run_for(seconds=30)
    assert failures == 3
    assert [body for key, body in done if key == key_of(0)] == [0, 3, 6, 9]
    await mesh.settle()
    mesh.check(stuck_max=0)


@seeds(10)
async def test_a_new_owner_lets_a_consumer_finish_before_it_goes_on_with_the_key(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start(*NAMES)
    owner = nodes[0].owner_of("orders")
    assert owner is not None
    others = [mesh.node(name) for name in NAMES if name != owner]
    ledger = Ledger()
    for node in others:
        handled_by(ledger, node, seconds=15)
    await others[0].publish_many("orders", range(6), key=key_of)
    await mesh.run_for(seconds=1)
    mesh.crash(owner)
    await until(mesh, ledger, 6)
    assert not ledger.side_by_side
    assert ledger.done == {"ann": [0, 3], "bob": [1, 4], "eve": [2, 5]}
    await mesh.restart(owner)
    await mesh.settle()
    mesh.check(stuck_max=0, duplicates_max=0)


@seeds(10)
async def test_each_side_of_a_split_keeps_its_own_turns_and_none_is_stranded_after_the_heal(
    mesh: Mesh,
) -> None:
    """Where one copy is enough both sides go on, and two may be at one key: each owner at one."""
    copies = Replication(replicas=3, min_copies=1)
    nodes = await mesh.start(*NAMES, config=Config(replication=copies))
    sides = {"shop": Ledger(), "rest": Ledger()}
    for name, node in zip(NAMES, nodes, strict=True):
        handled_by(sides["shop" if name == "shop" else "rest"], node, seconds=0.3)
    mesh.partition({"shop"}, {"bank", "depot"})
    await mesh.run_for(minutes=1)
    await nodes[0].publish_many("orders", range(12), key=key_of)
    await nodes[1].publish_many("orders", range(12, 24), key=key_of)
    await mesh.run_for(seconds=1.5)
    mesh.heal()
    await mesh.settle()
    assert not sides["shop"].side_by_side
    done = {n for side in sides.values() for of_key in side.done.values() for n in of_key}
    assert done == set(range(24))
    mesh.check(stuck_max=0)


@seeds(5)
async def test_keys_outlive_a_restart_of_all_and_dead_letters_keep_them(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].declare("orders", max_deliveries=1)
    await nodes[0].publish_many("orders", range(6), key=key_of)
    await mesh.settle()
    for name in NAMES:
        mesh.crash(name)
    for name in NAMES:
        await mesh.restart(name)
    ledger = Ledger()

    @mesh.node("bank").handler("orders", concurrency=8)
    async def on_order(message: Message) -> None:
        await ledger.work(message, 1)
        if message.body == 0:
            raise RuntimeError("never")

    await until(mesh, ledger, 6)
    assert not ledger.side_by_side
    assert ledger.done == {"ann": [0, 3], "bob": [1, 4], "eve": [2, 5]}
    await mesh.settle()
    letters = [(m.key, m.body) async for m in mesh.node("depot").drain("orders.dlq")]
    assert letters == [("ann", 0)]
    mesh.check(stuck_max=0)


@seeds(5)
async def test_drain_and_batches_get_all_of_a_key_in_order(mesh: Mesh) -> None:
    quick = Config(timing=Timing(visibility_timeout_ms=5_000))
    shop, bank, _ = await mesh.start(*NAMES, config=quick)
    await shop.publish_many("orders", range(20), key=b"\xffsame")
    await shop.publish("orders", "other")
    drained = [(message.key, message.body) async for message in bank.drain("orders")]
    assert [body for key, body in drained if key == b"\xffsame"] == list(range(20))
    assert (None, "other") in drained
    mesh.check(stuck_max=0, duplicates_max=0)
