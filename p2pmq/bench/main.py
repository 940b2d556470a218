"""The command `p2pmq bench`: its options, and where its report goes."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from p2pmq.bench.bodies import SIZE_MIN
from p2pmq.bench.measure import Benchmark
from p2pmq.bench.plan import SIZES, Mode, Plan
from p2pmq.errors import P2PMQError

REPLICAS_MAX = 7
"""More nodes on one machine would measure its scheduler."""

app = typer.Typer(add_completion=False)


@app.command()
def bench(
    *,
    size: Annotated[
        list[int] | None,
        typer.Option(min=SIZE_MIN, help="Bytes in a body; may be repeated. [1024, 128]"),
    ] = None,
    mode: Annotated[
        list[Mode] | None, typer.Option(help="What to measure; may be repeated. [all]")
    ] = None,
    messages: Annotated[int, typer.Option(min=1, help="Messages of a throughput run.")] = 200_000,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of a latency run.")] = 5.0,
    repeat: Annotated[int, typer.Option(min=1, help="Runs of each kind.")] = 3,
    replicas: Annotated[
        int, typer.Option(min=1, max=REPLICAS_MAX, help="Copies; a majority is fsynced first.")
    ] = 1,
    redis: Annotated[bool, typer.Option(help="Measure Redis Streams beside.")] = True,
    uvloop: Annotated[bool, typer.Option(help="Run the nodes on uvloop if it is there.")] = True,
    profile: Annotated[
        Path | None, typer.Option(help="Write a cProfile of each process here (slows it down).")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where to put temporary data: on a disk.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON, with every run.")] = False,
) -> None:
    """Measure this machine: throughput and latency over loopback, every message fsynced."""
    if profile is not None:
        profile.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        sizes=tuple(size) if size else SIZES,
        modes=tuple(mode) if mode else tuple(Mode),
        messages=messages,
        seconds=seconds,
        repeat=repeat,
        replicas=replicas,
        redis=redis,
        uvloop=uvloop,
        profile=str(profile.resolve()) if profile is not None else None,
        directory=str(directory) if directory is not None else None,
    )
    status = Console(stderr=True)
    console = Console()
    try:
        with status.status("starting") as spinner:
            report = asyncio.run(Benchmark(plan, spinner.update).run())
    except P2PMQError as error:
        status.print(f"[red]error:[/red] {error}", highlight=False)
        raise typer.Exit(1) from None
    if as_json:
        sys.stdout.write(json.dumps(report.as_json(), indent=2) + "\n")
        return
    for table in report.tables():
        console.print(table)
    for remark in report.remarks:
        console.print(remark)
