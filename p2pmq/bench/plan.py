"""What a run of the benchmark shall do, and where its files go.

Invariant: the directory of the stores is on a disk. A file system in memory
makes fsync free, and every figure with a promise in it worthless.
"""

from __future__ import annotations

import enum
import tempfile
from dataclasses import dataclass
from pathlib import Path

from p2pmq.errors import P2PMQError, UsageError

MOUNTS = Path("/proc/self/mounts")
MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})

SIZES = (1_024, 128)
LATENCY_RATE = 1_000
"""Messages a second at which the latency is taken: steady, and far from saturation."""
PHASE_TIMEOUT_S = 120.0
"""Longer than any phase on a slow machine: what takes longer hangs."""


class BenchmarkError(P2PMQError):
    """The benchmark could not measure: a process ended, hung or lost a message."""


class Mode(enum.StrEnum):
    """How messages are published and consumed."""

    BATCH = "batch"
    """`publish_many`, `consume_batches`."""
    SINGLE = "single"
    """`await publish()` in many tasks, `async for message in consume()`."""
    LATENCY = "latency"
    """As SINGLE, at a steady rate; the time from the publish call to the handler is taken."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of one run of the benchmark. Sizes are in bytes."""

    sizes: tuple[int, ...] = SIZES
    modes: tuple[Mode, ...] = (Mode.BATCH, Mode.SINGLE, Mode.LATENCY)
    messages: int = 200_000
    seconds: float = 5.0
    repeat: int = 3
    replicas: int = 1
    """On how many nodes' disks p2pmq keeps each message. Redis keeps one copy always."""
    redis: bool = True
    uvloop: bool = True
    profile: str | None = None
    directory: str | None = None

    @property
    def min_copies(self) -> int:
        """How many copies are fsynced before the confirm: a majority, as by default."""
        return self.replicas // 2 + 1


def disk_directory(wanted: str | None) -> Path:
    """Where to make the temporary directory: on a disk, or UsageError."""
    candidates = [Path(wanted)] if wanted else [Path(tempfile.gettempdir()), Path("/var/tmp")]  # noqa: S108  mkdtemp makes what is used, below it
    candidates += [] if wanted else [Path.cwd()]
    table = MOUNTS.read_text(encoding="utf-8") if MOUNTS.exists() else ""
    for candidate in candidates:
        if candidate.is_dir() and not is_in_memory(candidate.resolve(), table):
            return candidate
    raise UsageError(
        f"{', '.join(map(str, candidates))}: no directory on a disk, and in memory an fsync costs "
        "nothing; name one on a disk with --dir"
    )


def is_in_memory(path: Path, mounts: str) -> bool:
    """Whether the file system that holds the (absolute) path lives in memory.

    `mounts` is a table as in /proc/self/mounts; where there is none, everything
    counts as a disk.
    """
    found, kind = Path("/"), ""
    for line in mounts.splitlines():
        _, where, file_system, *_ = line.split(" ")
        mounted = Path(where.replace("\\040", " "))
        if path.is_relative_to(mounted) and mounted.is_relative_to(found):
            found, kind = mounted, file_system
    return kind in MEMORY_FILE_SYSTEMS
