"""The driver: effects in order, writes before what follows them, one timer, and fail-stop."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest

from p2pmq.core import effects, events
from p2pmq.core.events import Event
from p2pmq.core.ids import JobId, PartitionKey, Run
from p2pmq.core.machine import Machine
from p2pmq.core.packets.delivering import Segment
from p2pmq.core.packets.publishing import Batch, Bodies, Publish
from p2pmq.core.records import BatchStored, IncarnationSaved, Record, Recovered, Space, StoredBodies
from p2pmq.errors import StoreCorruptError, StoreError, StoreFullError
from p2pmq.runtime.driver import WALL_CLOCK_INTERVAL_S, Driver
from p2pmq.runtime.links import Links
from p2pmq.sim.loop import SimLoop
from p2pmq.store.base import WriteDone
from p2pmq.wire.bodies import PackedBodies
from tests.runtime.kit import PEER, advance, control, hello, virtual_loop

KEY = PartitionKey("q", 0)
SESSION = b"session!"
STARTED = events.Started(Recovered(b"node-us!", b"store-id", 1, 0), (), 0)
PACKED = PackedBodies.from_bodies([b"a", b"b", b"c"])


class FakeMachine:
    """Answers events by the test's table, and notes them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.times: list[int] = []
        self.answers: dict[type, Callable[[Any], Sequence[effects.Effect]]] = {}
        self.deadline: int | None = None
        self.inside = 0

    def handle(self, event: Event, now: int) -> list[effects.Effect]:
        assert not self.inside, "entered twice at once"
        self.inside += 1
        try:
            self.events.append(event)
            self.times.append(now)
            answer = self.answers.get(type(event))
            return [] if answer is None else list(answer(event))
        finally:
            self.inside -= 1

    def next_deadline(self) -> int | None:
        return self.deadline

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if type(event) is kind]


class FakeStore:
    """Writes wait until the test answers them."""

    def __init__(self, notes: list[object]) -> None:
        self._notes = notes
        self.waiting: list[WriteDone] = []
        self.patient: list[bool] = []
        self.bad: dict[int, tuple[int, ...]] = {}
        self.gone: list[int] = []

    async def open(self) -> Recovered:
        raise AssertionError

    async def close(self) -> None:
        raise AssertionError

    def write(self, records: Sequence[Record], done: WriteDone, *, patient: bool = False) -> None:
        self._notes.append(("write", tuple(records)))
        self.patient.append(patient)
        self.waiting.append(done)

    def read(self, where: StoredBodies) -> PackedBodies:
        if where.number in self.gone:
            raise KeyError(where.number)
        if where.number in self.bad:
            raise StoreCorruptError("/d", "a checksum is wrong", bad=self.bad[where.number])
        return PACKED.part(where.start, where.stop)

    def answer(self, error: StoreError | None = None) -> None:
        self.waiting.pop(0)(error)


class FakeNode:
    """What the driver tells the node, and what the links are asked, in order."""

    def __init__(self, notes: list[object]) -> None:
        self._notes = notes
        self.failures: list[BaseException] = []

    def on_deliver(self, consumer: bytes, segments: tuple[Segment, ...]) -> None:
        self._notes.append(("deliver", consumer, segments))

    def on_resolve(self, token: int, outcome: effects.Outcome) -> None:
        self._notes.append(("resolve", token))

    def on_notice(self, notice: effects.Notice) -> None:
        self._notes.append(("notice", notice))

    def on_refused(self, reason: int, text: str, address: str) -> None:
        self._notes.append(("refused", reason, text, address))

    def on_emitted(self, peer: bytes, topics: tuple[str, ...], bodies: Bodies) -> None:
        self._notes.append(("emitted", peer, topics, bodies))

    def on_handle(self, request: effects.Handle) -> None:
        self._notes.append(("handle", request))

    def on_stop_handling(self, job_id: JobId) -> None:
        self._notes.append(("stop handling", job_id))

    def on_failed(self, error: BaseException) -> None:
        self.failures.append(error)

    # -- the links --

    def send(self, peer: bytes, packet: object) -> None:
        self._notes.append(("send", peer, packet))

    def learn(self, peer: bytes, addresses: tuple[str, ...]) -> None:
        self._notes.append(("learn", peer, addresses))


