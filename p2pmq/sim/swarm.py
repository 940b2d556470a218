"""The swarm: many seeds, each a random scenario, on all cores or on a cluster.

A seed's result is small and plain, so that it travels: what failed, and the
trace hash. The scenario is drawn again wherever it is needed. Processes are
started afresh (`spawn`), for a simulation takes its process for its own.

Invariant: a seed gives the same result on every engine.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from p2pmq.errors import P2PMQError
from p2pmq.sim.draw import drawn_scenario
from p2pmq.sim.outcome import Outcome
from p2pmq.sim.runner import Label, play
from p2pmq.sim.scenario import Scenario
from p2pmq.sim.scenario_file import dumped, parsed
from p2pmq.sim.shrink import shrunk

CHUNK = 4
"""Seeds in one piece of work: small enough for an even end, large enough to hide the trip."""
AHEAD = 3
"""Pieces of work that wait for each worker."""
CONNECT_S = 10.0
"""How long to wait for a scheduler."""
ERROR = "ended_well"
"""The check that a run which ended in an error has failed."""
_ONE_AT_A_TIME = threading.Lock()


class SchedulerError(P2PMQError):
    """The cluster's scheduler cannot be used."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A check that a run has failed, and how."""

    check: str
    violations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SeedResult:
    """What became of a seed."""

    seed: int
    trace_hash: str
    events: int
    virtual_s: float
    wall_s: float
    failures: tuple[Failure, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failures


def run_seed(seed: int) -> SeedResult:
    """Play the random scenario of a seed."""
    return _result(_played(drawn_scenario(seed), seed))


def run_seeds(seeds: Sequence[int]) -> list[SeedResult]:
    """Play several; it is what workers are given."""
    return [run_seed(seed) for seed in seeds]


def _played(scenario: Scenario, seed: int) -> Outcome:
    # A process runs one simulation at a time, and a worker of a cluster may have many threads.
    with _ONE_AT_A_TIME, _without_logs():
        outcome = play(scenario, seed, Label(f"seed {seed}"), observes=False)
        # The next run freezes what is there, and the garbage of this one would stay for ever.
        gc.collect()
        return outcome


@contextmanager
def _without_logs() -> Iterator[None]:
    """Nodes say what is broken; here all of it is broken on purpose."""
    logger = logging.getLogger("p2pmq")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _result(outcome: Outcome) -> SeedResult:
    failures = [Failure(v.name, v.violations) for v in outcome.verdicts if not v.ok]
    if outcome.error:
        failures.insert(0, Failure(ERROR, (outcome.error,)))
    return SeedResult(
        outcome.seed,
        outcome.trace_hash,
        outcome.events,
        outcome.virtual_s,
        outcome.wall_s,
        tuple(failures),
    )


# --------------------------------------------------------------------------------------- shrinking


def shrink_seed(seed: int, check: str, runs_max: int) -> str:
    """The scenario of a failing seed, as small as can be, as a file."""

    def fails(scenario: Scenario) -> bool:
        # Through a file and back, for it is the file that must fail.
        played = _result(_played(parsed(dumped(scenario)), seed))
        return any(failure.check == check for failure in played.failures)

    small = shrunk(drawn_scenario(seed), fails, runs_max)
    failed = next(f for f in _result(_played(small, seed)).failures if f.check == check)
    told = "\n".join(failed.violations[:3])
    return dumped(small, f"Seed {seed} fails {check}:\n{told}")


# ----------------------------------------------------------------------------------------- engines


def jobs_here() -> int:
    """How many processes this machine runs at once."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def local_engine(jobs: int) -> Iterator[Executor]:
    """Processes on this machine. They leave Ctrl-C to their parent."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_leave_interrupts_alone)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _leave_interrupts_alone() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def dask_engine(scheduler: str) -> Iterator[Executor]:
    """The workers of a Dask scheduler, by its address (`tcp://host:port`).

    They need p2pmq of the same version. Raises SchedulerError.
    """
    try:
        from distributed import Client  # noqa: PLC0415  an extra, which may be missing
    except ModuleNotFoundError as error:
        raise SchedulerError(
            f"a scheduler needs {error.name}, which is not installed: "
            'pip install "p2pmq[dask]", here and where the workers run'
        ) from error
    try:
        client: Any = Client(scheduler, timeout=CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]  # distributed types little
    except (OSError, TimeoutError, ValueError) as error:
        raise SchedulerError(
            f"no Dask scheduler answers at {scheduler}: {error}; start one with `dask scheduler`, "
            "and workers with `dask worker`"
        ) from error
    with client, client.get_executor(pure=False) as executor:
        yield executor


def results(engine: Executor, seeds: Sequence[int], workers: int) -> Iterator[SeedResult]:
    """Play every seed, and give the results as they come, in any order.

    Work is handed out a little ahead, so that an end (of the iteration, or by Ctrl-C) comes soon.
    """
    left = _chunks(seeds)
    open_work: set[Future[list[SeedResult]]] = set()
    try:
        while True:
            for chunk in islice(left, workers * AHEAD - len(open_work)):
                open_work.add(engine.submit(run_seeds, chunk))
            if not open_work:
                return
            done, open_work = wait(open_work, return_when=FIRST_COMPLETED)
            for future in done:
                yield from future.result()
    finally:
        for future in open_work:
            future.cancel()


def _chunks(seeds: Sequence[int]) -> Iterator[Sequence[int]]:
    return (seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK))
