"""Queues with limits: publishers wait, are told, or the oldest messages go; nothing goes unsaid."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from p2pmq.errors import NotCommittedError, QueueFullError, UsageError
from p2pmq.sim.mesh import seeds
from tests.simulations.kit import bodies_of

if TYPE_CHECKING:
    from p2pmq.node.node import Node
    from p2pmq.sim.mesh import Mesh

NAMES = ("a", "b", "c")


async def total(node: Node, queue: str = "q") -> int:
    return (await node.depth(queue)).total


def counted(mesh: Mesh, what: str) -> int:
    return sum(node.counters[what] for node in mesh.nodes)


# ------------------------------------------------------------------------------------------ block


@seeds(5)
async def test_at_the_limit_a_publish_waits_and_an_ack_lets_it_in_at_once(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].declare("q", max_messages=10)
    await mesh.settle()
    await nodes[0].publish_many("q", range(10))
    with pytest.raises(NotCommittedError, match="the queue is full") as caught:
        await nodes[1].publish("q", "stays in its outbox", timeout=2)
    assert not caught.value.dropped
    waiting = asyncio.ensure_future(nodes[2].publish("q", "waits", timeout=60))
    await mesh.run_for(seconds=3)
    assert await total(nodes[0]) == 10
    assert not waiting.done()
    began_s = mesh.now
    left = 2
    async for message in nodes[0].consume("q", prefetch=1):
        message.ack()
        left -= 1
        if not left:
            break
    assert (await waiting).committed
    assert mesh.now - began_s < 1  # it was called, and did not wait for its turn to try again
    await mesh.settle()
    rest = await bodies_of(nodes[0])
    assert rest[:8] == list(range(2, 10))
    assert set(rest[8:]) == {"stays in its outbox", "waits"}
    mesh.check()


@seeds(5)
async def test_many_publishers_at_the_limit_lose_nothing_and_never_go_beyond_it(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].declare("q", max_messages=20, max_bytes=10_000)
    await mesh.settle()
    got: list[bytes] = []
    most = 0

    async def publish(node: Node, name: bytes) -> None:
        for number in range(100):
            await node.publish("q", b"%s-%03d" % (name, number), timeout=600)

    async def consume() -> None:
        async for message in nodes[1].consume("q", prefetch=5):
            await asyncio.sleep(0.01)
            got.append(message.body)
            message.ack()

    publishing = [
        asyncio.ensure_future(publish(node, b"%d%d" % (at, twin)))
        for at, node in enumerate(nodes)
        for twin in range(3)
    ]
    consuming = asyncio.ensure_future(consume())
    while not all(task.done() for task in publishing):
        most = max(most, await total(nodes[2]))
        await asyncio.sleep(0.05)
    await asyncio.gather(*publishing)
    while await total(nodes[2]):
        await asyncio.sleep(0.05)
    consuming.cancel()
    assert len(got) == len(set(got)) == 900
    for task in range(9):  # each publisher's order
        name = b"%d%d" % (task // 3, task % 3)
        assert [body for body in got if body.startswith(name)] == [
            b"%s-%03d" % (name, number) for number in range(100)
        ]
    assert 10 <= most <= 20
    assert counted(mesh, "queue_full_blocked") > 0
    mesh.check(duplicates_max=0)


@seeds(3)
async def test_a_batch_is_cut_to_the_limit_and_a_body_beyond_it_goes_into_an_empty_queue(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].declare("q", max_messages=3, max_bytes=100)
    await mesh.settle()
    bulk = asyncio.ensure_future(nodes[0].publish_many("q", [b"x" * 20] * 12, timeout=60))
    await mesh.run_for(seconds=2)
    assert await total(nodes[1]) == 3
    assert len(await bodies_of(nodes[1])) == 12
    await bulk
    await nodes[0].publish("q", b"y" * 1_000)
    assert await bodies_of(nodes[1]) == [b"y" * 1_000]
    mesh.check()


@seeds(5)
async def test_a_new_owner_knows_how_full_the_queue_is_and_calls_who_waits(mesh: Mesh) -> None:
    names = ("a", "b", "c", "d")
    await mesh.start(*names)
    await mesh.node("a").declare("q", max_messages=10)
    await mesh.settle()
    owner = mesh.node("a").owner_of("q")
    assert owner is not None
    first, second = [mesh.node(name) for name in names if name != owner][:2]
    await first.publish_many("q", range(10))
    waiting = asyncio.ensure_future(second.publish("q", 10, timeout=300))
    await mesh.run_for(seconds=1)
    mesh.crash(owner)
    await mesh.run_for(seconds=30)
    assert not waiting.done()
    assert await total(first) == 10
    assert sorted(await bodies_of(first)) == list(range(11))  # type: ignore[type-var]  # ints
    await waiting
    mesh.check()


@seeds(3)
async def test_a_limit_that_is_raised_lets_those_in_who_wait(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].declare("q", max_messages=1)
    await mesh.settle()
    await nodes[0].publish("q", 1)
    waiting = asyncio.ensure_future(nodes[1].publish("q", 2, timeout=60))
    await mesh.run_for(seconds=0.5)
    assert not waiting.done()
    began_s = mesh.now
    await nodes[2].declare("q", max_messages=2)
    await waiting
    assert mesh.now - began_s < 1
    mesh.check()


@seeds(3)
async def test_messages_stay_in_their_queue_while_its_dead_letter_queue_is_full(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].declare("q.dlq", max_messages=2, overflow="reject")
    await mesh.settle()
    await nodes[0].publish_many("q", range(5))
    left = 5
    async for message in nodes[1].consume("q"):
        message.reject()
        left -= 1
        if not left:
            break
    await mesh.run_for(seconds=60)
    assert (await total(nodes[0], "q.dlq"), await total(nodes[0])) == (2, 3)
    assert sorted(await bodies_of(nodes[2], "q.dlq"))[:2] == [0, 1]  # type: ignore[type-var]  # ints
    await mesh.run_for(seconds=60)
    assert await total(nodes[0]) <= 1
    mesh.check()


# ----------------------------------------------------------------------------------------- reject


@seeds(5)
async def test_a_queue_that_rejects_says_so_at_once_and_what_comes_after_is_not_held_up(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].declare("q", max_messages=4, overflow="reject")
    await mesh.settle()
    taken, rejected = [], []
    for number in range(40):
        began_s = mesh.now
        try:
            await nodes[1].publish("q", number)
            taken.append(number)
        except QueueFullError:
            rejected.append(number)
        assert mesh.now - began_s < 1
        if number % 10 == 9:
            assert await bodies_of(nodes[2]) == taken[-4:]
            await mesh.settle()
    assert taken == [n for n in range(40) if n % 10 < 4]
    assert counted(mesh, "publish_rejected") == len(rejected) == 24
    assert await nodes[1].flush(timeout=1)  # nothing of them is in the outbox
    mesh.check()


@seeds(5)
async def test_what_was_only_stored_and_is_rejected_later_is_counted_and_never_comes(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].declare("q", max_messages=4, overflow="reject")
    await mesh.settle()
    for number in range(10):
        with suppress(QueueFullError):  # the owner may be faster than the disk
            await nodes[1].publish("q", number, confirm="stored" if number % 2 else "none")
    await mesh.settle()
    got = await bodies_of(nodes[2])
    assert len(got) >= 4
    assert got == sorted(got)  # type: ignore[type-var]  # ints
    assert counted(mesh, "queue_full") == 10 - len(got) > 0
    mesh.check()


@seeds(10)
async def test_under_loss_what_is_rejected_is_said_and_order_is_kept(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].declare("q", max_messages=8, overflow="reject")
    await mesh.settle()
    mesh.loss(0.1)
    mesh.duplicate(0.1)
    told = {"taken": 0, "rejected": 0}

    async def publish(number: int) -> None:
        try:
            await nodes[1].publish("q", number, timeout=300)
            told["taken"] += 1
        except QueueFullError:
            told["rejected"] += 1

    got: list[object] = []

    async def consume() -> None:
        async for message in nodes[2].consume("q", prefetch=2):
            await asyncio.sleep(0.02)
            got.append(message.body)
            message.ack()

    consuming = asyncio.ensure_future(consume())
    publishing = []
    for number in range(150):
        publishing.append(asyncio.ensure_future(publish(number)))
        await asyncio.sleep(0.01)
    await asyncio.gather(*publishing)
    mesh.heal()
    await mesh.settle()
    while await total(nodes[0]):
        await asyncio.sleep(1)
    consuming.cancel()
    assert told["taken"] + told["rejected"] == 150
    assert len(set(got)) == told["taken"]
    mesh.check()


# ------------------------------------------------------------------------------------ drop-oldest


@seeds(5)
async def test_the_oldest_make_room_and_are_counted_and_come_back_from_no_copy(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].declare("q", max_messages=10, overflow="drop-oldest")
    await mesh.settle()
    for number in range(25):
        await nodes[number % 3].publish("q", number)
    await mesh.settle()
    assert await total(nodes[0]) == 10
    assert counted(mesh, "overflow") == 15
    owner = nodes[0].owner_of("q")
    assert owner is not None
    mesh.crash(owner)
    await mesh.run_for(seconds=30)
    other = next(node for node in mesh.nodes if node.settings.name != owner)
    assert await bodies_of(other) == list(range(15, 25))
    mesh.check()


@seeds(5)
async def test_what_a_consumer_holds_is_not_dropped_and_does_not_count(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].declare("q", max_messages=2, overflow="drop-oldest")
    await mesh.settle()
    messages = nodes[1].consume("q", prefetch=3)
    held = []
    for number in range(3):
        await nodes[0].publish("q", number)
        held.append(await anext(messages))
    for number in range(3, 10):
        await nodes[0].publish("q", number)
    assert await total(nodes[0]) == 5
    held[0].nack(0)  # the oldest: it goes when it is given back
    held[1].ack()
    held[2].ack()
    rest = [await anext(messages) for _ in range(2)]
    assert 9 in [message.body for message in rest]
    for message in rest:
        message.ack()
    await messages.aclose()  # type: ignore[attr-defined]  # an async generator
    await mesh.settle()
    mesh.check()


@seeds(5)
async def test_bytes_are_a_limit_as_well(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES)
    await nodes[0].declare("q", max_bytes=1_000, overflow="drop-oldest")
    await mesh.settle()
    await nodes[1].publish_many("q", [b"%03d" % number * 30 for number in range(50)])
    await mesh.settle()
    depth = await nodes[0].depth("q")
    assert 900 < depth.size <= 1_000
    got = await bodies_of(nodes[2])
    assert got == [b"%03d" % number * 30 for number in range(50)][-len(got) :]
    mesh.check()


@seeds(5)
async def test_what_a_heal_brings_beyond_the_limit_is_trimmed(mesh: Mesh) -> None:
    """With one copy to be committed both sides of a split fill the queue."""
    names = ("a", "b", "c", "d")
    await mesh.start(*names)
    await mesh.node("a").declare(
        "q", max_messages=10, overflow="drop-oldest", replicas=4, min_copies=1
    )
    await mesh.settle()
    mesh.partition(["a", "b"])
    await mesh.run_for(seconds=60)
    await mesh.node("a").publish_many("q", [f"a{n}" for n in range(8)])
    await mesh.node("c").publish_many("q", [f"c{n}" for n in range(8)])
    mesh.heal()
    await mesh.settle()
    await mesh.run_for(seconds=60)
    assert await total(mesh.node("a")) == 10
    assert counted(mesh, "overflow") == 6
    assert len(await bodies_of(mesh.node("d"))) == 10
    mesh.check()


@seeds(1)
async def test_limits_that_cannot_be_are_refused(mesh: Mesh) -> None:
    (node,) = await mesh.start("a")
    with pytest.raises(UsageError, match="max_messages=0"):
        await node.declare("q", max_messages=0)
    with pytest.raises(UsageError, match="overflow='forget' is unknown: use 'block', 'reject'"):
        await node.declare("q", overflow="forget")  # type: ignore[arg-type]  # on purpose
    info = await node.declare("q", max_bytes=5, overflow="reject")
    assert (info.max_messages, info.max_bytes, info.overflow) == (None, 5, "reject")
    assert node.settings_of("other").overflow == "block"
