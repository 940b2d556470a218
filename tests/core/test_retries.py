"""How often a message has failed, and what follows."""

from __future__ import annotations

import random

import pytest

from p2pmq.config import Retry
from p2pmq.core.ids import Run
from p2pmq.core.packets.delivering import Nack, Settle
from p2pmq.core.packets.publishing import ERROR_BYTES_MAX
from p2pmq.core.retries import Failing, Retries, bounded
from p2pmq.wire.codec import decode, encode
from tests.core.kit import KEY, S1, A, B

POLICY = Retry(max_deliveries=3, backoff_ms=100, backoff_max_ms=1_000)


def retries() -> Retries:
    return Retries(lambda: POLICY, random.Random(1))


def test_each_failure_counts_for_each_message_by_itself() -> None:
    room = retries()
    assert room.fail(Run(S1, 1, 4), "one") == [(Run(S1, 1, 4), Failing(1, "one"))]
    assert sorted(room.fail(Run(S1, 3, 6), "two")) == [
        (Run(S1, 3, 4), Failing(2, "two")),
        (Run(S1, 5, 6), Failing(1, "two")),
    ]
    assert room.take_given_up() == []


def test_what_has_failed_too_often_is_given_up_once_with_the_last_error() -> None:
    room = retries()
    room.fail(Run(S1, 1, 2), "first")
    room.fail(Run(S1, 1, 1), "second")
    assert room.fail(Run(S1, 1, 2), "third") == [(Run(S1, 2, 2), Failing(2, "third"))]
    assert room.take_given_up() == [(Run(S1, 1, 1), Failing(3, "third"))]
    assert room.take_given_up() == []


def test_a_change_of_the_rules_holds_from_the_next_failure_on() -> None:
    policy = [Retry(max_deliveries=9)]
    room = Retries(lambda: policy[0])
    room.fail(Run(S1, 1, 1), "")
    policy[0] = Retry(max_deliveries=2)
    assert room.fail(Run(S1, 1, 1), "") == []


def test_pauses_double_up_to_a_limit_and_half_of_each_is_drawn() -> None:
    room = retries()
    for failures, longest in ((1, 100), (2, 200), (3, 400), (4, 800), (5, 1_000), (60, 1_000)):
        drawn = {room.pause_ms(failures) for _ in range(200)}
        assert min(drawn) >= longest // 2
        assert max(drawn) <= longest
        assert len(drawn) > 20, "what failed together does not come back together"


def test_an_acked_message_is_forgotten() -> None:
    room = retries()
    room.fail(Run(S1, 1, 2), "")
    room.on_away(A, [Run(S1, 1, 2)])
    room.forget(Run(S1, 1, 1))
    assert room.fail(Run(S1, 1, 1), "") == [(Run(S1, 1, 1), Failing(1, ""))]
    assert room.on_restarted(A) == [Run(S1, 2, 2)]


def test_only_a_node_that_starts_anew_has_died_of_what_it_held() -> None:
    room = retries()
    room.on_away(A, [Run(S1, 1, 2)])
    assert room.on_restarted(B) == []
    assert room.on_restarted(A) == [Run(S1, 1, 2)]
    assert room.on_restarted(A) == [], "once"


def test_a_rejected_message_is_given_up_at_once_however_often_it_has_failed() -> None:
    room = retries()
    room.fail(Run(S1, 2, 2), "")
    room.reject(Run(S1, 1, 2), "no such order")
    assert sorted(room.take_given_up()) == [
        (Run(S1, 1, 1), Failing(1, "no such order", rejected=True)),
        (Run(S1, 2, 2), Failing(2, "no such order", rejected=True)),
    ]


@pytest.mark.parametrize(
    "error", ["x" * 5_000, "é" * 5_000, "\ud800" * 5_000], ids=["short", "accents", "surrogates"]
)
def test_a_long_error_is_cut_to_what_a_packet_takes(error: str) -> None:
    nack = Nack(S1, 1, 1, 1, error=bounded(error))
    settle = Settle(*KEY, b"consumer", 1, 1, 0, nacks=(nack,))
    assert decode(encode(settle)) == settle
    assert len(nack.error.encode()) >= ERROR_BYTES_MAX - 1
