"""Letters on their way back to their queue: sent, sent again, confirmed, given up."""

from dataclasses import replace

from p2pmq.core.effects import Done, Refused, Resolve, Send
from p2pmq.core.events import RepostRequested
from p2pmq.core.ids import PartitionKey
from p2pmq.core.packets.publishing import Batch, Confirm, Publish, PublishRefused, RunField
from p2pmq.core.reposting import NO_CONFIRM, NO_OWNER, Reposts, reposted_session
from p2pmq.wire.bodies import PackedBodies

ORDERS = PartitionKey("orders", 0)
LETTERS = PartitionKey("orders.dlq", 0)
SESSION = b"session1"
ANT, BEE = b"ant.....", b"bee....."
BATCH = Batch(SESSION, 5, 2, 2, PackedBodies.from_bodies([b"a", b"b"], None))
REQUEST = RepostRequested(ORDERS, BATCH, 10_000, 1)
SENT = Publish("orders", 0, 0, BATCH)


def confirm(first: int, last: int) -> Confirm:
    return Confirm("orders", 0, (RunField(SESSION, first, last),), 2)


def test_it_is_done_when_all_of_it_is_committed() -> None:
    reposts = Reposts(lambda _: ANT)
    assert reposts.on_requested(REQUEST, 0) == [Send(ANT, SENT)]
    assert reposts.on_confirm(confirm(5, 5), ORDERS) == []
    assert reposts.on_confirm(confirm(5, 6), LETTERS) == []  # another queue's
    assert reposts.on_confirm(confirm(6, 9), ORDERS) == [Resolve(1, Done())]
    assert reposts.next_deadline() is None
    assert reposts.on_confirm(confirm(5, 6), ORDERS) == []


def test_it_is_sent_again_each_time_later_and_given_up_at_its_deadline() -> None:
    reposts = Reposts(lambda _: ANT)
    reposts.on_requested(REQUEST, 0)
    moments = []
    while (at := reposts.next_deadline()) != 10_000:
        assert at is not None
        moments.append(at)
        assert reposts.on_timeout(at) == [Send(ANT, SENT)]
    assert moments == [1_000, 3_000, 7_000]
    assert reposts.on_timeout(10_000) == [Resolve(1, Refused(NO_CONFIRM))]
    assert reposts.next_deadline() is None


def test_it_follows_its_owner_and_waits_while_there_is_none() -> None:
    owners: list[bytes | None] = [None]
    reposts = Reposts(lambda _: owners[0])
    assert reposts.on_requested(REQUEST, 0) == []
    for owner in (ANT, BEE):
        owners[0] = owner
        assert reposts.on_placement_changed(10) == [Send(owner, SENT)]
        assert reposts.on_placement_changed(20) == []
    owners[0] = None
    assert reposts.on_placement_changed(30) == []
    assert reposts.on_timeout(10_000) == [Resolve(1, Refused(NO_OWNER))]


def test_why_it_was_refused_is_told_when_it_is_given_up() -> None:
    reposts = Reposts(lambda _: ANT)
    reposts.on_requested(REQUEST, 0)
    refused = PublishRefused("orders", 0, SESSION, 5, 1)
    reposts.on_refused(replace(refused, first=6), ORDERS, "another's")
    reposts.on_refused(refused, ORDERS, "the disk is full")
    assert reposts.on_timeout(10_000) == [Resolve(1, Refused("the disk is full"))]


def test_the_session_is_the_same_for_the_same_letters_and_for_no_others() -> None:
    sessions = {
        reposted_session(LETTERS, SESSION),
        reposted_session(PartitionKey("orders.dlq", 1), SESSION),
        reposted_session(PartitionKey("bills.dlq", 0), SESSION),
        reposted_session(LETTERS, b"session2"),
        SESSION,
    }
    assert len(sessions) == 5
    assert reposted_session(LETTERS, SESSION) in sessions
