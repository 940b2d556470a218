"""Replays: pages of what an owner retains, and a reader that asks until it is answered."""

from __future__ import annotations

from p2pmq.core.effects import Page, Resolve
from p2pmq.core.events import ReplayRequested
from p2pmq.core.ids import NodeId, PartitionKey
from p2pmq.core.packets.publishing import FRAME_BYTES_MAX, Publish
from p2pmq.core.packets.replaying import PAGE_BATCHES_MAX, CursorField, Replayed, ReplayRequest
from p2pmq.core.replays import ASK_AGAIN_MS, Replays
from p2pmq.core.traces import Kept, copied
from tests.core.kit import KEY, S1, A, B, batch_of, packets
from tests.core.test_owner import Rig


def rig_that_retains() -> Rig:
    rig = Rig()
    rig.owner.kept_of = lambda _queue: Kept(copies_ms=60_000)
    return rig


def replays_of(rig: Rig) -> Replays:
    return Replays(rig.owner, rig.rooms.replication, lambda _key: rig.view.owner)


def page(rig: Rig, cursor: CursorField) -> Replayed:
    (found,) = packets(replays_of(rig).on_request(A, ReplayRequest(7, *KEY, cursor), 0))
    assert isinstance(found, Replayed)
    assert found.number == 7
    return found


def test_pages_are_bounded_and_each_goes_on_where_the_last_one_ended() -> None:
    rig = rig_that_retains()
    for seq in range(1, PAGE_BATCHES_MAX + 3):
        rig.write(rig.publish(seq))
    first = page(rig, CursorField(0))
    assert (len(first.batches), first.more) == (PAGE_BATCHES_MAX, True)
    last = first.batches[-1]
    second = page(rig, CursorField(last.stamp, last.session, last.first))
    assert [batch.first for batch in second.batches] == [PAGE_BATCHES_MAX + 1, PAGE_BATCHES_MAX + 2]
    assert not second.more
    assert {batch.session for batch in first.batches} == {copied(S1)}


def test_a_page_of_large_bodies_is_about_a_frame() -> None:
    rig = rig_that_retains()
    for seq in (1, 2, 3):
        batch = batch_of(S1, seq, 1, size=FRAME_BYTES_MAX // 2)
        rig.write(rig.owner.on_publish(A, Publish(*KEY, 0, batch), rig.now))
    assert [batch.first for batch in page(rig, CursorField(0)).batches] == [1, 2]


def test_what_is_not_on_disk_yet_ends_a_page() -> None:
    rig = rig_that_retains()
    rig.write(rig.publish(1))
    rig.publish(2)
    found = page(rig, CursorField(0))
    assert ([batch.first for batch in found.batches], found.more) == ([1], True)


def test_who_does_not_own_does_not_answer() -> None:
    rig = rig_that_retains()
    rig.write(rig.publish(1))
    rig.view.owner = B
    assert replays_of(rig).on_request(A, ReplayRequest(7, *KEY, CursorField(0)), 0) == []


def test_a_reader_asks_whoever_owns_by_then_and_gives_up_at_its_deadline() -> None:
    rig = Rig()
    replays = replays_of(rig)
    rig.view.owner = None

    def asked(now: int) -> list[NodeId]:
        return [e.peer for e in replays.on_timeout(now) if hasattr(e, "peer")]

    event = ReplayRequested(PartitionKey("q", 0), CursorField(0), 2_000, token=5)
    assert replays.on_replay(event, 0) == []
    rig.view.owner = B
    assert asked(ASK_AGAIN_MS) == [B]
    assert asked(ASK_AGAIN_MS + 1) == []
    assert replays.next_deadline() == 2 * ASK_AGAIN_MS
    (given_up,) = replays.on_timeout(2_000)
    assert given_up == Resolve(5, Page((), more=True, in_time=False))
    assert replays.on_replayed(Replayed(1, (), more=False)) == []
    assert replays.next_deadline() is None
