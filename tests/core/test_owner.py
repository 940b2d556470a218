"""The owner's part, one rule a test; whole histories are in test_consuming and test_machine."""

from __future__ import annotations

import pytest

from p2pmq.config import Retry
from p2pmq.core.delivery import PartitionDelivery
from p2pmq.core.effects import Counted, Effect, Notify, Persist, Send
from p2pmq.core.events import BatchDurable, SettleDurable
from p2pmq.core.ids import NodeId, PartitionKey, Run
from p2pmq.core.owner import REATTACH_GRACE_MS, Owner
from p2pmq.core.packets.delivering import (
    Attach,
    Attached,
    Delivery,
    Detach,
    LeaseField,
    Settle,
    Settled,
)
from p2pmq.core.packets.publishing import (
    BATCH_MESSAGES_MAX,
    Batch,
    Confirm,
    Gap,
    Moved,
    Publish,
    PublishRefused,
    RunField,
)
from p2pmq.core.packets.replicating import Compare, Compared
from p2pmq.core.records import BatchStored, Space
from p2pmq.core.stats import stats_of
from tests.core.kit import (
    KEY,
    S1,
    S2,
    A,
    B,
    C,
    Disk,
    Dot,
    View,
    batch_of,
    dots_of,
    packets,
    rooms_of,
    writes,
)

ME = b"node-own"
CONSUMER = b"consumer"


class ThreeHomes(View):
    """Everything belongs on this node and two others, which are in reach."""

    def homes_of(self, key: PartitionKey) -> tuple[tuple[NodeId, ...], int]:
        del key
        return (ME, B, C), 2

    def is_alive(self, node_id: NodeId) -> bool:
        return True


class Rig:
    """An owner on its disk, at a time."""

    def __init__(self) -> None:
        self.now = 10_000
        self.view = View(ME)
        self.disk = Disk()
        self.owner = self.start()

    def start(self) -> Owner:
        self.disk.boot += 1
        rooms = self.rooms = rooms_of(ME, self.disk.boot, self.view)
        self.owner = rooms.owner
        self.owner.recover(self.disk.recovered(), self.disk.of_space(Space.PARTITION), self.now)
        rooms.on_placement_changed(self.now)
        return self.owner

    def publish(
        self, first: int, count: int = 1, *, previous: int = 0, session: bytes = S1
    ) -> list[Effect]:
        packet = Publish(*KEY, previous, batch_of(session, first, count))
        return self.owner.on_publish(A, packet, self.now)

    def attach(self, number: int = 1, limit: int = 10, *holding: RunField) -> list[Effect]:
        packet = Attach(*KEY, CONSUMER, number, limit, 30_000, holding)
        return self.owner.on_attach(B, packet, self.now)

    def settle(self, number: int, *acks: RunField) -> list[Effect]:
        packet = Settle(*KEY, CONSUMER, 1, number, 10, acks)
        return self.owner.on_settle(B, packet, self.now)

    def write(self, effects: list[Effect]) -> list[Effect]:
        """Everything that the effects write becomes durable."""
        after: list[Effect] = []
        for write in writes(effects):
            self.disk.apply(write.records)
            match write.then:
                case BatchDurable():
                    after += self.owner.on_batch_durable(write.then, self.now)
                case SettleDurable():
                    after += self.owner.on_settle_durable(write.then)
        return after


def pushed(effects: list[Effect]) -> set[Dot]:
    return {
        dot
        for packet in packets(effects)
        if isinstance(packet, Delivery)
        for segment in packet.segments
        for dot in dots_of([segment.batch.run])
    }


def kinds(effects: list[Effect]) -> list[type]:
    return [type(packet) for packet in packets(effects)]


def test_a_batch_is_confirmed_and_delivered_only_when_it_is_durable() -> None:
    rig = Rig()
    rig.attach()
    effects = rig.publish(1, 3)
    assert not packets(effects)
    assert set(kinds(rig.write(effects))) == {Confirm, Delivery}


