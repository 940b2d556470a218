"""Who owns what just now."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from p2pmq.config import Replication, Retry
from p2pmq.core.ids import NodeId, PartitionKey
from p2pmq.core.ownership import Ownership
from p2pmq.core.packets.registering import QueueSettings
from p2pmq.core.ring import Place
from tests.core.kit import A, B, C

KEYS = [PartitionKey(f"queue{number}", 0) for number in range(40)]
ALL = [Place(node_id, "") for node_id in (A, B, C)]


def alive_but(*dead: NodeId) -> Ownership:
    ownership = Ownership(Replication(replicas=1))
    ownership.refresh(ALL, lambda node_id: node_id not in dead)
    return ownership


def test_without_members_nobody_owns_anything() -> None:
    assert Ownership(Replication(replicas=1)).owner_of(KEYS[0]) is None


def test_the_owner_is_the_member_at_home_if_it_is_alive() -> None:
    ownership = alive_but()
    assert {ownership.owner_of(key) for key in KEYS} == {A, B, C}
    assert all(ownership.owner_of(key) == ownership.homes_of(key)[0][0] for key in KEYS)


def test_while_its_home_is_away_nobody_owns_a_partition() -> None:
    ownership, whole = alive_but(B), alive_but()
    for key in KEYS:
        assert ownership.homes_of(key)[0][0] == whole.homes_of(key)[0][0]
        expected = None if whole.owner_of(key) == B else whole.owner_of(key)
        assert ownership.owner_of(key) == expected


def test_a_refresh_names_the_partitions_whose_owner_has_changed() -> None:
    ownership = alive_but()
    before = {key: ownership.owner_of(key) for key in KEYS}
    changed = ownership.refresh(ALL, lambda node_id: node_id != C)
    assert changed == [key for key in KEYS if before[key] == C]
    assert ownership.refresh(ALL, lambda node_id: node_id != C) == []


def test_partitions_of_a_member_that_left_have_new_owners() -> None:
    ownership = alive_but()
    before = {key: ownership.owner_of(key) for key in KEYS}
    changed = ownership.refresh(ALL[:2], lambda _node_id: True)
    assert all(ownership.owner_of(key) in (A, B) for key in KEYS)
    assert {key for key in KEYS if before[key] == C} <= set(changed)


def test_only_the_living_are_asked_for_statistics() -> None:
    assert sorted(alive_but(A).alive_owners()) == [B, C]


def test_the_first_home_that_is_there_owns_what_has_several() -> None:
    ownership = Ownership(Replication(replicas=2))
    for dead in (None, A, B, C):
        ownership.refresh(ALL, [node_id for node_id in (A, B, C) if node_id != dead].__contains__)
        for key in KEYS:
            homes, wanted = ownership.homes_of(key)
            assert (len(set(homes)), wanted) == (2, 2)
            assert ownership.owner_of(key) == next(home for home in homes if home != dead)


def test_copies_wanted_are_a_majority_and_never_more_than_the_roster() -> None:
    for replicas, members, wanted in ((3, 3, 2), (3, 2, 2), (3, 1, 1), (5, 3, 3), (1, 3, 1)):
        ownership = Ownership(Replication(replicas=replicas))
        ownership.refresh(ALL[:members], lambda _node_id: False)
        assert ownership.homes_of(KEYS[0])[1] == wanted


def test_what_fails_where_there_is_no_queue_for_the_dead_is_tried_for_ever() -> None:
    ownership = Ownership(Replication(), retry=Retry(max_deliveries=3))
    assert ownership.retry_of("orders").max_deliveries == 3
    for queue in ("orders.dlq", "x" * 255):
        assert ownership.retry_of(queue).max_deliveries > 2**32


MANY = [Place(bytes([number]) * 8, "") for number in range(1, 11)]


def spread(partitions: int, places: list[Place] = MANY) -> Ownership:
    settings = QueueSettings(partitions=partitions)
    ownership = Ownership(Replication(replicas=3), lambda _queue: settings)
    ownership.refresh(places, lambda _node_id: True)
    return ownership


@pytest.mark.parametrize("partitions", [2, 8, 10, 40, 256])
def test_the_partitions_of_a_queue_are_spread_within_the_bound(partitions: int) -> None:
    ownership = spread(partitions)
    for queue in ("orders", "bills", "events"):
        found = Counter(ownership.owner_of(PartitionKey(queue, at)) for at in range(partitions))
        assert max(found.values()) <= math.ceil(1.15 * partitions / len(MANY))


def test_a_partition_that_this_node_has_not_heard_of_has_no_owner_until_it_has() -> None:
    ownership = spread(3)
    assert ownership.owner_of(PartitionKey("q", 2)) is not None
    for number in (3, 255, 65_535):
        key = PartitionKey("q", number)
        assert ownership.owner_of(key) is None
        assert ownership.homes_of(key) == ((), 1)
        assert ownership.in_line(key) == []
        assert not ownership.knows(key)
    assert ownership.knows(PartitionKey("q", 2))


def test_when_a_queue_gets_more_partitions_those_that_it_had_move_little() -> None:
    moved = total = 0
    for before, after in ((1, 2), (1, 8), (4, 8), (8, 16), (16, 64), (3, 200)):
        for number in range(20):
            keys = [PartitionKey(f"queue {number}", at) for at in range(before)]
            one, other = spread(before), spread(after)
            moved += sum(one.owner_of(key) != other.owner_of(key) for key in keys)
            total += before
    assert moved / total < 0.25


def test_a_rise_is_told_with_the_next_refresh_for_those_partitions_that_were_asked_for() -> None:
    settings = QueueSettings()
    ownership = Ownership(Replication(replicas=3), lambda _queue: settings)
    ownership.refresh(MANY, lambda _node_id: True)
    late = PartitionKey("q", 5)
    assert ownership.owner_of(late) is None
    settings = QueueSettings(partitions=6)
    assert ownership.owner_of(late) is None, "answers change only in `refresh`"
    assert late in ownership.refresh(MANY, lambda _node_id: True)
    assert ownership.owner_of(late) is not None


def test_limits_on_what_is_retained_are_shared_by_the_partitions() -> None:
    settings = QueueSettings(retain_ms=1_000, retain_bytes=1_001, partitions=4)
    ownership = Ownership(Replication(replicas=3), lambda _queue: settings)
    assert ownership.kept_of("q").copies_bytes == 251
