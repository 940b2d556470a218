"""The membership protocol as a whole, on a mesh of machines in virtual time."""

from __future__ import annotations

import random

import pytest

from p2pmq.config import SwimConfig
from p2pmq.core.effects import Counted, Effect, Notify, Send
from p2pmq.core.membership import MemberState
from p2pmq.core.packets.membership import (
    Gossip,
    Ping,
    PingRequest,
    ProbeAck,
    ProbeNack,
    Rumour,
    StateExchange,
)
from p2pmq.core.swim import Swim
from tests.core.swim_mesh import MESH, SwimMesh, node_id_of, rumour_of

MINUTE = 60_000


def joined(count: int, seed: int = 0, config: SwimConfig | None = None) -> SwimMesh:
    """A mesh in which everybody knows everybody, with nothing more to say."""
    mesh = SwimMesh(seed, config)
    mesh.add_many(count)
    assert mesh.run_until(mesh.agreed, 30_000) is not None
    mesh.run(15_000)
    return mesh


def lone(config: SwimConfig | None = None, **changes: object) -> Swim:
    """One machine without a mesh."""
    swim = Swim(rumour_of(0, **changes), MESH, config or SwimConfig(), random.Random(1))
    swim.start((), 0, 0)
    return swim


def acquainted(*numbers: int) -> Swim:
    """One machine that knows these members."""
    swim = lone()
    for number in numbers:
        swim.on_packet(node_id_of(number), Gossip((rumour_of(number),)), 0)
    return swim


def sent(effects: list[Effect], kind: type) -> list[Send]:
    """The packets of one kind among effects."""
    return [e for e in effects if isinstance(e, Send) and isinstance(e.packet, kind)]


def counts(effects: list[Effect]) -> list[str]:
    """What was counted."""
    return [
        effect.notice.what
        for effect in effects
        if isinstance(effect, Notify) and isinstance(effect.notice, Counted)
    ]


# ------------------------------------------------------------------------------- the whole mesh


def test_nobody_is_accused_in_an_ideal_network_of_fifty_in_ten_minutes() -> None:
    mesh = SwimMesh(1)
    mesh.add_many(50)
    mesh.run(10 * MINUTE)
    assert mesh.agreed()
    assert {notice.state for node in mesh.nodes.values() for _, notice in node.notices} == {
        MemberState.ALIVE
    }


def test_nobody_dies_of_some_lost_packets() -> None:
    mesh = joined(12, seed=2)
    mesh.loss = 0.05
    mesh.run(10 * MINUTE)
    assert mesh.deaths() == []


@pytest.mark.parametrize("count", [2, 3, 5, 30])
def test_a_crashed_node_is_held_dead_by_all_in_bounded_time(count: int) -> None:
    mesh = joined(count, seed=count)
    mesh.crash(count - 1)
    assert mesh.run_until(lambda: mesh.none_holds_alive(count - 1), 60_000) is not None
    assert {name for _, name in mesh.deaths()} == {f"node{count - 1}"}


def test_a_dead_member_stays_on_the_roster_and_is_welcome_back() -> None:
    mesh = joined(5)
    mesh.crash(3)
    mesh.run(5 * MINUTE)
    member = mesh.member(0, 3)
    assert member is not None
    assert member.state is MemberState.DEAD
    mesh.restart(3)
    assert mesh.run_until(mesh.agreed, 60_000) is not None


def test_a_newcomer_learns_of_the_dead_too() -> None:
    mesh = joined(4)
    mesh.crash(3)
    mesh.run(2 * MINUTE)
    mesh.add(4, seeds=(1,))
    mesh.run(5_000)
    assert [mesh.view(number) for number in mesh.up()] == [mesh.view(0)] * 4
    assert not mesh.nodes[4].swim.is_alive(node_id_of(3))


def test_a_newcomer_learns_of_the_dead_from_the_only_one_who_is_left() -> None:
    mesh = joined(2)
    mesh.crash(1)
    mesh.run(2 * MINUTE)
    mesh.add(2, seeds=(0,))
    assert mesh.run_until(lambda: mesh.member(2, 1) is not None, 20_000) is not None


def test_a_slow_node_is_not_held_dead_with_lifeguard() -> None:
    mesh = joined(20, seed=3)
    mesh.nodes[7].slowness_ms = 4_000
    mesh.run(5 * MINUTE)
    assert mesh.deaths() == []
    assert mesh.nodes[7].swim.local_health > 0


