"""A simulated later protocol version says more than this one knows, and both work together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from p2pmq.config import Config, Replication
from p2pmq.core.packets import PACKETS, Packet
from p2pmq.errors import ClosedNodeError, VersionRefusedError
from p2pmq.sim.later import LATEST, codec_of, encode_later, unknown_packet
from p2pmq.sim.mesh import Mesh, seeds
from p2pmq.wire.codec import PacketError, decode, encode
from tests.wire.samples import full, least

if TYPE_CHECKING:
    from p2pmq.node.node import Node

NAMES = ("a", "b", "c", "d", "e")
COPIES = Config(replication=Replication(replicas=3))


@pytest.mark.parametrize("kind", PACKETS.values(), ids=lambda kind: kind.__name__)
def test_what_a_later_version_adds_to_a_packet_is_ignored(kind: type[Packet]) -> None:
    for packet in (least(kind), full(kind)):
        frames = encode_later(packet)
        assert frames[0] != encode(packet)[0]
        assert decode(frames) == packet


def test_a_packet_of_a_later_version_has_a_number_that_is_unknown() -> None:
    with pytest.raises(PacketError) as refused:
        decode(unknown_packet())
    assert refused.value.reason == "unknown-packet"


def test_only_a_later_version_says_more() -> None:
    hello = least(PACKETS[1])
    assert codec_of((1, 1)).encode(hello) == encode(hello)
    assert codec_of((1, 2)).encode(hello) == encode_later(hello)


async def test_nodes_agree_on_the_latest_version_that_both_speak(mesh: Mesh) -> None:
    old, new, newer = await mesh.start("a", "b", "c", versions={"b": (1, 2), "c": (1, 3)})
    await mesh.run_for(seconds=2)
    agreed = {
        (one, other): one._links.version_of(other.node_id)
        for one, other in ((old, new), (new, old), (new, newer), (newer, new), (newer, old))
    }
    assert list(agreed.values()) == [1, 1, 2, 2, 1]
    assert old._links.version_of(b"stranger") is None


async def test_what_old_nodes_do_not_know_is_counted_and_does_no_harm(mesh: Mesh) -> None:
    old, new = await mesh.start("a", "b", versions={"b": (1, 2)})
    for number in range(50):
        await new.publish("q", number)
        await old.publish("q", -number)
    assert len([m.body async for m in old.drain("q")]) == 100
    assert old.counters["packet_of_later_version"]
    assert not [name for name in old.counters.snapshot() if name.startswith("packet_malformed")]
    mesh.check(duplicates_max=0, stuck_max=0)


async def test_a_node_without_a_version_in_common_is_told_so_when_it_starts(mesh: Mesh) -> None:
    (old,) = await mesh.start("a")
    with pytest.raises(VersionRefusedError) as refused:
        await mesh.start("b", versions={"b": (LATEST, LATEST)})
    assert str(refused.value) == (
        "node 'b' met nobody, and was refused by the node at a:7171: no protocol version in "
        "common: it speaks protocol version 1, you protocol version 3; run a release of p2pmq "
        "that speaks a version which the mesh speaks"
    )
    assert [member.name for member in old.members()] == ["a"]
    assert old.counters["hello_refused_no_protocol_version_in_common"]


@seeds(3)
async def test_five_nodes_upgraded_one_by_one_lose_nothing_and_deliver_nothing_twice(
    mesh: Mesh,
) -> None:
    await mesh.start(*NAMES, "worker", leaf={"worker": True}, config=COPIES)
    sent, done = 0, False

    async def publish(node: Node) -> None:
        nonlocal sent
        while not done:
            sent += 1
            try:
                await node.publish("orders", sent, confirm="stored")
            except ClosedNodeError:
                return
            await asyncio.sleep(0.2)

    async def consume(node: Node) -> None:
        async for message in node.consume("orders"):
            message.ack()

    for name in NAMES:
        mesh.serve(name, publish)
    mesh.serve("worker", consume)
    for name in NAMES:
        await mesh.run_for(seconds=2)
        await mesh.upgrade(name, (1, 2))
    await mesh.run_for(seconds=2)
    done = True
    await mesh.settle()
    ids = {node.settings.name: node.node_id for node in mesh.nodes}
    assert mesh.node("a")._links.version_of(ids["b"]) == 2
    assert mesh.summary().acked >= sent - len(NAMES), "of each node, one may have died unsent"
    mesh.check(duplicates_max=0, stuck_max=0)
