"""Which work excuses nobody, and what may wait for owners who are away."""

from __future__ import annotations

import asyncio

from p2pmq.config import Config, Replication
from p2pmq.node.message import Message
from p2pmq.node.node import Node
from p2pmq.sim import seeds
from p2pmq.sim.mesh import Mesh
from p2pmq.sim.resting import has_resting, under_way, without_owner

ONE_COPY = Config(replication=Replication(replicas=1))
HEARD_S = 30
"""By then who was cut off is known to be away, and everything else is done."""


async def two(mesh: Mesh, suffix: str) -> tuple[Node, Node, str]:
    """Nodes a and b, and a queue of a's, of which the one with the suffix is b's."""
    a, b = await mesh.start("a", "b", config=ONE_COPY)
    names = (f"q{number}" for number in range(200))
    queue = next(
        name for name in names if (a.owner_of(name), a.owner_of(name + suffix)) == ("a", "b")
    )
    return a, b, queue


def lines(mesh: Mesh, *names: str) -> list[str]:
    return under_way([mesh.host(name) for name in names], mesh.network)


def ownerless(mesh: Mesh, *queues: str) -> list[str]:
    return without_owner([mesh.host("a")], queues)


def serve_rejecting(mesh: Mesh, queue: str) -> None:
    """On a, a consumer that rejects whatever is not to be kept."""

    async def reject(node: Node) -> None:
        held: list[Message] = []
        async for message in node.consume(queue):
            if message.body == "hold":
                held.append(message)
            else:
                message.reject()

    mesh.serve("a", reject)


@seeds(3)
async def test_dead_letters_wait_for_an_owner_who_is_away_and_for_nobody_else(mesh: Mesh) -> None:
    a, _, queue = await two(mesh, ".dlq")
    mesh.isolate("b")
    await mesh.run_for(seconds=HEARD_S)
    serve_rejecting(mesh, queue)
    for _ in range(3):
        await a.publish(queue, "bad")
    await mesh.run_for(seconds=HEARD_S)
    assert (await a.depth(queue)).total == 3
    assert lines(mesh, "a") == []
    assert ownerless(mesh, queue) == [queue]
    await a.publish(queue, "hold")  # nothing but its consumer keeps this one
    assert lines(mesh, "a") == [f"queue {queue!r} on a has consumers, and 1 messages"]


@seeds(3)
async def test_dead_letters_whose_queue_is_full_are_under_way(mesh: Mesh) -> None:
    a, _, queue = await two(mesh, ".dlq")
    await a.declare(f"{queue}.dlq", max_messages=1)
    await mesh.run_for(seconds=1)
    serve_rejecting(mesh, queue)
    for _ in range(3):
        await a.publish(queue, "bad")
    await mesh.run_for(seconds=HEARD_S)
    assert lines(mesh, "a", "b") == [f"queue {queue!r} on a has consumers, and 2 messages"]
    assert ownerless(mesh, queue) == []


@seeds(3)
async def test_the_next_of_a_key_may_wait_behind_a_dead_letter_for_who_is_away(mesh: Mesh) -> None:
    a, _, queue = await two(mesh, ".dlq")
    mesh.isolate("b")
    await mesh.run_for(seconds=HEARD_S)
    serve_rejecting(mesh, queue)
    await a.publish(queue, "bad", key="k")
    await a.publish(queue, "next", key="k")
    await mesh.run_for(seconds=HEARD_S)
    assert (await a.depth(queue)).total == 2
    assert lines(mesh, "a") == []
    mesh.heal()
    await mesh.settle()
    assert (await a.depth(queue)).total == 0
    mesh.check()


