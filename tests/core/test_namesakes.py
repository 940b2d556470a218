"""Members of one name: who has the name's place, and what becomes of the others."""

from __future__ import annotations

import random
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmq.config import SwimConfig
from p2pmq.core.membership import NOBODY, Member, MemberState
from p2pmq.core.namesakes import UNMET_MS, placed
from p2pmq.core.packets.membership import Rumour
from tests.core.swim_mesh import Disk, SwimMesh, node_id_of, rumour_of

QUARTER_MS = 900_000
CONFIG = SwimConfig(tombstone_ms=120_000)


def member(number: int, name: str, predecessor: int | None = None) -> Member:
    before = NOBODY if predecessor is None else node_id_of(predecessor)
    rumour = rumour_of(number, name=name, predecessor=before)
    return Member(rumour, MemberState.ALIVE, 0)


def mesh_of(count: int, seed: int = 0) -> SwimMesh:
    mesh = SwimMesh(seed)
    mesh.add_many(count)
    assert mesh.run_until(mesh.agreed, 60_000) is not None
    return mesh


def places(mesh: SwimMesh, at: int) -> dict[str, bytes]:
    return {m.name: m.node_id for m in mesh.nodes[at].swim.placed()}


def agreed_on(mesh: SwimMesh, name: str) -> bytes | None:
    """Who has the place, if all that run agree and know one another alive."""
    found = {places(mesh, at).get(name) for at in mesh.up()}
    return found.pop() if len(found) == 1 and mesh.agreed() else None


# ------------------------------------------------------------------------ who has a place


def test_a_name_has_one_place_and_who_replaced_another_has_it() -> None:
    for members in permutations([member(1, "a"), member(5, "b", 9), member(9, "b")]):
        found = {m.name: m.node_id for m in placed(members)}
        assert found == {"a": node_id_of(1), "b": node_id_of(5)}


def test_between_two_that_know_nothing_of_each_other_it_is_the_smaller_node_id() -> None:
    assert [m.node_id for m in placed([member(7, "a"), member(3, "a")])] == [node_id_of(3)]


def test_between_two_that_claim_each_others_place_it_is_the_smaller_node_id() -> None:
    both = [member(7, "a", 3), member(3, "a", 7)]
    assert [m.node_id for m in placed(both)] == [node_id_of(3)]


@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.sampled_from("ab"), st.integers(0, 8)),
        unique_by=lambda one: one[0],
    ),
    st.randoms(),
)
def test_who_has_a_place_does_not_depend_on_the_order_of_the_roster(
    roster: list[tuple[int, str, int]], rng: random.Random
) -> None:
    members = [member(*one) for one in roster]
    expected = {(m.name, m.node_id) for m in placed(members)}
    assert {name for name, _ in expected} == {name for _, name, _ in roster}
    rng.shuffle(members)
    assert {(m.name, m.node_id) for m in placed(members)} == expected


# ------------------------------------------------------------------------ in a mesh


def test_a_newcomer_with_the_name_of_a_dead_member_takes_its_place_everywhere() -> None:
    mesh = mesh_of(5)
    disks = [mesh.nodes[number].disk for number in range(5)]
    mesh.crash(3)
    assert mesh.run_until(lambda: mesh.none_holds_alive(3), 60_000) is not None
    mesh.add(13, seeds=(0,), name="node3")
    assert mesh.run_until(lambda: agreed_on(mesh, "node3") == node_id_of(13), 10_000) is not None
    assert all(mesh.member(at, 3) is None for at in mesh.up())
    mesh.run(5_000)
    for disk in (*disks[:3], disks[4], mesh.nodes[13].disk):
        saved = disk.members.get(node_id_of(3))
        assert saved is None or saved.state == MemberState.FORGOTTEN
    assert mesh.counted("name_succeeded") == 1


def test_it_does_so_while_a_member_is_away_which_hears_of_it_later() -> None:
    mesh = mesh_of(5)
    mesh.crash(3)
    mesh.run(60_000)
    mesh.split([0, 1, 2], [4])
    mesh.run(60_000)
    mesh.add(13, seeds=(0,), name="node3")
    mesh.group = {0: 0, 1: 0, 2: 0, 13: 0, 4: 1}
    mesh.run(QUARTER_MS)
    mesh.heal()
    assert mesh.run_until(lambda: agreed_on(mesh, "node3") == node_id_of(13), 60_000) is not None
    assert mesh.member(4, 3) is None


