"""One command's time with a mesh: its event loop, its signals, its node.

`pub`, `sub` and the commands that look around are leaves: they join, never own
a queue, and leave for good, so that the mesh does not remember them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import typer

from p2pmq.cli.output import say, set_up_logging
from p2pmq.errors import NoOwnerError, P2PMQError
from p2pmq.node.node import Node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from p2pmq.cli.options import MeshOptions, VisitOptions
    from p2pmq.node.receipts import MemberInfo

EXIT_INTERRUPTED = 130
"""128 + SIGINT, as a shell has it."""
LOOK_INTERVAL_S = 0.05
STEADY_S = 0.5
"""A view of the mesh that has not changed for so long is taken for whole: gossip goes round
every 0.2 s, and the whole table comes with the first exchange."""
FAREWELL_S = 0.3
"""A little more than a gossip interval: how long what a node said last needs to be on its way."""


def run_async(main: Coroutine[Any, Any, int], *, debug: bool) -> None:
    """Run `main` as a command: its result is the exit code.

    A P2PMQError or an OSError becomes one line on stderr and exit code 1.
    """
    try:
        code = run_loop(main)
    except BrokenPipeError:
        raise  # nobody reads any more: typer ends the process without a word
    except (P2PMQError, OSError) as error:
        if debug:
            raise
        say(f"p2pmq: {error}")
        code = 1
    raise typer.Exit(code)


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run `main`, on uvloop where it is installed.

    SIGINT and SIGTERM cancel it once; the second time the process ends there and then.
    """
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_until_signal(main))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


async def _until_signal(main: Coroutine[Any, Any, int]) -> int:
    task = asyncio.create_task(main)
    with on_signals(task.cancel):
        try:
            return await task
        except asyncio.CancelledError:
            return EXIT_INTERRUPTED


@contextmanager
def on_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` at the first SIGINT or SIGTERM, and end the process at the second."""
    loop = asyncio.get_running_loop()
    told = False

    def on_signal() -> None:
        nonlocal told
        if told:
            os._exit(EXIT_INTERRUPTED)
        told = True
        stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@asynccontextmanager
async def visiting(
    mesh: MeshOptions,
    visit: VisitOptions,
    kind: str,
    *,
    data_dir: Path | None = None,
) -> AsyncIterator[Node]:
    """A leaf that is part of the mesh, and leaves it at the end.

    Raises NoOwnerError if no full node is found in the time that `visit` gives.
    """
    set_up_logging(logging.DEBUG if mesh.debug else logging.WARNING)
    node = Node(
        visit.name or f"{kind}-{secrets.token_hex(3)}",
        mesh=mesh.mesh,
        listen=visit.listen,
        seeds=mesh.seeds,
        mdns=not mesh.no_mdns,
        store="disk" if data_dir else "memory",
        data_dir=str(data_dir) if data_dir else None,
        leaf=True,
        zone=visit.zone,
        insecure=mesh.insecure,
    )
    await node.start()
    try:
        await _until_full_node(node, mesh, visit.wait)
        yield node
    finally:
        await node.close()


async def _until_full_node(node: Node, mesh: MeshOptions, wait_s: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while not any(is_full(member) for member in node.members()):
        if loop.time() >= deadline:
            raise NoOwnerError(_nobody(mesh, wait_s))
        await asyncio.sleep(LOOK_INTERVAL_S)


def is_full(member: MemberInfo) -> bool:
    """Whether it is a living node that may own queues."""
    return not member.leaf and not member.is_self and member.state in ("alive", "suspect")


def _nobody(mesh: MeshOptions, wait_s: float) -> str:
    ways = [] if mesh.no_mdns else ["by mDNS"]
    ways += [f"at {seed}" for seed in mesh.seeds]
    where = " or ".join(ways) if ways else "(mDNS is off and no seed was given)"
    return (
        f"no full node of mesh {mesh.mesh!r} was found {where} within {wait_s:g} s: start one "
        f"with `p2pmq run --mesh {mesh.mesh}`, or name one with --seed HOST:PORT"
    )


async def steady_members(node: Node, wait_s: float) -> list[MemberInfo]:
    """The members other than this node, once the view of them has come to rest."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    seen = node.members()
    since = loop.time()
    while loop.time() - since < STEADY_S and loop.time() < deadline:
        await asyncio.sleep(LOOK_INTERVAL_S)
        now = node.members()
        if now != seen:
            seen, since = now, loop.time()
    return [member for member in seen if not member.is_self]


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    try:
        import uvloop  # noqa: PLC0415  an extra, which may be missing
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop
