"""`p2pmq run`: a node as a daemon. It says where it listens and who comes and goes."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

from p2pmq.cli.output import set_up_logging
from p2pmq.node.node import Node

if TYPE_CHECKING:
    from p2pmq.cli.options import DaemonOptions, MeshOptions

log = logging.getLogger("p2pmq.run")


async def serve(daemon: DaemonOptions, mesh: MeshOptions, *, as_json: bool) -> int:
    """Run until cancelled; then drain, and end with 0."""
    level = logging.DEBUG if mesh.debug else logging.INFO
    set_up_logging(level, as_json=as_json, times=True)
    node = Node(
        daemon.name or socket.gethostname(),
        mesh=mesh.mesh,
        listen=daemon.listen,
        seeds=mesh.seeds,
        mdns=not mesh.no_mdns,
        store=daemon.store,
        data_dir=str(daemon.data_dir) if daemon.data_dir else None,
        leaf=daemon.leaf,
        zone=daemon.zone,
        weight=daemon.weight,
        insecure=mesh.insecure,
    )
    name = node.settings.name
    await node.start()
    log.info("%s: listening on %s in mesh %r", name, ", ".join(node.addresses), mesh.mesh)
    try:
        await node.wait_stopped()
    except asyncio.CancelledError:
        log.info("%s: stopping; it keeps its place and its messages", name)
    finally:
        await node.close()
    log.info("%s: stopped", name)
    return 0
