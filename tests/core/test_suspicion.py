"""Suspicion and local health: the numbers of Lifeguard."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from p2pmq.config import SwimConfig
from p2pmq.core.suspicion import Awareness, Suspicion, suspicion_min_ms
from tests.core.swim_mesh import node_id_of

CONFIG = SwimConfig()


@pytest.mark.parametrize(
    ("members", "expected_ms"), [(1, 4_000), (5, 4_000), (10, 4_000), (100, 8_000), (1_000, 12_000)]
)
def test_a_suspicion_lasts_longer_in_a_larger_mesh(members: int, expected_ms: int) -> None:
    assert suspicion_min_ms(CONFIG, members) == expected_ms


def test_it_runs_long_until_others_confirm_it() -> None:
    suspicion = Suspicion(CONFIG, 10, node_id_of(1), 1_000)
    deadlines = [suspicion.deadline()]
    for accuser in (2, 3):
        assert suspicion.confirm(node_id_of(accuser))
        deadlines.append(suspicion.deadline())
    assert deadlines[0] == 1_000 + 24_000
    assert deadlines[-1] == 1_000 + 4_000
    assert all(later < earlier for earlier, later in pairwise(deadlines))


def test_an_accuser_counts_once_and_more_than_enough_count_no_more() -> None:
    suspicion = Suspicion(CONFIG, 10, node_id_of(1), 0)
    assert not suspicion.confirm(node_id_of(1))
    assert suspicion.confirm(node_id_of(2))
    assert not suspicion.confirm(node_id_of(2))
    assert suspicion.confirm(node_id_of(3))
    assert not suspicion.confirm(node_id_of(4))


@pytest.mark.parametrize("members", [2, 3])
def test_where_nobody_could_confirm_it_is_short(members: int) -> None:
    assert Suspicion(CONFIG, members, node_id_of(1), 0).deadline() == 4_000


def test_without_lifeguard_it_has_one_length() -> None:
    suspicion = Suspicion(SwimConfig(lifeguard=False), 100, node_id_of(1), 0)
    assert suspicion.deadline() == 8_000
    assert not suspicion.confirm(node_id_of(2))


@given(st.integers(1, 10_000), st.lists(st.integers(0, 9), max_size=20), st.integers(2, 8))
def test_confirmations_never_lengthen_it(members: int, accusers: list[int], mult: int) -> None:
    suspicion = Suspicion(SwimConfig(suspicion_mult=mult), members, node_id_of(0), 0)
    last = suspicion.deadline()
    for accuser in accusers:
        suspicion.confirm(node_id_of(accuser))
        assert suspicion.min_ms <= suspicion.deadline() <= last <= suspicion.max_ms
        last = suspicion.deadline()


def test_bad_health_stretches_timeouts_within_bounds() -> None:
    awareness = Awareness(CONFIG)
    assert awareness.scale(500) == 500
    awareness.apply(3)
    assert awareness.scale(500) == 2_000
    awareness.apply(100)
    assert awareness.scale(500) == 8 * 500
    awareness.apply(-100)
    assert awareness.score == 0


def test_without_lifeguard_health_is_always_good() -> None:
    awareness = Awareness(SwimConfig(lifeguard=False))
    awareness.apply(5)
    assert awareness.scale(500) == 500
