"""What must be so before an ack leaves a node: ids on its disk, outputs committed."""

from __future__ import annotations

from p2pmq.config import Timing
from p2pmq.core.consuming import Consuming
from p2pmq.core.effects import Counted, Deliver, Effect, Notify, Persist
from p2pmq.core.events import (
    Output,
    ProcessedDurable,
    SettleRequested,
    SubscribeRequested,
    TieRequested,
    UnsubscribeRequested,
)
from p2pmq.core.hlc import HybridClock
from p2pmq.core.ids import PartitionKey, Run
from p2pmq.core.once import Once
from p2pmq.core.packets.delivering import Attach, Delivery, Detach, Segment, Settle
from p2pmq.core.packets.publishing import Confirm, Publish, RunField
from p2pmq.core.settling import REFUSED_RETRY_MS, Settling
from p2pmq.core.tying import RESEND_MS, Tying
from tests.core.kit import KEY, S1, A, B, Texts, View, batch_of, packets

ME, YOU = b"consumer", b"another!"
OUT = PartitionKey("out", 0)


class Rig:
    """The rooms of a consumer's node."""

    def __init__(self) -> None:
        self.view = View(A)
        self.consuming = Consuming(self.view.owner_of, Timing())
        self.once = Once(HybridClock(), 0)
        self.tying = Tying(self.view.owner_of)
        self.settling = Settling(self.consuming, self.once, self.tying)

    def subscribe(self, consumer: bytes = ME, *, once: bool = True) -> None:
        request = SubscribeRequested(consumer, KEY, 10, 30_000, once=once)
        self.settling.on_subscribe(request, 0)

    def deliver(
        self, number: int, first: int, last: int, *, attempt: int = 1, consumer: bytes = ME
    ) -> list[Effect]:
        segment = Segment(batch_of(S1, first, last - first + 1), attempt)
        packet = Delivery(*KEY, consumer, 1, number, (segment,))
        return self.settling.on_delivery(A, packet, 0)

    def ack(self, first: int, last: int, consumer: bytes = ME) -> list[Effect]:
        request = SettleRequested(consumer, KEY, acks=(Run(S1, first, last),))
        return self.settling.on_settle(request, 0)

    def tie(self, seq: int, *bodies: str, consumer: bytes = ME) -> list[Effect]:
        outputs = tuple(Output(OUT, Texts((body,)), len(body)) for body in bodies)
        return self.settling.on_tie(TieRequested(consumer, KEY, Run(S1, seq, seq), outputs), 0)

    def confirm(self, published: list[Publish]) -> list[Effect]:
        runs = tuple(RunField(*packet.batch.run) for packet in published)
        return self.settling.on_confirm(Confirm(*OUT, runs, 2), OUT, 0)


def given(effects: list[Effect]) -> list[Run]:
    return [
        segment.batch.run
        for effect in effects
        if isinstance(effect, Deliver)
        for segment in effect.segments
    ]


def acked(effects: list[Effect]) -> list[RunField]:
    return [run for packet in packets(effects) if isinstance(packet, Settle) for run in packet.acks]


def written(effects: list[Effect]) -> ProcessedDurable:
    (persist,) = (effect for effect in effects if isinstance(effect, Persist))
    assert isinstance(persist.then, ProcessedDurable)
    return persist.then


def published(effects: list[Effect]) -> list[Publish]:
    return [packet for packet in packets(effects) if isinstance(packet, Publish)]


# ------------------------------------------------------------------------------ once


def test_an_ack_leaves_when_its_ids_are_on_disk_and_not_before() -> None:
    rig = Rig()
    rig.subscribe()
    assert given(rig.deliver(1, 1, 3)) == [Run(S1, 1, 3)]
    effects = rig.ack(1, 2)
    assert acked(effects) == []
    assert rig.settling.unconfirmed == 1
    after = rig.settling.on_processed_durable(written(effects), 1)
    assert acked(after) == [RunField(S1, 1, 2)]


def test_a_consumer_that_did_not_ask_for_it_acks_at_once() -> None:
    rig = Rig()
    rig.subscribe(once=False)
    rig.deliver(1, 1, 1)
    effects = rig.ack(1, 1)
    assert acked(effects) == [RunField(S1, 1, 1)]
    assert not any(isinstance(effect, Persist) for effect in effects)


def test_nacks_and_extensions_do_not_wait_for_the_disk() -> None:
    rig = Rig()
    rig.subscribe()
    rig.deliver(1, 1, 2)
    request = SettleRequested(ME, KEY, (Run(S1, 1, 1),), (), ((Run(S1, 2, 2), 5_000),))
    (settle,) = packets(rig.settling.on_settle(request, 0))
    assert isinstance(settle, Settle)
    assert (settle.acks, len(settle.extends)) == ((), 1)