@pytest.mark.parametrize("lifeguard", [True, False])
def test_a_node_slower_than_suspicions_harms_others_only_without_lifeguard(lifeguard: bool) -> None:
    mesh = joined(20, seed=3, config=SwimConfig(lifeguard=lifeguard))
    mesh.nodes[7].slowness_ms = 8_000
    mesh.run(5 * MINUTE)
    assert all(name == "node7" for _, name in mesh.deaths()) is lifeguard


def test_a_paused_node_accuses_nobody_when_it_goes_on() -> None:
    mesh = joined(10)
    mesh.pause(4, 2 * MINUTE)
    mesh.run(2 * MINUTE - 1)
    assert mesh.none_holds_alive(4)
    mesh.nodes[4].notices.clear()
    resumed = mesh.now
    mesh.run(MINUTE)
    assert mesh.agreed()
    assert mesh.counted("swim_pauses") == 1
    assert mesh.nodes[4].notices == []
    assert all(at < resumed for at, _ in mesh.deaths())


def test_all_paused_at_once_accuse_nobody() -> None:
    mesh = joined(6)
    for number in mesh.up():
        mesh.pause(number, 10 * MINUTE)
    mesh.run(12 * MINUTE)
    assert mesh.deaths() == []


def test_a_node_that_hears_nothing_is_held_dead_though_it_speaks() -> None:
    mesh = joined(6)
    mesh.deaf = [2]
    assert mesh.run_until(lambda: mesh.none_holds_alive(2), 2 * MINUTE) is not None
    mesh.deaf = []
    assert mesh.run_until(mesh.agreed, MINUTE) is not None


# -------------------------------------------------------------------------------------- healing


@pytest.mark.parametrize("split_ms", [20_000, 5 * MINUTE])
def test_a_split_of_a_hundred_into_halves_heals_within_a_minute(split_ms: int) -> None:
    mesh = joined(100)
    mesh.split(range(50), range(50, 100))
    mesh.run(split_ms)
    before = mesh.packets
    mesh.heal()
    assert mesh.run_until(mesh.agreed, MINUTE) is not None
    assert mesh.packets - before < 100 * 400, "a heal is no storm"


def test_a_split_of_a_day_heals_within_a_minute() -> None:
    # Probes are rare here to make a day cheap; healing has its usual interval.
    config = SwimConfig(probe_interval_ms=20_000, probe_timeout_ms=5_000)
    mesh = joined(6, config=config)
    mesh.split(range(3), range(3, 6))
    mesh.run(24 * 60 * MINUTE)
    assert [mesh.nodes[number].swim.alive_count for number in mesh.up()] == [3] * 6
    mesh.heal()
    assert mesh.run_until(mesh.agreed, MINUTE) is not None


def test_nodes_that_were_all_alone_find_each_other_again() -> None:
    mesh = joined(8)
    mesh.split(*([number] for number in range(8)))
    mesh.run(10 * MINUTE)
    assert [mesh.nodes[number].swim.alive_count for number in mesh.up()] == [1] * 8
    mesh.heal()
    assert mesh.run_until(mesh.agreed, MINUTE) is not None


def test_those_that_joined_during_a_split_are_known_to_all_after_it() -> None:
    mesh = joined(6)
    mesh.split([0, 1, 2, 6], [3, 4, 5, 7])
    mesh.run(2 * MINUTE)
    mesh.add(6, seeds=(0,))
    mesh.add(7, seeds=(3,))
    mesh.run(MINUTE)
    mesh.heal()
    assert mesh.run_until(mesh.agreed, MINUTE) is not None


def test_a_mesh_that_restarts_as_a_whole_needs_no_seeds() -> None:
    mesh = joined(8)
    for number in range(8):
        mesh.crash(number)
    mesh.run(1_000)
    for number in range(8):
        mesh.restart(number)
    assert mesh.run_until(mesh.agreed, MINUTE) is not None


def test_two_meshes_that_meet_become_one() -> None:
    mesh = SwimMesh()
    for number in range(6):
        mesh.add(number, seeds=(0,) if number < 3 else (3,))
    mesh.run(MINUTE)
    mesh._dial(0, 3, lambda: None)
    assert mesh.run_until(mesh.agreed, 2 * MINUTE) is not None


def test_dials_to_one_dead_member_do_not_grow_with_the_mesh() -> None:
    mesh = joined(60)
    mesh.crash(59)
    mesh.run(3 * MINUTE)
    dials = 0

    def count(a: int, b: int, then: object) -> None:
        nonlocal dials
        dials += b == 59

    mesh._dial = count  # type: ignore[method-assign]  # listen in on the network
    mesh.run(5 * MINUTE)
    assert 50 < dials < 400  # some 8 in 15 s, from 59 members