class Stage:
    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self.notes: list[object] = []
        self.machine = FakeMachine()
        self.store = FakeStore(self.notes)
        self.node = FakeNode(self.notes)
        self.wall_s = 1_000_000.0
        self.driver = Driver(self.store, self.node, loop, lambda: self.wall_s)

    def start(self) -> None:
        self.driver.start(cast("Machine", self.machine), cast("Links", self.node), STARTED)

    def on(self, kind: type, *answer: effects.Effect) -> None:
        self.machine.answers[kind] = lambda _event: answer


@pytest.fixture
def stage() -> Iterator[Stage]:
    with virtual_loop() as loop:
        made = Stage(loop)
        yield made
        made.driver.stop()


FLUSH = events.FlushRequested(1, 1)
DURABLE = events.OutboxDurable(KEY, 1)
RECORD = IncarnationSaved(7)
PERSIST = effects.Persist((RECORD,), then=DURABLE)


def where(number: int) -> StoredBodies:
    return StoredBodies(Space.PARTITION, KEY, number, 0, 3)


def stored(number: int = 1, first: int = 1) -> Batch:
    return Batch(SESSION, first, 3, 3, where(number))


# -- order --


def test_nothing_is_fed_before_the_start_and_nothing_after_the_stop(stage: Stage) -> None:
    stage.driver.feed(FLUSH)
    assert stage.machine.events == []
    stage.start()
    stage.driver.stop()
    stage.driver.feed(FLUSH)
    assert stage.machine.of(events.FlushRequested) == []


def test_effects_are_carried_out_in_order(stage: Stage) -> None:
    notice = effects.Counted("x")
    done = effects.Resolve(3, effects.Done())
    send = effects.Send(PEER, control())
    learn = effects.Learn(PEER, ("a",))
    stage.on(events.FlushRequested, send, PERSIST, learn, done, effects.Notify(notice), send)
    stage.start()
    stage.driver.feed(FLUSH)
    assert stage.notes == [
        ("send", PEER, control()),
        ("write", (RECORD,)),
        ("learn", PEER, ("a",)),
        ("resolve", 3),
        ("notice", notice),
        ("send", PEER, control()),
    ]


def test_an_event_fed_from_within_comes_after_all_effects_of_the_first(stage: Stage) -> None:
    stage.on(events.FlushRequested, effects.Resolve(1, effects.Done()), PERSIST)
    node_resolve = stage.node.on_resolve

    def feed_again(token: int, outcome: effects.Outcome) -> None:
        node_resolve(token, outcome)
        stage.driver.feed(DURABLE)
        assert stage.machine.of(events.OutboxDurable) == []

    stage.node.on_resolve = feed_again  # type: ignore[method-assign]  # the test's own listener
    stage.start()
    stage.driver.feed(FLUSH)
    assert stage.notes == [("resolve", 1), ("write", (RECORD,))]
    assert stage.machine.of(events.OutboxDurable) == [DURABLE]


# -- writes --


def test_what_follows_a_write_comes_only_when_it_is_durable(stage: Stage) -> None:
    stage.on(events.FlushRequested, PERSIST)
    stage.start()
    stage.driver.feed(FLUSH)
    advance(stage.loop, 10)
    assert stage.machine.of(events.OutboxDurable) == []
    stage.store.answer()
    assert stage.machine.of(events.OutboxDurable) == [DURABLE]


def test_a_write_that_may_wait_for_others_is_passed_on_as_such(stage: Stage) -> None:
    stage.on(events.FlushRequested, PERSIST, effects.Persist((RECORD,), patient=True))
    stage.start()
    stage.driver.feed(FLUSH)
    assert stage.store.patient == [False, True]


def test_a_write_that_nothing_follows_feeds_nothing(stage: Stage) -> None:
    stage.on(events.FlushRequested, effects.Persist((RECORD,)))
    stage.start()
    stage.driver.feed(FLUSH)
    before = len(stage.machine.events)
    stage.store.answer()
    assert len(stage.machine.events) == before


def test_a_full_disk_is_told_to_the_machine_with_the_records(stage: Stage) -> None:
    stage.on(events.FlushRequested, PERSIST)
    stage.start()
    stage.driver.feed(FLUSH)
    stage.store.answer(StoreFullError("/d"))
    assert stage.machine.of(events.WriteRefused) == [events.WriteRefused(DURABLE, (RECORD,))]
    assert stage.node.failures == []


