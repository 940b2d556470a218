"""The commands and their options; what each does stands in the module of its name."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from p2pmq import __version__
from p2pmq.bench.main import bench
from p2pmq.cli.bind import bind_topic, show_bindings
from p2pmq.cli.declare import declare_queue
from p2pmq.cli.demo import Demo
from p2pmq.cli.dlq import list_letters, redrive_letters, show_letters
from p2pmq.cli.look import (
    delete_queue,
    forget_member,
    purge_queue,
    show_peers,
    show_queues,
)
from p2pmq.cli.options import (
    DaemonOptions,
    MeshOptions,
    PostOptions,
    SettingOptions,
    TakeOptions,
    VisitOptions,
    flattened,
)
from p2pmq.cli.places import Mailbox, Queue
from p2pmq.cli.pub import publish_lines
from p2pmq.cli.run import serve
from p2pmq.cli.schedule import app as schedules
from p2pmq.cli.session import run_async
from p2pmq.cli.simulate import simulate
from p2pmq.cli.sub import consume_lines
from p2pmq.core.names import check_queue_name
from p2pmq.errors import QueueNameError, UsageError
from p2pmq.node.arguments import mailbox_key
from p2pmq.node.moments import delay_ms_of
from p2pmq.node.ordering import ordering_key

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


def _node_name(name: str) -> str:
    try:
        mailbox_key(name)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None
    return name


def _ordering_key(key: str | None) -> str | None:
    try:
        ordering_key(key)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None
    return key


def _check_post(body: list[str] | None, post: PostOptions) -> None:
    if body and post.file is not None:
        raise typer.BadParameter("give what is to be published as BODY or by --file, not both")
    if post.confirm == "stored" and post.data_dir is None:
        raise typer.BadParameter(
            "--confirm stored needs --data-dir: a disk to store the lines on until they are sent"
        )
    try:
        delay_ms_of(post.delay, post.moment, time.time())
    except (UsageError, ValueError) as error:
        raise typer.BadParameter(f"--delay/--at: {error}") from None


QueueName = Annotated[str, typer.Argument(callback=_queue_name, show_default=False)]
PatternText = Annotated[str, typer.Argument(metavar="PATTERN", show_default=False)]
NodeName = Annotated[str, typer.Argument(callback=_node_name, show_default=False)]
Bodies = Annotated[list[str] | None, typer.Argument(metavar="[BODY]...", show_default=False)]


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
    post: PostOptions,
    *,
    body: Bodies = None,
    key: Annotated[
        str | None,
        typer.Option(
            callback=_ordering_key,
            help="Ordering key of all of them: they are processed one after another.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish each BODY to QUEUE; without one, each line of stdin or of a file."""
    _check_post(body, post)
    run_async(
        publish_lines(Queue(queue, key), body, mesh, visit, post, as_json=as_json), debug=mesh.debug
    )


@app.command("send")
@flattened
def send(
    node: NodeName,
    mesh: MeshOptions,
    visit: VisitOptions,
    post: PostOptions,
    *,
    body: Bodies = None,
    as_json: AsJson = False,
) -> None:
    """Send each BODY to the node named NODE; without one, each line of stdin or of a file.

    The node may be away: its mail is kept for a week, or for --ttl.
    """
    _check_post(body, post)
    run_async(
        publish_lines(Mailbox(node), body, mesh, visit, post, as_json=as_json), debug=mesh.debug
    )


@app.command("sub")
@flattened
def sub(
    queue: QueueName,
    mesh: MeshOptions,
    visit: VisitOptions,
    take: TakeOptions,
    *,
    as_json: AsJson = False,
) -> None:
    """Write each message of QUEUE as a line, and ack it."""
    run_async(consume_lines(Queue(queue), mesh, visit, take, as_json=as_json), debug=mesh.debug)


@app.command("inbox")
@flattened
def inbox(
    mesh: MeshOptions, visit: VisitOptions, take: TakeOptions, *, as_json: AsJson = False
) -> None:
    """Join as the node --name, write each message that was sent to it as a line, and ack it."""
    if visit.name is None:
        raise typer.BadParameter("inbox needs --name: the name of the node whose mail it reads")
    mailbox = Mailbox(_node_name(visit.name))
    run_async(consume_lines(mailbox, mesh, visit, take, as_json=as_json), debug=mesh.debug)