def test_who_has_said_goodbye_delivers_nothing_more() -> None:
    """Others own by then: an ack that they had confirmed was delivered again (swarm seed 242)."""
    rig = Rig()
    rig.attach()
    rig.owner.is_stopping = True
    assert kinds(rig.write(rig.publish(1))) == [Confirm]


def test_what_somebody_holds_is_left_to_him_also_if_it_is_just_being_written_here() -> None:
    """One home gave the message, and another knew who held it (swarm seeds 855 and 1241)."""
    rig = Rig()
    rig.attach()
    effects = rig.publish(1)
    held = LeaseField(C, CONSUMER, S1, 1, 1, 1, 5_000)
    rig.owner.expect(KEY, [held], rig.now)
    assert pushed(rig.write(effects)) == set()
    rig.now += 5_001
    assert pushed(rig.owner.on_timeout(rig.now)) == {(S1, 1)}


def test_a_repeat_of_a_durable_batch_is_confirmed_and_of_an_undurable_one_is_not() -> None:
    rig = Rig()
    first = rig.publish(1, 3)
    assert rig.publish(1, 3) == []
    rig.write(first)
    again = rig.publish(1, 3)
    assert kinds(again) == [Confirm]
    assert not writes(again)


def test_a_batch_whose_predecessor_has_not_come_is_a_gap() -> None:
    rig = Rig()
    assert kinds(rig.publish(4, 1, previous=3)) == [Gap]
    rig.write(rig.publish(3, 1))
    assert writes(rig.publish(4, 1, previous=3))


def test_a_publishers_stamp_counts_for_nothing() -> None:
    rig = Rig()
    batch = batch_of(S1, 1, 1)
    jumping = type(batch)(S1, 1, 1, batch.size, batch.bodies, stamp=2**60)
    rig.owner.on_publish(A, Publish(*KEY, 0, jumping), rig.now)
    rig.publish(1, 1, session=S2)
    first, second = rig.owner.partitions[KEY].batches.values()
    assert first.stamp < second.stamp < 2**60


def test_who_does_not_own_the_partition_says_who_does() -> None:
    rig = Rig()
    rig.view.owner = C
    for effects in (rig.publish(1), rig.attach(), rig.settle(1)):
        (packet,) = packets(effects)
        assert isinstance(packet, Moved)
        assert packet.owner == C
    rig.view.owner = None
    (packet,) = packets(rig.publish(1))
    assert isinstance(packet, Moved)
    assert packet.owner == bytes(8)


def test_a_full_disk_refuses_the_batch_and_forgets_it() -> None:
    rig = Rig()
    (write,) = writes(rig.publish(1, 3))
    assert isinstance(write.then, BatchDurable)
    effects = rig.owner.on_batch_refused(write.then)
    assert kinds(effects) == [PublishRefused]
    assert writes(rig.publish(1, 3)), "it may be tried again"


def test_nothing_follows_a_batch_that_is_to_be_taken_back() -> None:
    """It would be on disk before the repeat of the one that it follows."""
    rig = Rig()
    first, second = writes(rig.publish(1, 3)), rig.publish(4, 2, previous=3)
    assert isinstance(first[0].then, BatchDurable)
    rig.owner.on_batch_refused(first[0].then)
    assert kinds(rig.publish(6, 1, previous=5)) == [Gap]
    rig.write(second)
    assert not rig.owner.partitions[KEY].pending
    assert kinds(rig.publish(6, 1, previous=5)) == [Gap]


def test_an_ack_is_confirmed_only_when_it_is_durable_its_repeat_too() -> None:
    rig = Rig()
    rig.write(rig.publish(1, 3))
    rig.attach()
    first = rig.settle(1, RunField(S1, 1, 2))
    assert Settled not in kinds(first)
    repeat = rig.settle(1, RunField(S1, 1, 2))
    assert Settled not in kinds(repeat), "the first write may still be lost"
    assert kinds(rig.write(first)) == [Settled]
    assert kinds(rig.write(repeat)) == [Settled]