@seeds(3)
async def test_an_ack_waits_while_the_owner_of_its_outputs_is_away_and_its_lease_is_no_work(
    mesh: Mesh,
) -> None:
    a, _, queue = await two(mesh, ".out")
    mesh.isolate("b")
    await mesh.run_for(seconds=HEARD_S)

    async def work(node: Node) -> None:
        async for message in node.consume(queue, visibility_timeout=3):
            message.publish(f"{queue}.out", message.body)
            message.ack()

    mesh.serve("a", work)
    await a.publish(queue, "input")
    await mesh.run_for(seconds=HEARD_S)
    seen: set[tuple[str, ...]] = set()
    for _ in range(300):  # an extension of the lease may be on its way at any moment
        seen.add(tuple(lines(mesh, "a")))
        await asyncio.sleep(0.011)
    assert seen == {()}
    assert ownerless(mesh, queue) == [queue]
    mesh.heal()
    await mesh.settle()
    assert ownerless(mesh, queue) == []
    assert (await a.depth(queue)).total == 0


@seeds(3)
async def test_others_may_wait_behind_acks_that_wait_while_their_consumer_may_hold_no_more(
    mesh: Mesh,
) -> None:
    a, _, queue = await two(mesh, ".out")
    mesh.isolate("b")
    await mesh.run_for(seconds=HEARD_S)
    kept: list[Message] = []

    async def work(node: Node) -> None:
        async for message in node.consume(queue, prefetch=2):
            if message.body == "hold":
                kept.append(message)
                continue
            message.publish(f"{queue}.out", message.body)
            message.ack()

    mesh.serve("a", work)
    for number in range(3):
        await a.publish(queue, number)
    await mesh.run_for(seconds=HEARD_S)
    assert (await a.depth(queue)).total == 3
    assert lines(mesh, "a") == []
    mesh.heal()
    await mesh.settle()
    mesh.isolate("b")
    await mesh.run_for(seconds=HEARD_S)
    await a.publish(queue, "input")
    await a.publish(queue, "hold")  # nothing but its consumer keeps this one
    await a.publish(queue, "behind")
    await mesh.run_for(seconds=5)
    assert len(kept) == 1
    assert lines(mesh, "a") == [f"queue {queue!r} on a has consumers, and 1 messages"]


@seeds(3)
async def test_an_outbox_waits_for_who_is_away_and_is_under_way_while_the_owner_is_there(
    mesh: Mesh,
) -> None:
    a, b = await mesh.start("a", "b", config=ONE_COPY)
    queue = next(f"q{n}" for n in range(50) if a.owner_of(f"q{n}") == "b")
    mesh.cut("a", "b")
    await a.publish(queue, 1, confirm="stored")
    assert f"a has 1 messages for {queue!r} in its outbox" in lines(mesh, "a")
    await mesh.run_for(seconds=HEARD_S)
    assert lines(mesh, "a") == []
    assert ownerless(mesh, queue, "other") == [queue] or a.owner_of("other") is None
    mesh.heal()
    await mesh.settle()
    assert (await b.depth(queue)).total == 1


@seeds(3)
async def test_an_ack_that_its_owner_has_not_confirmed_is_under_way(mesh: Mesh) -> None:
    a, b = await mesh.start("a", "b", config=ONE_COPY)
    queue = next(f"q{n}" for n in range(50) if a.owner_of(f"q{n}") == "b")
    await a.publish(queue, 1)
    messages = a.consume(queue)
    message = await anext(messages)
    mesh.one_way("a", "b")  # what a says is lost
    message.ack()
    await mesh.run_for(seconds=0.1)
    assert f"a has settles for {queue!r} that its owner has not confirmed" in lines(mesh, "a", "b")
    mesh.heal()
    await messages.aclose()  # type: ignore[attr-defined]  # an async generator, as Node makes it
    await mesh.settle()
    assert (await b.depth(queue)).total == 0


@seeds(3)
async def test_what_is_not_due_rests_where_it_is_owned_until_it_is_due(mesh: Mesh) -> None:
    a, b = await mesh.start("a", "b")
    await a.publish("q", 1, delay=5)
    owner, other = sorted(("a", "b"), key=lambda name: name != a.owner_of("q"))
    assert has_resting(mesh.host(owner))
    assert not has_resting(mesh.host(other))
    await mesh.run_for(seconds=6)
    assert not has_resting(mesh.host(owner))
    assert (await b.depth("q")).ready == 1
    mesh.crash(owner)
    assert not has_resting(mesh.host(owner))
