"""The mesh's calls, one story each: goal, fault, heal, check."""

from __future__ import annotations

import asyncio

import pytest

from p2pmq.config import Config, Replication
from p2pmq.errors import ClosedNodeError, NotCommittedError, RequestTimeoutError
from p2pmq.node.node import Node
from p2pmq.sim import SimulationSettleError, SimulationUsageError
from p2pmq.sim.mesh import Mesh


async def test_orders_survive_a_split(mesh: Mesh) -> None:
    shop, bank, _depot = await mesh.start("shop", "bank", "depot")
    mesh.partition({"shop"}, {"bank", "depot"})
    await shop.publish("orders", b"1", confirm="stored")
    await mesh.run_for(minutes=10)
    mesh.heal()
    await mesh.settle()
    assert [m.body async for m in bank.drain("orders")] == [b"1"]
    mesh.check(duplicates_max=0, stuck_max=0)


async def test_virtual_days_pass_in_a_moment_and_the_clock_shows_them(mesh: Mesh) -> None:
    began = mesh.now
    await mesh.run_for(days=1, hours=1, minutes=1, seconds=1)
    assert mesh.now - began == 86_400 + 3_600 + 60 + 1


async def test_nodes_see_each_other_once_started(mesh: Mesh) -> None:
    nodes = await mesh.start("a", "b", "c", zone={"a": "east"}, together=False)
    assert all(len(node.members()) == 3 for node in nodes)
    assert nodes[1].members()[0].zone == "east"
    assert mesh.nodes == nodes


async def test_a_leaf_never_owns(mesh: Mesh) -> None:
    (full,) = await mesh.start("full")
    phone = await mesh.join("phone", leaf=True)
    assert {phone.owner_of(f"q{n}") for n in range(20)} == {"full"}
    assert full.members()[1].leaf


async def test_what_a_crash_interrupts_is_cancelled_and_what_was_stored_comes_back(
    mesh: Mesh,
) -> None:
    shop, bank = await mesh.start("shop", "bank")
    mesh.partition({"shop"})
    await shop.publish("orders", b"kept", confirm="stored")

    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    task = mesh.run("shop", wait_for_ever())
    await asyncio.sleep(0)
    mesh.crash("shop")
    await asyncio.sleep(0)
    assert task.cancelled()
    with pytest.raises(ClosedNodeError):
        await shop.publish("orders", b"too late")
    await mesh.restart("shop")
    mesh.heal()
    await mesh.settle()
    assert [m.body async for m in bank.drain("orders")] == [b"kept"]
    mesh.check(duplicates_max=0)


async def test_a_paused_host_does_nothing_and_catches_up(mesh: Mesh) -> None:
    await mesh.start("a", "b")
    ticks: list[float] = []

    async def tick(_: Node) -> None:
        while True:
            await asyncio.sleep(1)
            ticks.append(mesh.now)

    mesh.serve("a", tick)
    await mesh.run_for(seconds=3.5)
    mesh.pause("a")
    await mesh.run_for(seconds=100)
    assert len(ticks) == 3
    mesh.resume("a")
    await mesh.settle()
    assert ticks[3] == pytest.approx(103.5, abs=0.5)
    mesh.check()


async def test_a_one_way_cut_lets_the_other_direction_pass(mesh: Mesh) -> None:
    a, b, _ = await mesh.start("a", "b", "c")
    mesh.one_way("a", "b")
    await mesh.run_for(minutes=2)
    mesh.heal()
    await mesh.settle()
    assert len(a.members()) == len(b.members()) == 3
    mesh.check()


async def test_only_the_middle_of_a_bridge_reaches_both_sides(mesh: Mesh) -> None:
    await mesh.start("a", "b", "c", "d", "e")
    mesh.bridge({"a", "b"}, "c", {"d", "e"})
    assert mesh.network.is_cut("a", "d")
    assert not mesh.network.is_cut("a", "b")
    assert not mesh.network.is_cut("c", "d")
    assert not mesh.network.is_cut("b", "c")


