"""Scheduled messages in whole simulated meshes: never early, on disk, and over every move."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from p2pmq import Config, Replication
from p2pmq.errors import UsageError
from p2pmq.sim import seeds

if TYPE_CHECKING:
    from p2pmq.node.node import Node
    from p2pmq.sim.mesh import Mesh

NAMES = ("a", "b", "c")
THREE = Config(replication=Replication(replicas=3))
YEAR_S = 366 * 86_400


class Collecting:
    """What the consumers of a queue on every node got, and when."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self.came: list[tuple[object, float]] = []

    def serve(self, *names: str) -> None:
        for name in names:
            self._mesh.serve(name, self._consume)

    async def _consume(self, node: Node) -> None:
        async for message in node.consume("q"):
            self.came.append((message.body, self._mesh.now))
            message.ack()

    @property
    def bodies(self) -> list[object]:
        return [body for body, _ in self.came]


@seeds(5)
async def test_it_comes_when_it_is_due_and_later_messages_go_before_it(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    collecting = Collecting(mesh)
    collecting.serve("c")
    began = mesh.now
    await nodes[0].publish("q", "later", delay=60)
    await nodes[1].publish_many("q", ["much", "later"], delay=3_600)
    await nodes[0].publish("q", "now")
    await mesh.settle()
    assert collecting.bodies == ["now"]
    depth = await nodes[2].depth("q")
    assert (depth.ready, depth.delayed, depth.scheduled, depth.total) == (0, 3, 3, 3)
    await mesh.run_for(seconds=began + 60.1 - mesh.now)
    ((_, _), (body, at_s)) = collecting.came
    assert body == "later"
    assert began + 60 <= at_s <= began + 60.2
    await mesh.run_for(hours=1)
    assert collecting.bodies == ["now", "later", "much", "later"]
    await mesh.settle()
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(5)
async def test_at_names_a_moment_by_the_publishers_clock(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    collecting = Collecting(mesh)
    collecting.serve("b")
    mesh.clock_skew("b", 600)
    mesh.clock_skew("c", -600)
    began = mesh.now
    wall_s = mesh.host("a").clock.read()
    await nodes[0].publish("q", "by a number", at=wall_s + 30)
    there = datetime.fromtimestamp(wall_s, UTC) + timedelta(seconds=40)
    await nodes[0].publish("q", "by a date", at=there)
    await nodes[0].publish("q", "past", at=wall_s - 100)
    await mesh.run_for(seconds=60)
    assert collecting.bodies == ["past", "by a number", "by a date"]
    (_, first), (_, second) = collecting.came[1:]
    began -= 0.001  # a machine's clock ticks in ms
    assert began + 30 <= first <= began + 30.2
    assert began + 40 <= second <= began + 40.2
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(1)
async def test_what_names_no_moment_is_refused_before_anything_is_sent(mesh: Mesh) -> None:
    (node,) = await mesh.start("a")
    wrong: list[dict[str, float | datetime]] = [
        {"delay": -1},
        {"delay": float("nan")},
        {"delay": YEAR_S + 1},
        {"at": mesh.host("a").clock.read() + YEAR_S + 60},
        {"at": datetime(2030, 1, 1)},  # noqa: DTZ001  that is what is refused
        {"delay": 1, "at": 10**9},
    ]
    for terms in wrong:
        with pytest.raises(UsageError):
            await node.publish("q", 1, **terms)  # type: ignore[arg-type]  # each fits one of the two
    assert (await node.depth("q")).total == 0
    await node.publish("q", 1, delay=YEAR_S)


@seeds(5)
async def test_the_owner_fails_before_it_is_due_and_its_heir_lets_it_out_in_time(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    for name, seconds in zip(NAMES, (-300, 300, 3_600), strict=True):
        mesh.clock_skew(name, seconds)
    collecting = Collecting(mesh)
    collecting.serve(*NAMES)
    await mesh.run_for(seconds=90)  # by now each node has read its clock
    began = mesh.now
    await nodes[0].publish("q", 1, delay=120)
    await mesh.run_for(seconds=30)
    owner = nodes[0].owner_of("q")
    assert owner is not None
    mesh.crash(owner)
    await mesh.run_for(seconds=60)
    assert collecting.came == []
    await mesh.run_for(seconds=60)
    ((_, at_s),) = collecting.came
    assert began + 120 <= at_s <= began + 121
    await mesh.restart(owner)
    await mesh.settle()
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(5)
async def test_it_outlives_the_restart_of_all_and_waits_no_longer_for_the_time_away(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    for name, seconds in zip(NAMES, (-300, 300, 3_600), strict=True):
        mesh.clock_skew(name, seconds)
    collecting = Collecting(mesh)
    collecting.serve(*NAMES)
    await mesh.run_for(seconds=90)  # by now each node has read its clock
    began = mesh.now
    await nodes[0].publish("q", 1, delay=600)
    await mesh.run_for(seconds=100)
    for name in NAMES:
        mesh.power_cut(name)
    await mesh.run_for(seconds=300)
    for name in NAMES:
        await mesh.restart(name)
    await mesh.run_for(seconds=began + 595 - mesh.now)
    assert collecting.came == []
    await mesh.run_for(seconds=10)
    ((_, at_s),) = collecting.came
    assert began + 600 <= at_s <= began + 601
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(5)
async def test_wrong_wall_clocks_let_nothing_out_early(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    collecting = Collecting(mesh)
    collecting.serve(*NAMES)
    for name, seconds in zip(NAMES, (-288, 288, 3_600), strict=True):
        mesh.clock_jump(name, seconds)
    await nodes[0].publish("q", 1, delay=60)
    for name, seconds in zip(NAMES, (3_600, -288, 288), strict=True):
        mesh.clock_jump(name, seconds)
    await mesh.run_for(seconds=59)
    assert collecting.came == []
    await mesh.run_for(seconds=2)
    assert collecting.bodies == [1]
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(5)
async def test_in_a_partition_both_sides_wait_and_after_it_one_delivers_it_once(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    collecting = Collecting(mesh)
    collecting.serve(*NAMES)
    began = mesh.now
    await nodes[0].publish_many("q", range(10), delay=90)
    owner = nodes[0].owner_of("q")
    assert owner is not None
    mesh.isolate(owner)
    await mesh.run_for(seconds=85)
    assert collecting.came == []
    await mesh.run_for(seconds=10)
    assert sorted(map(str, collecting.bodies)) == sorted(map(str, range(10)))
    assert min(at_s for _, at_s in collecting.came) >= began + 90
    mesh.heal()
    await mesh.settle()
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(5)
async def test_the_time_in_the_outbox_counts_over_a_restart_too(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    collecting = Collecting(mesh)
    collecting.serve("b", "c")
    mesh.isolate("a")
    await mesh.run_for(seconds=30)
    began = mesh.now
    await nodes[0].publish("q", 1, delay=100, confirm="stored")
    await mesh.run_for(seconds=20)
    mesh.crash("a")
    await mesh.run_for(seconds=20)
    await mesh.restart("a")
    mesh.heal()
    await mesh.settle()
    assert collecting.came == []
    await mesh.run_for(seconds=began + 101 - mesh.now)
    ((_, at_s),) = collecting.came
    assert began + 100 <= at_s
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(5)
async def test_what_lives_shorter_than_it_waits_expires_and_a_drain_waits_for_none(
    mesh: Mesh,
) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    await nodes[0].publish("q", "never", delay=60, ttl=30)
    await nodes[0].publish("q", "in an hour", delay=3_600)
    await nodes[0].publish("q", "now")
    assert [message.body async for message in nodes[1].drain("q", patience=5)] == ["now"]
    await mesh.run_for(seconds=31)
    assert sum(node.counters["expired"] for node in nodes) == 1
    await mesh.run_for(hours=1)
    assert [message.body async for message in nodes[1].drain("q")] == ["in an hour"]
    mesh.check(duplicates_max=0, stuck_max=0)


@seeds(3)
async def test_a_new_owner_in_a_planned_move_keeps_what_is_left_of_the_delay(mesh: Mesh) -> None:
    nodes = await mesh.start(*NAMES, config=THREE)
    collecting = Collecting(mesh)
    began = mesh.now
    await nodes[0].publish_many("q", range(5), delay=200)
    owner = nodes[0].owner_of("q")
    assert owner is not None
    await mesh.run_for(seconds=50)
    leaving = next(node for node in nodes if node.settings.name == owner)
    await leaving.close()
    others = [name for name in NAMES if name != owner]
    collecting.serve(*others)
    await mesh.run_for(seconds=began + 199 - mesh.now)
    assert collecting.came == []
    await mesh.run_for(seconds=5)
    assert len(collecting.came) == 5
