"""A mesh of processes that are killed, paused and run again at random loses nothing.

Five nodes on loopback, their stores on disk; each publishes and consumes. P2PMQ_CHAOS_SECONDS says
how long faults go on, P2PMQ_CHAOS_SEED which faults they are.
"""

from pathlib import Path

import pytest

from tests.processes.chaos import SECONDS, SECONDS_MAX, Chaos
from tests.processes.kit import Mesh, running

NAMES = ("ant", "bee", "cat", "dog", "eel")
QUEUES = ("orders", "mails", "scans", "clicks")
KINDS = ("kill", "kill", "pause")
DOWN_MAX = 2


async def survive(folder: Path, seconds: float, replicas: int) -> None:
    """Faults under way, then a power cut, then the count."""
    async with running(Mesh(folder, NAMES, replicas=replicas)) as mesh:
        chaos = Chaos(mesh, QUEUES)
        await chaos.run(seconds, KINDS, DOWN_MAX)
        await chaos.cut_the_power()
        await chaos.settle()
    assert len(mesh.books.acknowledged) > 10 * seconds, "the mesh worked meanwhile"


@pytest.mark.slow
@pytest.mark.timeout(SECONDS_MAX)
async def test_three_copies_survive_kills_pauses_and_a_power_cut(tmp_path: Path) -> None:
    await survive(tmp_path, SECONDS, replicas=3)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS_MAX)
async def test_single_copies_survive_them_too_once_everybody_is_back(tmp_path: Path) -> None:
    await survive(tmp_path, SECONDS / 3, replicas=1)
