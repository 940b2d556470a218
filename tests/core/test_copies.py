"""What an owner knows of its copies, and a replica's answers, one rule a test."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2pmq.core.antientropy import PIECES, digest_of
from p2pmq.core.copies import Contact, Copies, Home
from p2pmq.core.dots import DotSet
from p2pmq.core.events import HandoverDurable
from p2pmq.core.handover import Handovers
from p2pmq.core.hlc import HybridClock
from p2pmq.core.ids import Run
from p2pmq.core.owner import REATTACH_GRACE_MS, Owner
from p2pmq.core.packets.delivering import Handover, HandoverTaken, LeaseField
from p2pmq.core.packets.publishing import Publish, PublishRefused, RunField
from p2pmq.core.packets.replicating import (
    Compare,
    Compared,
    Fetch,
    Offer,
    RangeField,
    Replicate,
    Replicated,
    Supply,
)
from p2pmq.core.partition import Partition
from p2pmq.core.replica import LOOK_AGAIN_MS
from p2pmq.core.replication import ASKS_MAX
from p2pmq.core.telling import RESEND_MS
from tests.core.copies_world import World
from tests.core.kit import KEY, S1, S2, A, B, C, batch_of, dots_of, packets

RUN = Run(S1, 1, 4)


def copies_of_three() -> Copies:
    copies = Copies(A, (A, B, C), 2)
    copies.unproven.put(RUN, ())
    return copies


def world(homes: int = 3) -> World:
    """Homes of which the first owns, and has merged with all others."""
    made = World(homes)
    made.publish(S1, 1, made.ids[0])
    made.drain()
    made.attach(made.ids[0], 100)
    made.drain()
    assert made.confirmed == made.held == {(S1, 1)}
    return made


# ---------------------------------------------------------------------------- what the owner knows


def test_a_run_is_proven_once_it_is_durable_here_and_on_enough_disks() -> None:
    copies = copies_of_three()
    assert copies.note(Run(S1, 1, 2), B) == []
    assert copies.note(RUN, A) == [(Run(S1, 1, 2), 2)]
    assert copies.note(RUN, C) == [(Run(S1, 3, 4), 2)]
    assert not copies.unproven


def test_elsewhere_alone_proves_nothing() -> None:
    """The owner gives out only what is on its own disk."""
    copies = copies_of_three()
    assert copies.note(RUN, B) == []
    assert copies.note(RUN, C) == []
    assert copies.note(RUN, A) == [(RUN, 3)]


def test_the_same_holder_twice_is_one_and_a_stranger_is_none() -> None:
    copies = copies_of_three()
    for holder in (A, A, b"stranger"):
        assert copies.note(RUN, holder) == []


def test_a_holder_that_is_no_home_any_more_does_not_count() -> None:
    copies = copies_of_three()
    copies.note(RUN, B)
    assert copies.set_homes((A, C, b"node-new"), 2) == []
    assert copies.note(RUN, A) == []
    assert copies.note(RUN, C) == [(RUN, 2)]


def test_fewer_wanted_copies_prove_what_has_them() -> None:
    copies = copies_of_three()
    copies.note(RUN, A)
    assert copies.set_homes((A,), 1) == [(RUN, 1)]


def test_it_is_active_when_enough_homes_are_merged_and_none_in_reach_is_not() -> None:
    copies = copies_of_three()
    b, c = copies.homes.values()
    assert not copies.active()
    b.contact = Contact.MERGED
    assert copies.active()
    c.contact = Contact.COMPARING
    assert not copies.active(), "it may know of acks"
    c.lose()
    assert copies.active()


def test_a_node_that_is_no_home_is_never_active() -> None:
    assert not Copies(b"stranger", (A, B), 1).active()


def test_an_answer_in_parts_is_whole_when_each_has_come_in_whatever_order() -> None:
    home = Home(B)
    home.begin(7, Partition(KEY, HybridClock()), (), 0)
    parts = [
        Compared(*KEY, 7, equal=False, seen=(RunField(S1, at, at),), more=at < 3, part=at - 1)
        for at in (1, 2, 3)
    ]
    assert [home.take_in(parts[at]) for at in (2, 0, 0, 1)] == [False, False, False, True]
    assert home.seen == DotSet([Run(S1, 1, 3)])


def test_an_equal_state_holds_what_was_asked_with_not_what_came_since() -> None:
    """It did once: then a message counted as a copy there that had never reached it."""
    partition = Partition(KEY, HybridClock())
    home = Home(B)
    home.begin(7, partition, (Run(S1, 1, 4),), 0)
    partition.append(batch_of(S1, 5, 4), 1_000, A)
    partition.on_durable(1)
    assert home.take_in(Compared(*KEY, 7, equal=True))
    assert home.narrow(partition, [Run(S1, 1, 8)]) == []
    assert home.holding == DotSet([Run(S1, 1, 4)])


def test_a_digest_is_the_same_for_the_same_state_however_it_came_to_be() -> None:
    one, other = (Partition(KEY, HybridClock()) for _ in range(2))
    for partition, order in ((one, (S1, S2)), (other, (S2, S1))):
        for session in order:
            partition.append(batch_of(session, 1, 3), 1_000, A)
    for number in (1, 2):
        one.on_durable(number)
    assert digest_of(one) != digest_of(other), "what is not durable does not count"
    for number in (1, 2):
        other.on_durable(number)
    assert digest_of(one) == digest_of(other)
    one.remove([Run(S1, 2, 2)])
    assert digest_of(one) != digest_of(other)


# --------------------------------------------------------------------------- owner and replicas


def test_a_batch_is_confirmed_at_two_copies_of_three_though_one_is_slow() -> None:
    w = world()
    owner, quick, slow = w.ids
    w.publish(S1, 2, owner)
    w.arrive(0)
    while w.homes[owner].writes:
        w.write(owner)
    assert (S1, 2) not in w.confirmed
    for at, (_, target, _) in enumerate(w.way):
        if target == quick:
            w.arrive(at)
            break
    while w.homes[quick].writes:
        w.write(quick)
    w.way = [packet for packet in w.way if packet[1] == owner]
    w.arrive(0)
    assert (S1, 3) in w.confirmed
    assert not w.homes[slow].partition.pending.overlap(Run(S1, 2, 3))


def test_what_was_lost_is_sent_again_though_later_packets_are_answered_all_the_time() -> None:
    """It was not once: each answer put the repeat off, and so a busy partition stood still."""
    w = world()
    w.publish(S2, 1, w.ids[0])
    w.arrive(0)
    w.way.clear()  # what went to the other homes
    for _ in range(2 * RESEND_MS // 300):
        w.pass_time(300)
        w.publish(S1, 1, w.ids[0])
        w.drain()
    assert (S2, 1) in w.confirmed


def test_a_replica_answers_only_for_what_is_durable() -> None:
    w = world()
    home = w.homes[w.ids[1]]
    packet = Replicate(*KEY, 99, (), (batch_of(S2, 1, 1),))
    w.take(home, home.receive(w.ids[0], packet, w.now))
    assert not w.way
    w.take(home, home.receive(w.ids[0], packet, w.now))
    w.write(w.ids[1])
    assert [type(p) for _, _, p in w.way] == [Replicated], "the repeat came while it was written"
    w.take(home, home.receive(w.ids[0], packet, w.now))
    assert not home.partition.appending
    w.write(w.ids[1])
    assert len(w.way) == 2


def test_an_ack_is_confirmed_only_when_it_is_on_enough_disks() -> None:
    w = world()
    owner = w.ids[0]
    w.settle(owner, [(S1, 1)])
    w.arrive(0)
    w.write(owner)
    assert not w.settled
    w.drain()
    assert w.settled


def test_an_ack_whose_owner_is_none_any_more_is_not_confirmed_by_its_own_disk() -> None:
    """It was once, when the write outlived the ownership."""
    w = world()
    first, second, _ = w.ids
    w.look(second, first, alive=False)
    w.settle(second, [(S1, 1)])
    w.arrive(len(w.way) - 1)
    w.look(second, first, alive=True)
    w.way.clear()
    w.write(second)
    assert not w.settled


def test_without_enough_homes_in_reach_nothing_is_taken() -> None:
    w = world()
    owner = w.ids[0]
    for other in w.ids[1:]:
        w.look(owner, other, alive=False)
    home = w.homes[owner]
    (refusal,) = packets(home.owner.on_publish(A, publish(S2, 1), w.now))
    assert isinstance(refusal, PublishRefused)
    assert not home.partition.appending


def test_a_batch_that_comes_before_the_merge_waits_for_it() -> None:
    """Stamped at once, it could go out before what its publisher sent to the former owner."""
    w = world()
    first, second, _ = w.ids
    w.look(second, first, alive=False)
    w.way = [packet for packet in w.way if packet[0] != first]
    held, w.way = w.way, []
    home = w.homes[second]
    w.take(home, home.receive(b"node-usr", publish(S1, 2), w.now))
    assert not home.partition.appending
    w.way = held
    w.drain()
    assert home.partition.seen.covers(Run(S1, 2, 2))


def test_a_home_that_never_answers_holds_up_the_others_only_for_a_while() -> None:
    w = world()
    first, second, third = w.ids
    w.crash(third)
    w.look(second, first, alive=False)
    home = w.homes[second]

    def drop_to_third() -> None:
        w.way = [packet for packet in w.way if third not in packet[:2]]

    for turn in range(ASKS_MAX + 2):
        drop_to_third()
        while w.way:
            w.arrive(0)
            drop_to_third()
        while home.writes:
            w.write(second)
        w.look(second, first, alive=False)
        if turn <= ASKS_MAX:
            w.pass_time(RESEND_MS)
    # The first home is away in its view, the third does not answer: too few for W.
    assert not home.replication.is_active(KEY)
    assert home.replication.is_alone(KEY)


def test_only_the_state_that_differs_is_told_and_an_equal_one_is_not() -> None:
    w = world()
    owner, other, _ = w.ids
    home = w.homes[other]
    partition = w.homes[owner].partition
    same = Compare(*KEY, 5, digest_of(partition))
    assert packets(home.replica.on_compare(owner, same, w.now)) == [Compared(*KEY, 5, equal=True)]
    (answer,) = packets(home.replica.on_compare(owner, replace(same, digest=b"another!"), w.now))
    assert isinstance(answer, Compared)
    assert answer.seen == (RunField(S1, 1, 1),)


def test_a_long_state_is_told_as_digests_and_in_parts_where_it_is_asked_for() -> None:
    w = world()
    home = w.homes[w.ids[1]]
    home.partition.remove([Run(S2, at, at) for at in range(1, 40_000, 2)])

    def ask(*ranges: RangeField) -> list[Compared]:
        compare = Compare(*KEY, 5, b"another!", ranges=ranges)
        answers = packets(home.replica.on_compare(w.ids[0], compare, w.now))
        return [answer for answer in answers if isinstance(answer, Compared)]

    (pieces,) = ask()
    assert len(pieces.ranges) > PIECES / 2
    assert all(any(piece.digest) for piece in pieces.ranges)
    assert not pieces.seen
    narrower = [piece for one in ask(*pieces.ranges) for piece in one.ranges]
    told = ask(*narrower)
    assert [(x.part, x.more) for x in told] == [(at, at < len(told) - 1) for at in range(len(told))]
    assert sum(run.last - run.first + 1 for x in told for run in x.seen) == 20_001


def test_what_is_fetched_and_acked_by_now_comes_as_an_ack() -> None:
    w = world()
    home = w.homes[w.ids[1]]
    home.partition.append(batch_of(S2, 1, 3), w.now, None)
    home.partition.on_durable(home.partition.next_number - 1)
    home.partition.remove([Run(S2, 2, 2)])
    (packet,) = packets(home.replica.on_fetch(w.ids[0], Fetch(*KEY, 5, (RunField(S2, 1, 9),))))
    assert isinstance(packet, Supply)
    assert packet.acked == (RunField(S2, 2, 2),)
    assert dots_of(batch.run for batch in packet.batches) == {(S2, 1), (S2, 3)}


def test_an_offer_of_what_is_known_is_not_answered() -> None:
    w = world()
    owner, other, _ = w.ids
    home = w.homes[owner]
    same = Offer(*KEY, digest_of(home.partition))
    assert not home.replication.on_offer(other, same, w.now)
    assert home.replication.on_offer(other, replace(same, digest=b"another!"), w.now)


def test_a_replica_says_when_another_owner_has_written_since_its_owner_compared() -> None:
    w = world()
    owner, replica, other = w.ids
    home = w.homes[replica]

    def has_news() -> bool:
        (packet,) = packets(home.replica.offer(KEY, w.now))
        assert isinstance(packet, Offer)
        return packet.news

    home.replica.on_compare(owner, Compare(*KEY, 1, bytes(8)), w.now)
    assert not has_news()
    home.replica.on_replicate(other, Replicate(*KEY, 2), w.now)
    assert has_news()
    home.replica.on_replicate(owner, Replicate(*KEY, 3), w.now)
    assert has_news(), "its own writing tells the owner nothing"
    home.replica.on_compare(owner, Compare(*KEY, 4, bytes(8)), w.now)
    assert not has_news()


def test_an_owner_that_hears_of_news_compares_before_it_delivers_on_however_busy_it_is() -> None:
    """Cut off for a moment, it had not noticed that another owned (swarm seed 1622)."""
    w = world()
    owner, replica, _ = w.ids
    home = w.homes[owner]
    w.publish(S1, 1, owner)
    assert home.replication.is_active(KEY)
    (asked,) = packets(home.replication.on_offer(replica, Offer(*KEY, bytes(8), news=True), w.now))
    assert isinstance(asked, Compare)
    assert not home.replication.is_active(KEY)
    for answer in packets(w.homes[replica].replica.on_compare(owner, asked, w.now)):
        assert isinstance(answer, Compared)
        home.replication.on_compared(replica, answer, w.now)
    assert home.replication.is_active(KEY)


def test_a_message_damaged_at_the_owner_is_fetched_again_and_delivered() -> None:
    w = World(3)
    owner = w.ids[0]
    w.publish(S1, 3, owner)
    w.drain()
    w.homes[owner].damaged.add((1, 1))
    w.hurt.add((S1, 2))
    w.attach(owner, 100)
    w.drain()
    assert w.held == {(S1, 1), (S1, 2), (S1, 3)}
    assert w.homes[owner].readable() == w.held


def test_a_message_damaged_at_a_replica_is_had_again_from_the_owner() -> None:
    w = world()
    replica = w.homes[w.ids[1]]
    replica.damaged.add((1, 0))
    w.hurt.add((S1, 1))
    w.take(replica, replica.owner.on_unreadable(KEY, Run(S1, 1, 1), w.now))
    assert not replica.partition.seen
    w.drain()
    assert replica.readable() == {(S1, 1)}


def test_the_resend_of_a_packet_with_a_damaged_body_leaves_it_out() -> None:
    w = world()
    owner, other, _ = w.ids
    w.publish(S1, 2, owner)
    w.arrive(0)
    while w.homes[owner].writes:
        w.write(owner)
    w.way.clear()
    home = w.homes[owner]
    number = home.partition.next_number - 1
    home.damaged.add((number, 0))
    w.hurt.add((S1, 2))
    w.take(home, home.owner.on_unreadable(KEY, Run(S1, 2, 2), w.now))
    w.way.clear()
    w.pass_time(RESEND_MS)
    resent = [packet for _, to, packet in w.way if to == other and isinstance(packet, Replicate)]
    assert [dots_of(b.run for b in packet.batches) for packet in resent] == [{(S1, 3)}]


@pytest.mark.parametrize("homes", [3, 5])
def test_what_two_owners_delivered_is_counted_when_they_merge(homes: int) -> None:
    w = world(homes)
    first, second, *_ = w.ids
    for node_id in w.ids[1:]:
        w.look(node_id, first, alive=False)
    w.drain()
    w.attach(second, 100)
    w.drain()
    w.settle(second, [(S1, 1)])
    w.drain()
    before = w.duplicates_counted
    w.look(second, first, alive=True)
    w.drain()
    assert (before, w.duplicates_counted) == (0, 1)


def test_acks_that_are_handed_over_are_on_enough_disks_before_the_giver_forgets_them() -> None:
    w = world()
    owner = w.ids[0]
    w.settle(owner, [(S1, 1)])
    w.drain()
    home = w.homes[owner]
    handovers = Handovers(owner, 1, home.owner, home.beliefs, home.replication)
    giver = b"node-old"
    effects = handovers.on_handover(giver, Handover(*KEY, 7, (RunField(S2, 1, 5),)), w.now)
    w.take(home, effects)
    write = home.writes.pop()
    home.disk.apply(write.records)
    assert isinstance(write.then, HandoverDurable)
    assert not handovers.on_durable(write.then, w.now)
    w.acked |= dots_of([Run(S2, 1, 5)])
    w.drain()
    assert w.sent_elsewhere == [(giver, HandoverTaken(*KEY, 7))]


def publish(session: bytes, first: int) -> Publish:
    return Publish(*KEY, 0, batch_of(session, first, 1))


# --------------------------------------------------------------- owners that missed another one


def test_an_owner_that_missed_another_owner_delivers_nothing_that_was_acked_meanwhile() -> None:
    """A paused owner did once: its replicas did not say that they knew the message as done."""
    w = world()
    owner, *others = w.ids
    w.acked |= {(S1, 2), (S1, 3)}
    for other in others:  # the owner of meanwhile had the message, and its ack, on enough disks
        done = Replicate(*KEY, 99, acked=(RunField(S1, 2, 3),))
        w.take(w.homes[other], w.homes[other].receive(others[0], done, w.now))
        w.write(other)
    w.way.clear()
    w.publish(S1, 2, owner)
    w.drain()
    assert w.delivered == {(S1, 1)}
    assert not w.homes[owner].partition.pending.overlap(Run(S1, 2, 3))
    assert w.homes[owner].replication.is_active(KEY), "it has merged, and goes on"
    w.publish(S1, 1, owner)
    w.drain()
    assert (S1, 4) in w.delivered


def test_what_is_fetched_stays_with_the_consumer_that_holds_it() -> None:
    """It was once free for anybody: leases were told before the messages had come."""
    w = world()
    owner, other, third = w.ids
    there = w.homes[other]
    found = Replicate(*KEY, 99, batches=(batch_of(S2, 1, 1),))
    w.take(there, there.receive(third, found, w.now))
    w.write(other)
    w.way.clear()
    home = w.homes[owner]
    w.take(home, home.replication.ask(KEY, home.replication._copies[KEY].homes[other], w.now))
    w.arrive(0)
    (asked, asker, told), w.way = w.way[0], []
    assert isinstance(told, Compared)
    lease = LeaseField(b"node-far", b"far-cons", S2, 1, 1, 1, 30_000)
    w.way.append((asked, asker, replace(told, leases=(lease,))))
    w.drain()
    assert home.partition.pending.overlap(Run(S2, 1, 1))
    assert (S2, 1) not in w.delivered
    w.pass_time(31_000)
    w.drain()
    assert (S2, 1) in w.delivered, "its lease is over"


def test_what_comes_while_it_is_written_for_a_former_owner_is_answered_soon() -> None:
    """It waited for the owner's repeat once, and every later message of its publisher with it."""
    w = world()
    owner, other, former = w.ids
    home = w.homes[other]
    batches = (batch_of(S2, 1, 1),)
    w.take(home, home.receive(former, Replicate(*KEY, 99, (), batches), w.now))
    w.take(home, home.receive(owner, Replicate(*KEY, 100, (), batches), w.now))
    w.write(other)
    assert [(to, p.number) for _, to, p in w.way if isinstance(p, Replicated)] == [(former, 99)]
    w.way.clear()
    w.pass_time(LOOK_AGAIN_MS)
    w.write(other)
    assert [(to, p.number) for _, to, p in w.way if isinstance(p, Replicated)] == [(owner, 100)]


