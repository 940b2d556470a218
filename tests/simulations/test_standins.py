"""Copies on stand-ins: what they are worth while homes are away, and that nothing else comes of it.

Homes and stand-ins of a queue follow from the roster, so each test asks the mesh who they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

from p2pmq.config import Config, Replication
from p2pmq.core.copies import Copies, Home
from p2pmq.core.ids import PartitionKey
from p2pmq.errors import NotCommittedError, RequestTimeoutError
from p2pmq.sim.mesh import Mesh, seeds

if TYPE_CHECKING:
    from p2pmq.core.ids import NodeId
    from p2pmq.node.message import Message
    from p2pmq.node.node import Node

KEY = PartitionKey("orders", 0)
NAMES = ("a", "b", "c", "d", "e")
THREE = Config(replication=Replication(replicas=3))
SOON = Config(replication=Replication(replicas=3, replace_after_ms=60_000))


async def started(mesh: Mesh, config: Config = SOON) -> list[str]:
    """Five nodes, in the queue's order of preference: the first owns, three are homes."""
    await mesh.start(*NAMES, config=config)
    machine = mesh.host("a").machine
    assert machine is not None
    names = {host.disk.contents.node_id: host.name for host in map(mesh.host, NAMES)}
    homes, wanted = machine.homes_of(KEY)
    assert wanted == 2
    return [names[n] for n in (*homes, *machine._ownership.in_line(KEY))]


async def fill(node: Node, name: str, count: int = 20) -> list[bytes]:
    bodies = [b"%s %d" % (name.encode(), number) for number in range(count)]
    for body in bodies:
        await node.publish("orders", body, timeout=10)
    return bodies


async def drained(node: Node) -> list[bytes]:
    return [bytes(message.body) async for message in node.drain("orders")]


def held(mesh: Mesh, name: str) -> int:
    """How many messages of the queue lie on a disk."""
    return sum(run.length for _, key, run in mesh.host(name).disk.alive() if key == KEY)


def knows(mesh: Mesh, name: str) -> bool:
    """Whether anything of the queue lies on a disk, be it only what was acked."""
    contents = mesh.host(name).disk.contents
    return any(key == KEY for key, _ in contents.seen) or held(mesh, name) > 0


@seeds(3)
async def test_a_minority_confirms_nothing_however_long_it_is_cut_off(mesh: Mesh) -> None:
    """The owner and a stand-in are two nodes; they must not pass for two homes."""
    owner, second, third, fourth, fifth = await started(mesh)
    before = await fill(mesh.node(owner), "before")
    mesh.partition({owner, fourth}, {second, third, fifth})
    await mesh.run_for(minutes=55)
    assert held(mesh, fourth) == len(before), "it stands in, for all that it does not count"
    for name in (owner, fourth):
        with pytest.raises(NotCommittedError):
            await mesh.node(name).publish("orders", b"minority", timeout=60)
        with pytest.raises(RequestTimeoutError):
            await drained(mesh.node(name))
    assert mesh.node(owner).counters["standin_begun"] == 1
    after = await fill(mesh.node(fifth), "majority")
    assert sorted(await drained(mesh.node(third))) == sorted(before + after)
    mesh.heal()
    await mesh.run_for(minutes=3)
    assert await drained(mesh.node(owner)) == [b"minority", b"minority"], "they were promised"
    await mesh.settle()
    assert not knows(mesh, fourth)
    mesh.check(stuck_max=0)


def count_stand_ins(copies: Copies, node_ids: Iterable[NodeId]) -> None:
    """What must not be: `Copies.set_stand_ins`, if a stand-in were as good as a home."""
    for node_id in node_ids:
        copies.homes.setdefault(node_id, Home(node_id, hint=True))


