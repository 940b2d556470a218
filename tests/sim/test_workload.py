"""Publishers and consumers of a scenario do what their tables say."""

from __future__ import annotations

import pytest

from p2pmq.sim.mesh import Mesh
from p2pmq.sim.scenario import Consumers, Nodes, Publishers, Scenario
from p2pmq.sim.selecting import Selecting, meant_before_start
from p2pmq.sim.workload import Workload

NODES = Nodes(names=("a", "b", "c"), zones=(("east", ("b", "c")),))


async def begun(
    mesh: Mesh, publishers: Publishers, consumers: Consumers | None = None, seconds: float = 10
) -> Workload:
    scenario = Scenario(
        NODES, publishers=(publishers,), consumers=(consumers,) if consumers else ()
    )
    await mesh.start(*NODES.all)
    workload = Workload(mesh, scenario)
    workload.begin(mesh.names, seconds)
    return workload


async def test_a_publisher_keeps_to_its_count_and_batches(mesh: Mesh) -> None:
    await begun(mesh, Publishers(on=("a",), count=25, batch=(10, 10), every_ms=(10, 20)))
    await mesh.run_for(seconds=5)
    batches = [p.run.length for p in mesh.history.publications]
    assert batches == [10, 10, 5]


async def test_publishers_start_and_stop_at_their_times(mesh: Mesh) -> None:
    spec = Publishers(on=("zone east",), start_ms=3_000, stop_ms=6_000, every_ms=(100, 100))
    began = mesh.now
    workload = await begun(mesh, spec)
    began = mesh.now
    await mesh.run_for(seconds=9)
    times = [p.at_s - began for p in mesh.history.publications]
    assert 3 < min(times) < 3.3
    assert 5.7 < max(times) <= 6
    assert {p.process.host for p in mesh.history.publications} == {"b", "c"}
    assert not workload.is_over


async def test_sizes_and_confirms_are_drawn_as_said(mesh: Mesh) -> None:
    spec = Publishers(on=("a",), size_bytes=(50, 60), confirm=("stored", "none"), every_ms=(10, 10))
    await begun(mesh, spec)
    await mesh.run_for(seconds=2)
    assert {p.wanted for p in mesh.history.publications} == {"stored", "none"}
    bodies = [m.body async for m in mesh.node("b").drain("orders")]
    assert all(50 <= len(body) <= 66 for body in bodies)
    assert len(set(bodies)) == len(bodies) > 50


async def test_messages_rest_as_long_as_was_drawn(mesh: Mesh) -> None:
    spec = Publishers(on=("a",), delay_ms=(1_000, 3_000), every_ms=(50, 50), batch=(1, 2))
    await begun(mesh, spec, Consumers(on=("b",)), seconds=5)
    await mesh.run_for(seconds=10)
    delays = {publication.delay_ms for publication in mesh.history.publications}
    assert len(delays) > 10
    assert 1_000 <= min(delays) <= max(delays) <= 3_000
    await mesh.settle()
    mesh.check(stuck_max=0)


async def test_a_publisher_has_its_queue_purged_now_and_then(mesh: Mesh) -> None:
    await begun(mesh, Publishers(on=("a",), purges=0.3, every_ms=(100, 100)), seconds=5)
    await mesh.run_for(seconds=6)
    assert 3 < len(mesh.history.purges) < len(mesh.history.publications)
    assert all(purge.done_at_s is not None for purge in mesh.history.purges)
    purged = sum(drop.run.length for drop in mesh.history.dropped)
    left = len([m async for m in mesh.node("b").drain("orders")])
    assert 0 < purged == len(mesh.history.publications) - left
    mesh.check(stuck_max=0)


async def test_an_event_goes_into_each_of_a_publishers_groups(mesh: Mesh) -> None:
    queues = ("q1", "q2", "q3")
    spec = Publishers(on=("a",), queues=queues, emits=1.0, groups=True)
    await begun(mesh, spec, seconds=3)
    await mesh.run_for(seconds=4)
    assert len(mesh.history.emitted) > 10
    bodies = [[m.body async for m in mesh.node("b").drain(queue)] for queue in queues]
    assert bodies[0] == bodies[1] == bodies[2]
    assert len(bodies[0]) == len(mesh.history.emitted)
    mesh.check(stuck_max=0)


