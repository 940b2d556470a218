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

EVERYTHING = Plan(seconds=20)
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
