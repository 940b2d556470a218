"""A surplus home that becomes a home again while it hands over what it holds: it keeps it.

The owner counts on the copy there from then on, whichever of the two has heard of it first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.core.effects import Effect, Send
from p2pmq.core.events import HandoverDurable, ReplicaDurable
from p2pmq.core.packets.delivering import Handover, HandoverTaken
from p2pmq.core.packets.replicating import Compare, Replicate
from tests.core.kit import KEY, S1, A, B, Rooms, View, batch_of, packets, rooms_of, writes

if TYPE_CHECKING:
    from p2pmq.core.ids import NodeId, PartitionKey

NOW = 10_000


class Homes(View):
    """A owns; `homes` are those that this node knows of."""

    def __init__(self, *homes: NodeId) -> None:
        super().__init__(A)
        self.homes = homes

    def homes_of(self, key: PartitionKey) -> tuple[tuple[NodeId, ...], int]:
        del key
        return self.homes, 1

    def is_alive(self, node_id: NodeId) -> bool:
        return node_id in (A, B)


def surplus_home() -> tuple[Rooms, list[Effect]]:
    """B, which holds two messages that belong on A alone; and the piece that it gives."""
    rooms = rooms_of(B, 1, Homes(A))
    stored = rooms.replication.replica.on_replicate(
        A, Replicate(*KEY, 1, (), (batch_of(S1, 1, 2),)), NOW
    )
    (write,) = writes(stored)
    assert isinstance(write.then, ReplicaDurable)
    rooms.replication.replica.on_durable(write.then, NOW)
    return rooms, rooms.on_placement_changed(NOW)


def piece_of(effects: list[Effect]) -> Handover:
    (piece,) = packets(effects)
    assert isinstance(piece, Handover)
    return piece


def test_what_an_owner_counts_on_by_now_is_not_deleted_by_a_late_answer() -> None:
    rooms, begun = surplus_home()
    piece = piece_of(begun)
    rooms.handovers.on_compare(A, Compare(*KEY, 7, b"12345678"), NOW)
    late = rooms.handovers.on_taken(A, HandoverTaken(*KEY, piece.transfer), NOW)
    assert late == []
    assert rooms.owner.partition(KEY).pending.count == 2


def test_a_comparison_puts_a_handover_off_and_does_not_end_it() -> None:
    rooms, begun = surplus_home()
    first = piece_of(begun)
    rooms.handovers.on_compare(A, Compare(*KEY, 7, b"12345678"), NOW)
    due = rooms.handovers.next_deadline()
    assert due is not None
    again = piece_of(rooms.handovers.on_timeout(due))
    assert again.transfer != first.transfer
    assert again.batches == first.batches


def test_another_nodes_comparison_changes_nothing() -> None:
    rooms, begun = surplus_home()
    rooms.handovers.on_compare(b"stranger", Compare(*KEY, 7, b"12345678"), NOW)
    rooms.handovers.on_taken(A, HandoverTaken(*KEY, piece_of(begun).transfer), NOW)
    assert KEY not in rooms.owner.partitions


def taking_owner() -> tuple[Rooms, HandoverDurable]:
    """A, which has begun to write what B gives, and has heard since that B is a home again."""
    view = Homes(A)
    rooms = rooms_of(A, 1, view)
    _, begun = surplus_home()
    piece = piece_of(begun)
    (write,) = writes(rooms.handovers.on_handover(B, piece, NOW))
    assert isinstance(write.then, HandoverDurable)
    view.homes = (A, B)
    rooms.on_placement_changed(NOW)
    return rooms, write.then


def test_an_owner_that_counts_on_the_giver_by_now_does_not_say_taken() -> None:
    rooms, durable = taking_owner()
    said = packets(rooms.handovers.on_durable(durable, NOW))
    assert not [packet for packet in said if isinstance(packet, HandoverTaken)]


def test_it_says_taken_where_the_giver_is_none_of_its_homes() -> None:
    rooms = rooms_of(A, 1, Homes(A))
    _, begun = surplus_home()
    (write,) = writes(rooms.handovers.on_handover(B, piece_of(begun), NOW))
    assert isinstance(write.then, HandoverDurable)
    said = rooms.handovers.on_durable(write.then, NOW)
    assert [type(e.packet) for e in said if isinstance(e, Send)] == [HandoverTaken]
