"""The line between a worker of the benchmark and its parent, the worker's end."""

from __future__ import annotations

import json
import resource
import sys
from typing import Any


class Line:
    """Commands come in on standard input, replies go out on standard output, JSON by line."""

    def receive(self) -> dict[str, Any] | None:
        """The next command; None when the parent wants the end, or is gone. Blocks."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def reply(self, **fields: object) -> None:
        """Answer; the CPU time used so far goes with every reply."""
        sys.stdout.write(json.dumps({**fields, "cpu_s": cpu_s()}) + "\n")
        sys.stdout.flush()


def cpu_s() -> float:
    """The CPU time that this process has used, all its threads, in user and kernel mode."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