@pytest.mark.parametrize("size", [5, 6, 7, 9])
async def test_in_a_ring_of_majorities_each_reaches_another_majority(mesh: Mesh, size: int) -> None:
    names = [f"n{n}" for n in range(size)]
    await mesh.start(*names)
    mesh.ring_of_majorities()
    reached = [
        frozenset(b for b in names if a == b or not mesh.network.is_cut(a, b)) for a in names
    ]
    assert all(size / 2 < len(group) < size for group in reached)
    assert len(set(reached)) == size


async def test_a_flapping_link_settles_once_it_is_healed(mesh: Mesh) -> None:
    a, _, c = await mesh.start("a", "b", "c")
    mesh.flap("a", {"b", "c"}, every=7)
    for number in range(20):
        await a.publish("q", number, confirm="stored")
        await mesh.run_for(seconds=5)
    mesh.heal()
    await mesh.settle()
    assert sorted([m.body async for m in c.drain("q")]) == list(range(20))
    mesh.check()


async def test_a_lossy_garbling_network_loses_and_garbles_no_message(mesh: Mesh) -> None:
    a, b, _ = await mesh.start("a", "b", "c")
    mesh.loss(0.1)
    mesh.duplicate(0.1)
    mesh.reorder(0.1)
    mesh.corrupt(0.02)
    mesh.latency((5, 50), "a", "b")
    mesh.rate(1_000_000, "b")
    for number in range(100):
        await a.publish("q", number, confirm="stored")
    mesh.heal()
    await mesh.settle()
    assert [m.body async for m in b.drain("q")] == list(range(100))
    mesh.check()


async def test_a_wiped_disk_excuses_what_was_on_it_and_nothing_else(mesh: Mesh) -> None:
    a, b = await mesh.start("a", "b")
    names = [f"q{n}" for n in range(20)]
    mine = next(name for name in names if a.owner_of(name) == "a")
    others = next(name for name in names if a.owner_of(name) == "b")
    await a.publish(mine, b"gone")
    await a.publish(others, b"kept")
    mesh.crash("a")
    mesh.wipe("a")
    await mesh.restart("a")
    await mesh.settle()
    assert [m.body async for m in b.drain(others)] == [b"kept"]
    mesh.check()
    assert mesh.summary().lost == 0


async def test_what_another_disk_holds_or_knows_is_not_excused(mesh: Mesh) -> None:
    config = Config(replication=Replication(replicas=3))
    a, b, _ = await mesh.start("a", "b", "c", config=config)
    await a.publish_many("q", [b"done"] * 3)
    assert len([m async for m in b.drain("q")]) == 3
    await a.publish_many("q", [b"left"] * 3)
    await mesh.run_for(seconds=2)
    assert mesh.flip_bit("b")
    mesh.crash("a", "b")
    mesh.wipe("a")
    mesh.cut_file("b")
    assert mesh.history.excused == []
    mesh.crash("c")
    mesh.wipe("c")
    assert {excused.run.length for excused in mesh.history.excused} == {6}


async def test_a_flipped_bit_costs_one_message_and_is_said(mesh: Mesh) -> None:
    (a,) = await mesh.start("a")
    await a.publish_many("q", [b"x" * 100 for _ in range(10)])
    assert mesh.flip_bit("a")
    assert len([m.body async for m in a.drain("q")]) == 9
    assert a.counters.snapshot()["body_unreadable"] == 1
    mesh.check()


async def test_a_full_disk_refuses_and_a_failing_one_stops_the_node(mesh: Mesh) -> None:
    (a,) = await mesh.start("a")
    await a.publish("q", b"1")
    mesh.disk_full("a")
    with pytest.raises(NotCommittedError):
        await a.publish("q", b"2", timeout=3)
    mesh.disk_full("a", full=False)
    await mesh.settle()
    mesh.disk_failing("a")
    with pytest.raises((ClosedNodeError, Exception), match="EIO"):
        await a.publish("q", b"3")
    mesh.crash("a")
    mesh.disk_failing("a", failing=False)
    a = await mesh.restart("a")
    assert [m.body async for m in a.drain("q")][:2] == [b"1", b"2"]
    mesh.check()


