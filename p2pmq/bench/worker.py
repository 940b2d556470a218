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
import sys
from pathlib import Path
from typing import Any

from p2pmq.bench.line import Line


def run(role: str, options: dict[str, Any], line: Line) -> None:
    """Play a role until the parent ends it. Only its own side is loaded."""
    if role.startswith("redis-"):
        from p2pmq.bench import redis_streams  # noqa: PLC0415  as said

        redis_streams.run(role, options, line)
    else:
        from p2pmq.bench import nodes  # noqa: PLC0415  as said

        nodes.run(role, options, line)


def main() -> None:
    """The entry point of the process."""
    role, options = sys.argv[1], json.loads(sys.argv[2])
    with contextlib.ExitStack() as stack:
        if options.get("profile"):
            profile = cProfile.Profile()
            stack.callback(profile.dump_stats, Path(options["profile"]) / f"{role}.prof")
            stack.enter_context(profile)
        run(role, options, Line())


if __name__ == "__main__":
    main()
