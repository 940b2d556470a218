"""The commands and their options; what each does stands in the module of its name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from p2pmq import __version__
from p2pmq.bench.main import bench
from p2pmq.cli.demo import Demo
from p2pmq.cli.look import forget_member, show_peers, show_queues
from p2pmq.cli.options import DaemonOptions, MeshOptions, VisitOptions, flattened
from p2pmq.cli.pub import publish_lines
from p2pmq.cli.run import serve
from p2pmq.cli.session import run_async
from p2pmq.cli.simulate import simulate
from p2pmq.cli.sub import Ending, consume_lines
from p2pmq.core.names import check_queue_name
from p2pmq.errors import QueueNameError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A durable message queue without a broker.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]


def _queue_name(name: str) -> str:
    try:
        check_queue_name(name)
    except QueueNameError as error:
        raise typer.BadParameter(str(error)) from None
    return name


QueueName = Annotated[str, typer.Argument(callback=_queue_name, show_default=False)]


def _show_version(asked: bool) -> None:  # noqa: FBT001  typer passes an option by position
    if asked:
        typer.echo(f"p2pmq {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Take the options that stand before the command."""


@app.command("run")
@flattened
def run(daemon: DaemonOptions, mesh: MeshOptions, *, as_json: AsJson = False) -> None:
    """Run a node until SIGINT or SIGTERM: a daemon that carries its part of the mesh."""
    run_async(serve(daemon, mesh, as_json=as_json), debug=mesh.debug)


@app.command("pub")
@flattened
def pub(
    queue: QueueName,
    mesh: MeshOptions,
    visit: VisitOptions,
    *,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", exists=True, dir_okay=False, help="Read this, not stdin."),
    ] = None,
    confirm: Annotated[
        Literal["committed", "stored", "none"],
        typer.Option(help="What to wait for of every line; `stored` needs --data-dir."),
    ] = "committed",
    timeout: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="Give up when lines wait for so long to be committed."
        ),
    ] = 3600.0,
    data_dir: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Keep what is not committed yet here, not in memory."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish each line of stdin or of a file to QUEUE."""
    if confirm == "stored" and data_dir is None:
        raise typer.BadParameter(
            "--confirm stored needs --data-dir: a disk to store the lines on until they are sent"
        )
    run_async(
        publish_lines(
            queue,
            mesh,
            visit,
            file=file,
            confirm=confirm,
            timeout_s=timeout,
            data_dir=data_dir,
            as_json=as_json,
        ),
        debug=mesh.debug,
    )


@app.command("sub")
@flattened
def sub(
    queue: QueueName,
    mesh: MeshOptions,
    visit: VisitOptions,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", dir_okay=False, help="Append to this, not to stdout."),
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Stop after so many messages.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on when the queue is empty.")
    ] = False,
    idle: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="SECONDS", help="Stop when nothing came for so long and none is left."
        ),
    ] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Write each message of QUEUE as a line, and ack it."""
    ending = Ending(count=count, idle_s=None if follow else idle)
    run_async(
        consume_lines(queue, mesh, visit, out=out, ending=ending, as_json=as_json),
        debug=mesh.debug,
    )


@app.command("peers")
@flattened
def peers(mesh: MeshOptions, visit: VisitOptions, *, as_json: AsJson = False) -> None:
    """List the members of the mesh."""
    run_async(show_peers(mesh, visit, as_json=as_json), debug=mesh.debug)


@app.command("queues")
@flattened
def queues(mesh: MeshOptions, visit: VisitOptions, *, as_json: AsJson = False) -> None:
    """List the queues of living owners, with how much they hold."""
    run_async(show_queues(mesh, visit, as_json=as_json), debug=mesh.debug)


@app.command("forget")
@flattened
def forget(
    member: Annotated[str, typer.Argument(metavar="NAME")], mesh: MeshOptions, visit: VisitOptions
) -> None:
    """Take a dead member off the roster for good: its queues get new owners, what it held is lost.

    A member that only sleeps or is cut off comes back by itself: forget none of those.
    """
    run_async(forget_member(member, mesh, visit), debug=mesh.debug)


@app.command("demo")
def demo(
    *,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", exists=True, dir_okay=False, help="A text file to publish."),
    ] = None,
    messages: Annotated[
        int, typer.Option("--messages", "-n", min=10, help="How many lines of it.")
    ] = 20_000,
    no_mdns: Annotated[
        bool, typer.Option("--no-mdns", help="Let the services find each other by seeds.")
    ] = False,
    as_json: AsJson = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the services' logs.")] = False,
) -> None:
    """Run three services on this machine, kill one with -9 under way, and count what is lost."""
    story = Demo(file, messages, mdns=not no_mdns, as_json=as_json, debug=debug)
    run_async(story.play(), debug=debug)


app.command("bench")(bench)


app.command("simulate")(simulate)