def test_after_a_restart_of_all_a_namesake_that_nobody_has_met_is_replaced_too() -> None:
    mesh = mesh_of(4)
    for number in range(4):
        mesh.crash(number)
    for number in range(3):
        mesh.restart(number)
    mesh.add(13, seeds=(0,), name="node3")
    mesh.run(UNMET_MS // 2)
    assert mesh.member(0, 3) is not None, "it may be on its way"
    assert mesh.run_until(lambda: agreed_on(mesh, "node3") == node_id_of(13), UNMET_MS) is not None


def test_the_successor_remembers_over_a_restart_whom_it_replaced() -> None:
    mesh = mesh_of(4)
    mesh.crash(3)
    mesh.run(60_000)
    mesh.add(13, seeds=(0,), name="node3")
    mesh.run(10_000)
    mesh.crash(13)
    mesh.restart(13)
    assert mesh.run_until(mesh.agreed, 60_000) is not None
    heir = mesh.member(0, 13)
    assert heir is not None
    assert heir.predecessor == node_id_of(3)
    assert mesh.counted("name_succeeded") == 0, "it is no news after the restart"


@pytest.mark.parametrize("heir", [2, 13])
@pytest.mark.parametrize("away_ms", [60_000, QUARTER_MS])
def test_a_member_that_was_only_cut_off_comes_back_without_its_place(
    heir: int, away_ms: int
) -> None:
    mesh = SwimMesh(config=CONFIG)
    for number in (0, 1, 3, 4):
        mesh.add(number, seeds=(0,))
    assert mesh.run_until(mesh.agreed, 60_000) is not None
    mesh.split([0, 1, 4, heir], [3])
    mesh.run(60_000)
    mesh.add(heir, seeds=(0,), name="node3")
    mesh.run(away_ms)
    assert mesh.nodes[0].swim.has_known(node_id_of(3)), "so that it is let in"
    mesh.heal()
    assert mesh.run_until(lambda: agreed_on(mesh, "node3") == node_id_of(heir), 60_000) is not None
    assert mesh.nodes[3].counts["name_lost"] == 1
    mesh.run(QUARTER_MS)
    assert agreed_on(mesh, "node3") == node_id_of(heir)
    assert mesh.nodes[3].counts["name_lost"] == 1
    assert mesh.nodes[heir].swim.namesakes_faced == 1


@pytest.mark.parametrize("seed", range(8))
def test_two_newcomers_of_one_name_agree_on_who_has_the_place(seed: int) -> None:
    mesh = mesh_of(4, seed)
    mesh.crash(3)
    mesh.run(60_000)
    mesh.add(12, seeds=(0,), name="node3")
    mesh.add(13, seeds=(1,), name="node3")
    mesh.run(60_000)
    holder = agreed_on(mesh, "node3")
    assert holder in (node_id_of(12), node_id_of(13))
    loser = 12 if holder == node_id_of(13) else 13
    assert mesh.nodes[loser].counts["name_lost"] == 1


@pytest.mark.parametrize("seed", range(8))
def test_when_the_successor_dies_the_one_that_it_replaced_may_have_the_place_again(
    seed: int,
) -> None:
    mesh = mesh_of(4, seed)
    mesh.split([0, 1, 2, 13], [3])
    mesh.run(60_000)
    mesh.add(13, seeds=(0,), name="node3")
    mesh.run(10_000)
    mesh.heal()
    mesh.run(60_000)
    disk = mesh.crash(13)
    assert mesh.run_until(lambda: agreed_on(mesh, "node3") == node_id_of(3), 60_000) is not None
    mesh.add(13, seeds=(0,), disk=disk, name="node3")
    mesh.run(60_000)
    assert agreed_on(mesh, "node3") in (node_id_of(3), node_id_of(13))


def test_a_claim_to_the_place_of_a_member_of_another_name_counts_for_nothing() -> None:
    mesh = mesh_of(3)
    mesh.crash(2)
    mesh.run(60_000)
    own = rumour_of(9, predecessor=node_id_of(2))
    disk = Disk(members={own.node_id: Rumour(own.node_id, 0, 1, predecessor=node_id_of(2))})
    mesh.add(9, seeds=(0,), disk=disk)
    mesh.run(60_000)
    assert mesh.member(0, 2) is not None
    assert mesh.member(0, 9) is not None


def test_one_that_two_members_claim_to_have_replaced_is_buried_once() -> None:
    mesh = mesh_of(3)
    mesh.crash(2)
    mesh.run(60_000)
    for number in (12, 13):
        own = rumour_of(number, name="node2", predecessor=node_id_of(2))
        mesh.add(number, seeds=(0,), disk=Disk(members={own.node_id: own}), name="node2")
    mesh.run(60_000)
    assert mesh.member(0, 2) is None
    assert agreed_on(mesh, "node2") in (node_id_of(12), node_id_of(13))
