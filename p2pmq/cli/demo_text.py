"""Real text for the demo: a file that is named, this machine's log, or Python's own library."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

LOGS = ("/var/log/dpkg.log", "/var/log/syslog", "/var/log/messages", "/var/log/install.log")


def demo_lines(file: Path | None, count: int) -> tuple[list[bytes], str]:
    """Up to `count` lines, and what they are from.

    Without a file: the first log that has so many lines, else the sources of
    the standard library one after another, which have hundreds of thousands.
    """
    if file is not None:
        return list(islice(_lines_of([file]), count)), str(file)
    for log in map(Path, LOGS):
        try:
            lines = list(islice(_lines_of([log]), count))
        except OSError:
            continue
        if len(lines) == count:
            return lines, str(log)
    library = Path(sysconfig.get_path("stdlib"))
    sources = sorted(library.glob("*.py")) + sorted(library.glob("*/*.py"))
    return list(islice(_lines_of(sources), count)), f"the sources in {library}"


def _lines_of(files: Iterable[Path]) -> Iterator[bytes]:
    for file in files:
        with file.open("rb") as stream:
            for line in stream:
                yield line.rstrip(b"\r\n")
