"""Random stories keep every promise; `p2pmq.sim.story` tells them.

The seeds are fixed, so that a failure is one of the change that caused it; more of them:

    pytest tests/sim/test_story.py --p2pmq-seeds 500
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from p2pmq.sim import mesh as sim
from p2pmq.sim.mesh import Mesh
from p2pmq.sim.story import Plan, random_story
from p2pmq.sim.views import is_home

EVERYTHING = Plan(seconds=20)
LONG_AWAY = Plan(
    nodes_min=4,
    seconds=60,
    replicas=(3,),
    replace_after_ms=(5_000,),
    calm_s=(0.5, 15.0),
    mended=0.25,
    faults=(
        "crash", "crash", "power", "pause", "isolate", "partition", "partition", "one_way", "flap",
        "loss", "duplicate", "reorder", "corrupt", "full_disk", "slow_disk", "clock", "heal",
    ),
)  # fmt: skip
"""Homes are away for longer than their copies are left alone: stand-ins come and go."""
DECLARING = Plan(seconds=20, declared_every_s=4.0)
"""Queues get more and fewer copies while everything fails."""
WIPED = Plan(
    seconds=90,
    replicas=(3, 3, 2),
    consuming=0.5,
    faults=(
        *("wipe",) * 5, "crash", "power", "restart", "pause", "partition", "isolate", "flap",
        "loss", "duplicate", "reorder", "slow_disk", "heal", "heal", "heal",
    ),
)  # fmt: skip
"""Disks are lost, each when the one before is filled again."""
GIVING_BACK = Plan(seconds=15, given_back=0.3)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@sim.seeds(64)
async def test_nothing_is_lost_whatever_fails(mesh: Mesh) -> None:
    await random_story(mesh, EVERYTHING)
    assert mesh.summary().attempted > 0


@sim.seeds(12, first=1_000)
async def test_nothing_is_lost_by_consumers_that_give_much_back(mesh: Mesh) -> None:
    await random_story(mesh, GIVING_BACK)
    assert mesh.summary().attempted > 0


@sim.seeds(24, first=3_000)
async def test_nothing_is_lost_while_queues_are_declared_with_other_copies(mesh: Mesh) -> None:
    await random_story(mesh, DECLARING)
    assert mesh.summary().attempted > 0
    known = {str(node.settings_of(f"q{number}")) for node in mesh.nodes for number in range(3)}
    assert len(known) == DECLARING.queues, "every node knows the same"


@sim.seeds(24, first=2_000)
async def test_nothing_is_lost_while_stand_ins_come_and_go_and_nothing_stays_with_them(
    mesh: Mesh,
) -> None:
    await random_story(mesh, LONG_AWAY)
    await mesh.run_for(minutes=3)
    for name in mesh.names:
        machine = mesh.host(name).machine
        assert machine is not None
        stray = [
            key
            for key, partition in machine.owner.partitions.items()
            if partition.seen and not is_home(machine, key)
        ]
        assert not stray, name
        assert machine.stand_ins.next_deadline() is None, "it costs nothing when all are there"


@sim.seeds(24, first=3_000)
async def test_nothing_is_lost_while_disks_are_wiped_one_at_a_time_and_all_fill_up_again(
    mesh: Mesh,
) -> None:
    await random_story(mesh, WIPED)
    await mesh.run_for(minutes=1)
    for name in mesh.names:
        assert not mesh.host(name).disk.contents.refilling, name
