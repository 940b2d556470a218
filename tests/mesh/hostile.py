"""Machines without a world, and valid packets that nobody honest would send.

`Host` carries out the effects of one machine: bodies lie in a dict, writes
become durable when the test says so, and every packet that leaves is encoded
and decoded again, so that a machine which makes a packet out of bounds is
found. `Malice` draws packets from the registry, with fields near the real
values of the machines that they are sent to. `user_event` draws what the user of
an attacked node asks for meanwhile: so there are answers to forge.
"""

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from p2pmq.config import Config, Replication
from p2pmq.core import effects, events
from p2pmq.core.ids import JobId, PartitionKey, Run
from p2pmq.core.machine import Machine
from p2pmq.core.membership import MemberState
from p2pmq.core.packets import PACKETS, Packet, Struct
from p2pmq.core.packets.delivering import Segment
from p2pmq.core.packets.membership import Rumour
from p2pmq.core.packets.publishing import ID_HASH_BYTES, KEY_HASH_BYTES, Batch
from p2pmq.core.packets.registering import QueueSettings
from p2pmq.core.packets.replaying import CursorField
from p2pmq.core.packets.scheduling import ScheduleRecord
from p2pmq.core.records import (
    BatchRemoved,
    BatchStored,
    Record,
    Recovered,
    Space,
    StoredBodies,
)
from p2pmq.node.cron import Calendar
from p2pmq.runtime.resolve import resolved_packet, resolved_records, resolved_segments
from p2pmq.store.base import WriteDone
from p2pmq.wire.bodies import PackedBodies
from p2pmq.wire.codec import decode, encode
from p2pmq.wire.schema import Kind, fields_of
from p2pmq.wire.table import structs

MESH = "m"
WALL_MS = 1_767_225_600_000
LINK_PACKETS = {1, 2, 3, 4}
"""These end in the links; a machine never sees them."""


FIELDS = {cls: tuple(fields_of(cls)) for cls in [*PACKETS.values(), *structs()]}


class Bodies:
    """What a Store reads, of a store that is a dict."""

    def __init__(self) -> None:
        self._held: dict[tuple[Space, PartitionKey, int], PackedBodies] = {}

    def write(
        self,
        records: Sequence[Record],
        done: WriteDone,
        *,
        patient: bool = False,
    ) -> None:
        for record in records:
            match record:
                case BatchStored(space, key, number, batch):
                    assert isinstance(batch.bodies, PackedBodies)
                    self._held[space, key, number] = batch.bodies
                case BatchRemoved(space, key, number):
                    self._held.pop((space, key, number), None)
                case _:
                    pass

    def read(self, where: StoredBodies) -> PackedBodies:
        return self._held[where.space, where.key, where.number].part(where.start, where.stop)

    async def open(self) -> Recovered:
        raise AssertionError

    async def close(self) -> None:
        raise AssertionError


