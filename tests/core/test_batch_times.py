"""Moments of stored batches: told once, in order, and the heap does not grow with what is gone."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p2pmq.core.batch_times import STALE_MAX, BatchTimes


class BatchTimesMachine(RuleBasedStateMachine):
    """Batches come with a moment, may be put off, may go before it; time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: dict[int, None] = {}
        self.times = BatchTimes(self.batches)
        self.due: dict[int, int] = {}
        self.now = 0
        self.number = 0

    @rule(wait=st.integers(0, 50), count=st.sampled_from((1, 3, 700)))
    def come(self, wait: int, count: int) -> None:
        for _ in range(count):
            self.number += 1
            self.batches[self.number] = None
            self.times.push(self.now + wait, self.number)
            self.due[self.number] = self.now + wait

    @rule(share=st.sampled_from((2, 3, 1)))
    def go(self, share: int) -> None:
        for number in list(self.batches)[::share]:
            del self.batches[number]
            self.due.pop(number, None)

    @rule(ms=st.integers(0, 30))
    def pass_time(self, ms: int) -> None:
        self.now += ms
        expected = sorted((at, number) for number, at in self.due.items() if at <= self.now)
        assert self.times.pop_due(self.now) == [number for _, number in expected]
        for _, number in expected:
            del self.due[number]

    @invariant()
    def whoever_is_due_next_is_known_in_time(self) -> None:
        if self.due:
            assert self.times.next is not None
            assert self.times.next <= min(self.due.values())

    @invariant()
    def what_is_gone_does_not_fill_the_heap(self) -> None:
        assert len(self.times) <= 2 * max(1, self.most_there) + STALE_MAX

    @property
    def most_there(self) -> int:
        return self.number


TestBatchTimes = BatchTimesMachine.TestCase


def test_batches_that_come_and_go_leave_a_bounded_heap() -> None:
    batches: dict[int, None] = {}
    times = BatchTimes(batches)
    for number in range(20_000):
        batches[number] = None
        times.push(10**9 + number, number)
        if number >= 10:
            del batches[number - 10]
        assert len(times) <= 2 * len(batches) + STALE_MAX
