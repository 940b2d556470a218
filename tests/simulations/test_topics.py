"""Topics in whole simulated meshes: at most once, in order, and again after every heal."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import TYPE_CHECKING

from p2pmq import Config, Limits
from p2pmq.errors import P2PMQError
from p2pmq.sim import seeds
from p2pmq.sim.host import HostState

if TYPE_CHECKING:
    from p2pmq.node.node import Node
    from p2pmq.node.requests import Request
    from p2pmq.node.subscription import OnSlow, Subscription
    from p2pmq.sim.mesh import Mesh

SPREADS_S = 2.0
"""Interests are with everybody by then, where nothing is lost."""


class Ear:
    """A subscriber that notes what it hears, as (sender, topic, body)."""

    def __init__(
        self, mesh: Mesh, host: str, *patterns: str, buffer: int = 1_000, on_slow: OnSlow
    ) -> None:
        self.heard: list[tuple[str, str, object]] = []
        self.subscription: Subscription | None = None
        self._options = (patterns, buffer, on_slow)
        mesh.serve(host, self._listen)

    async def _listen(self, node: Node) -> None:
        patterns, buffer, on_slow = self._options
        async with node.subscribe(*patterns, buffer=buffer, on_slow=on_slow) as events:
            self.subscription = events
            async for event in events:
                self.heard.append((event.sender, event.topic, event.body))

    def of(self, sender: str) -> list[object]:
        """The bodies that one node emitted."""
        return [body for name, _, body in self.heard if name == sender]


def ear(
    mesh: Mesh, host: str, *patterns: str, buffer: int = 1_000, on_slow: OnSlow = "drop-oldest"
) -> Ear:
    return Ear(mesh, host, *patterns, buffer=buffer, on_slow=on_slow)


def rises(numbers: list[object]) -> bool:
    """Nothing twice, and in the order emitted."""
    return numbers == sorted(set(numbers), key=lambda number: int(str(number)))


async def emit_every(node: Node, topic: str, seconds: float, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        await node.emit(topic, number)
        await asyncio.sleep(seconds)


@seeds(5)
async def test_an_event_reaches_every_subscriber_whose_pattern_matches_and_no_other(
    mesh: Mesh,
) -> None:
    a, *_ = await mesh.start("a", "b", "c")
    temps = ear(mesh, "b", "site.*.temp")
    everything = ear(mesh, "c", "site.>", "site.7.*")
    own = ear(mesh, "a", ">")
    doors = ear(mesh, "c", "site.*.door")
    await mesh.run_for(seconds=SPREADS_S)
    await a.emit("site.7.temp", 21)
    await a.emit("site.7.hall.temp", 22)
    await a.emit("shop", b"raw")
    await mesh.run_for(seconds=1)
    assert temps.heard == [("a", "site.7.temp", 21)]
    assert everything.heard == [("a", "site.7.temp", 21), ("a", "site.7.hall.temp", 22)]
    assert own.heard == [*everything.heard, ("a", "shop", b"raw")]
    assert doors.heard == []
    assert a.counters["events_emitted"] == 3


@seeds(5)
async def test_an_event_that_nobody_wants_costs_no_packet_and_mail_between_calm_nodes_ends(
    mesh: Mesh,
) -> None:
    a, _ = await mesh.start("a", "b")
    ear(mesh, "b", "x.*")
    await mesh.run_for(seconds=SPREADS_S)
    machine = mesh.host("a").machine
    assert machine is not None
    assert machine.ephemeral.interests.next_deadline() is None
    sent: list[str] = []
    mesh.host("a").tripwires.append(lambda packet: sent.append(type(packet).__name__))
    await a.emit("y.1", 1)
    await mesh.run_for(seconds=1)
    assert "Emit" not in sent
    await a.emit("x.1", 1)
    await mesh.run_for(seconds=1)
    assert sent.count("Emit") == 1


@seeds(5)
async def test_a_split_loses_events_and_nothing_else_and_the_heal_needs_no_restart(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start("a", "b", "c", "d")
    ears = {node.settings.name: ear(mesh, node.settings.name, "tick.>") for node in nodes}
    await mesh.run_for(seconds=SPREADS_S)
    emitters = [
        asyncio.ensure_future(emit_every(node, f"tick.{node.settings.name}", 0.5, 400))
        for node in nodes
    ]
    await mesh.run_for(seconds=20)
    mesh.partition({"a", "b"}, {"c", "d"})
    await mesh.run_for(seconds=60)
    mesh.heal()
    await asyncio.gather(*emitters)
    await mesh.settle()
    for listener in ears.values():
        for sender in ears:
            assert rises(listener.of(sender))
    for one, other in (("a", "b"), ("c", "d"), ("a", "a")):
        assert ears[one].of(other) == list(range(400))
    lost = set(range(400)) - set(ears["a"].of("c"))
    assert set(range(45, 155)) <= lost, "what was emitted during the split is gone"
    assert set(range(360, 400)).isdisjoint(lost), "what was emitted after the heal has come"


@seeds(5)
async def test_what_was_subscribed_and_given_up_during_a_split_is_known_after_it(
    mesh: Mesh,
) -> None:
    a, b = await mesh.start("a", "b")
    old = b.subscribe("old")
    await old.__aenter__()
    await mesh.run_for(seconds=SPREADS_S)
    mesh.partition({"a"}, {"b"})
    await mesh.run_for(seconds=40)
    old.close()
    new = ear(mesh, "b", "new")
    await mesh.run_for(seconds=20)
    mesh.heal()
    await mesh.run_for(seconds=90)
    await a.emit("new", 1)
    await mesh.run_for(seconds=1)
    assert new.heard == [("a", "new", 1)]
    machine = mesh.host("a").machine
    assert machine is not None
    assert machine.ephemeral.interests.patterns_of(b.node_id) == ("new",)


@seeds(10)
async def test_a_network_that_loses_repeats_and_reorders_delivers_nothing_twice(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start("a", "b", "c")
    mesh.network.change_default(loss=0.1, duplicate=0.3, reorder=0.2)
    ears = [ear(mesh, name, f"n.{name}", "n.all") for name in mesh.names]
    await mesh.run_for(seconds=30)
    for number in range(200):
        await nodes[number % 3].emit("n.all", number)
        await asyncio.sleep(0.1)
    await mesh.run_for(seconds=5)
    for listener in ears:
        for sender in mesh.names:
            assert rises(listener.of(sender))
        assert len(listener.heard) > 100, "most come through, and all of its own"
    assert sum(node.counters["emits_repeated"] for node in nodes) > 0


@seeds(5)
async def test_a_paused_subscriber_costs_nobody_else_anything_and_misses_what_it_missed(
    mesh: Mesh,
) -> None:
    a, *_ = await mesh.start("a", "b", "c")
    slow = ear(mesh, "b", "n")
    quick = ear(mesh, "c", "n", buffer=3_000)
    await mesh.run_for(seconds=SPREADS_S)
    mesh.pause("b")
    began = mesh.now
    for number in range(3_000):
        await a.emit("n", number)
    assert mesh.now == began, "nobody waited"
    await mesh.run_for(seconds=3)
    assert quick.of("a") == list(range(3_000))
    mesh.resume("b")
    await mesh.run_for(seconds=30)
    assert rises(slow.of("a"))
    await a.emit("n", 3_000)
    await mesh.run_for(seconds=1)
    assert slow.of("a")[-1] == quick.of("a")[-1] == 3_000


@seeds(5)
async def test_a_reader_that_is_slow_drops_by_its_own_rule_and_counts(mesh: Mesh) -> None:
    a, b = await mesh.start("a", "b")
    newest = b.subscribe("n", buffer=10)
    oldest = b.subscribe("n", buffer=10, on_slow="drop-newest")
    async with newest, oldest:
        await mesh.run_for(seconds=SPREADS_S)
        await emit_every(a, "n", 0.01, 25)
        await mesh.run_for(seconds=1)
        assert (newest.dropped, oldest.dropped) == (15, 15)
        assert b.counters["events_dropped_slow"] == 30
        kept: list[list[object]] = []
        for subscription in (newest, oldest):
            iterator = subscription.__aiter__()
            kept.append([(await anext(iterator)).body for _ in range(10)])
        assert kept == [list(range(15, 25)), list(range(10))]


@seeds(5)
async def test_a_slow_link_drops_emits_counts_them_and_lets_messages_through(mesh: Mesh) -> None:
    a, b = await mesh.start("a", "b", config=Config(limits=Limits(link_window_bytes=64 * 1024)))
    heard = ear(mesh, "b", "n", buffer=100_000)
    await mesh.run_for(seconds=SPREADS_S)
    mesh.network.change("a", "b", bytes_per_s=50_000.0)
    for number in range(4_000):
        await a.emit("n", b"%d" % number + bytes(1_000))
    published = asyncio.ensure_future(a.publish("q", "still", timeout=60))
    await mesh.run_for(seconds=70)
    assert published.done()
    published.result()
    dropped = a.counters["emits_dropped"]
    assert dropped > 1_000
    assert len(heard.heard) + dropped == 4_000
    mesh.network.heal()
    assert [m.body async for m in b.drain("q")] == ["still"]


@seeds(5)
async def test_a_node_that_restarts_hears_again_and_its_old_interests_are_forgotten(
    mesh: Mesh,
) -> None:
    a, b, _ = await mesh.start("a", "b", "c")
    lasting = ear(mesh, "b", "n")
    await b.subscribe("only.once").__aenter__()
    await mesh.run_for(seconds=SPREADS_S)
    await a.emit("n", 1)
    await mesh.run_for(seconds=1)
    mesh.crash("b")
    await mesh.run_for(seconds=1)
    b = await mesh.restart("b")
    await mesh.settle()
    await a.emit("n", 2)
    a = await mesh.restart("a")
    await mesh.settle()
    await a.emit("n", 3)
    await mesh.run_for(seconds=1)
    assert lasting.of("a") == [1, 2, 3], "numbers begin anew with each process, and are taken"
    for name in ("a", "c"):
        machine = mesh.host(name).machine
        assert machine is not None
        assert machine.ephemeral.interests.patterns_of(b.node_id) == ("n",)


@seeds(5)
async def test_interests_of_who_left_or_died_are_dropped(mesh: Mesh) -> None:
    a, b, c = await mesh.start("a", "b", "c")
    ear(mesh, "b", "n")
    ear(mesh, "c", "n")
    await mesh.run_for(seconds=SPREADS_S)
    machine = mesh.host("a").machine
    assert machine is not None
    assert machine.ephemeral.interests.match("n") == tuple(sorted((b.node_id, c.node_id)))
    mesh.crash("b")
    await mesh.leave("c")
    await mesh.run_for(seconds=30)
    assert machine.ephemeral.interests.match("n") == ()
    await a.emit("n", 1)


@seeds(5)
async def test_a_leaf_emits_and_hears_over_the_links_that_it_dialled(mesh: Mesh) -> None:
    a, b = await mesh.start("a", "b")
    leaf = await mesh.join("phone", leaf=True)
    up = ear(mesh, "a", "up.*")
    down = ear(mesh, "phone", "down.*")
    await mesh.run_for(seconds=5)
    await leaf.emit("up.1", "from the leaf")
    await b.emit("down.1", "to the leaf")
    await mesh.run_for(seconds=1)
    assert up.heard == [("phone", "up.1", "from the leaf")]
    assert down.heard == [("b", "down.1", "to the leaf")]
    assert a.counters["emits_dropped"] == 0


class Echo:
    """A responder on a host, now and after each restart: what was asked, how often."""

    def __init__(self, mesh: Mesh, host: str) -> None:
        self.asked: Counter[object] = Counter()
        mesh.serve(host, self._serve)

    async def _serve(self, node: Node) -> None:
        node.respond("echo", self._echo)

    async def _echo(self, request: Request) -> object:
        self.asked[request.body] += 1
        return request.body


async def talk(node: Node) -> None:
    """Emit and ask, for ever; bodies are unlike all others of all processes."""
    for number in itertools.count():
        await node.emit("talk", f"{node.node_id.hex()} {node._boot} {number:08}")
        try:
            asked = f"{node.settings.name} {node._boot} {number}"
            assert await node.request("echo", asked, timeout=1) == asked
        except P2PMQError:
            await asyncio.sleep(0.2)
        await asyncio.sleep(0.3)


@seeds(12)
async def test_whatever_breaks_nothing_comes_twice_and_after_the_heal_all_hear_and_answer_all(
    mesh: Mesh,
) -> None:
    names = ("a", "b", "c", "d")
    await mesh.start(*names)
    ears = {name: ear(mesh, name, "talk", "after") for name in names}
    echoes = [Echo(mesh, name) for name in ("a", "b")]  # a node of its own asks no other
    for name in names:
        mesh.serve(name, talk)
    for _ in range(25):
        await break_something(mesh)
        await mesh.run_for(seconds=mesh.random.uniform(0.5, 8))
    mesh.heal()
    for name in names:
        if mesh.host(name).state is HostState.PAUSED:
            mesh.resume(name)
        elif not mesh.is_up(name):
            await mesh.restart(name)
    await mesh.settle()
    for name in names:
        await mesh.node(name).emit("after", name)
        assert await mesh.node(name).request("echo", f"after {name}") == f"after {name}"
    await mesh.run_for(seconds=1)
    for name, listener in ears.items():
        bodies = [body for _, _, body in listener.heard]
        assert len(set(bodies)) == len(bodies), f"{name} heard something twice"
        for sender in names:
            assert sender in listener.of(sender), f"{name} did not hear {sender} after the heal"
    asked = sum((echo.asked for echo in echoes), Counter[object]())
    assert max(asked.values()) == 1


async def break_something(mesh: Mesh) -> None:
    """One fault, drawn."""
    rng = mesh.random
    name = rng.choice(mesh.names)
    state = mesh.host(name).state
    match rng.choice(("crash", "pause", "partition", "network", "heal")):
        case "crash" if state is HostState.UP:
            mesh.crash(name)
            await mesh.run_for(seconds=rng.uniform(0.1, 5))
            await mesh.restart(name)
        case "pause" if state is HostState.UP:
            mesh.pause(name)
        case "pause" if state is HostState.PAUSED:
            mesh.resume(name)
        case "partition":
            mesh.partition({name})
        case "network":
            mesh.loss(0.1)
            mesh.duplicate(0.3)
            mesh.reorder(0.3)
        case _:
            mesh.heal()


@seeds(3)
async def test_iterations_end_in_order_when_their_node_closes(mesh: Mesh) -> None:
    a, b = await mesh.start("a", "b")
    heard: list[object] = []

    async def listen() -> str:
        heard.extend([event.body async for event in b.subscribe("n")])
        return "ended"

    task = mesh.run("b", listen())
    await mesh.run_for(seconds=SPREADS_S)
    await a.emit("n", 1)
    await mesh.run_for(seconds=1)
    await b.close()
    assert await task == "ended"
    assert heard == [1]
