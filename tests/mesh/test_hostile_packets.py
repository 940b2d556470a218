"""Valid packets that nobody honest would send: no machine raises, grows, or stops its work.

What a peer may say without limit is not tested here, for nothing authenticates
peers yet: a member that acks or buries what is not its own is believed.
"""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from random import Random

import pytest

from p2pmq.core import events
from p2pmq.core.effects import Learn, Published, Replied
from p2pmq.core.ids import PartitionKey
from p2pmq.core.membership import MemberState
from p2pmq.core.packets import PACKETS, Packet
from p2pmq.core.packets.delivering import Attach, Detach, Extend, Nack, Settle
from p2pmq.core.packets.membership import Rumour, StateExchange
from p2pmq.core.packets.publishing import Batch, Confirm, Moved, Publish, PublishRefused, RunField
from p2pmq.errors import StoreError
from p2pmq.store.lmdb_store import LmdbStore
from p2pmq.wire.bodies import PackedBodies
from tests.mesh.hostile import LINK_PACKETS, MESH, WALL_MS, Host, Malice, user_event, weight_of

MEMBERS = [bytes([number]) * 8 for number in (1, 2, 3)]
STRANGERS = [bytes([number]) * 8 for number in range(100, 110)]
CONSUMER = b"consumer"
QUEUES = [f"q{number}" for number in range(6)]
FOREVER = 2**63 - 1
STEP_MS = 250
MEMBERSHIP = range(10, 16)


def meet(host: Host, members: list[bytes]) -> None:
    """The host hears of the members from themselves."""
    for node_id in members:
        if node_id != host.node_id:
            rumour = Rumour(node_id, MemberState.ALIVE, 1, name=f"node{node_id[0]}")
            exchange = StateExchange(MESH, (rumour,), reply=True)
            host.feed(events.PacketReceived(node_id, exchange))


def own_queue(host: Host) -> str:
    """A queue that nobody has used, and that the host owns in its own eyes."""
    names = (f"honest{number}" for number in range(10_000))
    return next(n for n in names if host.machine.owner_of(PartitionKey(n, 0)) == host.node_id)


def serves_itself(host: Host) -> None:
    """An honest publish comes through to an honest consumer."""
    queue, consumer = own_queue(host), bytes([host.node_id[0], 0xCC]) * 4
    host.delivered.clear()
    host.sync()
    host.publish(queue, [b"one", b"two"], token=-1)
    host.consume(queue, consumer)
    host.sync()
    outcome = host.outcomes[-1]
    assert isinstance(outcome, Published)
    assert (outcome.copies, outcome.timed_out) == (1, False)
    assert host.bodies() == [b"one", b"two"]


def attack(host: Host, malice: Malice, rng: Random, packets: int) -> None:
    """Packets from members and strangers, among work of the host's own, as time goes by."""
    for number in range(packets):
        peer = rng.choice(MEMBERS[1:] + STRANGERS)
        host.feed(events.PacketReceived(peer, malice.packet()))
        chance = rng.random()
        if chance < 0.3:
            host.sync()
        elif chance < 0.36:
            host.pass_time(host.now + rng.choice((1, 5, 30)))
        elif chance < 0.4:
            host.publish(rng.choice(QUEUES), [b"x"] * rng.randint(1, 5), number)
        elif chance < 0.44:
            host.feed(user_event(host, rng, rng.choice(QUEUES), number))
        elif chance < 0.443:
            boot = rng.randint(1, 3)
            host.feed(events.PeerConnected(peer, boot, "x", ("127.0.0.1:1",), leaf=False))
        host.sent.clear()
        host.delivered.clear()
    check_deliveries(host)


def check_deliveries(host: Host) -> None:
    """What is leased or delayed is pending, and none is both."""
    for delivery in host.machine.owner.deliveries.values():
        leased, delayed = delivery.leases.runs(), delivery.delays.runs()
        assert not any(delivery.delays.overlap(run) for run in leased)
        assert not any(delivery.partition.pending.missing(run) for run in leased + delayed)


@pytest.mark.parametrize("seed", range(3))
def test_one_machine_survives_whatever_is_well_formed(seed: int) -> None:
    rng = Random(seed)
    host = Host(1, Random(seed))
    meet(host, MEMBERS)
    host.consume("q1", CONSUMER)
    ids = [*MEMBERS, *STRANGERS, host.session, CONSUMER, bytes(8)]
    malice = Malice(rng, ids, QUEUES)

    attack(host, malice, rng, 2_500)
    weight = weight_of(host.machine)
    attack(host, malice, rng, 1_500)

    assert weight_of(host.machine) < 3 * weight + 20_000, "it grows with what it is sent"
    serves_itself(host)