def test_a_settle_without_acks_needs_no_disk() -> None:
    rig = Rig()
    rig.attach()
    effects = rig.settle(1)
    assert kinds(effects) == [Settled]
    assert not writes(effects)


def test_acks_that_a_full_disk_refused_are_written_with_the_next() -> None:
    rig = Rig()
    rig.write(rig.publish(1, 3))
    (write,) = writes(rig.settle(1, RunField(S1, 1, 1)))
    rig.owner.on_settle_refused(KEY, write.records)
    rig.write(rig.settle(1, RunField(S1, 1, 1)))
    again = rig.start()
    assert dots_of(again.partitions[KEY].pending.runs()) == {(S1, 2), (S1, 3)}


def test_acks_owed_by_a_partition_that_is_gone_are_not_written_into_its_successor() -> None:
    rig = Rig()
    rig.write(rig.publish(1, 3))
    (write,) = writes(rig.settle(1, RunField(S1, 1, 1)))
    rig.owner.on_settle_refused(KEY, write.records)
    rig.owner.drop(KEY)
    (again,) = writes(rig.settle(2, RunField(S2, 9, 9)))
    assert not [r for r in again.records if getattr(r, "session", S2) == S1]


def test_after_a_restart_old_messages_wait_for_who_holds_them() -> None:
    rig = Rig()
    rig.write(rig.publish(1, 3))
    rig.start()
    effects = rig.attach(2, 10, RunField(S1, 1, 2))
    assert kinds(effects) == [Attached]
    rig.now += REATTACH_GRACE_MS
    assert rig.owner.next_deadline() is not None
    assert pushed(rig.owner.on_timeout(rig.now)) == {(S1, 3)}


def test_messages_of_a_consumer_whose_node_is_gone_go_to_others() -> None:
    rig = Rig()
    rig.attach()
    assert pushed(rig.write(rig.publish(1, 3)))
    other = Attach(*KEY, b"another1", 1, 10, 30_000)
    rig.owner.on_attach(C, other, rig.now)
    assert len(pushed(rig.owner.on_node_gone(B, rig.now))) == 3


def test_what_ended_its_consumers_process_once_too_often_is_given_to_nobody_else() -> None:
    """It was given to the next one before it was counted."""
    rig = Rig()
    rig.owner.retry_of = lambda _queue: Retry(max_deliveries=1)
    rig.write(rig.publish(1, 1))
    assert pushed(rig.attach())
    other = Attach(*KEY, b"another!", 1, 10, 30_000)
    rig.owner.on_attach(C, other, rig.now)
    effects = rig.owner.on_node_gone(B, rig.now, restarted=True)
    assert not pushed(effects)
    letters = [packet for packet in packets(effects) if isinstance(packet, Publish)]
    assert [letter.queue for letter in letters] == [f"{KEY.queue}.dlq"]


def test_a_consumer_dropped_by_mistake_is_told_to_attach_anew_when_it_renews() -> None:
    rig = Rig()
    rig.attach()
    renewal = Attach(*KEY, CONSUMER, 1, 10, 30_000, renewal=True)
    assert kinds(rig.owner.on_attach(B, renewal, rig.now)) == [Attached]
    rig.owner.on_node_gone(B, rig.now)
    assert kinds(rig.owner.on_attach(B, renewal, rig.now)) == [Moved]


def test_an_attach_of_a_node_that_has_left_comes_too_late() -> None:
    """Its consumer was kept for ever: nobody says a second time that the node is gone."""
    rig = Rig()
    rig.write(rig.publish(1, 3))
    rig.owner.is_member = lambda node_id: node_id != B
    assert packets(rig.attach()) == []
    assert not rig.owner.deliveries[KEY].consumers
    rig.owner.is_member = lambda _node_id: True
    assert kinds(rig.attach()) == [Attached, Delivery]


def test_an_older_attachments_end_is_no_end_of_the_newer() -> None:
    rig = Rig()
    rig.attach(1)
    rig.attach(2)
    rig.owner.on_detach(B, Detach(*KEY, CONSUMER, 1), rig.now)
    assert pushed(rig.write(rig.publish(1)))


