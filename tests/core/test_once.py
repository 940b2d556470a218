"""What was processed on this node: kept by blocks, and forgotten when it is old or too much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from p2pmq.core import once as module
from p2pmq.core.effects import Counted, Notify, Persist
from p2pmq.core.hlc import HybridClock
from p2pmq.core.ids import PartitionKey, Run
from p2pmq.core.once import BLOCK_BITS, LOOK_MS, Once
from p2pmq.core.records import ProcessedChanged
from tests.core.kit import KEY, S1, S2

if TYPE_CHECKING:
    import pytest

OTHER = PartitionKey("other", 0)
SIZE = 1 << BLOCK_BITS
RETENTION_MS = 10 * LOOK_MS


def made(clock: HybridClock | None = None) -> Once:
    return Once(clock or HybridClock(), RETENTION_MS)


seqs = st.one_of(
    st.integers(1, 20), st.integers(SIZE - 5, SIZE + 5), st.integers(3 * SIZE - 5, 3 * SIZE)
)
runs = st.builds(
    lambda key, session, first, length: (key, Run(session, first, first + length - 1)),
    st.sampled_from([KEY, OTHER]),
    st.sampled_from([S1, S2]),
    seqs,
    st.integers(1, 30),
)


@given(st.lists(runs, max_size=15), runs)
def test_what_was_processed_is_found_again_after_a_restart_too(
    done: list[tuple[PartitionKey, Run]], asked: tuple[PartitionKey, Run]
) -> None:
    once = made()
    rows: dict[tuple[PartitionKey, bytes, int], ProcessedChanged] = {}
    expected: set[tuple[PartitionKey, bytes, int]] = set()
    for key, run in done:
        assert once.record(key, [run], 0) == []
        for row in once.records(key, [run]):
            rows[row.key, row.session, row.block] = row
        expected |= {(key, run.session, seq) for seq in range(run.first, run.last + 1)}
    again = made()
    again.recover(rows.values(), 0)
    key, run = asked
    wanted = [seq for seq in range(run.first, run.last + 1) if (key, run.session, seq) in expected]
    for each in (once, again):
        found = each.processed(key, run)
        assert [seq for _, low, high in found for seq in range(low, high + 1)] == wanted


def test_a_settle_writes_its_block_alone() -> None:
    once = made()
    once.record(KEY, [Run(S1, 1, 10 * SIZE)], 0)
    (row,) = once.records(KEY, [Run(S1, 5 * SIZE + 1, 5 * SIZE + 1)])
    assert (row.block, row.seqs) == (5, ((5 * SIZE, 6 * SIZE - 1),))


def test_blocks_that_nothing_changed_for_long_are_forgotten_and_others_are_not() -> None:
    clock = HybridClock()
    once = made(clock)
    assert once.next_deadline() is None
    once.record(KEY, [Run(S1, 1, 1), Run(S2, 1, 1)], 0)
    assert once.next_deadline() == LOOK_MS
    clock.now = RETENTION_MS
    once.record(KEY, [Run(S2, 2, 2)], clock.now)
    clock.now = RETENTION_MS + 1
    forgotten, counted = once.on_timeout(clock.now)
    assert isinstance(forgotten, Persist)
    assert forgotten.records == (ProcessedChanged(KEY, S1, 0, (), 0),)
    assert counted == Notify(Counted("once_forgotten", 1))
    assert once.processed(KEY, Run(S1, 1, 1)) == []
    assert once.processed(KEY, Run(S2, 1, 9)) == [Run(S2, 1, 2)]
    assert once.next_deadline() == RETENTION_MS + 1 + LOOK_MS


def test_the_oldest_blocks_go_where_there_are_too_many_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BLOCKS_MAX", 2)
    once = made()
    for block in range(2):
        assert once.record(KEY, [Run(S1, block * SIZE + 1, block * SIZE + 1)], 0) == []
    once.record(KEY, [Run(S1, 2, 2)], 0)
    persist, _, alarm = once.record(KEY, [Run(S1, 2 * SIZE, 2 * SIZE)], 0)
    assert isinstance(persist, Persist)
    assert persist.records == (ProcessedChanged(KEY, S1, 1, (), 0),), "the one touched first"
    assert isinstance(alarm, Notify)
    assert isinstance(alarm.notice, Counted)
    assert (alarm.notice.what, alarm.notice.alarming) == ("once_full", True)
    assert once.blocks == 2
