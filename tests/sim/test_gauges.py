"""What buffers hold is read as they are used, each with its limit."""

from __future__ import annotations

from p2pmq.config import Config, Replication
from p2pmq.core.early import HELD_MAX
from p2pmq.core.ids import PartitionKey
from p2pmq.core.packets.publishing import Batch, Publish
from p2pmq.sim.checks import buffers_are_bounded
from p2pmq.sim.mesh import Mesh
from tests.wire.samples import LEAST

KEY = PartitionKey("nobody", 0)


async def test_peaks_of_every_buffer_that_was_used_are_in_the_history(mesh: Mesh) -> None:
    config = Config(replication=Replication(replicas=3))
    nodes = await mesh.start("a", "b", "c", config=config)
    for number in range(100):
        for node in nodes:
            await node.publish("q", bytes([number]) * 50_000, confirm="none")
    await mesh.settle()
    seen = {what for _, what in mesh.history.peaks}
    assert {"members", "outbox, bytes", "window of a link, bytes", "dialled connections"} <= seen
    assert "unanswered copies, bytes" in seen
    assert all(0 < peak <= limit for peak, limit in mesh.history.peaks.values())
    assert mesh.history.peaks["a", "members"] == (3, 16_384)


async def test_a_buffer_that_grows_beyond_its_limit_is_found(mesh: Mesh) -> None:
    a, _ = await mesh.start("a", "b")
    packet = Publish("nobody", 0, 0, Batch(b"sessions", 1, 1, 4, LEAST))
    held = {(b"sessions", seq): (a.node_id, packet, 0, 0) for seq in range(HELD_MAX + 1)}
    a._machine.owner.early._held[KEY] = held
    await mesh.run_for(seconds=30)
    (found,) = buffers_are_bounded(mesh.history)
    assert found.text == (
        f"batches that wait for a merge of a held {HELD_MAX + 1}, its limit is {HELD_MAX}"
    )
