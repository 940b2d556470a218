"""`p2pmq simulate`: scenarios from files, and the swarm; told as a story, or as JSON lines.

The exit code is 1 if a check or an expectation has failed, 2 for a file that
cannot be played, and 130 after Ctrl-C; whatever was finished by then is told.
"""

from __future__ import annotations

import logging
import shlex
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2pmq.cli.options import flattened
from p2pmq.cli.output import metered, put_json, put_rows, say
from p2pmq.cli.session import EXIT_INTERRUPTED
from p2pmq.errors import P2PMQError
from p2pmq.sim.report import write_report
from p2pmq.sim.runner import Label, play
from p2pmq.sim.scenario_file import ScenarioError, loaded
from p2pmq.sim.swarm import (
    SeedResult,
    dask_engine,
    jobs_here,
    local_engine,
    results,
    shrink_seed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor
    from contextlib import AbstractContextManager

    from p2pmq.sim.outcome import Outcome
    from p2pmq.sim.scenario import Scenario

EXIT_FAILED = 1
EXIT_USAGE = 2
BANDS_SHOWN = 20
VIOLATION_LENGTH = 300
SHRINK_RUNS = 300
"""How often a failing scenario is played to make it smaller; some minutes at most."""
SHRUNK_MAX = 5
"""So many different failures are made smaller."""

SCENARIOS = "Scenarios"
SWARM = "Swarm"
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]


@dataclass(frozen=True, slots=True)
class ScenarioOptions:
    """How scenario files are played."""

    changes: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a value of the scenario: --set nodes.count=20, --set duration=1m.",
            rich_help_panel=SCENARIOS,
        ),
    ] = field(default_factory=list)
    report: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write an HTML page.", rich_help_panel=SCENARIOS),
    ] = None
    trace: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Write a line for each packet, sync and fault.",
            rich_help_panel=SCENARIOS,
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class SwarmOptions:
    """How random scenarios are played."""

    swarm: Annotated[
        bool,
        typer.Option(
            "--swarm", help="Draw a random scenario from each seed.", rich_help_panel=SWARM
        ),
    ] = False
    first_seed: Annotated[
        int, typer.Option(min=0, help="The first seed of the swarm.", rich_help_panel=SWARM)
    ] = 0
    jobs: Annotated[
        str,
        typer.Option(help="Processes at a time; auto: one a core.", rich_help_panel=SWARM),
    ] = "auto"
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="tcp://HOST:PORT",
            help="Use the workers of a Dask scheduler.",
            rich_help_panel=SWARM,
        ),
    ] = None
    found: Annotated[
        Path,
        typer.Option(
            file_okay=False,
            help="Where to write the scenarios of failing seeds.",
            rich_help_panel=SWARM,
        ),
    ] = Path()


@flattened
def simulate(
    options: ScenarioOptions,
    swarm: SwarmOptions,
    *,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE...", exists=True, dir_okay=False)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="The seed; without it, the one that the scenario names."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, one after the other.")] = 1,
    as_json: AsJson = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the nodes' logs.")] = False,
) -> None:
    """Play scenarios on simulated nodes, networks and disks, and check what they promise."""
    logging.getLogger("p2pmq").setLevel(logging.DEBUG if debug else logging.CRITICAL)
    if swarm.swarm == bool(files):
        raise typer.BadParameter("give scenario files, or --swarm")
    try:
        if files:
            code = _play_files(files, seed, seeds, options, as_json=as_json)
        else:
            code = _run_swarm(swarm, seeds, as_json=as_json)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except ScenarioError as error:
        say(f"p2pmq: {error}")
        code = EXIT_USAGE
    except (P2PMQError, OSError) as error:
        if debug:
            raise
        say(f"p2pmq: {error}")
        code = EXIT_FAILED
    raise typer.Exit(code)


# --------------------------------------------------------------------------------- scenario files


def _play_files(
    files: Sequence[Path], seed: int | None, seeds: int, options: ScenarioOptions, *, as_json: bool
) -> int:
    if (options.report or options.trace) and len(files) * seeds > 1:
        raise typer.BadParameter("--report and --trace tell of one run: give one file")
    code = 0
    for file in files:
        for scenario, number, label in _runs(file, seed, seeds, tuple(options.changes)):
            code |= _play_one(scenario, number, label, options, as_json=as_json)
    return code


def _runs(
    file: Path, seed: int | None, seeds: int, changes: tuple[str, ...]
) -> Iterator[tuple[Scenario, int, Label]]:
    scenario = loaded(file, changes)
    first = scenario.seed if seed is None else seed
    for number in range(first, first + seeds):
        words = ["p2pmq", "simulate", str(file), "--seed", str(number)]
        for change in changes:
            words += ["--set", change]
        yield scenario, number, Label(file.stem, shlex.join(words))


def _play_one(
    scenario: Scenario,
    seed: int,
    label: Label,
    options: ScenarioOptions,
    *,
    as_json: bool,
) -> int:
    trace, report = options.trace, options.report
    lines: list[str] | None = [] if trace is not None else None
    outcome = play(scenario, seed, label, keep=lines)
    if as_json:
        put_json(outcome.as_json())
    else:
        _tell(scenario.about, outcome)
    if trace is not None and lines is not None:
        trace.write_text("".join(lines), encoding="utf-8")
    if report is not None:
        write_report(outcome, report)
    return 0 if outcome.ok else EXIT_FAILED


