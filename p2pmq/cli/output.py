"""What a person or a script sees: sentences on stderr, results on stdout, tables, progress.

Results are made for whoever reads them: a table on a terminal, aligned text in
a pipe, JSON lines when asked. stderr is looked up at each use, so that lines
stand above a progress bar, which takes its place while it is shown.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

Row = Mapping[str, Any]

RATE_SECONDS_MIN = 0.1
"""Less than what times are shown in: a rate of it would be a matter of chance."""


def say(text: str) -> None:
    """One line for the person, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def put_json(record: Row) -> None:
    """One JSON line for a script, on stdout."""
    typer.echo(json.dumps(record, ensure_ascii=False))


class PlainHandler(logging.Handler):
    """Log records as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        say(self.format(record))


class JsonHandler(logging.Handler):
    """Log records as JSON lines on stdout."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line: `time` in seconds since 1970, `level`, `text`."""
        put_json(
            {
                "time": round(record.created, 3),
                "level": record.levelname.lower(),
                "text": record.getMessage(),
            }
        )


def set_up_logging(level: int, *, as_json: bool = False, times: bool = False) -> None:
    """Show the library's log from `level` on."""
    handler: logging.Handler = JsonHandler() if as_json else PlainHandler()
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(message)s" if times else "p2pmq: %(message)s")
    )
    logger = logging.getLogger("p2pmq")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


def put_rows(rows: Sequence[Row], columns: Mapping[str, str], *, as_json: bool) -> None:
    """Rows as a table, as aligned text or as JSON lines; `columns` maps keys to headings."""
    if as_json:
        for row in rows:
            put_json(row)
        return
    cells = [[_cell(row[key]) for key in columns] for row in rows]
    numbers = [bool(rows) and all(isinstance(row[key], int) for row in rows) for key in columns]
    if sys.stdout.isatty():
        table = Table(box=None, header_style="bold", pad_edge=False)
        for heading, is_number in zip(columns.values(), numbers, strict=True):
            table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
        for row_cells in cells:
            table.add_row(*row_cells)
        Console().print(table, markup=False, highlight=False)
        return
    for line in aligned([list(columns.values()), *cells], numbers):
        typer.echo(line)


def aligned(lines: Sequence[Sequence[str]], numbers: Sequence[bool]) -> Iterator[str]:
    """Lines of cells as text with columns; `numbers` tells which stand to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for cells in lines:
        padded = [
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(cells, widths, numbers, strict=True)
        ]
        yield "  ".join(padded).rstrip()


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "-" if value in (None, "") else str(value)


class Meter:
    """How far long work has come: a progress bar on a terminal, nothing elsewhere."""

    def __init__(self, progress: Progress | None, task: TaskID | None) -> None:
        self._progress = progress
        self._task = task

    def show(self, done: int) -> None:
        """So much is done now."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done)


@contextmanager
def metered(what: str, total: int | None) -> Iterator[Meter]:
    """A meter for work of `total` messages or bytes (None: nobody knows), on stderr."""
    if not sys.stderr.isatty():
        yield Meter(None, None)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as progress:
        yield Meter(progress, progress.add_task(what, total=total))


def rate(count: int, seconds: float) -> int | None:
    """How many a second, as far as the time tells: to three digits; None where it was too short."""
    if seconds < RATE_SECONDS_MIN:
        return None
    return round(float(f"{count / seconds:.3g}"))


def with_rate(took: str, count: int, seconds: float) -> str:
    """The sentence "`took` in 1.2 s (3,450 messages/s)", without the rate if it cannot be told."""
    speed = rate(count, seconds)
    told = f" ({speed:,} messages/s)" if speed is not None else ""
    return f"{took} in {seconds:.1f} s{told}"