def test_a_failed_disk_stops_the_node_once(stage: Stage) -> None:
    stage.on(events.FlushRequested, PERSIST, PERSIST)
    stage.start()
    stage.driver.feed(FLUSH)
    error = StoreError("the disk failed")
    stage.store.answer(error)
    stage.store.answer(StoreError("another"))
    assert stage.node.failures == [error]
    stage.driver.feed(FLUSH)
    assert len(stage.machine.of(events.FlushRequested)) == 1


# -- our own faults --


def test_an_exception_in_the_machine_stops_the_node(stage: Stage) -> None:
    fault = AssertionError("an invariant is broken")

    def fail(_event: Event) -> Sequence[effects.Effect]:
        raise fault

    stage.machine.answers[events.FlushRequested] = fail
    stage.start()
    stage.driver.feed(FLUSH)
    assert stage.node.failures == [fault]
    stage.driver.feed(DURABLE)
    assert stage.machine.of(events.OutboxDurable) == []


def test_after_a_failure_no_timer_runs_on(stage: Stage) -> None:
    def fail(_event: Event) -> Sequence[effects.Effect]:
        raise KeyError

    stage.machine.answers[events.WallClockRead] = fail
    stage.machine.deadline = 5_000
    stage.start()
    advance(stage.loop, 100)
    assert len(stage.node.failures) == 1
    assert len(stage.machine.events) == 2


def test_events_that_wait_when_the_node_fails_are_not_handled(stage: Stage) -> None:
    def fail(_event: Event) -> Sequence[effects.Effect]:
        stage.driver.feed(DURABLE)
        raise KeyError

    stage.machine.answers[events.FlushRequested] = fail
    stage.start()
    stage.driver.feed(FLUSH)
    assert stage.machine.of(events.OutboxDurable) == []


# -- time --


def test_the_machine_is_woken_at_its_deadline_and_not_before(stage: Stage) -> None:
    def done(_event: Event) -> Sequence[effects.Effect]:
        stage.machine.deadline = None
        return []

    stage.machine.deadline = 1_500
    stage.machine.answers[events.TimePassed] = done
    stage.start()
    advance(stage.loop, 1.499)
    assert stage.machine.of(events.TimePassed) == []
    advance(stage.loop, 0.01)
    assert len(stage.machine.of(events.TimePassed)) == 1
    advance(stage.loop, 4)
    assert len(stage.machine.of(events.TimePassed)) == 1


def test_an_earlier_deadline_moves_the_timer_and_a_later_one_does_not(stage: Stage) -> None:
    stage.start()
    stage.machine.deadline = 4_000
    stage.driver.feed(FLUSH)
    advance(stage.loop, 0.1)
    stage.machine.deadline = 1_000
    stage.driver.feed(FLUSH)
    advance(stage.loop, 0.1)
    stage.machine.deadline = 4_000
    stage.driver.feed(FLUSH)
    advance(stage.loop, 3)
    woken = [
        now
        for event, now in zip(stage.machine.events, stage.machine.times, strict=True)
        if type(event) is events.TimePassed
    ]
    assert woken == [1_000], "it looks again at the old deadline, and waits for the new one"
    stage.machine.deadline = None
    advance(stage.loop, 1.5)
    assert len(stage.machine.of(events.TimePassed)) == 2


def test_a_deadline_that_has_passed_and_stands_still_does_not_keep_the_loop_busy(
    stage: Stage,
) -> None:
    stage.machine.deadline = 1_000
    stage.start()
    advance(stage.loop, 1.1)
    assert 10 <= len(stage.machine.of(events.TimePassed)) <= 100


def test_many_events_of_one_round_set_the_timer_once(stage: Stage) -> None:
    asked = 0
    next_deadline = stage.machine.next_deadline

    def count() -> int | None:
        nonlocal asked
        asked += 1
        return next_deadline()

    stage.machine.next_deadline = count  # type: ignore[method-assign]  # it counts
    stage.start()
    for _ in range(100):
        stage.driver.feed(FLUSH)
    advance(stage.loop, 0)
    assert asked == 1


def test_the_wall_clock_is_read_now_and_then(stage: Stage) -> None:
    stage.start()
    advance(stage.loop, 0.5)
    stage.wall_s += 3_600
    advance(stage.loop, WALL_CLOCK_INTERVAL_S)
    first, second = stage.machine.of(events.WallClockRead)
    assert isinstance(first, events.WallClockRead)
    assert isinstance(second, events.WallClockRead)
    assert first.wall_offset_ms == 1_000_000_000
    assert second.wall_offset_ms == 1_000_000_000 + 3_600_000 - 5_000