# --------------------------------------------------------------------------- leaving, forgetting


def test_a_leaving_member_is_off_every_roster_and_not_held_dead() -> None:
    mesh = joined(10)
    mesh.leave(4)
    mesh.run(5_000)
    assert [mesh.member(number, 4) for number in mesh.up()] == [None] * 9
    mesh.run(5 * MINUTE)
    assert mesh.agreed()
    assert mesh.deaths() == []


@pytest.mark.parametrize("count", [3, 40])
def test_a_stopping_node_is_known_to_be_away_at_once_and_welcome_back(count: int) -> None:
    mesh = joined(count)
    mesh.stop(1)
    mesh.run(900)
    heard = [n for n in mesh.up() if n != 1 and not mesh.nodes[n].swim.is_alive(node_id_of(1))]
    assert len(heard) >= min(count - 1, 16)
    assert mesh.run_until(lambda: mesh.none_holds_alive(1), 5_000) is not None
    assert mesh.counted("swim_refutations") == 0
    mesh.restart(1)
    assert mesh.run_until(mesh.agreed, 30_000) is not None


def test_a_left_member_does_not_come_back_through_a_peer_that_was_away() -> None:
    mesh = joined(6)
    mesh.split([0, 1, 2, 3, 4], [5])
    mesh.run(MINUTE)
    mesh.leave(4)
    mesh.run(10 * MINUTE)
    mesh.heal()
    assert mesh.run_until(mesh.agreed, MINUTE) is not None
    mesh.run(2 * MINUTE)
    assert [mesh.member(number, 4) for number in mesh.up()] == [None] * 5


def test_nor_through_one_that_was_away_for_longer_than_tombstones_last() -> None:
    mesh = joined(6, config=SwimConfig(tombstone_ms=MINUTE))
    mesh.split([0, 1, 2, 3, 4], [5])
    mesh.run(MINUTE)
    mesh.leave(4)
    mesh.run(20 * MINUTE)
    mesh.heal()
    assert mesh.run_until(mesh.agreed, MINUTE) is not None
    mesh.run(5 * MINUTE)
    assert [mesh.member(number, 4) for number in mesh.up()] == [None] * 5
    assert not any(mesh.nodes[number].swim._roster.tombstones for number in mesh.up())


def test_tombstones_outlive_a_restart_of_the_whole_mesh() -> None:
    mesh = joined(5)
    mesh.split([0, 1, 2, 3], [4])
    mesh.run(MINUTE)
    mesh.leave(3)
    mesh.run(MINUTE)
    for number in (0, 1, 2):
        mesh.crash(number)
        mesh.restart(number)
    mesh.heal()
    assert mesh.run_until(mesh.agreed, MINUTE) is not None
    assert mesh.member(4, 3) is None


def test_a_member_that_left_is_welcome_again() -> None:
    mesh = joined(5)
    mesh.leave(3)
    mesh.run(MINUTE)
    mesh.add(3, seeds=(0,), disk=mesh.nodes[3].disk)
    assert mesh.run_until(mesh.agreed, 30_000) is not None
    assert len(mesh.up()) == 5


def test_a_forgotten_dead_member_is_off_every_roster() -> None:
    mesh = joined(6)
    mesh.crash(5)
    mesh.run(2 * MINUTE)
    mesh.forget(0, 5)
    mesh.run(5_000)
    assert [mesh.member(number, 5) for number in mesh.up()] == [None] * 5


def test_a_forgotten_member_that_lives_objects() -> None:
    mesh = joined(6)
    mesh.forget(0, 5)
    assert mesh.run_until(mesh.agreed, MINUTE) is not None
    assert mesh.member(0, 5) is not None


def test_a_forgotten_member_that_returns_joins_anew_and_brings_nothing_old() -> None:
    mesh = joined(6, config=SwimConfig(tombstone_ms=MINUTE))
    mesh.crash(5)
    mesh.run(2 * MINUTE)
    mesh.leave(4)
    mesh.forget(0, 5)
    mesh.run(20 * MINUTE)
    assert not any(mesh.nodes[number].swim._roster.tombstones for number in mesh.up())
    mesh.restart(5)
    assert mesh.run_until(mesh.agreed, MINUTE) is not None
    mesh.run(5 * MINUTE)
    assert [mesh.member(number, 4) for number in mesh.up()] == [None] * 5


