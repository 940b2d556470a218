"""Random stories keep every promise; `p2pmq.sim.story` tells them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from p2pmq.sim import mesh as sim
from p2pmq.sim.mesh import Mesh
from p2pmq.sim.story import Plan, random_story

PROCESSES_AND_DELAYS = Plan(
    faults=(
        "crash", "power", "restart", "duplicate", "reorder", "latency", "slow_disk", "clock", "heal"
    ),
    seconds=20,
)  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@sim.seeds(12)
async def test_nothing_is_lost_while_processes_die_and_packets_are_late(mesh: Mesh) -> None:
    await random_story(mesh, PROCESSES_AND_DELAYS)
    assert mesh.summary().attempted > 0
