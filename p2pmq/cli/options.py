"""Options that several commands share, as dataclasses that a command takes whole.

typer reads the options of a command from its signature. `flattened` puts the
fields of such dataclasses into it, and hands the command the dataclasses.

What says who a node is (`P2PMQ_NAME`, `P2PMQ_LISTEN`, `P2PMQ_DATA_DIR`) holds
for `run` alone: `pub` and its like are nodes beside it, often in its very
environment, and must not take its name, its port or its directory.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from p2pmq.core.packets.publishing import PRIORITY_MAX
from p2pmq.core.packets.registering import PARTITIONS_MAX
from p2pmq.node.settings import DELIVERIES_MAX, REPLICAS_MAX, Settings

MESH_PANEL = "Which mesh"
NODE_PANEL = "This node"


@dataclass(frozen=True, slots=True)
class MeshOptions:
    """Which mesh, and how it is found."""

    mesh: Annotated[
        str,
        typer.Option(envvar="P2PMQ_MESH", help="Name of the mesh.", rich_help_panel=MESH_PANEL),
    ] = "default"
    seed: Annotated[
        list[str],
        typer.Option(
            envvar="P2PMQ_SEEDS",
            metavar="HOST:PORT",
            help="Address of a node to meet; may be given several times.",
            rich_help_panel=MESH_PANEL,
        ),
    ] = field(default_factory=list)
    no_mdns: Annotated[
        bool,
        typer.Option(
            "--no-mdns",
            envvar="P2PMQ_NO_MDNS",
            help="Do not look for nodes by multicast DNS.",
            rich_help_panel=MESH_PANEL,
        ),
    ] = False
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            envvar="P2PMQ_INSECURE",
            help="Go off the loopback interface without mesh credentials.",
            rich_help_panel=MESH_PANEL,
        ),
    ] = False
    debug: Annotated[bool, typer.Option("--debug", help="Log everything, and show tracebacks.")] = (
        False
    )

    @property
    def seeds(self) -> tuple[str, ...]:
        """The seeds one by one: a variable may part them by commas as well as by blanks."""
        return tuple(" ".join(self.seed).replace(",", " ").split())


@dataclass(frozen=True, slots=True)
class VisitOptions:
    """The node that a command runs for its own time: a leaf, which never owns a queue."""

    name: Annotated[
        str | None,
        typer.Option(
            help="Name of this node in the mesh; by default a random one.",
            rich_help_panel=NODE_PANEL,
        ),
    ] = None
    listen: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Address to listen on.", rich_help_panel=NODE_PANEL),
    ] = "127.0.0.1:0"
    zone: Annotated[
        str,
        typer.Option(
            envvar="P2PMQ_ZONE",
            help="What fails together with this node: a rack, a site.",
            rich_help_panel=NODE_PANEL,
        ),
    ] = ""
    wait: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="How long to look for a full node of the mesh.",
            rich_help_panel=MESH_PANEL,
        ),
    ] = 5.0


@dataclass(frozen=True, slots=True)
class PostOptions:
    """What is published, and on which terms: options of `pub` and `send`."""

    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", exists=True, dir_okay=False, help="Read this, not stdin."),
    ] = None
    confirm: Annotated[
        Literal["committed", "stored", "none"],
        typer.Option(help="What to wait for of every line; `stored` needs --data-dir."),
    ] = "committed"
    timeout: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="Give up when lines wait for so long to be committed."
        ),
    ] = 3600.0
    ttl: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="SECONDS",
            help="Drop what nobody has acked after so long; `inf`: never.",
        ),
    ] = None
    priority: Annotated[
        int,
        typer.Option(min=0, max=PRIORITY_MAX, help="The higher, the sooner it is delivered."),
    ] = 0
    delay: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="SECONDS", help="Let nobody have the messages for so long: up to a year."
        ),
    ] = None
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="… or until then: 2026-01-31T09:00+01:00, or seconds since 1970.",
        ),
    ] = None
    data_dir: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Keep what is not committed yet here, not in memory."),
    ] = None

    @property
    def moment(self) -> datetime | float | None:
        """What `--at` says. Raises ValueError where that is no time."""
        if self.at is None:
            return None
        try:
            return float(self.at)
        except ValueError:
            return datetime.fromisoformat(self.at)


@dataclass(frozen=True, slots=True)
class TakeOptions:
    """Where messages are written, and until when: options of `sub` and `inbox`."""

    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", dir_okay=False, help="Append to this, not to stdout."),
    ] = None
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Stop after so many messages.")
    ] = None
    follow: Annotated[bool, typer.Option("--follow", help="Go on when the queue is empty.")] = False
    idle: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="SECONDS", help="Stop when nothing came for so long and none is left."
        ),
    ] = 2.0

    @property
    def idle_s(self) -> float | None:
        """How long nothing comes before it ends; None: it goes on."""
        return None if self.follow else self.idle


@dataclass(frozen=True, slots=True)
class SettingOptions:
    """What a queue may be declared with; None is its default."""

    replicas: Annotated[
        int | None,
        typer.Option(
            min=1, max=REPLICAS_MAX, help="On how many disks; left out: the mesh's default."
        ),
    ] = None
    min_copies: Annotated[
        int | None,
        typer.Option(
            min=1, max=REPLICAS_MAX, help="On how many of them to be committed; left out: most."
        ),
    ] = None
    max_deliveries: Annotated[
        int | None,
        typer.Option(min=1, max=DELIVERIES_MAX, help="Failures that make a dead letter."),
    ] = None
    backoff: Annotated[
        float | None, typer.Option(help="Seconds of rest after the first failure.")
    ] = None
    backoff_max: Annotated[float | None, typer.Option(help="The longest rest, seconds.")] = None
    visibility_timeout: Annotated[
        float | None, typer.Option(help="Of consumers that name none, seconds.")
    ] = None
    ttl: Annotated[
        float | None, typer.Option(help="Of messages published without one, seconds.")
    ] = None
    max_messages: Annotated[
        int | None, typer.Option(min=1, help="How many messages it holds at most.")
    ] = None
    max_bytes: Annotated[
        int | None, typer.Option(min=1, help="How many bytes of bodies it holds at most.")
    ] = None
    overflow: Annotated[
        Literal["block", "reject", "drop-oldest"] | None,
        typer.Option(help="What happens at these limits; left out: publishers wait."),
    ] = None
    dedup_window: Annotated[
        float | None, typer.Option(help="For how long ids of messages are remembered, seconds.")
    ] = None
    retain: Annotated[
        float | None, typer.Option(help="For how long messages can be replayed, seconds.")
    ] = None
    retain_bytes: Annotated[
        int | None, typer.Option(min=1, help="How many bytes of them at most.")
    ] = None
    ageing: Annotated[
        float | None, typer.Option(help="Seconds of waiting that are worth a level of priority.")
    ] = None
    partitions: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=PARTITIONS_MAX,
            help="Over how many it is spread, each with an owner of its own; can only be raised.",
        ),
    ] = None

    def as_declared(self) -> Settings:
        """The same for `Node.declare`."""
        return Settings(
            replicas=self.replicas,
            min_copies=self.min_copies,
            max_deliveries=self.max_deliveries,
            backoff=self.backoff,
            backoff_max=self.backoff_max,
            visibility_timeout=self.visibility_timeout,
            ttl=self.ttl,
            max_messages=self.max_messages,
            max_bytes=self.max_bytes,
            overflow=self.overflow,
            dedup_window=self.dedup_window,
            retain=self.retain,
            retain_bytes=self.retain_bytes,
            ageing=self.ageing,
            partitions=self.partitions,
        )


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """The node that `run` is."""

    name: Annotated[
        str | None,
        typer.Option(
            envvar="P2PMQ_NAME",
            help="Name of this node in the mesh; by default the host's.",
            rich_help_panel=NODE_PANEL,
        ),
    ] = None
    listen: Annotated[
        str,
        typer.Option(
            envvar="P2PMQ_LISTEN",
            metavar="HOST:PORT",
            help="Address to listen on; port 0 takes any that is free.",
            rich_help_panel=NODE_PANEL,
        ),
    ] = "127.0.0.1:0"
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="P2PMQ_DATA_DIR",
            help="Where messages are kept; by default ~/.local/share/p2pmq/MESH/NAME.",
            rich_help_panel=NODE_PANEL,
        ),
    ] = None
    memory: Annotated[
        bool,
        typer.Option(
            "--memory",
            envvar="P2PMQ_MEMORY",
            help="Keep messages in memory only: they end with this process.",
            rich_help_panel=NODE_PANEL,
        ),
    ] = False
    zone: Annotated[
        str,
        typer.Option(
            envvar="P2PMQ_ZONE",
            help="What fails together with this node: a rack, a site.",
            rich_help_panel=NODE_PANEL,
        ),
    ] = ""
    leaf: Annotated[
        bool,
        typer.Option(
            "--leaf",
            envvar="P2PMQ_LEAF",
            help="Never own a queue: keep only what waits to be sent.",
            rich_help_panel=NODE_PANEL,
        ),
    ] = False
    weight: Annotated[
        int,
        typer.Option(
            envvar="P2PMQ_WEIGHT",
            min=1,
            max=32,
            help="Part of the load: 2 owns twice as many queues as 1.",
            rich_help_panel=NODE_PANEL,
        ),
    ] = 1

    @property
    def store(self) -> Literal["disk", "memory"]:
        """Which store the node has."""
        return "memory" if self.memory else "disk"


def flattened(command: Callable[..., None]) -> Callable[..., None]:
    """A command for typer: its parameters that are dataclasses are replaced by their fields."""
    signature = inspect.signature(command, eval_str=True)
    shared = {p.name: p.annotation for p in signature.parameters.values() if _is_shared(p)}
    parameters = [p for p in signature.parameters.values() if p.name not in shared]
    for kind in shared.values():
        hints = get_type_hints(kind, include_extras=True)
        parameters += [_parameter(f, hints[f.name]) for f in fields(kind)]

    @functools.wraps(command)
    def run(**given: Any) -> None:  # noqa: ANN401  whatever the options hold
        for name, kind in shared.items():
            given[name] = kind(**{f.name: given.pop(f.name) for f in fields(kind)})
        command(**given)

    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    run.__signature__ = signature.replace(parameters=keyword_only)  # type: ignore[attr-defined]  # functions may bear one
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _is_shared(parameter: inspect.Parameter) -> bool:
    return isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation)


def _parameter(found: Field[Any], annotation: object) -> inspect.Parameter:
    default = found.default
    if found.default_factory is not MISSING:
        default = found.default_factory()
    return inspect.Parameter(
        found.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