class Host:
    """One machine, and what came of it; of one copy, for the members that it meets are mute."""

    def __init__(
        self, number: int, rng: Random, copies: int = 1, *, recovered: Recovered | None = None
    ) -> None:
        self.node_id = bytes([number]) * 8
        self.session = bytes([number, 0xAA]) * 4
        self.name = f"node{number}"
        self.now = 1_000
        own = Rumour(self.node_id, MemberState.ALIVE, 0, name=self.name, addresses=(self.name,))
        config = Config(replication=Replication(replicas=copies))
        self.machine = Machine(own, MESH, self.session, config, rng)
        self.machine.firing.clockwork = Calendar()
        self.store = Bodies()
        self.written: list[tuple[Record, ...]] = []
        """What its disk would hold, write by write."""
        self.sent: deque[tuple[bytes, Packet]] = deque()
        self.writing: deque[tuple[effects.Persist, bool]] = deque()
        self.outcomes: dict[int, effects.Outcome] = {}
        self.delivered: list[Segment] = []
        self.known: list[bytes] = []
        self.heard: list[str] = []
        self.handling: deque[JobId] = deque()
        recovered = recovered or Recovered(self.node_id, b"store" + bytes(3), 1, 0)
        self.feed(events.Started(recovered, (self.name,), WALL_MS))

    def feed(self, event: events.Event) -> None:
        """Give the machine one event; what it sends is checked, and waits in `sent`."""
        for effect in self.machine.handle(event, self.now):
            match effect:
                case effects.Send(peer, packet):
                    self._send(peer, packet)
                case effects.Persist(records):
                    self.writing.append((effect, self._store(records)))
                case effects.Deliver(_, _, segments):
                    self.delivered += resolved_segments(segments, self.store)
                case effects.Resolve(token, outcome):
                    self.outcomes[token] = outcome
                case effects.Emitted(_, topics):
                    self.heard += topics
                case effects.Handle(job_id):
                    self.handling.append(job_id)
                case _:
                    pass

    def _store(self, records: tuple[Record, ...]) -> bool:
        """Write; False, as the driver has it: bodies of the outbox that were to be copied are gone.

        A hostile confirm may have ended them.
        """
        try:
            at_hand = resolved_records(records, self.store)
        except KeyError:
            return False
        self.store.write(at_hand, lambda _error: None)
        self.written.append(at_hand)
        return True

    def _send(self, peer: bytes, packet: Packet) -> None:
        try:
            at_hand = resolved_packet(packet, self.store)
        except KeyError:
            return  # settled, and so deleted, before it could leave
        decoded = decode(encode(at_hand))
        assert type(decoded) is type(packet)
        self.sent.append((peer, decoded))

    def sync(self) -> None:
        """Every write given so far is durable."""
        while self.writing:
            persist, written = self.writing.popleft()
            if not written:
                self.feed(events.WriteRefused(persist.then, persist.records))
            elif persist.then is not None:
                self.feed(persist.then)
        while self.handling:
            bodies = PackedBodies.from_bodies([b"reply"])
            self.feed(events.RequestHandled(self.handling.popleft(), bodies, 5))

    def pass_time(self, until: int) -> None:
        """Let time pass, deadline by deadline."""
        while (deadline := self.machine.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.feed(events.TimePassed())
            self.sync()
        self.now = max(self.now, until)

    def publish(self, queue: str, bodies: list[bytes], token: int) -> None:
        packed = PackedBodies.from_bodies(bodies)
        size = sum(map(len, bodies))
        wanted = events.Confirmation.COMMITTED
        request = events.PublishRequested(
            PartitionKey(queue, 0), packed, len(bodies), size, wanted, 5_000, token
        )
        self.feed(request)

    def consume(self, queue: str, consumer: bytes, prefetch: int = 100) -> None:
        key = PartitionKey(queue, 0)
        self.feed(events.SubscribeRequested(consumer, key, prefetch, 30_000))

    def bodies(self) -> list[bytes]:
        """All that was delivered here, in order."""
        packed = [segment.batch.bodies for segment in self.delivered]
        return [body for p in packed if isinstance(p, PackedBodies) for body in p.bodies]


class Malice:
    """Draws valid packets; fields of one name have values that mean something somewhere."""

    def __init__(
        self,
        rng: Random,
        ids: list[bytes],
        queues: list[str],
        names: tuple[str, ...] = ("node8", "node9", "", "x\ny"),
    ) -> None:
        """`names` are nobody's here: who bears a node's name may take its place."""
        self._rng = rng
        self._ids = ids
        self._classes = [cls for number, cls in PACKETS.items() if number not in LINK_PACKETS]
        self._queues = queues
        self.texts: tuple[str, ...] = ("zone", "a", "\n", "a.*", "é" * 127)
        pick = rng.choice
        self._by_name: dict[str, Callable[[], Any]] = {
            "mesh": lambda: pick((MESH, MESH, MESH, "other")),
            "queue": lambda: pick(queues),
            "partition": lambda: pick((0, 0, 0, 0, 1, 2**16 - 1)),
            "first": self._seq,
            "last": self._seq,
            "name": lambda: pick(names),
            "dead_queue": lambda: pick(("", *queues)),
            "addresses": lambda: pick(((), ("127.0.0.1:1",), ("nowhere",) * 16)),
            "pattern": lambda: pick(("a.*", "x.>", "zone", ">", "a..b", "*.*.*", "\n")),
            "cron": lambda: pick(("* * * * *", "@daily", "0 0 30 2 *", "never", "", "* * * * * *")),
            "digests": lambda: pick((bytes(2048), rng.randbytes(2048))),
        }

    def packet(self, classes: list[type[Packet]] | None = None) -> Packet:
        """Any packet (of the classes) that comes through the codec."""
        made = self._composite(self._rng.choice(classes or self._classes))
        assert isinstance(made, Packet)
        return decode(encode(made))

    def _seq(self) -> int:
        rng = self._rng
        if rng.random() < 0.1:
            return rng.choice((2**63 - 1, 2**63 - 5, 2**40))
        return rng.randint(1, 60)

    def _composite(self, cls: type[Packet | Struct]) -> Packet | Struct:
        if cls is Batch:
            return self._batch()
        values: dict[str, Any] = {}
        for field in FIELDS[cls]:
            draw = self._by_name.get(field.name)
            value = self._value(field.kind) if draw is None else draw()
            too_short = value == "" and field.kind.low > 0
            values[field.name] = self._value(field.kind) if too_short else value
        if "last" in values:
            values["first"], values["last"] = sorted((values["first"], values["last"]))
        return cls(**values)

    def _batch(self) -> Batch:
        """A batch; half of them have no more than what every batch must have."""
        rng = self._rng
        bodies = [b"%d" % rng.randrange(100) for _ in range(rng.randint(1, 8))]
        values: dict[str, Any] = {
            field.name: self._value(field.kind)
            for field in FIELDS[Batch]
            if not field.required and rng.random() < 0.5
        }
        if rng.random() < 0.5:
            values = {}
        values["stamp"] = rng.choice((0, 0, 1, WALL_MS << 16, 2**64 - 1))
        for name, each in (("keys", KEY_HASH_BYTES), ("ids", ID_HASH_BYTES)):
            if name in values:
                values[name] = b"".join(self._hash(each) for _ in bodies)
        return Batch(
            session=rng.choice(self._ids),
            first=min(self._seq(), 2**63 - 10),
            count=len(bodies),
            size=rng.choice((0, sum(map(len, bodies)), 2**32 - 1)),
            bodies=PackedBodies.from_blob(PackedBodies.from_bodies(bodies).blob),
            **values,
        )

    def _hash(self, size: int) -> bytes:
        """Of few, so that many are the same; zeros are none."""
        return bytes([self._rng.choice((0, 0, 1, 2, 3, 255))]) * size

    def _value(self, kind: Kind) -> object:
        rng = self._rng
        if kind.item is not None:
            most = min(kind.high, rng.choice((2, 4, 4, 40)))
            return tuple(self._value(kind.item) for _ in range(rng.randint(kind.low, most)))
        if kind.is_struct:
            return self._composite(kind.type)
        if kind.type is bool:
            return rng.random() < 0.5
        if kind.type is bytes:
            is_id = kind.low == kind.high == len(self._ids[0])
            size = rng.choice((kind.low, min(kind.low + 9, kind.high)))
            return rng.choice(self._ids) if is_id else rng.randbytes(size)
        if kind.type is int:
            near = (kind.low, kind.low + 1, 2, 3, 5, 50, kind.high - 1, kind.high)
            return max(kind.low, min(kind.high, rng.choice(near)))
        return rng.choice(self.texts)[: kind.high // 2]


def user_event(host: Host, rng: Random, queue: str, token: int) -> events.Event:
    """Something that a user may ask of the node."""
    key = PartitionKey(queue, 0)
    count = rng.randint(1, 5)
    bodies = PackedBodies.from_bodies([b"x"] * count)
    one = bodies.part(0, 1)
    ids = b"".join(bytes([rng.randrange(4)]) * ID_HASH_BYTES for _ in range(count))
    run = Run(rng.choice((host.session, b"sessionX")), token + 1, token + 1)
    settings = QueueSettings(
        max_messages=rng.choice((0, 0, 20)),
        overflow=rng.randrange(3),
        dedup_window_ms=rng.choice((0, 60_000)),
        retain_ms=rng.choice((0, 60_000)),
        ageing_ms=rng.choice((0, 100)),
    )
    schedule = ScheduleRecord("own", 0, bytes(8), "* * * * *", queue, b"x", ttl_ms=5_000)
    batch = Batch(b"sessionR", 1, count, count, bodies)
    consumer = b"%08d" % rng.randrange(3)
    committed = events.Confirmation.COMMITTED
    choices: tuple[events.Event, ...] = (
        events.PublishRequested(key, bodies, count, count, committed, 5_000, token, ids=ids),
        events.PublishRequested(key, bodies, count, count, committed, 5_000, token, delay_ms=50),
        events.SubscribeRequested(consumer, key, 10, 30_000, once=True),
        events.UnsubscribeRequested(consumer),
        events.TieRequested(consumer, key, run, (events.Output(key, one, 1),)),
        events.SettleRequested(consumer, key, acks=(run,)),
        events.RepostRequested(key, batch, 1_000, token),
        events.ReplayRequested(key, CursorField(0), 1_000, token),
        events.PurgeRequested(key, 1_000, token),
        events.DeletionRequested(queue, (key,), 1_000, token),
        events.StatsRequested("", 1_000, token),
        events.DeclareRequested(queue, settings, token),
        events.BindRequested("a.*", queue, bound=rng.random() < 0.7, token=token),
        events.ScheduleRequested(schedule, token),
        events.WallClockRead(WALL_MS + rng.choice((0, 0, 61_000, -61_000))),
    )
    return rng.choice(choices)


def weight_of(machine: Machine) -> int:
    """How many objects the machine holds, containers and what is in them."""
    seen: set[int] = set()
    todo: list[Any] = [machine]
    count = 0
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type) or callable(thing):
            continue
        seen.add(id(thing))
        count += 1
        if isinstance(thing, dict):
            todo += thing.keys()
            todo += thing.values()
        elif isinstance(thing, (list, tuple, deque, set)):
            count += len(thing)
            todo += thing
        elif type(thing).__module__.startswith("p2pmq"):
            todo += getattr(thing, "__dict__", {}).values()
            slots = (s for cls in type(thing).__mro__ for s in getattr(cls, "__slots__", ()))
            todo += [getattr(thing, name) for name in slots if hasattr(thing, name)]
    return count
