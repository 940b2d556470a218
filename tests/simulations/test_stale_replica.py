"""Nodes that were away for longer than anybody remembers what was acked.

Goal: what such a node still holds is not delivered from its queue again, nor lost: it is a dead
letter, with its reason. And what everybody knows is forgotten, so that memory stays bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from p2pmq.config import WAN, Config, Replication
from p2pmq.core import replication
from p2pmq.core.antientropy import digest_of
from p2pmq.core.ids import PartitionKey
from p2pmq.sim import SimulationCheckError, simulate
from p2pmq.sim.mesh import Mesh, seeds

if TYPE_CHECKING:
    from p2pmq.core.partition import Partition
    from p2pmq.node.message import DeadLetter
    from p2pmq.node.node import Node

HOUR_MS = 3_600_000
CONFIG = Config(swim=WAN, replication=Replication(replicas=3, context_retention_ms=HOUR_MS))
"""With WAN's slower probes, since hours go by."""
QUEUE = "orders"
KEY = PartitionKey(QUEUE, 0)
LETTERS = f"{QUEUE}.dlq"


async def started(mesh: Mesh, *names: str, config: Config = CONFIG) -> list[str]:
    """The queue's homes: its owner is the first."""
    await mesh.start(*names, config=config)
    machine = mesh.host(names[0]).machine
    assert machine is not None
    hosts = {mesh.host(name).disk.contents.node_id: name for name in names}
    return [hosts[node_id] for node_id in machine.homes_of(KEY)[0]]


async def fill(node: Node, count: int = 20, name: str = "body") -> list[bytes]:
    bodies = [f"{name} {number}".encode() for number in range(count)]
    for body in bodies:
        await node.publish(QUEUE, body, timeout=10)
    return bodies


async def drained(node: Node, queue: str = QUEUE) -> list[bytes]:
    return [bytes(message.body) async for message in node.drain(queue)]


async def letters(node: Node) -> tuple[list[bytes], list[DeadLetter | None]]:
    """The bodies in the dead-letter queue, and why they are there."""
    found = [(bytes(m.body), m.dead_letter) async for m in node.drain(LETTERS)]
    return [body for body, _ in found], [letter for _, letter in found]


def partition(mesh: Mesh, name: str) -> Partition:
    machine = mesh.host(name).machine
    assert machine is not None
    return machine.owner.partition(KEY)


def counted(mesh: Mesh, what: str) -> int:
    return sum(node.counters[what] for node in mesh.nodes)


async def acked_without(mesh: Mesh, away: str, *, by: str) -> list[bytes]:
    """All homes hold the messages; one goes away, and the others see them acked."""
    bodies = await fill(mesh.node(by))
    await mesh.run_for(seconds=2)
    mesh.crash(away)
    await mesh.run_for(minutes=2)
    assert sorted(await drained(mesh.node(by))) == sorted(bodies)
    return bodies