async def test_if_stand_ins_counted_both_sides_would_confirm(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason why they do not: the test above would fail."""
    monkeypatch.setattr(Copies, "set_stand_ins", count_stand_ins)
    owner, second, third, fourth, fifth = await started(mesh)
    await fill(mesh.node(owner), "before")
    mesh.partition({owner, fourth}, {second, third, fifth})
    await mesh.run_for(minutes=2)
    for name in (owner, second):
        assert (await mesh.node(name).publish("orders", b"both", timeout=60)).copies == 2


@seeds(5)
async def test_a_home_that_comes_back_after_an_hour_gets_all_and_its_stand_in_keeps_nothing(
    mesh: Mesh,
) -> None:
    owner, other, away, stand_in, fifth = await started(mesh, THREE)
    before = await fill(mesh.node(fifth), "before")
    mesh.crash(away)
    await mesh.run_for(minutes=5)
    assert not knows(mesh, stand_in), "it may be a reboot"
    await mesh.run_for(minutes=10)
    assert held(mesh, stand_in) == len(before)
    assert not knows(mesh, fifth)
    done = [bytes(message.body) for message in await taken(mesh.node(fifth), 10)]
    meanwhile = await fill(mesh.node(stand_in), "meanwhile")
    await mesh.run_for(minutes=45)
    assert held(mesh, stand_in) == held(mesh, owner) == held(mesh, other) == 30
    assert mesh.node(owner).counters["standin_begun"] == 1
    await mesh.restart(away)
    await mesh.run_for(minutes=2)
    assert held(mesh, away) == 30
    assert not knows(mesh, stand_in)
    assert mesh.node(owner).counters["standin_ended"] == 1
    rest = await drained(mesh.node(away))
    assert sorted(done + rest) == sorted(before + meanwhile), "nothing lost, and nothing twice"
    await mesh.settle()
    mesh.check(duplicates_max=0, stuck_max=0)


async def taken(node: Node, count: int) -> list[Message]:
    """Consume so many messages, ack them, and wait until the acks are committed."""
    messages: list[Message] = []
    consuming = node.consume("orders", prefetch=1)
    async for message in consuming:
        message.ack()
        messages.append(message)
        if len(messages) == count:
            break
    await consuming.aclose()  # type: ignore[attr-defined]  # an async generator, as Node makes it
    await node.flush()
    return messages


@seeds(5)
async def test_messages_come_back_from_a_stand_in_when_those_who_held_them_are_forgotten(
    mesh: Mesh,
) -> None:
    owner, other, away, stand_in, fifth = await started(mesh)
    mesh.crash(away)
    await mesh.run_for(minutes=2)
    bodies = await fill(mesh.node(fifth), "message")
    done = [bytes(message.body) for message in await taken(mesh.node(fifth), 5)]
    await mesh.run_for(seconds=1)
    mesh.crash(other)
    await mesh.run_for(seconds=1)
    mesh.crash(owner)
    await mesh.run_for(seconds=30)
    assert mesh.node(stand_in).owner_of("orders") is None, "no home is left"
    for name in (owner, other, away):
        await mesh.node(stand_in).forget(name)
    await mesh.run_for(seconds=10)
    assert sorted(done + await drained(mesh.node(fifth))) == sorted(bodies)


@seeds(5)
async def test_messages_come_back_from_a_stand_in_with_one_home_back_and_one_forgotten(
    mesh: Mesh,
) -> None:
    """The home that comes back has none of them; with the stand-in, a home now, it makes two."""
    owner, other, away, stand_in, fifth = await started(mesh)
    mesh.crash(away)
    await mesh.run_for(minutes=2)
    bodies = await fill(mesh.node(fifth), "message")
    await mesh.run_for(seconds=1)
    mesh.crash(other, owner)
    await mesh.run_for(seconds=30)
    await mesh.restart(away)
    await mesh.node(stand_in).forget(other)
    await mesh.run_for(seconds=30)
    assert sorted(await drained(mesh.node(fifth))) == sorted(bodies)


@seeds(5)
async def test_messages_come_back_from_a_stand_in_when_every_home_has_lost_them(
    mesh: Mesh,
) -> None:
    """Both disks that committed them fall back to an older state; the third was away."""
    owner, other, away, stand_in, fifth = await started(mesh)
    before = await fill(mesh.node(fifth), "before")
    assert await drained(mesh.node(fifth)) == before
    await mesh.run_for(seconds=1)
    mesh.crash(away)
    await mesh.run_for(minutes=2)
    mesh.snapshot(owner)
    mesh.snapshot(other)
    bodies = await fill(mesh.node(fifth), "message")
    await mesh.run_for(seconds=1)
    for name in (other, owner):
        mesh.crash(name)
        mesh.roll_back(name)
    for name in (away, other, owner):
        await mesh.restart(name)
    await mesh.run_for(minutes=2)
    assert sorted(await drained(mesh.node(fifth))) == sorted(bodies)
    await mesh.settle()
    assert not knows(mesh, stand_in)


@seeds(5)
async def test_an_heir_takes_the_former_owners_stand_in_for_its_own(mesh: Mesh) -> None:
    owner, heir, away, stand_in, fifth = await started(mesh)
    bodies = await fill(mesh.node(fifth), "message")
    mesh.crash(away)
    await mesh.run_for(minutes=2)
    mesh.crash(owner)
    await mesh.run_for(minutes=3)
    assert mesh.node(stand_in).owner_of("orders") == heir
    assert held(mesh, stand_in) == held(mesh, fifth) == len(bodies), "two homes are away by now"
    with pytest.raises(NotCommittedError):
        await mesh.node(fifth).publish("orders", b"one home, two stand-ins", timeout=60)
    await mesh.restart(owner)
    await mesh.restart(away)
    await mesh.run_for(minutes=3)
    assert not knows(mesh, stand_in)
    assert not knows(mesh, fifth)
    assert len(await drained(mesh.node(heir))) == len(bodies) + 1
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(5)
async def test_a_stand_in_that_dies_is_replaced_and_hands_over_when_it_is_back(mesh: Mesh) -> None:
    owner, _, away, stand_in, fifth = await started(mesh)
    bodies = await fill(mesh.node(owner), "message")
    mesh.crash(away)
    await mesh.run_for(minutes=2)
    mesh.crash(stand_in)
    await mesh.run_for(minutes=1)
    assert held(mesh, fifth) == len(bodies)
    await mesh.restart(stand_in)
    await mesh.run_for(minutes=1)
    assert not knows(mesh, stand_in)
    assert held(mesh, fifth) == len(bodies)


@seeds(3)
async def test_a_stand_in_that_leaves_takes_nothing_along(mesh: Mesh) -> None:
    owner, _, away, stand_in, fifth = await started(mesh)
    bodies = await fill(mesh.node(owner), "message")
    mesh.crash(away)
    await mesh.run_for(minutes=2)
    assert held(mesh, stand_in) == len(bodies)
    await mesh.leave(stand_in, 20)
    assert not knows(mesh, stand_in)
    await mesh.run_for(minutes=1)
    assert held(mesh, fifth) == len(bodies)


@seeds(3)
async def test_replace_after_0_keeps_no_copies_elsewhere(mesh: Mesh) -> None:
    never = Config(replication=Replication(replicas=3, replace_after_ms=0))
    owner, _, away, stand_in, fifth = await started(mesh, never)
    await fill(mesh.node(owner), "message")
    mesh.crash(away)
    await mesh.run_for(hours=1)
    assert not knows(mesh, stand_in)
    assert not knows(mesh, fifth)


@seeds(3)
async def test_a_queue_that_is_new_while_a_home_is_away_gets_its_stand_in_at_once(
    mesh: Mesh,
) -> None:
    owner, _, away, stand_in, _ = await started(mesh)
    mesh.crash(away)
    await mesh.run_for(minutes=5)
    bodies = await fill(mesh.node(owner), "message")
    await mesh.run_for(seconds=1)
    assert held(mesh, stand_in) == len(bodies)