@app.command("declare")
@flattened
def declare(
    queue: QueueName,
    mesh: MeshOptions,
    visit: VisitOptions,
    settings: SettingOptions,
    *,
    as_json: AsJson = False,
) -> None:
    """Give QUEUE settings of its own, on every node; the latest declaration holds.

    What is left out goes back to its default.
    """
    run_async(
        declare_queue(queue, settings.as_declared(), mesh, visit, as_json=as_json), debug=mesh.debug
    )


@app.command("bind")
@flattened
def bind(pattern: PatternText, queue: QueueName, mesh: MeshOptions, visit: VisitOptions) -> None:
    """Copy events whose topic matches PATTERN into QUEUE, on every node, from now on."""
    run_async(bind_topic(pattern, queue, mesh, visit, bound=True), debug=mesh.debug)


@app.command("unbind")
@flattened
def unbind(pattern: PatternText, queue: QueueName, mesh: MeshOptions, visit: VisitOptions) -> None:
    """Copy events of PATTERN into QUEUE no more; what is in the queue stays."""
    run_async(bind_topic(pattern, queue, mesh, visit, bound=False), debug=mesh.debug)


@app.command("bindings")
@flattened
def bindings(mesh: MeshOptions, visit: VisitOptions, *, as_json: AsJson = False) -> None:
    """List which topics are copied into which queues."""
    run_async(show_bindings(mesh, visit, as_json=as_json), debug=mesh.debug)


app.add_typer(schedules, name="schedule")


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


@app.command("purge")
@flattened
def purge(
    queue: QueueName,
    mesh: MeshOptions,
    visit: VisitOptions,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove every message that waits in QUEUE, for good; what consumers hold stays."""
    if not yes:
        typer.confirm(
            f"Remove every message that waits in {queue}, for good?", abort=True, err=True
        )
    run_async(purge_queue(queue, mesh, visit, as_json=as_json), debug=mesh.debug)


@app.command("delete")
@flattened
def delete(
    queue: QueueName,
    mesh: MeshOptions,
    visit: VisitOptions,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete QUEUE for good: its messages, settings, bindings and schedules."""
    if not yes:
        typer.confirm(
            f"Delete {queue} with all that is in it, on every node, for good?", abort=True, err=True
        )
    run_async(delete_queue(queue, mesh, visit), debug=mesh.debug)


dlq = typer.Typer(no_args_is_help=True, help="Look after dead-letter queues (<queue>.dlq).")
app.add_typer(dlq, name="dlq")


@dlq.command("list")
@flattened
def dlq_list(mesh: MeshOptions, visit: VisitOptions, *, as_json: AsJson = False) -> None:
    """List the dead-letter queues that hold something."""
    run_async(list_letters(mesh, visit, as_json=as_json), debug=mesh.debug)


@dlq.command("show")
@flattened
def dlq_show(
    queue: QueueName,
    mesh: MeshOptions,
    visit: VisitOptions,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Show so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the first dead letters of QUEUE (or QUEUE.dlq), and why they are; they stay there."""
    run_async(show_letters(queue, limit, mesh, visit, as_json=as_json), debug=mesh.debug)


def _rate(text: str) -> float:
    """Messages a second, as "100", "100/s" or "0.5/s"."""
    try:
        rate = float(text.removesuffix("/s"))
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise typer.BadParameter(f"{text!r} is no rate: give messages a second, as 100/s")
    return rate


@dlq.command("redrive")
@flattened
def dlq_redrive(
    queue: QueueName,
    mesh: MeshOptions,
    visit: VisitOptions,
    *,
    rate: Annotated[
        float | None,
        typer.Option(parser=_rate, metavar="N/s", help="At most so many messages a second."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="At most so many in all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give the dead letters of QUEUE (or QUEUE.dlq) back to it, those that are there now.

    A letter is acked when its message is committed. Redrive again after an interrupt or a crash:
    no message comes twice by that.
    """
    run_async(redrive_letters(queue, rate, limit, mesh, visit, as_json=as_json), debug=mesh.debug)


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