# -- bodies --


def test_a_delivery_has_its_bodies_read(stage: Stage) -> None:
    segment = Segment(stored(), 1)
    stage.on(events.FlushRequested, effects.Deliver(b"consumer", KEY, (segment,)))
    stage.start()
    stage.driver.feed(FLUSH)
    ((_, consumer, segments),) = cast("list[tuple[str, bytes, tuple[Segment, ...]]]", stage.notes)
    assert consumer == b"consumer"
    assert segments[0].batch.bodies == PACKED


def test_damaged_bodies_are_told_to_the_machine_one_by_one(stage: Stage) -> None:
    stage.store.bad[1] = (0, 2)
    stage.start()
    packet = Publish("q", 0, 0, stored(first=10))
    assert stage.driver.resolved(packet) is None
    advance(stage.loop, 0)
    assert stage.machine.of(events.BodyUnreadable) == [
        events.BodyUnreadable(Space.PARTITION, KEY, Run(SESSION, seq, seq)) for seq in (10, 12)
    ]


def test_a_damaged_delivery_is_told_to_the_machine_and_not_to_the_user(stage: Stage) -> None:
    stage.store.bad[2] = (1,)
    segments = (Segment(stored(1), 1), Segment(stored(2, first=4), 1))
    stage.on(events.FlushRequested, effects.Deliver(b"consumer", KEY, segments))
    stage.start()
    stage.driver.feed(FLUSH)
    advance(stage.loop, 0)
    assert stage.notes == []
    assert stage.machine.of(events.BodyUnreadable) == [
        events.BodyUnreadable(Space.PARTITION, KEY, Run(SESSION, 5, 5))
    ]
    (failed,) = stage.machine.of(events.DeliveryFailed)
    assert failed == events.DeliveryFailed(b"consumer", (Run(SESSION, 1, 3), Run(SESSION, 4, 6)))


def test_bodies_that_were_settled_while_the_packet_waited_are_no_damage(stage: Stage) -> None:
    stage.store.gone = [1]
    stage.start()
    assert stage.driver.resolved(Publish("q", 0, 0, stored())) is None
    advance(stage.loop, 0)
    assert stage.machine.of(events.BodyUnreadable) == []


def test_a_batch_of_our_outbox_that_moves_into_a_partition_is_written_with_its_bodies(
    stage: Stage,
) -> None:
    record = BatchStored(Space.PARTITION, KEY, 9, stored())
    stage.on(events.FlushRequested, effects.Persist((record,), then=DURABLE))
    stage.start()
    stage.driver.feed(FLUSH)
    ((_, (written,)),) = cast("list[tuple[str, tuple[BatchStored]]]", stage.notes)
    assert written.batch.bodies == PACKED


def test_one_that_is_damaged_is_refused_like_a_write(stage: Stage) -> None:
    stage.store.bad[1] = (0,)
    record = BatchStored(Space.PARTITION, KEY, 9, stored())
    stage.on(events.FlushRequested, effects.Persist((record,), then=DURABLE))
    stage.start()
    stage.driver.feed(FLUSH)
    advance(stage.loop, 0)
    assert stage.machine.of(events.WriteRefused) == [events.WriteRefused(DURABLE, (record,))]
    assert stage.node.failures == []


# -- what links tell --


def test_links_become_events(stage: Stage) -> None:
    stage.start()
    stage.driver.on_packet(PEER, control())
    stage.driver.on_peer_connected(hello(boot=3, addresses=("a",), leaf=True))
    stage.driver.on_peer_disconnected(PEER)
    assert stage.machine.events[2:] == [
        events.PacketReceived(PEER, control()),
        events.PeerConnected(PEER, 3, PEER.decode(), ("a",), leaf=True),
        events.PeerDisconnected(PEER),
    ]


def test_a_malformed_packet_is_counted_by_reason_and_alarming(stage: Stage) -> None:
    stage.driver.on_malformed("not-msgpack", "what it was")
    ((_, notice),) = cast("list[tuple[str, effects.Counted]]", stage.notes)
    assert notice == effects.Counted(
        "packet_malformed_not_msgpack", 1, "what it was", alarming=True
    )


def test_a_simulated_loop_is_enough(stage: Stage) -> None:
    """The driver runs in both worlds: it asks no running loop of asyncio's."""
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    stage.start()
    assert stage.machine.events[0] is STARTED