@pytest.mark.parametrize("says_so", [True, False])
def test_who_gets_its_partition_back_from_a_living_owner_need_not_wait_for_consumers(
    monkeypatch: pytest.MonkeyPatch, says_so: bool
) -> None:
    w = world()
    first, second, third = w.ids
    for home in (second, third):
        w.look(home, first, alive=False)
    w.drain()
    w.attach(second, 100)
    w.publish(S1, 1, second)
    w.drain()
    w.pass_time(REATTACH_GRACE_MS)
    w.drain()
    assert (S1, 2) in w.delivered
    if not says_so:
        monkeypatch.setattr(Owner, "owned_just_now", lambda *_: False)
    w.crash(first)
    for home in (second, third):
        w.look(home, first, alive=True)
    w.attach(first, 100)
    w.publish(S1, 1, first)
    w.drain()
    assert ((S1, 3) in w.delivered) is says_so
    w.pass_time(REATTACH_GRACE_MS)
    w.drain()
    assert (S1, 3) in w.delivered


def test_only_who_has_delivered_until_just_now_can_say_so() -> None:
    w = world()
    first, second, _ = w.ids
    home = w.homes[second]
    assert w.homes[first].owner.owned_just_now(KEY, w.now) is False, "it owns"
    w.look(second, first, alive=False)
    w.look(second, first, alive=True)
    assert home.owner.owned_just_now(KEY, w.now) is False, "it never delivered"