def test_a_timeout_is_counted_and_frees_the_message() -> None:
    rig = Rig()
    rig.attach()
    rig.write(rig.publish(1))
    rig.now += 30_000
    effects = rig.owner.on_timeout(rig.now)
    counted = [e.notice for e in effects if isinstance(e, Notify)]
    assert [(n.what, n.count) for n in counted if isinstance(n, Counted)] == [
        ("visibility_timeout", 1)
    ]
    assert pushed(effects) == {(S1, 1)}


def test_unreadable_bodies_are_given_up_and_the_consumer_sees_the_hole() -> None:
    rig = Rig()
    rig.attach(1, 1)
    rig.write(rig.publish(1))
    rig.write(rig.publish(2))
    effects = rig.owner.on_unreadable(KEY, Run(S1, 1, 1), rig.now)
    rig.write([e for e in effects if isinstance(e, Persist)])
    (packet,) = [p for p in packets(effects) if isinstance(p, Delivery)]
    assert packet.number == 2, "the first, which was lost, shows as missing"
    assert dots_of(rig.start().partitions[KEY].pending.runs()) == {(S1, 2)}


def test_unreadable_bodies_of_what_is_not_here_are_not_taken_for_acked() -> None:
    rig = Rig()
    rig.attach()
    assert rig.owner.on_unreadable(KEY, Run(S1, 1, 1), rig.now) == []
    assert writes(rig.publish(1))


def test_statistics_count_each_message_once() -> None:
    rig = Rig()
    rig.attach(1, 2)
    rig.write(rig.publish(1, 5))
    (stats,) = stats_of(rig.owner)
    assert (stats.ready, stats.in_flight, stats.delayed, stats.consumers) == (3, 2, 0, 1)
    assert stats.size == 50
    assert stats_of(rig.owner, "other") == []
    rig.view.owner = C
    assert stats_of(rig.owner) == []


def test_a_run_of_thousands_is_pushed_as_one_segment() -> None:
    """Work is by runs: a batch is one record, one ready entry, one lease and one segment."""
    rig = Rig()
    rig.attach(1, 100_000)
    (delivery,) = [
        packet
        for packet in packets(rig.write(rig.publish(1, BATCH_MESSAGES_MAX)))
        if isinstance(packet, Delivery)
    ]
    assert len(delivery.segments) == 1
    assert len(rig.owner.deliveries[KEY].leases.runs()) == 1


def test_what_comes_before_the_merge_waits_once_and_in_order_and_is_no_gap() -> None:
    rig = Rig()
    rig.view = ThreeHomes(ME)
    rig.start()
    begun = rig.publish(1)
    assert kinds(begun) == [Compare, Compare]
    assert not rig.publish(2, previous=1)
    assert not rig.publish(1), "a repeat waits already"
    assert not rig.publish(4, previous=3)
    merged: list[Effect] = []
    for effect in begun:
        if isinstance(effect, Send) and isinstance(effect.packet, Compare):
            equal = Compared(*KEY, effect.packet.number, equal=True)
            merged += rig.rooms.replication.on_compared(effect.peer, equal, rig.now)
            merged += rig.owner.on_active(KEY, rig.now)
    assert [batch.first for batch in written_in(merged)] == [1, 2]
    assert kinds(merged).count(Gap) == 1, "of what is missing indeed"


def written_in(effects: list[Effect]) -> list[Batch]:
    records = [record for write in writes(effects) for record in write.records]
    return [record.batch for record in records if isinstance(record, BatchStored)]


def test_what_is_proven_at_once_is_made_ready_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, each proven batch brought all that followed it along: n², at every takeover."""
    rig = Rig()
    for seq in range(1, 201):
        rig.write(rig.publish(seq))
    added = []
    monkeypatch.setattr(PartitionDelivery, "add", lambda _self, run, _stamp: added.append(run))
    proven = [(Run(S1, seq, seq), 2) for seq in range(1, 201)]
    rig.owner.on_proven(KEY, proven, rig.now)
    assert len(added) == 200
