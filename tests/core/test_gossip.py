"""The queue of rumours: each is sent often enough, and none too often."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from p2pmq.config import SwimConfig
from p2pmq.core.gossip import RumourQueue, burst, push_pull_interval_ms, sends_max
from p2pmq.core.membership import MemberState
from p2pmq.core.packets.membership import Rumour
from tests.core.swim_mesh import node_id_of

CONFIG = SwimConfig()


def suspect(number: int, incarnation: int = 1) -> Rumour:
    return Rumour(node_id_of(number), MemberState.SUSPECT, incarnation)


@pytest.mark.parametrize(("members", "sends"), [(1, 4), (9, 4), (10, 8), (99, 8), (1_000, 16)])
def test_a_rumour_is_sent_more_often_in_a_larger_mesh(members: int, sends: int) -> None:
    assert sends_max(CONFIG, members) == sends


@pytest.mark.parametrize(("members", "times"), [(2, 1), (32, 1), (33, 2), (64, 2), (65, 3)])
def test_states_are_exchanged_less_often_in_a_larger_mesh(members: int, times: int) -> None:
    assert push_pull_interval_ms(CONFIG, members) == times * 30_000


def test_many_waiting_rumours_share_packets() -> None:
    assert [burst(CONFIG, waiting) for waiting in (0, 50, 400, 5_000)] == [12, 12, 50, 128]


def test_a_rumour_is_sent_so_often_and_then_no_more() -> None:
    queue = RumourQueue()
    queue.put(suspect(1))
    assert [len(queue.take(12, 4)) for _ in range(6)] == [1, 1, 1, 1, 0, 0]
    assert len(queue) == 0


def test_the_least_sent_goes_first() -> None:
    queue = RumourQueue()
    queue.put(suspect(1))
    queue.put(suspect(2))
    queue.take(2, 8)
    queue.put(suspect(3))
    assert queue.take(2, 8) == (suspect(3), suspect(1))
    assert queue.take(1, 8) == (suspect(2),)


def test_a_newer_rumour_replaces_the_older_and_starts_anew() -> None:
    queue = RumourQueue()
    queue.put(suspect(1))
    queue.take(1, 8)
    queue.put(suspect(1, 2))
    assert queue.take(12, 1) == (suspect(1, 2),)
    assert node_id_of(1) not in queue


def test_a_discarded_rumour_is_not_sent() -> None:
    queue = RumourQueue()
    queue.put(suspect(1))
    queue.discard(node_id_of(1))
    queue.discard(node_id_of(2))
    assert queue.take(12, 8) == ()


@given(st.lists(st.integers(0, 8) | st.none(), max_size=60), st.integers(1, 4), st.integers(1, 6))
def test_each_rumour_is_sent_exactly_so_often(
    steps: list[int | None], count: int, sends: int
) -> None:
    queue = RumourQueue()
    sent: dict[Rumour, int] = {}
    replaced = set()
    latest: dict[int, Rumour] = {}
    for incarnation, step in enumerate(steps):
        if step is not None:
            if step in latest:
                replaced.add(latest[step])
            latest[step] = suspect(step, incarnation)
            queue.put(latest[step])
        for rumour in queue.take(count, sends):
            assert latest[rumour.node_id[-1]] == rumour
            sent[rumour] = sent.get(rumour, 0) + 1
    while queue:
        taken = queue.take(count, sends)
        assert len(set(taken)) == len(taken)
        for rumour in taken:
            sent[rumour] = sent.get(rumour, 0) + 1
    assert all(
        times == sends or (rumour in replaced and times < sends) for rumour, times in sent.items()
    )
    assert all(sent[rumour] == sends for rumour in latest.values())
