"""One publisher's messages come in the order published, whatever the owners' clocks say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.config import Config, Replication
from p2pmq.sim.mesh import seeds

if TYPE_CHECKING:
    from p2pmq.sim.mesh import Mesh

CONFIG = Config(replication=Replication(replicas=2, min_copies=1))


@seeds(5)
async def test_two_owners_with_clocks_minutes_apart_break_no_publishers_order(mesh: Mesh) -> None:
    names = ("shop", "bank", "depot")
    await mesh.start(*names, config=CONFIG)
    first = mesh.node("shop").owner_of("orders")
    assert first is not None
    others = [name for name in names if name != first]
    mesh.isolate(first)
    await mesh.run_for(minutes=1)
    second = mesh.node(others[0]).owner_of("orders")
    assert second is not None
    (publisher,) = set(others) - {second}
    mesh.clock_jump(second, -288)
    mesh.partition({first, publisher}, {second})
    await mesh.run_for(minutes=1)
    await mesh.node(publisher).publish_many("orders", range(3))
    mesh.partition({first}, {second, publisher})
    await mesh.run_for(minutes=1)
    await mesh.node(publisher).publish_many("orders", range(3, 6))
    mesh.heal()
    await mesh.settle()
    drained = [message.body async for message in mesh.node(publisher).drain("orders")]
    assert drained == list(range(6))
    mesh.check()