def _tell(about: str, outcome: Outcome) -> None:
    """The story of a run, its verdicts, and how to have it again."""
    typer.echo(f"{outcome.scenario}: {about}" if about else outcome.scenario)
    for band in outcome.bands[:BANDS_SHOWN]:
        lasted = f" for {band.to_s - band.from_s:.1f} s" if band.to_s > band.from_s else ""
        typer.echo(f"  {band.from_s:9.1f} s  {band.text}{lasted}")
    if len(outcome.bands) > BANDS_SHOWN:
        typer.echo(f"             and {len(outcome.bands) - BANDS_SHOWN} faults more")
    counted = ", ".join(f"{count:,} {name}" for name, count in asdict(outcome.totals).items())
    typer.echo(f"  {counted}\n")
    rows = [
        {
            "name": verdict.name,
            "ok": "held" if verdict.ok else "BROKEN",
            "what": "; ".join(verdict.violations)[:VIOLATION_LENGTH],
        }
        for verdict in outcome.verdicts
    ]
    put_rows(rows, {"name": "check", "ok": "verdict", "what": "what happened"}, as_json=False)
    if outcome.error:
        typer.echo(f"\nit ended in an error: {outcome.error}")
    held = "ok" if outcome.ok else "FAILED"
    typer.echo(
        f"\n{held} with seed {outcome.seed}: {outcome.virtual_s:,.1f} s of virtual time in "
        f"{outcome.wall_s:.1f} s, trace {outcome.trace_hash}\nreplay it with: {outcome.replay}\n"
    )


# ------------------------------------------------------------------------------------------ swarm


def _engine(jobs: str, scheduler: str | None) -> tuple[AbstractContextManager[Executor], int]:
    """Who plays the seeds, and how many at a time."""
    if jobs != "auto" and (not jobs.isdecimal() or int(jobs) < 1):
        raise typer.BadParameter(f"--jobs {jobs}: write a number from 1 on, or auto")
    count = jobs_here() if jobs == "auto" else int(jobs)
    if scheduler is None:
        return local_engine(count), count
    return dask_engine(scheduler), count if jobs != "auto" else 16 * count


def _run_swarm(swarm: SwarmOptions, count: int, *, as_json: bool) -> int:
    seeds = range(swarm.first_seed, swarm.first_seed + count)
    engine, workers = _engine(swarm.jobs, swarm.scheduler)
    done: list[SeedResult] = []
    with engine as executor:
        interrupted = True
        with suppress(KeyboardInterrupt), metered("seeds", len(seeds)) as meter:
            for result in results(executor, seeds, workers):
                done.append(result)
                meter.show(len(done))
                if not result.ok:
                    _tell_failure(result, as_json=as_json)
            interrupted = False
        if interrupted:
            say(f"stopped after {len(done)} of {len(seeds)} seeds")
        bad = sorted((result for result in done if not result.ok), key=lambda r: r.seed)
        if bad and not interrupted:
            _shrink(executor, bad, swarm.found, as_json=as_json)
    _sum_up(done, bad, as_json=as_json)
    return EXIT_INTERRUPTED if interrupted else EXIT_FAILED if bad else 0


def _tell_failure(result: SeedResult, *, as_json: bool) -> None:
    if as_json:
        put_json({"kind": "failure", **asdict(result)})
        return
    for failure in result.failures:
        text = "; ".join(failure.violations)[:VIOLATION_LENGTH]
        typer.echo(f"seed {result.seed} fails {failure.check}: {text}")


def _shrink(executor: Executor, bad: Sequence[SeedResult], found: Path, *, as_json: bool) -> None:
    """Make one failure of each check smaller, all at once, and write them down."""
    first_of: dict[str, SeedResult] = {}
    for result in bad:
        first_of.setdefault(result.failures[0].check, result)
    chosen = list(first_of.items())[:SHRUNK_MAX]
    say(f"making {len(chosen)} of the failing scenarios smaller ...")
    work = [
        (check, result.seed, executor.submit(shrink_seed, result.seed, check, SHRINK_RUNS))
        for check, result in chosen
    ]
    found.mkdir(parents=True, exist_ok=True)
    for check, seed, future in work:
        text = future.result()
        file = found / f"seed-{seed}.toml"
        file.write_text(text, encoding="utf-8")
        replay = shlex.join(["p2pmq", "simulate", str(file), "--seed", str(seed)])
        if as_json:
            put_json({"kind": "shrunk", "seed": seed, "check": check, "replay": replay})
        else:
            typer.echo(f"\n{text}\nreplay it with: {replay}\n")


def _sum_up(done: Sequence[SeedResult], bad: Sequence[SeedResult], *, as_json: bool) -> None:
    virtual_s = sum(result.virtual_s for result in done)
    if as_json:
        put_json({"kind": "sum", "seeds": len(done), "failed": len(bad), "virtual_s": virtual_s})
        return
    listed = f": {', '.join(str(result.seed) for result in bad)}" if bad else ""
    typer.echo(
        f"{len(done):,} seeds, {virtual_s / 3600:,.1f} hours of virtual time; "
        f"{len(bad)} failed{listed}"
    )