@seeds(3)
async def test_what_a_returning_home_still_holds_becomes_dead_letters(mesh: Mesh) -> None:
    first, second, third = await started(mesh, "a", "b", "c")
    bodies = await acked_without(mesh, third, by=first)
    await mesh.run_for(hours=2, minutes=5)
    for name in (first, second):
        assert not partition(mesh, name).seen
        assert partition(mesh, name).horizon
    await mesh.restart(third)
    await mesh.run_for(minutes=1)
    assert await drained(mesh.node(second)) == []
    found, why = await letters(mesh.node(second))
    assert sorted(found) == sorted(bodies)
    assert {(one.reason, one.queue) for one in why if one} == {("stale-replica", QUEUE)}
    assert None not in why
    assert counted(mesh, "stale_replica") == len(bodies)
    assert not partition(mesh, third).pending
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(3)
async def test_so_it_is_where_the_returning_node_is_the_owner_at_once(mesh: Mesh) -> None:
    first, second, third = await started(mesh, "a", "b", "c")
    bodies = await acked_without(mesh, first, by=second)
    await mesh.run_for(hours=2, minutes=5)
    assert not partition(mesh, second).seen
    await mesh.restart(first)
    await mesh.run_for(minutes=1)
    machine = mesh.host(first).machine
    assert machine is not None
    assert machine.owner.owns(KEY)
    assert await drained(mesh.node(third)) == []
    found, _ = await letters(mesh.node(third))
    assert sorted(found) == sorted(bodies)
    assert counted(mesh, "stale_replica") == len(bodies)
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(2)
async def test_a_returning_home_that_knows_the_acks_teaches_them_and_all_agree_again(
    mesh: Mesh,
) -> None:
    """What it remembers costs nothing but memory, until the others have forgotten it anew."""
    first, second, third = await started(mesh, "a", "b", "c")
    bodies = await fill(mesh.node(first))
    assert sorted(await drained(mesh.node(second))) == sorted(bodies)
    await mesh.run_for(seconds=5)
    mesh.crash(third)
    await mesh.run_for(hours=2, minutes=5)
    assert not partition(mesh, first).seen
    await mesh.restart(third)
    await mesh.run_for(minutes=2)
    assert len({digest_of(partition(mesh, name)) for name in (first, second, third)}) == 1
    assert partition(mesh, first).seen
    await mesh.run_for(hours=2)
    for name in (first, second, third):
        assert not partition(mesh, name).seen
        assert not any(key == KEY for key, _ in mesh.host(name).disk.contents.seen)
        assert partition(mesh, name).horizon
    assert await drained(mesh.node(first)) == []
    assert counted(mesh, "stale_replica") == 0
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(1)
async def test_what_nobody_has_acked_is_merged_however_long_its_home_was_away(mesh: Mesh) -> None:
    first, second, third = await started(mesh, "a", "b", "c")
    acked = await acked_without(mesh, third, by=first)
    await mesh.run_for(hours=2, minutes=5)
    kept = await fill(mesh.node(first), name="kept")
    await mesh.run_for(hours=2, minutes=5)
    await mesh.restart(third)
    await mesh.run_for(minutes=1)
    assert await drained(mesh.node(second)) == kept
    found, _ = await letters(mesh.node(first))
    assert sorted(found) == sorted(acked)
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(1)
async def test_two_homes_that_were_away_make_one_letter_of_a_message(mesh: Mesh) -> None:
    names = ("a", "b", "c", "d", "e")
    config = Config(
        swim=WAN, replication=Replication(replicas=5, min_copies=2, context_retention_ms=HOUR_MS)
    )
    homes = await started(mesh, *names, config=config)
    bodies = await fill(mesh.node(homes[0]))
    await mesh.run_for(seconds=2)
    for name in homes[3:]:
        mesh.crash(name)
    await mesh.run_for(minutes=2)
    assert sorted(await drained(mesh.node(homes[0]))) == sorted(bodies)
    await mesh.run_for(hours=2, minutes=5)
    for name in homes[3:]:
        await mesh.restart(name)
    await mesh.run_for(minutes=1)
    found, _ = await letters(mesh.node(homes[1]))
    assert sorted(found) == sorted(bodies)
    assert await drained(mesh.node(homes[0])) == []
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(3)
async def test_a_crash_of_whoever_buries_loses_no_letter_and_makes_no_second(mesh: Mesh) -> None:
    first, second, third = await started(mesh, "a", "b", "c")
    bodies = await acked_without(mesh, third, by=first)
    await mesh.run_for(hours=2, minutes=5)
    await mesh.restart(third)
    await mesh.run_for(seconds=mesh.random.uniform(0.0, 0.4))
    mesh.crash(first)
    await mesh.run_for(minutes=2)
    await mesh.restart(first)
    await mesh.run_for(minutes=1)
    found, _ = await letters(mesh.node(second))
    assert sorted(found) == sorted(bodies)
    assert await drained(mesh.node(second)) == []
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(1)
async def test_a_returning_node_that_is_no_home_any_more_hands_its_leftovers_over_as_dead(
    mesh: Mesh,
) -> None:
    names = ("a", "b", "c", "d")
    first, second, third = await started(mesh, *names)
    bodies = await acked_without(mesh, third, by=first)
    await mesh.run_for(hours=2, minutes=5)
    await mesh.node(first).declare(QUEUE, replicas=2)
    await mesh.run_for(seconds=5)
    await mesh.restart(third)
    await mesh.run_for(minutes=2)
    assert await drained(mesh.node(second)) == []
    found, _ = await letters(mesh.node(second))
    assert sorted(found) == sorted(bodies)
    held = [run for _, key, run in mesh.host(third).disk.alive() if key == KEY]
    assert held == []
    mesh.check(duplicates_max=0, stuck_max=0)


def test_without_the_judgement_what_was_acked_long_ago_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rule switched off: the checker sees it, and with the rule it passes (above)."""
    monkeypatch.setattr(replication, "judged", lambda _partition, batches: (tuple(batches), ()))

    async def story(mesh: Mesh) -> None:
        first, second, third = await started(mesh, "a", "b", "c")
        await acked_without(mesh, third, by=first)
        await mesh.run_for(hours=2, minutes=5)
        await mesh.restart(third)
        await mesh.run_for(minutes=1)
        await drained(mesh.node(second))
        mesh.check(duplicates_max=0)

    with simulate(0) as sim, pytest.raises(SimulationCheckError, match="acked_stays_acked"):
        sim.run(story)