@pytest.mark.parametrize("seed", range(2))
async def test_what_hostile_packets_leave_on_disk_can_be_read_at_the_next_start(
    seed: int, tmp_path: Path
) -> None:
    rng = Random(seed)
    host = Host(1, Random(seed))
    meet(host, MEMBERS)
    attack(host, Malice(rng, [*MEMBERS, *STRANGERS, host.session], QUEUES), rng, 3_000)
    store = LmdbStore(tmp_path, node_id=host.node_id)
    await store.open()
    for records in host.written:
        store.write(records, _no_error, patient=True)
    await store.close()

    again = LmdbStore(tmp_path)
    recovered = await again.open()
    await again.close()
    assert {found.key.queue for found in recovered.batches} >= set(QUEUES)
    assert any(found.batch.ids for found in recovered.batches)
    restarted = Host(1, Random(seed), recovered=recovered)
    restarted.pass_time(restarted.now + 120_000)
    serves_itself(restarted)


def _no_error(error: StoreError | None) -> None:
    assert error is None


@pytest.mark.parametrize("seed", range(3))
def test_a_machine_survives_members_that_bear_its_name_and_claim_its_place(seed: int) -> None:
    """Until certificates bind names to node ids it may lose the place, and so own nothing."""
    rng = Random(seed)
    host = Host(1, Random(seed))
    meet(host, MEMBERS)
    malice = Malice(rng, [*MEMBERS, *STRANGERS, bytes(8)], QUEUES, ("node1", "node2"))
    attack(host, malice, rng, 1_500)
    weight = weight_of(host.machine)
    attack(host, malice, rng, 1_500)
    assert weight_of(host.machine) < 3 * weight + 20_000, "it grows with what it is sent"
    assert host.machine.swim.is_alive(host.node_id)


