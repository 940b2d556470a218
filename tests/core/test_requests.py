"""Requests that wait: each ends, when it is done or when its time is up."""

from __future__ import annotations

from p2pmq.config import Limits, Timing
from p2pmq.core.consuming import Consuming
from p2pmq.core.effects import Done, Effect, Flushed, Resolve, Stats
from p2pmq.core.events import (
    Confirmation,
    FlushRequested,
    LeaveRequested,
    OutboxDurable,
    PublishRequested,
    StatsRequested,
    WriteRefused,
)
from p2pmq.core.hlc import HybridClock
from p2pmq.core.once import Once
from p2pmq.core.outbox import Outbox
from p2pmq.core.packets.publishing import (
    Confirm,
    Publish,
    QueueStats,
    RunField,
    StatsReply,
    StatsRequest,
)
from p2pmq.core.requests import Requests
from p2pmq.core.settling import Settling
from p2pmq.core.tying import Tying
from tests.core.kit import KEY, S1, A, B, C, Texts, View, batch_of, packets, rooms_of, writes

ME = b"node-own"


class Rig:
    """The rooms that requests look into."""

    def __init__(self) -> None:
        self.view = View(A)
        self.outbox = Outbox(S1, self.view.owner_of, Limits(), Timing())
        self.owner, _, handovers = rooms_of(ME, 1, self.view)
        consuming = Consuming(self.view.owner_of, Timing())
        settling = Settling(consuming, Once(HybridClock(), 0), Tying(self.view.owner_of))
        self.requests = Requests(self.outbox, self.owner, settling, handovers)

    def publish(self) -> list[Effect]:
        request = PublishRequested(KEY, Texts(("x",)), 1, 1, Confirmation.NONE, 0, 9)
        return self.outbox.on_publish(request, 0)

    def confirm(self) -> None:
        self.outbox.on_confirm(Confirm(*KEY, (RunField(S1, 1, 1),), 1), KEY, A, 1)


def outcomes(effects: list[Effect]) -> list[object]:
    return [effect.outcome for effect in effects if isinstance(effect, Resolve)]


def stats_of(queue: str) -> QueueStats:
    return QueueStats(queue, 0, 1, 0, 0, 10, 0)


def test_statistics_are_gathered_from_every_owner() -> None:
    rig = Rig()
    asked = rig.requests.on_stats(StatsRequested("", 100, 7), [A, B], 0)
    (one, two) = packets(asked)
    assert isinstance(one, StatsRequest)
    assert one == two
    assert not rig.requests.on_stats_reply(A, StatsReply(one.number, (stats_of("a"),)))
    assert not rig.requests.on_stats_reply(A, StatsReply(one.number, (stats_of("a"),)))
    assert not rig.requests.on_stats_reply(C, StatsReply(one.number, (stats_of("c"),)))
    done = rig.requests.on_stats_reply(B, StatsReply(one.number, (stats_of("b"),)))
    assert outcomes(done) == [Stats((stats_of("a"), stats_of("b")), ())]
    assert rig.requests.next_deadline() is None


def test_owners_that_do_not_answer_in_time_are_named() -> None:
    rig = Rig()
    rig.requests.on_stats(StatsRequested("", 100, 7), [A, B], 0)
    assert rig.requests.next_deadline() == 100
    assert not rig.requests.on_timeout(99)
    assert outcomes(rig.requests.on_timeout(100)) == [Stats((), (A, B))]


def test_with_nobody_to_ask_statistics_come_at_once() -> None:
    assert outcomes(Rig().requests.on_stats(StatsRequested("", 100, 7), [], 0)) == [Stats((), ())]


def test_a_flush_of_nothing_ends_at_once() -> None:
    assert outcomes(Rig().requests.on_flush(FlushRequested(100, 7), 0)) == [Flushed(0, 0)]


def test_a_flush_waits_for_the_last_confirm() -> None:
    rig = Rig()
    rig.publish()
    assert not rig.requests.on_flush(FlushRequested(100, 7), 0)
    rig.confirm()
    assert outcomes(rig.requests.check(1)) == [Flushed(0, 0)]


def test_a_flush_whose_time_is_up_makes_the_rest_durable_first() -> None:
    rig = Rig()
    rig.publish()
    rig.requests.on_flush(FlushRequested(100, 7), 0)
    effects = rig.requests.on_timeout(100)
    (write,) = writes(effects)
    assert not outcomes(effects)
    assert not outcomes(rig.requests.check(101))
    assert isinstance(write.then, OutboxDurable)
    rig.outbox.on_durable(write.then, 102)
    (flushed,) = outcomes(rig.requests.check(102))
    assert isinstance(flushed, Flushed)
    assert (flushed.messages_left, flushed.settles_left) == (1, 0)


def test_a_flush_ends_though_the_disk_is_full() -> None:
    rig = Rig()
    rig.publish()
    rig.requests.on_flush(FlushRequested(100, 7), 0)
    (write,) = writes(rig.requests.on_timeout(100))
    rig.outbox.on_write_refused(WriteRefused(write.then, write.records), 101)
    (flushed,) = outcomes(rig.requests.check(101))
    assert isinstance(flushed, Flushed)
    assert flushed.messages_left == 1


def test_a_leave_waits_until_everything_has_been_handed_over() -> None:
    rig = Rig()
    rig.view.owner = ME
    rig.owner.on_publish(A, Publish(*KEY, 0, batch_of(S1, 1, 1)), 0)
    assert not outcomes(rig.requests.on_leave(LeaveRequested(100, 7), 0))
    rig.owner.drop(KEY)
    assert outcomes(rig.requests.check(1)) == [Done()]


def test_a_leave_ends_when_its_time_is_up() -> None:
    rig = Rig()
    rig.view.owner = ME
    rig.owner.on_publish(A, Publish(*KEY, 0, batch_of(S1, 1, 1)), 0)
    rig.requests.on_leave(LeaveRequested(100, 7), 0)
    assert rig.requests.next_deadline() == 100
    assert outcomes(rig.requests.on_timeout(100)) == [Done()]