def test_a_dead_leaf_is_reaped_everywhere() -> None:
    mesh = joined(5)
    mesh.add(5, seeds=(0,), weight=0)
    assert mesh.run_until(mesh.agreed, 10_000) is not None
    mesh.crash(5)
    mesh.run(11 * MINUTE)
    mesh.run(MINUTE)
    assert [mesh.member(number, 5) for number in mesh.up()] == [None] * 5
    assert all(node_id_of(5) not in mesh.nodes[n].addresses for n in mesh.up())


# ---------------------------------------------------------------------------------- incarnations


def test_the_incarnation_rises_over_a_restart() -> None:
    mesh = joined(3)
    before = mesh.nodes[1].incarnation_seen
    mesh.crash(1)
    assert mesh.restart(1).incarnation_seen > before


def test_a_node_that_was_driven_to_the_last_incarnation_can_start_again() -> None:
    swim = lone()
    swim.start((), 2**32 - 1, 0)
    assert swim.members[node_id_of(0)].incarnation == 2**32 - 1, "a greater one is not sent"


def test_a_node_whose_last_write_was_lost_is_believed_again_with_its_new_facts() -> None:
    mesh = joined(4)
    for _ in range(3):
        mesh.crash(1)
        mesh.restart(1)
        mesh.run(20_000)
    used = mesh.nodes[1].incarnation_seen
    disk = mesh.crash(1)
    disk.incarnation = used - 1  # so that it takes for itself what it had already
    mesh.restart(1)
    mesh.run(20_000)
    assert mesh.agreed()
    for number in (0, 2, 3):
        member = mesh.member(number, 1)
        assert member is not None
        assert member.boot == mesh.nodes[1].own.boot
        assert member.incarnation > used


def test_a_node_restored_from_an_old_backup_refutes_upwards() -> None:
    mesh = joined(4)
    mesh.crash(1)
    mesh.run(MINUTE)
    mesh.nodes[1].disk.incarnation = 0
    for _ in range(2):
        mesh.restart(1)
        mesh.run(20_000)
        assert mesh.agreed()


def test_only_what_matters_is_written() -> None:
    mesh = joined(8)
    writes = sum(node.disk.writes for node in mesh.nodes.values())
    mesh.loss = 0.2
    mesh.run(5 * MINUTE)
    refutations = mesh.counted("swim_refutations")
    assert refutations > 0
    assert sum(node.disk.writes for node in mesh.nodes.values()) == writes + refutations


# -------------------------------------------------------------------------------- single machines


def test_a_ping_for_another_target_is_ignored_and_counted() -> None:
    swim = lone()
    effects = swim.on_packet(node_id_of(1), Ping(7, node_id_of(9)), 10)
    assert counts(effects) == ["swim_misaddressed"]
    assert sent(effects, ProbeAck) == []


def test_a_ping_is_answered_with_its_number() -> None:
    effects = lone().on_packet(node_id_of(1), Ping(7, node_id_of(0)), 10)
    (ack,) = sent(effects, ProbeAck)
    assert ack == Send(node_id_of(1), ProbeAck(7, node_id_of(0), ack.packet.rumours))  # type: ignore[attr-defined]  # an ack has them


def test_the_states_of_another_mesh_are_ignored_and_counted() -> None:
    swim = lone()
    packet = StateExchange("other", (rumour_of(1),))
    assert counts(swim.on_packet(node_id_of(1), packet, 10)) == ["swim_other_mesh"]
    assert list(swim.members) == [node_id_of(0)]


def test_a_node_refutes_what_is_said_of_it_and_answers_the_accuser() -> None:
    swim = acquainted(1)
    own = swim.members[node_id_of(0)]
    rumour = Rumour(own.node_id, MemberState.SUSPECT, 5, node_id_of(2))
    effects = swim.on_packet(node_id_of(1), Gossip((rumour,)), 10)
    assert own.state is MemberState.ALIVE
    assert own.incarnation == 6
    answer = sent(effects, Gossip)[0]
    assert answer.peer == node_id_of(1)
    assert answer.packet == Gossip(own.listing())


def test_a_ping_with_an_accusation_is_answered_with_the_refutation() -> None:
    swim = acquainted(1)
    rumour = Rumour(node_id_of(0), MemberState.DEAD, 1)
    effects = swim.on_packet(node_id_of(1), Ping(1, node_id_of(0), (rumour,)), 10)
    ack = sent(effects, ProbeAck)[0].packet
    assert isinstance(ack, ProbeAck)
    assert ack.rumours[0].node_id == node_id_of(0)
    assert ack.rumours[0].incarnation == 2