async def test_a_leaving_node_hands_over(mesh: Mesh) -> None:
    a, _, c = await mesh.start("a", "b", "c")
    names = [f"q{n}" for n in range(9)]
    for name in names:
        await a.publish(name, name)
    await mesh.leave("b")
    await mesh.settle()
    found = [m.body for name in names for m in [x async for x in c.drain(name)]]
    assert found == names
    assert len(a.members()) == 2
    mesh.check(duplicates_max=0)


async def test_churn_loses_nothing(mesh: Mesh) -> None:
    await mesh.start("a", "b", "c")
    task = asyncio.ensure_future(mesh.churn("b", "c", every=20, down=4, times=3))
    for number in range(30):
        await mesh.node("a").publish("q", number, confirm="stored")
        await mesh.run_for(seconds=2)
    await task
    await mesh.settle()
    assert sorted([m.body async for m in mesh.node("a").drain("q")]) == list(range(30))
    mesh.check()


async def test_a_clock_that_jumps_reorders_nothing(mesh: Mesh) -> None:
    a, b = await mesh.start("a", "b")
    mesh.clock_skew("a", 3_600)
    mesh.clock_drift("b", 0.01)
    for number in range(10):
        await a.publish("q", number)
        mesh.clock_jump("a", -1_000 if number % 2 else 500)
        await mesh.run_for(seconds=6)
    assert [m.body async for m in b.drain("q")] == list(range(10))
    mesh.check(duplicates_max=0)


async def test_a_rolled_back_disk_excuses_what_it_forgot(mesh: Mesh) -> None:
    (a,) = await mesh.start("a")
    await a.publish("q", b"old")
    mesh.snapshot("a")
    await a.publish("q", b"new")
    mesh.crash("a")
    mesh.roll_back("a")
    a = await mesh.restart("a")
    assert [m.body async for m in a.drain("q")] == [b"old"]
    mesh.check()


async def test_settle_says_what_does_not_settle(mesh: Mesh) -> None:
    a, _ = await mesh.start("a", "b")
    await a.publish("q", b"1")

    async def hold(_: Node) -> None:
        async for _message in a.consume("q", visibility_timeout=1_000):
            await asyncio.Event().wait()

    mesh.serve("a", hold)
    with pytest.raises(SimulationSettleError, match="1 held by consumers"):
        await mesh.settle(timeout=5)


async def test_drain_waits_for_what_others_hold_and_gives_up_in_the_end(mesh: Mesh) -> None:
    a, b = await mesh.start("a", "b")
    await a.publish_many("q", [1, 2])

    async def hold() -> None:
        async for message in a.consume("q", prefetch=1):
            await asyncio.sleep(5)
            message.nack()
            return

    task = mesh.run("a", hold())
    await mesh.run_for(seconds=1)
    assert sorted([m.body async for m in b.drain("q")]) == [1, 2]
    await task
    assert (await b.depth("q")).total == 0
    mesh.isolate("b")
    names = [f"q{n}" for n in range(20)]
    away = next(name for name in names if b.owner_of(name) == "a")
    with pytest.raises(RequestTimeoutError, match="not drained"):
        [m async for m in b.drain(away, patience=3)]


async def test_mistakes_are_said_at_once(mesh: Mesh) -> None:
    await mesh.start("a", "b")
    with pytest.raises(SimulationUsageError, match="the hosts are: a, b"):
        mesh.crash("c")
    with pytest.raises(SimulationUsageError, match="two groups"):
        mesh.partition({"a"}, {"a", "b"})
    with pytest.raises(SimulationUsageError, match="share from 0 to 1"):
        mesh.loss(3)
    with pytest.raises(SimulationUsageError, match="crash it first"):
        mesh.wipe("a")
    with pytest.raises(SimulationUsageError, match="restart"):
        await mesh.start("a")
    mesh.crash("a")
    with pytest.raises(SimulationUsageError, match="does not run"):
        mesh.node("a")
    with pytest.raises(SimulationUsageError, match="five hosts"):
        mesh.ring_of_majorities()
    mesh._loop.unhandled.clear()
