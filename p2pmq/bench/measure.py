"""The run: starts the processes, takes phase after phase, and ends what it started.

Both systems are measured by the same code, in turn within each repeat, so that
whatever else the machine does meanwhile falls on both.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
from contextlib import AsyncExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from p2pmq._version import __version__
from p2pmq.bench.plan import LATENCY_RATE, BenchmarkError, Mode, Plan, disk_directory
from p2pmq.bench.process import RedisServer, Worker
from p2pmq.bench.report import P2PMQ, REDIS, Report, Run, Series

if TYPE_CHECKING:
    from collections.abc import Callable

REDIS_BATCHES = (100, 256, 512)
"""Pipelines to try; the fastest is measured."""
LATENCY_BATCH = 100
WARM_MESSAGES = 2_000
WARM_LATENCY_MESSAGES = 500
"""The first messages of a latency run, which are not counted."""


class System(Protocol):
    """One of the two that are measured."""

    name: str
    publisher: Worker
    consumer: Worker

    async def name_queue(self, prefix: str) -> str:
        """A name for a queue."""
        ...

    async def server_cpu_s(self) -> float:
        """The CPU time of the process between publisher and consumer."""
        ...

    async def replicas_cpu_s(self) -> float:
        """The CPU time of all processes that keep further copies."""
        ...


class P2pmqSystem:
    """An owner with its replicas, and two leaves."""

    name = P2PMQ

    def __init__(
        self, owner: Worker, replicas: list[Worker], publisher: Worker, consumer: Worker
    ) -> None:
        self.owner = owner
        self.replicas = replicas
        self.publisher = publisher
        self.consumer = consumer

    async def name_queue(self, prefix: str) -> str:
        """A name for a queue that the owner owns, and none of its replicas."""
        found = await self.owner.ask("name_queue", prefix=prefix)
        return str(found["queue"])

    async def server_cpu_s(self) -> float:
        """The owner's CPU time."""
        return await self.owner.cpu_s()

    async def replicas_cpu_s(self) -> float:
        """The replicas' CPU time, in sum."""
        return sum([await replica.cpu_s() for replica in self.replicas])


class RedisSystem:
    """A Redis server and two clients."""

    name = REDIS

    def __init__(self, server: RedisServer, publisher: Worker, consumer: Worker) -> None:
        self.server = server
        self.publisher = publisher
        self.consumer = consumer

    async def name_queue(self, prefix: str) -> str:
        """Any name will do."""
        return prefix

    async def server_cpu_s(self) -> float:
        """The server's CPU time."""
        return await self.server.cpu_s()

    async def replicas_cpu_s(self) -> float:
        """There are none."""
        return 0.0