def test_a_relay_with_no_such_member_says_so_at_once() -> None:
    effects = lone().on_packet(node_id_of(1), PingRequest(3, node_id_of(9), 400), 10)
    assert len(sent(effects, ProbeNack)) == 1


def test_a_name_is_held_by_a_living_other_member_only() -> None:
    swim = acquainted(1)
    holder = swim.name_holder("node1")
    assert holder is not None
    assert holder.node_id == node_id_of(1)
    assert swim.name_holder("node0") is None
    dead = Rumour(node_id_of(1), MemberState.DEAD, 1)
    swim.on_packet(node_id_of(1), Gossip((dead,)), 10)
    assert swim.name_holder("node1") is None


def test_the_version_rises_with_verdicts_and_facts_but_not_with_suspicions() -> None:
    swim = acquainted(1, 2)
    version = swim.version
    suspect = Rumour(node_id_of(1), MemberState.SUSPECT, 1, node_id_of(2))
    swim.on_packet(node_id_of(2), Gossip((suspect,)), 10)
    assert swim.is_alive(node_id_of(1))
    assert swim.version == version
    swim.on_packet(node_id_of(1), Gossip((rumour_of(1, incarnation=2, zone="moon"),)), 20)
    assert swim.version == version + 1
    dead = Rumour(node_id_of(1), MemberState.DEAD, 2)
    swim.on_packet(node_id_of(2), Gossip((dead,)), 30)
    assert swim.version == version + 2
    assert not swim.is_alive(node_id_of(1))


def test_contact_with_one_that_is_alive_costs_nothing() -> None:
    swim = acquainted(1)
    deadline = swim.next_deadline()
    assert swim.on_contact(node_id_of(1), 50) == []
    assert swim.next_deadline() == deadline


def test_a_suspect_that_is_heard_is_told_once_in_a_while() -> None:
    swim = acquainted(1, 2)
    suspect = Rumour(node_id_of(1), MemberState.SUSPECT, 1, node_id_of(2))
    swim.on_packet(node_id_of(2), Gossip((suspect,)), 10)
    assert len(sent(swim.on_contact(node_id_of(1), 20), Gossip)) == 1
    assert swim.on_contact(node_id_of(1), 30) == []


@pytest.mark.parametrize("known", [False, True])
def test_a_link_to_one_that_is_unknown_or_began_anew_exchanges_states(known: bool) -> None:
    swim = acquainted(1) if known else lone()
    # Who has just joined is told that it is new here.
    now = MINUTE if known else 10
    effects = swim.on_connected(node_id_of(1), 2, "node1", ("host1:7000",), leaf=False, now=now)
    exchange = sent(effects, StateExchange)[0].packet
    assert isinstance(exchange, StateExchange)
    assert exchange.stranger is not known
    assert exchange.rumours[0].node_id == node_id_of(0)


def test_a_link_to_one_that_is_known_needs_no_exchange() -> None:
    swim = acquainted(1)
    assert swim.on_connected(node_id_of(1), 1, "node1", ("host1:7000",), leaf=False, now=10) == []


def test_a_silent_stranger_is_asked_a_few_times_only() -> None:
    swim = lone()
    swim.on_contact(node_id_of(1), 0)
    asked = 0
    for now in range(0, 5 * MINUTE, 100):
        asked += len(sent(swim.on_timeout(now), StateExchange))
    assert 2 <= asked <= 5


def test_leaving_twice_is_leaving_once() -> None:
    swim = acquainted(1)
    assert len(sent(swim.leave(10), Gossip)) == 1
    assert swim.leave(20) == []
    assert [member.node_id for member in swim.roster()] == [node_id_of(1)]


def test_the_roster_on_disk_is_unmet_at_first() -> None:
    swim = Swim(rumour_of(0), MESH, SwimConfig(), random.Random(1))
    swim.start((rumour_of(1), rumour_of(0), Rumour(node_id_of(2), MemberState.LEFT, 3)), 4, 0)
    assert swim.members[node_id_of(1)].state is MemberState.UNMET
    assert [member.name for member in swim.roster()] == ["node0", "node1"]
    assert swim.members[node_id_of(0)].incarnation == 5
    pings = [ping for now in range(0, 400, 10) for ping in sent(swim.on_timeout(now), Ping)]
    assert [ping.peer for ping in pings] == [node_id_of(1)]
