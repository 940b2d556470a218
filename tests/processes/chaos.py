"""Random faults on a mesh at work, and what must hold afterwards.

A seed repeats the faults, not the run: processes and disks have their own pace. What a seed finds
is to be hunted in the simulator.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.processes.kit import Mesh

SECONDS = float(os.environ.get("P2PMQ_CHAOS_SECONDS", "6"))
"""How long faults begin."""
SECONDS_MAX = 120 + 2 * SECONDS
"""For the whole of a test, on the slowest machine."""
PREFETCH = 50
PER_S = 40.0
WORK_S = 0.05
BACKLOG = "archive"
"""A queue that nobody consumes before all faults are over: every copy of it is put to the test."""
LASTS_S = (0.0, 0.5, 2.0, 4.0)

Action = Callable[[str], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to whom, when, and for how long."""

    at_s: float
    kind: str
    victim: str
    lasts_s: float


def seed() -> int:
    """The seed that was asked for; in CI always the same one."""
    default = "1" if os.environ.get("CI") else str(secrets.randbelow(10**6))
    return int(os.environ.get("P2PMQ_CHAOS_SEED", default))


def schedule(
    rng: Random, seconds: float, victims: Sequence[str], kinds: Sequence[str], down_max: int
) -> list[Fault]:
    """Faults for so many seconds, at most `down_max` at once."""
    faults: list[Fault] = []
    at_s = 0.5
    while at_s < seconds:
        down = [fault.victim for fault in faults if fault.at_s + fault.lasts_s > at_s]
        if len(down) < down_max:
            victim = rng.choice([name for name in victims if name not in down])
            faults.append(Fault(at_s, rng.choice(kinds), victim, rng.choice(LASTS_S)))
        at_s += rng.uniform(0.3, 1.5)
    return faults


class Chaos:
    """Faults, as they are done to a mesh whose members all publish and consume."""

    def __init__(self, mesh: Mesh, queues: Sequence[str]) -> None:
        self._mesh = mesh
        self._queues = (*queues, BACKLOG)
        self._busy = {name: asyncio.Lock() for name in mesh.services}
        self.kinds: dict[str, tuple[Action, Action]] = {
            "kill": (self._kill, self._restart),
            "pause": (self._pause, self._resume),
        }
        """How each kind begins and ends; more may be added."""

    async def run(self, seconds: float, kinds: Sequence[str], down_max: int) -> None:
        """Set the mesh to work and do it all; one of `kinds` that is named twice comes as often.

        Everybody is up again at the end, and goes on.
        """
        drawn = seed()
        faults = schedule(Random(drawn), seconds, list(self._busy), kinds, down_max)
        head = f"P2PMQ_CHAOS_SEED={drawn} P2PMQ_CHAOS_SECONDS={SECONDS:g}"
        print(head, *faults, sep="\n  ")  # noqa: T201 - shown on failure
        for name in self._busy:
            self._work(name)
        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                tasks.create_task(self._happen(fault))

    async def cut_the_power(self) -> None:
        """All at once are killed, and run again."""
        since = time.monotonic()
        await self._mesh.kill_all()
        await asyncio.gather(*(self._restart(name) for name in self._busy))
        self._mesh.disturb(since)

    async def settle(self) -> None:
        """End it in good order, and check what became of every message."""
        mesh = self._mesh
        for name in self._busy:
            self._consume(name, BACKLOG)
        asking = (service.ask("published", "stop_publishing") for service in mesh.services.values())
        await asyncio.gather(*asking)
        began = time.monotonic()
        books = await mesh.drain(self._queues)
        print(f"{books}; drained in {time.monotonic() - began:.1f} s")  # noqa: T201 - shown on failure
        await mesh.stop_all()
        books = mesh.books
        assert not books.lost
        assert not books.unexpected
        ends = tuple(f"{service.name}-{service.boot}-" for service in mesh.services.values())
        alive = {name for name in books.attempted if name.startswith(ends)}
        assert alive <= books.got.keys(), "of those that were not killed everything came"
        assert not books.unexplained(mesh.disturbed)
        in_hand = len(self._busy) * len(self._queues) * PREFETCH
        assert books.duplicated <= len(mesh.disturbed) * in_hand, "a fault repeats what is in hand"

    async def _happen(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at_s)
        async with self._busy[fault.victim]:  # its last fault may have lasted long
            since = time.monotonic()
            begin, end = self.kinds[fault.kind]
            await begin(fault.victim)
            await asyncio.sleep(fault.lasts_s)
            await end(fault.victim)
            self._mesh.disturb(since)

    def _work(self, name: str) -> None:
        for queue in self._queues:
            if queue != BACKLOG:
                self._consume(name, queue)
        self._mesh[name].tell("publish", queues=self._queues, per_s=PER_S)

    def _consume(self, name: str, queue: str) -> None:
        self._mesh[name].tell("consume", queue=queue, prefetch=PREFETCH, work_s=WORK_S)

    async def _kill(self, name: str) -> None:
        await self._mesh[name].kill()

    async def _restart(self, name: str) -> None:
        await self._mesh.start(name)
        self._work(name)

    async def _pause(self, name: str) -> None:
        self._mesh[name].pause()

    async def _resume(self, name: str) -> None:
        self._mesh[name].resume()