class Benchmark:
    """One run of a plan. `say` is told what is being done."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self._queues = 0

    async def run(self) -> Report:
        """Measure everything that the plan asks for."""
        report = Report(machine(), replicas=self._plan.replicas, min_copies=self._plan.min_copies)
        parent = disk_directory(self._plan.directory)
        async with AsyncExitStack() as stack:
            directory = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="p2pmq-bench-", dir=parent))
            )
            p2pmq = await self._start_p2pmq(stack, directory)
            await self._warm(p2pmq)
            redis = await self._start_redis(stack, directory, report)
            if redis is not None:
                await self._warm(redis)
            for size in self._plan.sizes:
                await self._measure_size(size, p2pmq, redis, report)
        return report

    # -- processes --

    async def _start_p2pmq(self, stack: AsyncExitStack, directory: Path) -> P2pmqSystem:
        plan = self._plan
        replicas = [f"replica-{number}" for number in range(2, plan.replicas + 1)]
        roles = ["owner", *replicas, "publisher", "consumer"]
        self._say(f"starting {len(roles)} nodes")
        options = {
            "mesh": f"bench-{os.getpid()}",
            "uvloop": plan.uvloop,
            "profile": plan.profile,
            "folder": str(directory),
            "replicas": plan.replicas,
            "min_copies": plan.min_copies,
            "seeds": [],
        }
        workers: list[Worker] = []
        for role in roles:
            workers.append(await self._start(role, options, directory, stack))
            options["seeds"] = [workers[0].hello["address"]]
        for worker in workers:
            await worker.ask("meet", names=roles)
        return P2pmqSystem(workers[0], workers[1:-2], *workers[-2:])

    async def _start_redis(
        self, stack: AsyncExitStack, directory: Path, report: Report
    ) -> RedisSystem | None:
        if not self._plan.redis:
            return None
        program = shutil.which("redis-server")
        if program is None or importlib.util.find_spec("redis") is None:
            what = "redis-server" if program is None else "redis-py (the extra `bench`)"
            report.remarks.append(f"not compared with Redis: {what} is not installed")
            return None
        self._say("starting Redis")
        data = directory / "redis"
        data.mkdir()
        server = await RedisServer.start(program, data)
        stack.push_async_callback(server.stop)
        options: dict[str, object] = {"port": server.port, "profile": self._plan.profile}
        publisher = await self._start("redis-publisher", options, directory, stack)
        consumer = await self._start("redis-consumer", options, directory, stack)
        return RedisSystem(server, publisher, consumer)

    async def _start(
        self, role: str, options: dict[str, object], directory: Path, stack: AsyncExitStack
    ) -> Worker:
        worker = await Worker.start(role, options, directory)
        stack.push_async_callback(worker.stop)
        return worker

    # -- phases --

    async def _warm(self, system: System) -> None:
        """Connections up, code loaded, before anything counts."""
        for mode in (Mode.BATCH, Mode.SINGLE):
            await self._phase(system, mode, 128, WARM_MESSAGES, REDIS_BATCHES[0])

    async def _measure_size(
        self, size: int, p2pmq: P2pmqSystem, redis: RedisSystem | None, report: Report
    ) -> None:
        rates = [mode for mode in self._plan.modes if mode is not Mode.LATENCY]
        # One series of Redis, its fastest way, stands beside both of ours.
        redis_modes = ([Mode.BATCH] if rates else []) if redis is not None else []
        if Mode.LATENCY in self._plan.modes and redis is not None:
            redis_modes.append(Mode.LATENCY)
        ours = [Series(P2PMQ, mode, size) for mode in self._plan.modes]
        theirs = [Series(REDIS, mode, size) for mode in redis_modes]
        report.series += [*ours, *theirs]
        batch = LATENCY_BATCH
        if redis is not None and rates:
            batch = await self._best_redis_batch(redis, size)
            theirs[0].note = f"XADD × {batch}"
        for repeat in range(1, self._plan.repeat + 1):
            for system, all_series in ((p2pmq, ours), (redis, theirs)):
                for series in all_series:
                    assert system is not None
                    self._say(f"{size} bytes, {series.mode}, {system.name}, run {repeat}")
                    count = self._count(series.mode)
                    series.runs.append(await self._phase(system, series.mode, size, count, batch))

    async def _best_redis_batch(self, redis: RedisSystem, size: int) -> int:
        self._say(f"{size} bytes: looking for the pipeline that is best for Redis")
        count = max(1, self._plan.messages // 4)
        rates = {
            batch: (await self._phase(redis, Mode.BATCH, size, count, batch)).messages_per_s
            for batch in REDIS_BATCHES
        }
        return max(rates, key=rates.__getitem__)

    def _count(self, mode: Mode) -> int:
        if mode is Mode.LATENCY:
            return WARM_LATENCY_MESSAGES + max(1, round(self._plan.seconds * LATENCY_RATE))
        return self._plan.messages

    async def _phase(self, system: System, mode: Mode, size: int, count: int, batch: int) -> Run:
        """Publish and consume `count` messages at once, through a queue of their own."""
        self._queues += 1
        skip = WARM_LATENCY_MESSAGES if mode is Mode.LATENCY else 0
        command = {
            "queue": await system.name_queue(f"bench-{self._queues}"),
            "mode": mode,
            "size": size,
            "count": count,
            "batch": batch,
            "skip": skip,
        }
        server_before_s = await system.server_cpu_s()
        replicas_before_s = await system.replicas_cpu_s()
        consumer_before = await system.consumer.ask("consume", **command)
        publisher_before_s = await system.publisher.cpu_s()
        published = await system.publisher.ask("publish", **command)
        consumed = await system.consumer.reply()
        server_s = await system.server_cpu_s() - server_before_s
        replicas_s = await system.replicas_cpu_s() - replicas_before_s
        elapsed_ns = consumed["settled_ns"] - published["started_ns"]
        if elapsed_ns <= 0:
            raise BenchmarkError("the processes do not share a monotonic clock: nothing to compare")
        return Run(
            messages_per_s=count / (elapsed_ns / 1e9),
            publisher_cpu_us=(published["cpu_s"] - publisher_before_s) / count * 1e6,
            server_cpu_us=server_s / count * 1e6,
            consumer_cpu_us=(consumed["cpu_s"] - consumer_before["cpu_s"]) / count * 1e6,
            replicas_cpu_us=replicas_s / count * 1e6,
            duplicates=consumed["duplicates"],
            p50_us=consumed.get("p50_us"),
            p99_us=consumed.get("p99_us"),
            max_us=consumed.get("max_us"),
        )


def machine() -> dict[str, object]:
    """What the figures depend on beside the code."""
    packages = ("pyzmq", "lmdb", "uvloop", "redis", "hiredis")
    return {
        "p2pmq": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "packages": {name: found for name in packages if (found := _version_of(name))},
    }


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
