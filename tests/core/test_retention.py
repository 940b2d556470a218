"""What was acked long ago is forgotten; what a home that missed it brings back is dead."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import rule, run_state_machine_as_test

from p2pmq.config import RETENTION_MS_MIN, Replication
from p2pmq.core.antientropy import ALL
from p2pmq.core.copies import Contact, Home
from p2pmq.core.dots import DotSet
from p2pmq.core.hlc import COUNTER_BITS, HybridClock
from p2pmq.core.ids import Run
from p2pmq.core.packets.publishing import Death, RunField
from p2pmq.core.packets.replicating import Replicate
from p2pmq.core.partition import Partition
from p2pmq.core.records import HorizonMoved, SeenChanged
from p2pmq.core.retention import judged, stale_here
from p2pmq.errors import UsageError
from tests.core.kit import KEY, S1, S2, A, B, Disk, batch_of, dots_of
from tests.core.retaining_world import LETTERS, RetainingWorld, letter_of
from tests.core.test_replication import CopiesMachine, nodes

HOUR = RETENTION_MS_MIN << COUNTER_BITS


def stored(partition: Partition, session: bytes, first: int, count: int) -> int:
    """Append and make durable; the stamp."""
    partition.append(batch_of(session, first, count), partition._clock.wall_ms, A)
    number = partition.next_number - 1
    kept = partition.on_durable(number)
    assert kept is not None
    return kept.stamp


def partition_at(now: int) -> Partition:
    clock = HybridClock()
    clock.now = now
    return Partition(KEY, clock)


# ------------------------------------------------------------------------------------ a partition


def test_a_session_is_forgettable_once_all_of_it_was_acked_and_nothing_has_changed_since() -> None:
    partition = partition_at(1_000)
    stored(partition, S1, 1, 4)
    stored(partition, S2, 1, 1)
    partition.remove([Run(S1, 1, 3)])
    partition._clock.now = 2_000
    assert partition.forgettable(partition._clock.reading) == [], "something is pending"
    partition.remove([Run(S1, 4, 4)])
    assert partition.forgettable(1_999 << COUNTER_BITS) == [], "it was acked after that"
    partition._clock.now = 3_000
    assert partition.forgettable(partition._clock.reading) == [Run(S1, 1, 4)]


def test_what_is_forgotten_leaves_nothing_behind_but_the_horizon() -> None:
    partition = partition_at(1_000)
    stored(partition, S1, 1, 4)
    partition.remove([Run(S1, 1, 4)])
    records = partition.retain(5_000, [Run(S1, 1, 4)])
    assert records == [SeenChanged(KEY, S1, ()), HorizonMoved(KEY, 5_000)]
    assert (list(partition.seen.runs()), partition.touched) == ([], {})
    assert partition.horizon == 5_000


def test_more_than_is_to_be_forgotten_and_what_is_in_use_stays() -> None:
    partition = partition_at(1_000)
    stored(partition, S1, 1, 6)
    stored(partition, S2, 1, 2)
    partition.remove([Run(S1, 1, 6), Run(S2, 1, 1)])
    partition.retain(5_000, [Run(S1, 1, 4), Run(S2, 1, 2)])
    assert list(partition.seen.runs()) == [Run(S1, 5, 6), Run(S2, 1, 2)]
    assert partition.touched.keys() == {S1, S2}


def test_an_absurd_horizon_is_ignored() -> None:
    partition = partition_at(1_000)
    stored(partition, S1, 1, 1)
    partition.remove([Run(S1, 1, 1)])
    assert partition.retain(1_000 * HOUR, [Run(S1, 1, 1)]) == []
    assert partition.horizon == 0
    assert partition.seen.has(S1, 1)


def test_nothing_new_is_stamped_before_the_horizon() -> None:
    partition = partition_at(1_000)
    partition.retain(HOUR, [])
    assert stored(partition, S1, 1, 1) > HOUR


def test_a_restart_finds_the_horizon_and_when_sessions_changed() -> None:
    partition, disk = partition_at(1_000), Disk()
    stored(partition, S1, 1, 1)
    stored(partition, S2, 1, 1)
    _, records = partition.remove([Run(S1, 1, 1), Run(S2, 1, 1)])
    disk.apply([record for record in records if isinstance(record, SeenChanged)])
    disk.apply(partition.retain(HOUR, [Run(S2, 1, 1)]))
    again = partition_at(50_000)
    found = disk.recovered()
    (moved,) = found.horizons
    again.recover_horizon(moved.horizon)
    again.recover([], found.seen)
    assert (again.horizon, again.touched) == (HOUR, {S1: partition.touched[S1]})
    assert again._clock.reading >= HOUR


def test_a_session_of_which_it_is_not_known_when_it_changed_counts_as_changed_at_the_start() -> (
    None
):
    partition = partition_at(7_000)
    partition.recover([], [SeenChanged(KEY, S1, ((1, 3),))])
    assert partition.touched == {S1: 7_000 << COUNTER_BITS}


def test_an_unseen_message_takes_the_horizon_back_to_before_it() -> None:
    """Its other copies are as old as it is, and not to be taken for forgotten ones."""
    partition = partition_at(1_000)
    stamp = stored(partition, S1, 1, 2)
    partition.retain(HOUR, [])
    _, records = partition.unsee(Run(S1, 2, 2))
    assert records[-1] == HorizonMoved(KEY, stamp)
    held_elsewhere = replace(batch_of(S1, 2, 1), stamp=stamp)
    assert judged(partition, [held_elsewhere]) == ((held_elsewhere,), ())


# --------------------------------------------------------------------------------------- judgement


def test_only_what_is_older_than_the_horizon_and_unknown_is_stale() -> None:
    partition = partition_at(1_000)
    stored(partition, S1, 1, 2)
    partition.retain(HOUR, [])
    old = replace(batch_of(S1, 1, 4), stamp=5)
    new = replace(batch_of(S2, 1, 4), stamp=HOUR)
    known = replace(batch_of(S1, 1, 2), stamp=5)
    fresh, stale = judged(partition, [old, new, known])
    assert fresh == (new, known)
    assert [batch.run for batch in stale] == [Run(S1, 3, 4)]


def test_what_is_pending_here_is_judged_by_the_horizon_of_a_home_that_has_not_seen_it() -> None:
    partition = partition_at(1_000)
    stored(partition, S1, 1, 4)
    partition.append(batch_of(S2, 1, 1), 1_000, A)  # being written
    home = Home(B, seen=DotSet([Run(S1, 1, 2)]), told=[ALL])
    assert stale_here(partition, home) == [], "it remembers everything"
    home.horizon = HOUR
    assert dots_of(stale_here(partition, home)) == {(S1, 3), (S1, 4), (S2, 1)}
    home.horizon = 1_000
    assert stale_here(partition, home) == [], "it is newer than all that was forgotten"


# ---------------------------------------------------------------------------------------- the homes


def settled_without(number: int, count: int = 4) -> RetainingWorld:
    """Three homes hold messages; one is away, and the others see them acked and forget that."""
    world = RetainingWorld()
    world.publish(S1, count, world.ids[0])
    world.drain()
    world.sleep(world.ids[number], ack=True)
    return world


def test_after_the_retention_all_homes_in_reach_have_forgotten_what_was_acked() -> None:
    world = settled_without(2)
    assert len(world.settled) == 4
    for number in (0, 1):
        partition = world.home(number).partition
        assert not partition.seen
        assert partition.horizon
        assert not world.home(number).on_disk()[0]
    assert world.home(2).partition.pending.count == 4


@pytest.mark.parametrize("away", [0, 1, 2])
def test_what_a_home_brings_back_is_buried_and_not_delivered(away: int) -> None:
    world = settled_without(away)
    delivered = world.deliveries
    world.heal()
    assert world.deliveries == delivered
    assert world.buried == {(S1, seq) for seq in (1, 2, 3, 4)}
    for number in (0, 1, 2):
        letters = world.home(number).owner.partition(LETTERS)
        assert dots_of(letters.pending.runs()) == {letter_of(dot) for dot in world.buried}
        assert not world.home(number).partition.pending


def test_a_letter_says_why_and_from_where_and_keeps_its_body() -> None:
    world = settled_without(2)
    world.heal()
    letters = [
        found.batch for found in world.home(0).disk.recovered().batches if found.key == LETTERS
    ]
    assert {batch.dead for batch in letters} == {(Death("stale-replica", KEY.queue),)}
    bodies = [world.home(0).disk.read(batch).bodies for batch in letters]
    texts = [text for body in bodies for text in getattr(body, "texts", ())]
    assert sorted(texts) == [f"{S1.hex()}-{seq}" for seq in (1, 2, 3, 4)]


def test_a_home_that_comes_back_is_told_the_horizon() -> None:
    world = settled_without(2)
    world.heal()
    horizon = world.home(0).partition.horizon
    for _ in range(5):
        world.pass_time(3_600_000)
        world.drain()
    assert world.home(2).partition.horizon >= horizon > 0


def test_what_is_not_acked_is_remembered_and_merged_however_long_a_home_was_away() -> None:
    world = RetainingWorld()
    world.publish(S1, 4, world.ids[0])
    world.drain()
    world.sleep(world.ids[2], ack=False)
    world.heal()
    assert not world.buried
    assert world.delivered == {(S1, seq) for seq in (1, 2, 3, 4)}


def test_an_empty_disk_takes_a_horizon_over_only_with_all_that_is_older() -> None:
    """Else it would bury the oldest messages, which everybody knows but itself."""
    world = RetainingWorld()
    world.publish(S1, 4, world.ids[0])
    world.publish(S2, 1, world.ids[0])
    world.drain()
    world.attach(world.ids[0])
    world.drain()
    world.settle(world.ids[0], [(S2, 1)])
    world.held.clear()
    world.sleep(world.ids[2], ack=False)
    horizon = world.home(1).partition.horizon
    assert horizon > max(b.stamp for b in world.home(1).partition.batches.values())
    world.home(0).disk = Disk()
    world.crash(world.ids[0])
    world.heal()
    assert not world.buried & {(S1, seq) for seq in (1, 2, 3, 4)}
    assert world.home(0).partition.horizon >= horizon


def test_a_home_that_lacks_something_older_is_told_no_horizon() -> None:
    home = Home(B, contact=Contact.MERGED)
    old = replace(batch_of(S1, 1, 4), stamp=5)
    assert home.has_all_before(10, [Run(S2, 1, 1)])
    home.unanswered[1] = Replicate(*KEY, 1, batches=(old,))
    assert home.has_all_before(5)
    assert not home.has_all_before(6)
    home.unanswered[1] = Replicate(*KEY, 1, (RunField(S2, 7, 7),))
    assert home.has_all_before(6)
    assert not home.has_all_before(6, [Run(S2, 1, 1)]), "its acks are on their way"
    home.unanswered.clear()
    home.to_push.append(Run(S1, 1, 4))
    assert not home.has_all_before(6)
    home.to_push.clear()
    home.intact = False
    assert not home.has_all_before(6)
    assert not Home(B, contact=Contact.COMPARING).has_all_before(6)


# ---------------------------------------------------------------------------------------- histories


class RetainingMachine(CopiesMachine):
    """Homes crash, err and lose packets, and every now and then one is away for hours."""

    def __init__(self) -> None:
        super().__init__()
        self.world = RetainingWorld()

    @rule(number=nodes, ack=st.booleans())
    def sleep(self, number: int, ack: bool) -> None:
        assert isinstance(self.world, RetainingWorld)
        self.world.sleep(self.node(number), ack=ack)


def test_no_committed_message_that_nobody_has_acked_is_ever_buried() -> None:
    run_state_machine_as_test(
        RetainingMachine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )


def test_a_retention_of_less_than_an_hour_is_refused() -> None:
    with pytest.raises(UsageError, match="an hour"):
        Replication(context_retention_ms=RETENTION_MS_MIN - 1)
    assert Replication(context_retention_ms=0).context_retention_ms == 0