async def test_a_publisher_that_gets_no_confirm_gives_up_and_goes_on(mesh: Mesh) -> None:
    spec = Publishers(on=("a",), timeout_ms=500, every_ms=(100, 100))
    workload = await begun(mesh, spec, seconds=30)
    mesh.isolate("a", "b", "c")
    await mesh.run_for(seconds=30)
    assert workload.gave_up > 10
    assert len(mesh.history.publications) > 10


async def test_a_publisher_goes_on_after_its_host_was_restarted(mesh: Mesh) -> None:
    await begun(mesh, Publishers(on=("a",), count=40, every_ms=(100, 100), confirm=("stored",)))
    await mesh.run_for(seconds=2)
    mesh.crash("a")
    await mesh.run_for(seconds=1)
    await mesh.restart("a")
    await mesh.run_for(seconds=5)
    published = sum(p.run.length for p in mesh.history.publications)
    assert published == 40
    assert {p.process.boot for p in mesh.history.publications} == {1, 2}


async def test_consumers_handle_nack_and_begin_anew(mesh: Mesh) -> None:
    spec = Consumers(on=("b",), handler_ms=(1, 5), nack=0.3, prefetch=5, resubscribe=10)
    await begun(mesh, Publishers(on=("a",), every_ms=(20, 20)), spec)
    await mesh.run_for(seconds=9)
    assert mesh.history.nacks
    assert len(mesh.history.subscriptions) > 5
    assert {s.prefetch for s in mesh.history.subscriptions} == {5}
    await mesh.settle()
    mesh.check(stuck_max=0)


async def test_a_late_ack_comes_after_the_visibility_timeout(mesh: Mesh) -> None:
    spec = Consumers(on=("b", "c"), late=0.2, visibility_ms=1_000)
    await begun(mesh, Publishers(on=("a",), every_ms=(50, 50)), spec)
    await mesh.run_for(seconds=12)
    assert any(delivery.attempt > 1 for delivery in mesh.history.deliveries)
    await mesh.settle()
    mesh.check(stuck_max=0)


async def test_words_for_hosts_mean_who_is_there(mesh: Mesh) -> None:
    await mesh.start(*NODES.all)
    selecting = Selecting(mesh, NODES, mesh.chance("test"))
    assert selecting.hosts(["all"]) == ["a", "b", "c"]
    assert selecting.hosts(["zone east", "a", "b"]) == ["b", "c", "a"]
    assert selecting.groups([["b"], ["others"]]) == [["b"], ["a", "c"]]
    assert len(set(selecting.hosts(["any 2"]))) == 2
    assert selecting.hosts(["any", "others"]) != selecting.hosts(["any"])
    assert selecting.hosts(["owner of orders"]) == [mesh.node("a").owner_of("orders")]
    mesh.crash("a")
    assert "a" not in selecting.hosts(["any 5"])
    selecting.left["b"] = None
    assert selecting.hosts(["all", "b"]) == ["a", "c"]


@pytest.mark.parametrize(
    ("words", "hosts"),
    [(("all",), ["a", "b", "c"]), (("zone east", "a"), ["b", "c", "a"]), (("any",), [])],
)
def test_before_the_start_names_and_zones_are_known(
    words: tuple[str, ...], hosts: list[str]
) -> None:
    assert meant_before_start(words, NODES) == hosts


async def test_queues_get_more_partitions_now_and_then_up_to_so_many(mesh: Mesh) -> None:
    spec = Publishers(on=("a", "b"), partitions=4, every_ms=(50, 50))
    await begun(mesh, spec, Consumers(on=("c",)), seconds=20)
    await mesh.run_for(seconds=21)
    assert mesh.node("c").settings_of("orders").partitions == 4
    assert {p.key.number for p in mesh.history.publications} == {0, 1, 2, 3}
    await mesh.settle()
    mesh.check(stuck_max=0)
