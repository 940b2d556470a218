"""A mesh of processes that are killed, paused and run again at random loses nothing.

Five nodes on loopback, their stores on disk; each publishes and consumes. P2PMQ_CHAOS_SECONDS says
how long faults go on, P2PMQ_CHAOS_SEED which faults they are: real processes do not repeat
themselves to the letter, but the faults do. What a seed finds is to be hunted in the simulator.
"""

import asyncio
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from tests.processes.kit import Mesh, running

SECONDS = float(os.environ.get("P2PMQ_CHAOS_SECONDS", "10"))
NAMES = ("ant", "bee", "cat", "dog", "eel")
QUEUES = ("orders", "mails", "scans", "clicks")
PREFETCH = 50
PER_S = 40.0
WORK_S = 0.05
DOWN_MAX = 2


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to whom, when, and for how long."""

    at_s: float
    kind: str
    victim: str
    lasts_s: float


def schedule(seed: int, seconds: float) -> list[Fault]:
    """Faults for so many seconds, at most DOWN_MAX at once."""
    rng = Random(seed)
    faults: list[Fault] = []
    at_s = 0.5
    while at_s < seconds:
        down = [fault.victim for fault in faults if fault.at_s + fault.lasts_s > at_s]
        if len(down) < DOWN_MAX:
            victim = rng.choice([name for name in NAMES if name not in down])
            kind = rng.choice(("kill", "kill", "pause"))
            faults.append(Fault(at_s, kind, victim, rng.choice((0.0, 0.5, 2.0, 4.0))))
        at_s += rng.uniform(0.3, 1.5)
    return faults


class Chaos:
    """The faults, as they are done to a mesh."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._busy = {name: asyncio.Lock() for name in NAMES}
        self._stopping = False

    def work(self, name: str) -> None:
        """Have a node publish and consume."""
        service = self._mesh[name]
        for queue in QUEUES:
            service.tell("consume", queue=queue, prefetch=PREFETCH, work_s=WORK_S)
        service.tell("publish", queues=QUEUES, per_s=PER_S)

    async def run(self, faults: list[Fault]) -> None:
        """Do it all; every node is up at the end."""
        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                tasks.create_task(self._happen(fault))

    async def _happen(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at_s)
        async with self._busy[fault.victim]:  # its last start may have taken long
            since = time.monotonic()
            service = self._mesh[fault.victim]
            if fault.kind == "pause":
                service.pause()
                await asyncio.sleep(fault.lasts_s)
                service.resume()
            else:
                await service.kill()
                await asyncio.sleep(fault.lasts_s)
                await self._mesh.start(fault.victim)
                self.work(fault.victim)
            self._mesh.disturb(since)

    async def cut_the_power(self) -> None:
        """All at once are killed, and run again."""
        since = time.monotonic()
        await self._mesh.kill_all()
        await asyncio.gather(*(self._mesh.start(name) for name in NAMES))
        for name in NAMES:
            self.work(name)
        self._mesh.disturb(since)


async def chaos(folder: Path, seconds: float, replicas: int) -> None:
    """Faults under way, then Jepsen's total-queue check."""
    default = "1" if os.environ.get("CI") else str(secrets.randbelow(10**6))
    seed = int(os.environ.get("P2PMQ_CHAOS_SEED", default))
    faults = schedule(seed, seconds)
    print(f"P2PMQ_CHAOS_SEED={seed} P2PMQ_CHAOS_SECONDS={seconds:g}", *faults, sep="\n  ")  # noqa: T201  shown on failure
    async with running(Mesh(folder, NAMES, replicas=replicas)) as mesh:
        happening = Chaos(mesh)
        for name in NAMES:
            happening.work(name)
        await happening.run(faults)
        await happening.cut_the_power()
        asking = (service.ask("published", "stop_publishing") for service in mesh.services.values())
        await asyncio.gather(*asking)
        began = time.monotonic()
        books = await mesh.drain(QUEUES)
        print(f"{books}; drained in {time.monotonic() - began:.1f} s")  # noqa: T201  as above
        await mesh.stop_all()
        books = mesh.books
    assert not books.lost
    assert not books.unexpected
    assert not books.unexplained(mesh.disturbed)
    in_hand = len(NAMES) * len(QUEUES) * PREFETCH
    assert books.duplicated <= len(mesh.disturbed) * in_hand, "a fault repeats what is in hand"
    assert len(books.acknowledged) > 10 * seconds, "the mesh worked meanwhile"


@pytest.mark.slow
@pytest.mark.timeout(120 + 2 * SECONDS)
async def test_three_copies_survive_kills_pauses_and_a_power_cut(tmp_path: Path) -> None:
    await chaos(tmp_path, SECONDS, replicas=3)


@pytest.mark.slow
@pytest.mark.timeout(120 + SECONDS)
async def test_single_copies_survive_them_too_once_everybody_is_back(tmp_path: Path) -> None:
    await chaos(tmp_path, SECONDS / 3, replicas=1)
