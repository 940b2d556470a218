"""What waits for an owner that has not merged: its times go on meanwhile, none ends too early."""

from __future__ import annotations

from dataclasses import replace

from p2pmq.core.early import HELD_MAX, HELD_MS, EarlyBatches
from p2pmq.core.packets.publishing import Publish
from tests.core.kit import KEY, S1, A, batch_of


def publish(first: int, delay_ms: int = 0) -> Publish:
    return Publish(*KEY, first - 1, replace(batch_of(S1, first, 1), delay_ms=delay_ms))


def test_a_delay_goes_on_and_is_never_over_before_its_time_though_clocks_tick_in_ms() -> None:
    """What came at 1000.9 ms came in ms 1000: at 1400 it has waited for 399.1 ms."""
    early = EarlyBatches()
    early.hold(KEY, A, publish(1, delay_ms=30_000), 1_000)
    ((_, packet),) = early.take(KEY, 1_400)
    assert packet.batch.delay_ms == 29_601
    early.hold(KEY, A, publish(2, delay_ms=30_000), 1_000)
    ((_, packet),) = early.take(KEY, 1_000)
    assert packet.batch.delay_ms == 30_000


def test_a_repeat_takes_no_second_place_and_what_nobody_says_any_more_is_dropped() -> None:
    early = EarlyBatches()
    early.hold(KEY, A, publish(1), 0)
    early.hold(KEY, A, publish(2), 0)
    early.hold(KEY, A, publish(2), HELD_MS)
    assert [packet.batch.first for _, packet in early.take(KEY, HELD_MS)] == [2]
    assert KEY not in early


def test_only_so_many_wait() -> None:
    early = EarlyBatches()
    for first in range(1, HELD_MAX + 1):
        assert early.hold(KEY, A, publish(first), 0) == []
    assert early.hold(KEY, A, publish(HELD_MAX + 1), 0) != []
    assert early.counts() == [HELD_MAX]
