"""One process of the benchmark: `python -m p2pmq.bench.worker ROLE OPTIONS`.

Its parent writes a command a line to its standard input, JSON with `do` and
arguments, and reads a reply a line from its standard output. It ends when its
parent says so or is gone.

Invariant: standard output carries nothing but replies.
"""

from __future__ import annotations

import contextlib
import cProfile
import json
import os
import resource
import sys
from typing import Any

from p2pmq.bench import nodes, redis_streams


def cpu_s() -> float:
    """The CPU time that this process has used, all its threads, in user and kernel mode."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Control:
    """The worker's end of the line to its parent."""

    def receive(self) -> dict[str, Any] | None:
        """The next command; None at the end. Blocks."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def reply(self, **fields: object) -> None:
        """Answer; the CPU time used so far goes with every reply."""
        sys.stdout.write(json.dumps({**fields, "cpu_s": cpu_s()}) + "\n")
        sys.stdout.flush()


def run(role: str, options: dict[str, Any]) -> None:
    """Play a role until the parent ends it."""
    control = Control()
    if role.startswith("redis-"):
        redis_streams.run(role, options, control)
    else:
        nodes.run(role, options, control)


def main() -> None:
    """The entry point of the process."""
    role, options = sys.argv[1], json.loads(sys.argv[2])
    profile = cProfile.Profile() if options.get("profile") else None
    with contextlib.ExitStack() as stack:
        if profile is not None:
            path = os.path.join(options["profile"], f"{role}.prof")  # noqa: PTH118  a file name
            stack.callback(profile.dump_stats, path)
            stack.enter_context(profile)
        run(role, options)


if __name__ == "__main__":
    main()
