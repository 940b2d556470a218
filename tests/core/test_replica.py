"""What a replica sends of what it holds: pieces of a bounded size, at a bounded cost."""

from __future__ import annotations

from collections import deque

import pytest

from p2pmq.config import Replication
from p2pmq.core.effects import Counted, Notify, Persist
from p2pmq.core.events import ReplicaDurable
from p2pmq.core.hlc import HybridClock
from p2pmq.core.ids import PartitionKey, Run
from p2pmq.core.ownership import Ownership
from p2pmq.core.packets.publishing import FRAME_BYTES_MAX
from p2pmq.core.packets.registering import QueueSettings
from p2pmq.core.packets.replicating import Replicate
from p2pmq.core.partition import Partition
from p2pmq.core.replica import BATCHES_MAX, cut
from p2pmq.core.ring import Place
from p2pmq.core.runmap import RunMap
from tests.core.kit import KEY, S1, A, B, C, batch_of, rooms_of


def partition_of(batches: int, size: int = 10) -> Partition:
    """One that holds so many batches of one message each."""
    partition = Partition(KEY, HybridClock())
    for seq in range(1, batches + 1):
        partition.append(batch_of(S1, seq, 1, size=size), 1_000, A)
        partition.on_durable(seq)
    return partition


def pieces_of(partition: Partition, *runs: Run) -> list[list[Run]]:
    queue = deque(runs)
    pieces = []
    while queue:
        pieces.append([batch.run for batch in cut(partition, queue)])
    return pieces


def test_a_piece_holds_no_more_batches_than_a_packet_may_however_small_they_are() -> None:
    partition = partition_of(3 * BATCHES_MAX + 1)
    for whole in ([Run(S1, 1, 1_000)], [Run(S1, 1, 100), Run(S1, 101, 1_000)]):
        pieces = pieces_of(partition, *whole)
        assert [len(piece) for piece in pieces] == [BATCHES_MAX] * 3 + [1]
        assert [run.first for piece in pieces for run in piece] == list(partition.batches)


def test_a_piece_holds_no_more_bytes_than_a_frame_but_one_batch_at_least() -> None:
    partition = partition_of(4, FRAME_BYTES_MAX // 2)
    assert [len(piece) for piece in pieces_of(partition, Run(S1, 1, 4))] == [2, 2]
    partition = partition_of(2, 2 * FRAME_BYTES_MAX)
    assert [len(piece) for piece in pieces_of(partition, Run(S1, 1, 2))] == [1, 1]


def test_a_piece_of_a_long_run_costs_no_more_than_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, each piece walked all that was left of its run: a million messages took hours."""
    partition = partition_of(10 * BATCHES_MAX)
    looked_at = []
    overlap = RunMap.overlap

    def counted(self: RunMap[int], *arguments: object) -> list[tuple[Run, int]]:
        found = overlap(self, *arguments)  # type: ignore[arg-type]  # as they were
        looked_at.append(len(found))
        return found

    monkeypatch.setattr(RunMap, "overlap", counted)
    assert len(pieces_of(partition, Run(S1, 1, 10 * BATCHES_MAX))) == 10
    assert max(looked_at) <= BATCHES_MAX + 1


def test_what_is_acked_meanwhile_is_left_out() -> None:
    partition = partition_of(3)
    partition.remove([Run(S1, 2, 2)])
    assert pieces_of(partition, Run(S1, 1, 3)) == [[Run(S1, 1, 1), Run(S1, 3, 3)]]


def test_a_partition_that_is_not_known_here_is_not_stored_and_not_answered_for_until_it_is() -> (
    None
):
    declared = {"q": QueueSettings(partitions=2)}
    view = Ownership(Replication(replicas=3), declared.get)
    view.refresh([Place(node_id) for node_id in (A, B, C)], lambda _node_id: True)
    replica = rooms_of(A, 1, view).replication.replica
    packet = Replicate("q", 2, 1, (), (batch_of(S1, 1, 3),))
    assert replica.on_replicate(B, packet, 0) == [Notify(Counted("partition_unknown"))]
    assert replica.held() == []
    declared["q"] = QueueSettings(partitions=3)
    (persist,) = replica.on_replicate(B, packet, 1_000)
    assert isinstance(persist, Persist)
    assert persist.then == ReplicaDurable(PartitionKey("q", 2), B, 1, (1,))
