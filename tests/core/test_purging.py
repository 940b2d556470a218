"""A purge: asked for, done a piece at a time, answered once."""

from __future__ import annotations

from p2pmq.core.effects import Effect, Purged, Refused, Resolve
from p2pmq.core.events import BatchDurable, PurgeDurable, PurgeRequested
from p2pmq.core.packets.delivering import Attach
from p2pmq.core.packets.limiting import (
    PURGE_REFUSED_DISK_FULL,
    PURGE_REFUSED_MOVED,
    PurgeRequest,
    PurgeResult,
)
from p2pmq.core.packets.publishing import Publish
from p2pmq.core.purging import BATCHES_AT_ONCE, NO_ANSWER, NO_OWNER, Purges
from tests.core.kit import KEY, S1, A, B, View, batch_of, packets, rooms_of, writes

ME = b"node-own"
REQUEST = PurgeRequest(*KEY, 7)


class Rig:
    """The purges of a node that owns one partition."""

    def __init__(self, *batches: int) -> None:
        self.view = View(ME)
        rooms = rooms_of(ME, 1, self.view)
        self.owner = rooms.owner
        self.purges = Purges(3, self.owner, rooms.replication, self.view.owner_of)
        first = 1
        for count in batches:
            packet = Publish(*KEY, first - 1, batch_of(S1, first, count))
            self.write(self.owner.on_publish(A, packet, 0))
            first += count

    def write(self, effects: list[Effect]) -> list[Effect]:
        for write in writes(effects):
            match write.then:
                case BatchDurable():
                    self.write(self.owner.on_batch_durable(write.then, 0))
                case PurgeDurable():
                    effects += self.purges.on_durable(write.then)
        return effects


def results(effects: list[Effect]) -> list[PurgeResult]:
    return [packet for packet in packets(effects) if isinstance(packet, PurgeResult)]


def test_what_waits_goes_and_the_answer_comes_when_that_is_durable() -> None:
    rig = Rig(3, 2)
    effects = rig.purges.on_request(B, REQUEST, 0)
    assert not results(effects)
    assert not rig.owner.partition(KEY).pending
    assert results(rig.write(effects)) == [PurgeResult(7, 5)]
    assert rig.purges.next_deadline() is None


def test_a_request_that_comes_again_takes_nothing_of_what_was_published_since() -> None:
    rig = Rig(3)
    rig.write(rig.purges.on_request(B, REQUEST, 0))
    rig.write(rig.owner.on_publish(A, Publish(*KEY, 3, batch_of(S1, 4, 2)), 1))
    assert not results(rig.write(rig.purges.on_request(B, REQUEST, 2)))
    since_its_restart = PurgeRequest(*KEY, 1, boot=4)
    assert results(rig.write(rig.purges.on_request(B, since_its_restart, 3))) == [PurgeResult(1, 2)]
    rig.write(rig.owner.on_publish(A, Publish(*KEY, 5, batch_of(S1, 6, 1)), 4))
    for late in (REQUEST, PurgeRequest(*KEY, 8), since_its_restart):
        assert not results(rig.write(rig.purges.on_request(B, late, 5)))
    assert rig.owner.partition(KEY).pending.count == 1


def test_where_nothing_was_ever_ready_there_is_nothing_to_purge() -> None:
    """Batches may come from another home before the owner's part has begun to deliver."""
    rig = Rig(3)
    del rig.owner.deliveries[KEY]
    assert results(rig.write(rig.purges.on_request(B, REQUEST, 0))) == [PurgeResult(7, 0)]


def test_what_a_consumer_holds_stays() -> None:
    rig = Rig(3, 2)
    rig.owner.on_attach(B, Attach(*KEY, b"consumer", 1, 2, 60_000, ()), 0)
    assert results(rig.write(rig.purges.on_request(B, REQUEST, 0))) == [PurgeResult(7, 3)]
    assert rig.owner.partition(KEY).pending.count == 2


def test_a_queue_that_nobody_knows_is_empty() -> None:
    assert results(rig_write(Rig())) == [PurgeResult(7, 0)]


def rig_write(rig: Rig) -> list[Effect]:
    return rig.write(rig.purges.on_request(B, REQUEST, 0))


def test_many_batches_go_a_piece_at_a_time_and_what_comes_meanwhile_stays() -> None:
    rig = Rig(*[1] * (2 * BATCHES_AT_ONCE + 1))
    effects = rig_write(rig)
    assert not results(effects)
    assert rig.owner.partition(KEY).pending.count == BATCHES_AT_ONCE + 1
    count = 2 * BATCHES_AT_ONCE + 1
    rig.write(rig.owner.on_publish(A, Publish(*KEY, count, batch_of(S1, count + 1, 1)), 0))
    assert rig.purges.next_deadline() == 0
    assert not results(rig.write(rig.purges.on_timeout(0)))
    assert results(rig.write(rig.purges.on_timeout(0))) == [PurgeResult(7, count)]
    assert rig.owner.partition(KEY).pending.count == 1
    assert rig.purges.next_deadline() is None


def test_who_owns_no_more_says_how_far_it_came() -> None:
    rig = Rig(*[1] * (BATCHES_AT_ONCE + 1))
    rig_write(rig)
    rig.view.owner = B
    told = [PurgeResult(7, BATCHES_AT_ONCE, PURGE_REFUSED_MOVED)]
    assert results(rig.purges.on_timeout(0)) == told
    assert rig.purges.next_deadline() is None


def test_a_full_disk_is_told_of() -> None:
    purges = Rig().purges
    effects = purges.on_write_refused(PurgeDurable(KEY, B, 7, 3))
    assert results(effects) == [PurgeResult(7, 3, PURGE_REFUSED_DISK_FULL)]


def test_who_asks_gets_one_answer() -> None:
    rig = Rig()
    rig.view.owner = B
    request = PurgeRequested(KEY, 5_000, 1)
    assert packets(rig.purges.on_requested(request, 0)) == [PurgeRequest(*KEY, 1, boot=3)]
    assert rig.purges.on_result(PurgeResult(1, 9)) == [Resolve(1, Purged(9))]
    assert rig.purges.on_result(PurgeResult(1, 9)) == []
    assert rig.purges.next_deadline() is None


def test_who_asks_is_told_why_not() -> None:
    rig = Rig()
    rig.view.owner = None
    request = PurgeRequested(KEY, 5_000, 1)
    assert rig.purges.on_requested(request, 0) == [Resolve(1, Refused(NO_OWNER))]
    rig.view.owner = B
    rig.purges.on_requested(request, 0)
    (told,) = rig.purges.on_result(PurgeResult(1, 2_000, PURGE_REFUSED_MOVED))
    assert isinstance(told, Resolve)
    assert isinstance(told.outcome, Refused)
    assert "another owner" in told.outcome.reason
    assert "(2,000 messages are gone already)" in told.outcome.reason
    rig.purges.on_requested(request, 0)
    assert rig.purges.on_timeout(5_000) == [Resolve(1, Refused(NO_ANSWER))]
