"""A small outbox under a long split: published = delivered + reported, with each policy."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import pytest

from p2pmq.config import Config, OutboxPolicy, Replication
from p2pmq.core.quota import cost_of
from p2pmq.errors import OutboxFullError
from p2pmq.sim.mesh import Mesh, seeds

if TYPE_CHECKING:
    from p2pmq.node.node import Node

QUOTA = 40 * cost_of(1, 200)
SPLIT_MINUTES = 30

Policy = Literal["wait", "refuse", "drop-lowest"]


class Site:
    """A publisher that is cut off from its queue's owner, and what became of its messages."""

    def __init__(self) -> None:
        self.tried: list[tuple[bytes, int]] = []
        self.refused: set[bytes] = set()
        self.given: dict[bytes, int] = {}
        self.most = 0
        self.ended = False
        self.stopped = asyncio.Event()

    async def publish(self, node: Node) -> None:
        while not self.ended:
            body = (b"%06d" % len(self.tried)).ljust(200)
            priority = len(self.tried) % 10
            self.tried.append((body, priority))
            try:
                await node.publish("orders", body, confirm="stored", timeout=20, priority=priority)
            except OutboxFullError:
                self.refused.add(body)
            self.most = max(self.most, node._machine.outbox.quota.bytes_held)
            await asyncio.sleep(2)
        self.stopped.set()

    async def consume(self, node: Node) -> None:
        async for message in node.consume("orders"):
            async with message:
                body = bytes(message.body)
                self.given[body] = self.given.get(body, 0) + 1


async def cut_off(mesh: Mesh, policy: OutboxPolicy) -> tuple[Site, str]:
    """Run a site through the split and its heal; who it was."""
    config = Config(outbox=policy, replication=Replication(replicas=1))
    await mesh.start("a", "b", "c", config=config)
    owner = mesh.node("a").owner_of("orders")
    name = "a" if owner != "a" else "b"
    site = Site()
    for other in "abc":
        if other != name:
            mesh.serve(other, site.consume)
    mesh.serve(name, site.publish)
    await mesh.run_for(seconds=20)
    mesh.isolate(name)
    await mesh.run_for(minutes=SPLIT_MINUTES)
    mesh.heal()
    site.ended = True
    await site.stopped.wait()
    await mesh.settle()
    mesh.check()
    return site, name


def reported(mesh: Mesh, name: str, what: str) -> int:
    return mesh.node(name).counters[what]


@pytest.mark.parametrize("overflow", ["wait", "refuse", "drop-lowest"])
@seeds(2)
async def test_a_small_outbox_under_a_long_split_loses_nothing_unsaid(
    mesh: Mesh, overflow: Policy
) -> None:
    site, name = await cut_off(mesh, OutboxPolicy(QUOTA, overflow=overflow))
    dropped = reported(mesh, name, "outbox_dropped")
    assert reported(mesh, name, "outbox_refused") == len(site.refused) > 0
    assert reported(mesh, name, "outbox_full") >= dropped + len(site.refused)
    assert len(site.tried) == len(site.given) + len(site.refused) + dropped
    assert not site.refused & set(site.given)
    assert site.most <= QUOTA
    assert bool(dropped) == (overflow == "drop-lowest")
    assert bool(reported(mesh, name, "outbox_waited")) == (overflow == "wait")
    if overflow == "drop-lowest":
        lost = {body for body, _ in site.tried} - set(site.given)
        kept = [priority for body, priority in site.tried if body in site.given]
        gone = [priority for body, priority in site.tried if body in lost]
        assert gone.count(9) < gone.count(0)
        assert kept.count(9) > kept.count(0)


@seeds(2)
async def test_what_is_too_old_when_the_split_ends_was_reported_and_does_not_come(
    mesh: Mesh,
) -> None:
    site, name = await cut_off(mesh, OutboxPolicy(age_max_ms=60_000))
    dropped = reported(mesh, name, "outbox_dropped")
    assert dropped == reported(mesh, name, "outbox_age") > SPLIT_MINUTES * 60 / 2 * 0.8
    assert len(site.tried) == len(site.given) + dropped
    assert site.tried[-1][0] in site.given
