"""What an owner knows of the copies of a partition that is not here: it follows the roster, too."""

from __future__ import annotations

from p2pmq.core.ids import NodeId, PartitionKey
from p2pmq.core.packets.publishing import Confirm, Publish
from p2pmq.core.packets.replicating import Offer, Replicate
from tests.core.kit import KEY, S1, A, B, C, View, batch_of, packets, rooms_of, writes


class Growing(View):
    """A roster that a node first believes to be itself alone."""

    def __init__(self) -> None:
        super().__init__(A)
        self.homes: tuple[NodeId, ...] = (A,)

    def homes_of(self, key: PartitionKey) -> tuple[tuple[NodeId, ...], int]:
        del key
        return self.homes, len(self.homes) // 2 + 1

    def is_alive(self, node_id: NodeId) -> bool:
        return node_id in self.homes


def test_who_was_alone_when_a_copy_was_offered_confirms_with_as_many_as_the_roster_wants() -> None:
    """The offer made the owner look after copies of a partition that it had nothing of."""
    view = Growing()
    rooms = rooms_of(A, 1, view)
    rooms.replication.on_offer(B, Offer(KEY.queue, KEY.number, bytes(8)), 0)
    view.homes = (A, B, C)
    rooms.on_placement_changed(1)
    assert not rooms.replication.is_active(KEY)
    effects = rooms.owner.on_publish(C, Publish(KEY.queue, 0, 0, batch_of(S1, 1, 1)), 2)
    for write in writes(effects):
        assert write.then is not None
        effects += rooms.owner.on_batch_durable(write.then, 3)  # type: ignore[arg-type]  # of a batch
    sent = packets(effects)
    assert not [packet for packet in sent if isinstance(packet, Confirm | Replicate)]