def test_what_comes_again_is_acked_and_not_given_out() -> None:
    rig = Rig()
    rig.subscribe()
    rig.deliver(1, 1, 2)
    rig.settling.on_processed_durable(written(rig.ack(1, 2)), 1)
    rig.subscribe(YOU)
    effects = rig.deliver(1, 1, 4, attempt=2, consumer=YOU)
    assert given(effects) == [Run(S1, 3, 4)]
    assert Notify(Counted("once_skipped", 2)) in effects
    assert acked(rig.settling.on_processed_durable(written(effects), 2)) == [RunField(S1, 1, 2)]


def test_on_a_full_disk_acks_wait_and_the_ids_are_written_again() -> None:
    rig = Rig()
    rig.subscribe()
    rig.deliver(1, 1, 1)
    event = written(rig.ack(1, 1))
    (alarm,) = rig.settling.on_write_refused(event, 0)
    assert isinstance(alarm, Notify)
    again = rig.settling.on_timeout(REFUSED_RETRY_MS)
    assert written(again) == event
    assert acked(rig.settling.on_processed_durable(event, 2_000)) == [RunField(S1, 1, 1)]


def test_a_consumer_that_ends_meanwhile_keeps_only_what_its_acks_are_of_and_ends_after_them() -> (
    None
):
    rig = Rig()
    rig.subscribe()
    rig.deliver(1, 1, 3)
    event = written(rig.ack(1, 1))
    (attach,) = packets(rig.settling.on_unsubscribe(UnsubscribeRequested(ME), 1))
    assert isinstance(attach, Attach)
    assert (attach.limit, attach.holding) == (0, (RunField(S1, 1, 1),))
    settle, detach = packets(rig.settling.on_processed_durable(event, 2))
    assert isinstance(settle, Settle)
    assert isinstance(detach, Detach)


# ------------------------------------------------------------------------------ tying


def test_outputs_are_published_first_and_the_ack_leaves_when_all_are_committed() -> None:
    rig = Rig()
    rig.subscribe(once=False)
    rig.deliver(1, 7, 7)
    first, second = published(rig.tie(7, "one", "two"))
    assert first.batch.session != second.batch.session
    assert first.batch.first == second.batch.first == 7
    assert rig.settling.unconfirmed == 1
    assert acked(rig.confirm([first])) == []
    assert acked(rig.confirm([first, second])) == [RunField(S1, 7, 7)]
    assert len(rig.tying) == 0


def test_whoever_processes_the_input_again_publishes_the_same_dots() -> None:
    one, other = Rig(), Rig()
    dots = []
    for rig in (one, other):
        rig.subscribe(once=False)
        rig.deliver(1, 7, 7)
        dots.append([packet.batch.run for packet in published(rig.tie(7, "one", "two"))])
    assert dots[0] == dots[1]


def test_what_is_not_confirmed_is_sent_again_to_whoever_owns_it_and_its_input_stays_hidden() -> (
    None
):
    rig = Rig()
    rig.subscribe(once=False)
    rig.deliver(1, 7, 7)
    (sent,) = published(rig.tie(7, "one"))
    again = rig.settling.on_timeout(RESEND_MS)
    assert published(again) == [sent]
    (settle,) = (packet for packet in packets(again) if isinstance(packet, Settle))
    assert settle.extends[0].timeout_ms == 30_000
    rig.view.owner = B
    assert published(rig.settling.on_placement_changed(RESEND_MS + 1)) == [sent]
    assert rig.settling.on_placement_changed(RESEND_MS + 2) == []


def test_an_input_that_comes_again_while_it_is_published_for_is_not_given_out() -> None:
    rig = Rig()
    rig.subscribe(once=False)
    rig.subscribe(YOU, once=False)
    rig.deliver(1, 7, 7)
    sent = published(rig.tie(7, "one"))
    assert given(rig.deliver(1, 6, 7, attempt=2, consumer=YOU)) == [Run(S1, 6, 6)]
    assert acked(rig.confirm(sent)) == [RunField(S1, 7, 7)] * 2, "for either's credit"


def test_with_both_outputs_are_committed_then_ids_are_durable_then_the_ack_leaves() -> None:
    rig = Rig()
    rig.subscribe()
    rig.deliver(1, 7, 7)
    sent = published(rig.tie(7, "one"))
    rig.settling.on_unsubscribe(UnsubscribeRequested(ME), 1)
    effects = rig.confirm(sent)
    assert acked(effects) == []
    after = rig.settling.on_processed_durable(written(effects), 2)
    assert acked(after) == [RunField(S1, 7, 7)]
    assert isinstance(packets(after)[-1], Detach)
