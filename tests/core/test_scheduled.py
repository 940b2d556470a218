"""Scheduled messages in one partition: nobody gets them before they are due, wherever they go."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from p2pmq.core.delivery import PartitionDelivery
from p2pmq.core.effects import Effect, Persist, Send
from p2pmq.core.events import BatchDurable
from p2pmq.core.hlc import HybridClock
from p2pmq.core.ids import Run
from p2pmq.core.packets.delivering import Attach, Delivery
from p2pmq.core.partition import Partition
from p2pmq.core.records import Space
from p2pmq.core.scheduled import left_ms, release
from tests.core.kit import KEY, S1, A, Disk, batch_of

CONSUMER = b"consumer"
HOUR_MS = 3_600_000


class Place:
    """A partition on a disk, with a consumer of endless credit, and a clock for each process."""

    def __init__(self) -> None:
        self.now = 0
        self.wall_offset_ms = 10**12
        self.disk = Disk()
        self.given: dict[int, int] = {}
        """When each seq was pushed first."""
        self.seq = 1
        self.start()

    def start(self) -> None:
        """A process begins, with what is on the disk."""
        self.clock = HybridClock()
        self.tick(0)
        self.partition = Partition(KEY, self.clock)
        self.partition.recover(self.disk.of_space(Space.PARTITION), self.disk.recovered().seen)
        self.own()

    def own(self) -> None:
        """The partition has a new owner: this node, with nothing but the partition."""
        self.delivery = PartitionDelivery(self.partition, 0, lambda run: [run])
        self.delivery.attach(A, Attach(*KEY, CONSUMER, 1, 10**6, 10**9), self.now)
        self.pump()

    def tick(self, ms: int) -> None:
        self.now += ms
        self.clock.now = self.now
        self.clock.wall_offset_ms = self.wall_offset_ms

    def publish(self, count: int, delay_ms: int) -> Run:
        batch = replace(batch_of(S1, self.seq, count), delay_ms=delay_ms)
        self.seq += count
        for effect in self.partition.append(batch, self.clock.wall_ms, A)[0]:
            assert isinstance(effect, Persist)
            assert isinstance(effect.then, BatchDurable)
            self.disk.apply(effect.records)
            stored = self.partition.on_durable(effect.then.number)
            assert stored is not None
            self.delivery.add(stored.run, stored.number)
        self.pump()
        return batch.run

    def ack(self, run: Run) -> None:
        removed, records = self.partition.remove([run])
        self.disk.apply(records)
        self.delivery.forget(removed)

    def pump(self) -> None:
        release(self.delivery, self.now)
        for effect in self.delivery.pump(self.now):
            self._take(effect)

    def _take(self, effect: Effect) -> None:
        assert isinstance(effect, Send)
        assert isinstance(effect.packet, Delivery)
        for segment in effect.packet.segments:
            for seq in range(segment.batch.first, segment.batch.last + 1):
                self.given.setdefault(seq, self.now)


def test_it_is_not_ready_until_it_is_due_and_later_ones_go_before_it() -> None:
    place = Place()
    place.publish(2, delay_ms=1_000)
    place.publish(1, delay_ms=0)
    assert place.given == {3: 0}
    assert place.partition.resting == 2
    place.tick(999)
    place.pump()
    assert place.given == {3: 0}
    place.tick(1)
    place.pump()
    assert place.given == {3: 0, 1: 1_000, 2: 1_000}
    assert place.partition.resting == 0


def test_what_is_left_of_the_delay_travels_and_comes_from_the_disk() -> None:
    place = Place()
    run = place.publish(1, delay_ms=HOUR_MS)
    place.tick(HOUR_MS // 4)
    assert place.partition.batch(run, 1).delay_ms == 3 * HOUR_MS // 4
    place.start()
    assert place.partition.batch(run, 1).delay_ms == 3 * HOUR_MS // 4
    place.tick(HOUR_MS)
    place.pump()
    assert place.partition.batch(run, 1).delay_ms == 0
    assert list(place.given) == [1]


def test_what_came_due_while_the_process_was_away_is_ready_at_once() -> None:
    place = Place()
    place.publish(1, delay_ms=HOUR_MS)
    place.tick(HOUR_MS + 1)
    place.start()
    assert (place.given, place.partition.resting) == ({1: HOUR_MS + 1}, 0)


def test_a_clock_that_was_set_back_makes_nobody_wait_longer_than_asked() -> None:
    assert left_ms(5_000, due_ms=1_005_000, wall_ms=1_002_000) == 3_000
    assert left_ms(5_000, due_ms=1_005_000, wall_ms=1_009_000) == 0
    assert left_ms(5_000, due_ms=1_005_000, wall_ms=900_000) == 5_000


class ScheduledMachine(RuleBasedStateMachine):
    """Publishes with delays, acks, restarts and new owners, while time passes."""

    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.place = Place()
        self.due: dict[int, int] = {}
        self.acked: set[int] = set()

    @rule(target=runs, count=st.integers(1, 5), delay_ms=st.sampled_from((0, 1, 50, 400)))
    def publish(self, count: int, delay_ms: int) -> Run:
        run = self.place.publish(count, delay_ms)
        self.due.update(dict.fromkeys(range(run.first, run.last + 1), self.place.now + delay_ms))
        return run

    @rule(run=runs, start=st.integers(0, 4))
    def ack(self, run: Run, start: int) -> None:
        part = Run(run.session, min(run.first + start, run.last), run.last)
        self.place.ack(part)
        self.acked |= set(range(part.first, part.last + 1))

    @rule(ms=st.integers(1, 300))
    def pass_time(self, ms: int) -> None:
        self.place.tick(ms)
        self.place.pump()

    @rule()
    def restart(self) -> None:
        self.place.start()

    @rule()
    def change_owner(self) -> None:
        self.place.own()

    @invariant()
    def nobody_got_one_early_and_nobody_waits_for_one_that_is_due(self) -> None:
        place = self.place
        for seq, at in place.given.items():
            assert at >= self.due[seq]
        waiting = self.due.keys() - place.given.keys() - self.acked
        assert all(self.due[seq] > place.now for seq in waiting)

    @invariant()
    def those_that_rest_are_counted(self) -> None:
        partition = self.place.partition
        resting = [
            part.length
            for part, number in partition.pending.items()
            if partition.batches[number].due_at
        ]
        assert partition.resting == sum(resting)

    @invariant()
    def there_is_a_timer_for_the_next(self) -> None:
        partition = self.place.partition
        due = [stored.due_at for stored in partition.batches.values() if stored.due_at]
        if due:
            assert partition.scheduled.next is not None
            assert partition.scheduled.next <= min(due)


TestScheduled = ScheduledMachine.TestCase