class Mesh:
    """Three machines that hear each other at once; packets to anybody else are lost."""

    def __init__(self, seed: int, copies: int) -> None:
        self.hosts = {bytes([n]) * 8: Host(n, Random(seed + n), copies) for n in (1, 2, 3)}
        for host in self.hosts.values():
            meet(host, MEMBERS)
        self.settle()

    def settle(self) -> None:
        """Let every packet arrive, and every write be durable."""
        for _ in range(200):
            for source, host in self.hosts.items():
                host.sync()
                for _ in range(len(host.sent)):
                    peer, packet = host.sent.popleft()
                    target = self.hosts.get(peer)
                    if target is not None:
                        target.feed(events.PacketReceived(source, packet))
            if not any(h.sent or h.writing or h.handling for h in self.hosts.values()):
                return
        pytest.fail("packets go round for ever")

    def restart_links(self) -> None:
        """To each, every other seems to be a new process: what was said in its name is over."""
        for boot in (1, 2):
            for host, other in permutations(self.hosts.values(), 2):
                host.feed(events.PeerConnected(other.node_id, boot, other.name, (), leaf=False))
        self.settle()

    def pass_time(self, ms: int) -> None:
        """Time passes for all, in small steps, so that probes are answered."""
        for step in [STEP_MS] * (ms // STEP_MS) + [ms % STEP_MS]:
            for host in self.hosts.values():
                host.pass_time(host.now + step)
            self.settle()


def attack_mesh(mesh: Mesh, malice: Malice, rng: Random, packets: int, only: list[int]) -> None:
    classes = [PACKETS[number] for number in only]
    for number in range(packets):
        host = rng.choice(list(mesh.hosts.values()))
        peer = rng.choice(MEMBERS + STRANGERS)
        if peer != host.node_id:
            host.feed(events.PacketReceived(peer, malice.packet(classes)))
        chance = rng.random()
        if chance < 0.5:
            mesh.settle()
        elif chance < 0.55:
            mesh.pass_time(rng.choice((1, 50, 200)))
        elif chance < 0.6:
            host.publish(rng.choice(QUEUES), [b"x"] * rng.randint(1, 5), number)
        for each in mesh.hosts.values():
            each.delivered.clear()


def hostile_mesh(seed: int, copies: int = 1) -> tuple[Mesh, Malice, Random]:
    rng = Random(seed)
    mesh = Mesh(seed, copies)
    for number, host in enumerate(mesh.hosts.values()):
        host.consume("q1", CONSUMER[:-1] + bytes([number]))
    sessions = [host.session for host in mesh.hosts.values()]
    consumers = [CONSUMER[:-1] + bytes([number]) for number in range(3)]
    return mesh, Malice(rng, [*MEMBERS, *STRANGERS, *sessions, *consumers], QUEUES), rng


@pytest.mark.parametrize("seed", range(2))
def test_every_machine_of_a_mesh_survives_whatever_is_well_formed(seed: int) -> None:
    mesh, malice, rng = hostile_mesh(seed)
    attack_mesh(mesh, malice, rng, 2_000, [n for n in PACKETS if n not in LINK_PACKETS])
    for host in mesh.hosts.values():
        serves_itself(host)


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("seed", range(2))
def test_a_mesh_under_fire_of_data_packets_still_carries_messages_between_its_nodes(
    seed: int, copies: int
) -> None:
    mesh, malice, rng = hostile_mesh(seed, copies)
    data = [n for n in PACKETS if n not in LINK_PACKETS and n not in MEMBERSHIP]
    attack_mesh(mesh, malice, rng, 2_000, data)
    one, two, three = mesh.hosts.values()
    queue = own_queue(two)
    assert {h.machine.owner_of(PartitionKey(queue, 0)) for h in (one, two, three)} == {two.node_id}

    mesh.settle()
    three.delivered.clear()
    three.consume(queue, b"consumes")
    one.publish(queue, [b"a", b"b", b"c"], token=-1)
    mesh.settle()

    outcome = one.outcomes[-1]
    assert isinstance(outcome, Published)
    assert outcome.copies == (1 if copies == 1 else 2)
    assert three.bodies() == [b"a", b"b", b"c"]


def talks(one: Host, other: Host, mesh: Mesh, number: int) -> None:
    """One asks and emits, and the other answers and hears."""
    mesh.pass_time(60_000)  # what was shed or refused is told again
    topic = f"honest.{number}"
    other.feed(events.InterestsRequested((topic, "$r." + topic)))
    other.feed(events.RespondRequested(topic, 1, 0))
    mesh.settle()
    other.heard.clear()
    bodies = PackedBodies.from_bodies([b"x"])
    one.feed(events.EmitRequested((topic,), bodies, 1))
    one.feed(events.CallRequested(topic, bodies, 1, 5_000, token=-number))
    mesh.settle()
    assert other.heard == [topic]
    assert isinstance(one.outcomes[-number], Replied)


@pytest.mark.parametrize("seed", range(3))
def test_a_mesh_under_fire_of_emits_and_requests_neither_grows_nor_stops_talking(
    seed: int,
) -> None:
    mesh, _, rng = hostile_mesh(seed)
    # Nobody here numbers requests for another's process: a member that does is believed, and that
    # process's own requests with these numbers are taken for repeats.
    malice = Malice(rng, [*MEMBERS, *STRANGERS], QUEUES)
    malice.texts += ("honest.0", "a.*", "x.>", "$r.work")
    hosts = list(mesh.hosts.values())
    for host in hosts:
        host.feed(events.InterestsRequested(("a.*", "zone", "$r.work")))
        host.feed(events.RespondRequested("work", 2, 3))
    ephemeral = [number for number in PACKETS if 80 <= number < 90]
    attack_mesh(mesh, malice, rng, 1_500, ephemeral)
    weight = max(weight_of(host.machine) for host in hosts)
    attack_mesh(mesh, malice, rng, 1_500, ephemeral)
    assert max(weight_of(host.machine) for host in hosts) < 3 * weight + 20_000
    mesh.restart_links()  # a version of interests that was forged in its name is believed till then
    for number, (one, other) in enumerate(permutations(hosts, 2), 1):
        talks(one, other, mesh, number)


# -- single blows --


def lone() -> tuple[Host, str]:
    host = Host(1, Random(1))
    meet(host, MEMBERS)
    return host, own_queue(host)


def holding(host: Host, queue: str, consumer: bytes, count: int) -> None:
    """A stranger's consumer holds `count` messages."""
    host.publish(queue, [b"x"] * count, token=1)
    host.sync()
    attach = Attach(queue, 0, consumer, 1, 1_000, 30_000)
    host.feed(events.PacketReceived(STRANGERS[0], attach))
    host.sent.clear()


def test_an_ack_of_everything_costs_one_interval() -> None:
    host, queue = lone()
    sessions = [b"session%d" % number for number in range(9)]
    everything = tuple(RunField(session, 1, FOREVER) for session in sessions)
    for number in range(50):
        packet = Settle(queue, 0, CONSUMER, 1, number, 0, acks=everything)
        host.feed(events.PacketReceived(MEMBERS[1], packet))
        host.sync()
    seen = host.machine.owner.partitions[PartitionKey(queue, 0)].seen
    assert [len(seen.seqs(session)) for session in sessions] == [1] * len(sessions)


def test_extending_again_and_again_does_not_fill_the_memory() -> None:
    host, queue = lone()
    holding(host, queue, CONSUMER, 10)
    before = weight_of(host.machine)
    for number in range(300):
        extends = tuple(Extend(host.session, 1, 10, 1, 2**42 - n) for n in range(100))
        packet = Settle(queue, 0, CONSUMER, 1, number + 1, 0, extends=extends)
        host.feed(events.PacketReceived(STRANGERS[0], packet))
    assert weight_of(host.machine) < before + 15_000


def test_attaching_and_detaching_again_and_again_does_not_fill_the_memory() -> None:
    host, queue = lone()
    host.publish(queue, [b"x"] * 100, token=1)
    host.sync()
    before = weight_of(host.machine)
    every_other = tuple(RunField(host.session, n, n) for n in range(1, 100, 2))
    for number in range(300):
        attach = Attach(queue, 0, CONSUMER, number, 0, 30_000, holding=every_other)
        host.feed(events.PacketReceived(STRANGERS[0], attach))
        detach = Detach(queue, 0, CONSUMER, number)
        host.feed(events.PacketReceived(STRANGERS[0], detach))
    assert weight_of(host.machine) < before + 15_000


def test_a_claim_of_the_most_attempts_leaves_the_message_deliverable() -> None:
    host, queue = lone()
    host.publish(queue, [b"x"], token=1)
    host.sync()
    nack = Nack(host.session, 1, 1, 2**32 - 1, delay_ms=1)
    host.feed(events.PacketReceived(MEMBERS[1], Settle(queue, 0, CONSUMER, 1, 1, 0, nacks=(nack,))))
    host.pass_time(host.now + 10)
    host.consume(queue, CONSUMER)
    assert host.bodies() == [b"x"]
    assert host.delivered[0].attempt <= 2**32 - 1


def test_a_consumer_with_no_visibility_timeout_does_not_keep_the_owner_busy() -> None:
    host, queue = lone()
    host.publish(queue, [b"x"], token=1)
    host.sync()
    attach = Attach(queue, 0, CONSUMER, 1, FOREVER, 0)
    host.feed(events.PacketReceived(STRANGERS[0], attach))
    host.sent.clear()
    host.pass_time(host.now + 100)
    assert len([packet for peer, packet in host.sent if peer == STRANGERS[0]]) <= 11


def test_a_stamp_from_the_far_future_does_not_spoil_the_clock() -> None:
    host, queue = lone()
    packed = PackedBodies.from_bodies([b"x"])
    batch = Batch(b"sessionX", 1, 1, 1, packed, stamp=2**64 - 1)
    host.feed(events.PacketReceived(MEMBERS[1], Publish(queue, 0, 0, batch)))
    host.publish(queue, [b"y"], token=1)
    host.sync()
    host.consume(queue, CONSUMER)
    assert host.bodies() == [b"x", b"y"]
    assert all(
        segment.batch.stamp >> 16 < WALL_MS + 86_400_000 + host.now for segment in host.delivered
    )


@pytest.mark.parametrize(
    "lie",
    [
        lambda queue, session: Moved(queue, 0, MEMBERS[2]),
        lambda queue, session: PublishRefused(queue, 0, session, 1, 1),
    ],
    ids=["moved", "refused"],
)
def test_only_the_owner_can_hold_a_publisher_back(lie: Callable[[str, bytes], Packet]) -> None:
    host, _ = lone()
    names = (f"theirs{number}" for number in range(10_000))
    queue = next(n for n in names if host.machine.owner_of(PartitionKey(n, 0)) == MEMBERS[1])
    host.publish(queue, [b"x"], token=1)
    host.feed(events.PacketReceived(STRANGERS[0], lie(queue, host.session)))
    host.sent.clear()
    host.publish(queue, [b"y"], token=2)
    published = [packet for _, packet in host.sent if isinstance(packet, Publish)]
    assert [packet.previous for packet in published] == [1], "it goes on after the first"


def test_a_confirm_for_what_was_never_sent_does_no_harm() -> None:
    host, queue = lone()
    for session in (host.session, b"sessionX"):
        confirm = Confirm(queue, 0, (RunField(session, 1, FOREVER), RunField(session, 5, 5)), 3)
        host.feed(events.PacketReceived(MEMBERS[1], confirm))
    serves_itself(host)


def test_a_partition_number_that_no_queue_has_costs_no_placement() -> None:
    host, queue = lone()
    assert host.machine.owner_of(PartitionKey(queue, 2**16 - 1)) is None


def test_strangers_that_never_become_members_are_forgotten() -> None:
    host = Host(1, Random(1))
    learned: dict[bytes, tuple[str, ...]] = {}
    for number in range(1_000):
        peer = b"%08d" % number
        connected = events.PeerConnected(peer, 1, "x", ("127.0.0.1:1",), leaf=False)
        learned |= learned_from(host, connected)
    while (deadline := host.machine.next_deadline()) is not None and host.now < 120_000:
        host.now = max(host.now, deadline)
        learned |= learned_from(host, events.TimePassed())
    assert not any(learned.values())


def learned_from(host: Host, event: events.Event) -> dict[bytes, tuple[str, ...]]:
    """The addresses that the links are told to keep."""
    found = host.machine.handle(event, host.now)
    return {effect.peer: effect.addresses for effect in found if isinstance(effect, Learn)}
