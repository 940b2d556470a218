"""Whole machines: what one does at once, and random histories of meshes of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import pytest

from p2pmq.core import events
from p2pmq.core.events import Confirmation
from p2pmq.core.ids import PartitionKey
from tests.core.kit import compare_by_pieces
from tests.core.machine_mesh import MachineMesh, Node

SEEDS = int(os.environ.get("P2PMQ_HISTORIES", "2"))


@dataclass(frozen=True)
class Story:
    """What may happen in a history, and how often."""

    steps: dict[str, int]
    nodes: int = 3
    queues: int = 3
    length: int = 60
    many_max: int = 12
    copies: int = 1
    replace_after_ms: int = 0


USERS = {"publish": 14, "subscribe": 4, "unsubscribe": 2}
STORIES = {
    "calm": Story(USERS),
    "crashes": Story(USERS | {"crash": 3, "start": 4}),
    "bad network": Story(USERS | {"split": 2, "heal": 2, "weather": 3}),
    "pauses": Story(USERS | {"pause": 5}),
    "moves": Story(USERS | {"join": 2, "leave": 1}, queues=5),
    "full disks": Story(USERS | {"fill": 2, "empty": 3, "crash": 1, "start": 2}),
    "everything": Story(
        USERS
        | {"crash": 2, "start": 3, "split": 1, "heal": 1, "weather": 2, "pause": 1, "join": 1}
        | {"fill": 1, "empty": 2},
        nodes=4,
        length=80,
    ),
}

DECLARED = USERS | {"declare": 4}
STORIES |= {
    "settings": Story(DECLARED, nodes=4),
    "settings, crashes": Story(DECLARED | {"crash": 3, "start": 4}, nodes=4),
    "settings, bad network": Story(DECLARED | {"split": 2, "heal": 2, "weather": 3}, nodes=5),
    "settings, moves": Story(DECLARED | {"join": 2, "leave": 1}, queues=5),
    "settings, full disks": Story(
        DECLARED | {"fill": 2, "empty": 3, "crash": 1, "start": 2}, nodes=4
    ),
}
STORIES |= {f"copies, {name}": replace(story, copies=3) for name, story in STORIES.items()}
STORIES |= {
    f"stand-ins, {name}": replace(story, copies=3, nodes=5, replace_after_ms=2_000)
    for name, story in STORIES.items()
    if name in ("crashes", "full disks", "everything")
}


class Teller:
    """Tells one story on one mesh, by one seed."""

    def __init__(self, mesh: MachineMesh, story: Story) -> None:
        self.mesh = mesh
        self.story = story

    def tell(self) -> None:
        names, weights = list(self.story.steps), list(self.story.steps.values())
        for _ in range(self.story.length):
            step = self.mesh.rng.choices(names, weights)[0]
            getattr(self, step)()
            self.mesh.run(self.mesh.rng.choice([0, 1, 10, 100, 1_000, 4_000]))
            self.mesh.check_inside()

    def node(self) -> Node | None:
        awake = [node for node in self.mesh.up() if node.paused_until <= self.mesh.now]
        return self.mesh.rng.choice(awake) if awake else None

    def key(self) -> PartitionKey:
        return self.mesh.rng.choice(self.mesh.keys)

    def publish(self) -> None:
        if (node := self.node()) is not None:
            wanted = self.mesh.rng.choice(list(Confirmation))
            for _ in range(self.mesh.rng.choice([1, 1, 5])):
                self.mesh.publish(
                    node, self.key(), self.mesh.rng.randint(1, self.story.many_max), wanted
                )

    def subscribe(self) -> None:
        if (node := self.node()) is not None:
            self.mesh.subscribe(node, self.key(), self.mesh.rng.choice([1, 3, 20, 200]))

    def unsubscribe(self) -> None:
        node = self.node()
        if node is not None and node.users:
            self.mesh.unsubscribe(node, self.mesh.rng.choice(list(node.users)))

    def crash(self) -> None:
        if (node := self.node()) is not None:
            self.mesh.crash(node.number)

    def start(self) -> None:
        down = [n for n in self.mesh.nodes.values() if n.machine is None and not n.gone]
        if down:
            self.mesh.start(self.mesh.rng.choice(down).number)

    def split(self) -> None:
        self.mesh.split({number: self.mesh.rng.randint(0, 1) for number in self.mesh.nodes})

    def heal(self) -> None:
        self.mesh.split({})

    def weather(self) -> None:
        self.mesh.loss = self.mesh.rng.choice([0.0, 0.01, 0.1])
        self.mesh.latency_ms = self.mesh.rng.choice([(1, 3), (5, 60), (300, 900)])

    def pause(self) -> None:
        if (node := self.node()) is not None:
            node.paused_until = self.mesh.now + self.mesh.rng.choice([300, 3_000, 20_000])

    def declare(self) -> None:
        if (node := self.node()) is not None:
            replicas = self.mesh.rng.randint(1, 4)
            min_copies = self.mesh.rng.choice([0, 1, replicas])
            self.mesh.declare(node, self.key().queue, replicas, min_copies)

    def join(self) -> None:
        if len(self.mesh.nodes) < 9:
            self.mesh.add(len(self.mesh.nodes))

    def leave(self) -> None:
        up = self.mesh.up()
        if len(up) > 2 and len(up) == len([n for n in self.mesh.nodes.values() if not n.gone]):
            self.mesh.leave(self.mesh.rng.choice(up).number)

    def fill(self) -> None:
        if (node := self.node()) is not None:
            self.mesh.disk_full.add(node.number)

    def empty(self) -> None:
        self.mesh.disk_full.clear()


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("name", STORIES)
def test_a_mesh_keeps_its_promises(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if seed % 2:  # states that are told in one packet are compared piece by piece
        compare_by_pieces(monkeypatch)
    story = STORIES[name]
    mesh = MachineMesh(seed, story.nodes, story.queues, story.copies, story.replace_after_ms)
    mesh.run(3_000)
    Teller(mesh, story).tell()
    mesh.heal()
    mesh.drain()
    assert not mesh.left()
    assert not mesh.unsettled()
    assert not mesh.lost()
    published = {place for node in mesh.nodes.values() for place in node.published}
    assert mesh.promised <= set(mesh.delivered)
    if name.endswith("calm"):
        assert set(mesh.delivered) == published


def test_one_seed_is_one_history() -> None:
    def history() -> tuple[object, ...]:
        mesh = MachineMesh(7)
        Teller(mesh, STORIES["everything"]).tell()
        return mesh.now, sorted(mesh.delivered.items()), sorted(mesh.promised), mesh._count

    assert history() == history()


def test_a_consumer_whose_node_was_taken_for_dead_is_served_again() -> None:
    mesh = MachineMesh(1, nodes=3, queues=1)
    mesh.run(3_000)
    (key,) = mesh.keys
    assert mesh.nodes[0].machine is not None
    owner_id = mesh.nodes[0].machine.owner_of(key)
    owner = next(node for node in mesh.nodes.values() if node.node_id == owner_id)
    other = next(node for node in mesh.nodes.values() if node is not owner)
    mesh.subscribe(other, key, 10)
    mesh.run(1_000)
    other.paused_until = mesh.now + 30_000
    mesh.run(29_000)
    assert owner.machine is not None
    assert not owner.machine.swim.is_alive(other.node_id)
    mesh.run(30_000)
    mesh.calm = True
    mesh.publish(owner, key, 5, Confirmation.COMMITTED)
    mesh.run(2_000)
    assert len(mesh.acked) == 5


def test_packets_of_a_node_to_itself_never_leave_it() -> None:
    mesh = MachineMesh(1, nodes=1, queues=1)
    (node,) = mesh.nodes.values()
    assert node.machine is not None
    mesh.subscribe(node, mesh.keys[0], 10)
    mesh.calm = True
    mesh.publish(node, mesh.keys[0], 5, Confirmation.COMMITTED)
    mesh.run(1_000)
    assert len(mesh.acked) == 5
    effects = node.machine.handle(events.TimePassed(), mesh.now)
    assert not [e for e in effects if getattr(e, "peer", None) == node.node_id]
