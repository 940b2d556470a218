"""Services in processes of their own: started, told, heard, killed, paused, and run again.

Invariant: only processes that were started here are signalled, by their ids, and none outlives
its mesh.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

from tests.processes.ledger import Books

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
"""Only a broken mesh takes this long, however slow the machine."""
POLL_S = 0.05
PORTS = (20_000, 32_000)
"""Below those that the kernel gives to connections, so that a node finds its port free again."""
SLICES = 8
"""Each worker that runs tests beside others hands out ports of its own slice, in turn."""
LEASE_S = 30.0
"""The visibility timeout: for so long what a fault took away may come again."""


def _ports() -> Iterator[int]:
    """This worker's ports, from a random one on, round and round."""
    width = (PORTS[1] - PORTS[0]) // SLICES
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SLICES
    start = secrets.randbelow(width)
    for turn in count():
        yield PORTS[0] + worker * width + (start + turn) % width


PORTS_IN_TURN = _ports()


def free_port() -> int:
    """A port on loopback where nothing listens, and that was not given to another service here.

    A service listens only some time after its port was chosen: two random choices could meet.
    """
    for port in PORTS_IN_TURN:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable: the ports go round")


class Service:
    """One service and the events that its process has told."""

    def __init__(self, name: str, folder: Path, settings: dict[str, Any]) -> None:
        self.name = name
        self.ledger = folder / f"{name}.ledger"
        self.log = folder / f"{name}.log"
        self.events: list[dict[str, Any]] = []
        self.wrapper: Sequence[str] = ()
        """What runs the command, such as `ip netns exec host`; it must become the command."""
        places = {"data_dir": str(folder / name), "ledger": str(self.ledger)}
        self._settings = places | settings
        self._folder = folder
        self.boot = 0
        """How often it was started."""
        self._process: Process | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._heard = asyncio.Condition()

    @property
    def is_up(self) -> bool:
        """Whether its process runs (or is paused)."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """The process id of the latest run."""
        assert self._process is not None
        return self._process.pid

    @property
    def address(self) -> str:
        """Where it listens, whenever it runs."""
        address: str = self._settings["listen"]
        return address

    async def start(self, seeds: Sequence[str]) -> None:
        """Run it; it listens when this returns."""
        self.boot += 1
        plan = self._settings | {"name": self.name, "seeds": list(seeds), "boot": self.boot}
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.wrapper,
                sys.executable,
                "-m",
                "tests.processes.service",
                json.dumps(plan),
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                cwd=ROOT,
            )
        self._hearing = asyncio.create_task(self._hear(self._process))
        await self.event("ready", after=len(self.events))

    async def _hear(self, process: Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            with contextlib.suppress(json.JSONDecodeError):  # a kill has cut it short
                self.events.append(json.loads(line))
            async with self._heard:
                self._heard.notify_all()
        async with self._heard:
            self._hearing = None
            self._heard.notify_all()

    async def event(self, kind: str, after: int = 0, **facts: object) -> dict[str, Any]:
        """The first event of the kind, with these facts, of those from number `after` on."""
        wanted = ({"event": kind} | facts).items()
        async with asyncio.timeout(PATIENCE_S), self._heard:
            while True:
                for event in self.events[after:]:
                    if event.items() >= wanted:
                        return event
                after = max(after, len(self.events))
                assert self._hearing is not None, f"{self.name} has ended: {self.said()}"
                await self._heard.wait()

    def tell(self, do: str, **arguments: object) -> None:
        """Give it work."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):  # it has just been killed
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")

    async def ask(self, kind: str, do: str, **arguments: object) -> dict[str, Any]:
        """Give it work, and wait for the event that tells the outcome."""
        after = len(self.events)
        self.tell(do, **arguments)
        return await self.event(kind, after)

    async def kill(self) -> None:
        """End it as `kill -9` does; it may be paused."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._ended()

    def pause(self) -> None:
        """Keep it from running, without its knowing."""
        assert self._process is not None
        self._process.send_signal(SIGSTOP)

    def resume(self) -> None:
        """Let it run on."""
        assert self._process is not None
        self._process.send_signal(SIGCONT)

    async def stop(self) -> int:
        """End its stdin, upon which it closes its node; its exit code."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(PATIENCE_S):
            return await self._ended()

    async def _ended(self) -> int:
        if self._process is None:
            return 0
        code = await self._process.wait()
        if self._hearing is not None:
            await self._hearing
        if self._process.stdin is not None:
            self._process.stdin.close()
        return code

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3_000:] if self.log.exists() else ""


class Mesh:
    """Services of one mesh, and everything that was done to them."""

    def __init__(self, folder: Path, names: Sequence[str], **settings: object) -> None:
        usual: dict[str, Any] = {
            "mesh": f"test-{secrets.token_hex(4)}",
            "insecure": False,
            "mdns": False,
            "leaf": False,
            "replicas": 3,
        }
        self.folder = folder
        self._settings = usual | settings
        self.services = {name: self._service(name) for name in names}
        self.disturbed: list[tuple[float, float]] = []
        """From when to when a fault was in force."""

    def _service(self, name: str, **settings: object) -> Service:
        usual = {"listen": f"127.0.0.1:{free_port()}"}
        return Service(name, self.folder, usual | self._settings | settings)

    def __getitem__(self, name: str) -> Service:
        return self.services[name]

    def add(self, name: str, **settings: object) -> Service:
        """One more, which is not started yet, and may differ from the others."""
        self.services[name] = self._service(name, **settings)
        return self.services[name]

    async def start(self, name: str) -> None:
        """Run one of them, with all others for seeds unless they are to find each other."""
        others = [service.address for service in self.services.values() if service.name != name]
        await self[name].start([] if self._settings["mdns"] else others)

    async def start_all(self) -> None:
        """Run them, and wait until each knows all others."""
        await asyncio.gather(*(self.start(name) for name in self.services))
        for service in self.services.values():
            for other in self.services:
                if other != service.name:
                    await service.event("member", name=other, state="alive")

    @property
    def name(self) -> str:
        """The name of the mesh itself."""
        name: str = self._settings["mesh"]
        return name

    @property
    def books(self) -> Books:
        """What was published, confirmed and got, by those who are gone too."""
        return Books.read(sorted(self.folder.glob("*.ledger")))

    @property
    def taken_for_dead(self) -> set[str]:
        """Whom somebody has held dead; a node that stops in good order says so of itself."""
        events = (event for service in self.services.values() for event in service.events)
        return {event["name"] for event in events if event.get("state") == "dead"}

    def disturb(self, since: float) -> None:
        """Note a fault that began then and is over now."""
        self.disturbed.append((since, time.monotonic() + LEASE_S))

    async def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait until something is so that no event tells of."""
        deadline = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < deadline, f"not so: {what}; {self.books}; {self._told()}"
            await asyncio.sleep(POLL_S)

    async def drain(self, queues: Sequence[str]) -> Books:
        """Wait until all that was published has been delivered and acked; all services are up."""
        await self.until(lambda: not self.books.lost, "everything confirmed was delivered")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            asked = [await s.ask("asked", "ask", queues=queues) for s in self.services.values()]
            if all(not any(a["depths"].values()) and a["flushed"] for a in asked) and not any(
                depth is None for a in asked for depth in a["depths"].values()
            ):
                return self.books
            assert time.monotonic() < deadline, f"not drained: {asked}; {self._told()}"
            await asyncio.sleep(POLL_S)

    async def stop_all(self) -> None:
        """End them in good order; none failed, and none logged a fault of its own."""
        codes = await asyncio.gather(*(service.stop() for service in self.services.values()))
        for service, code in zip(self.services.values(), codes, strict=True):
            assert code == 0, f"{service.name} ended with {code}: {service.said()}"
            assert "Traceback" not in service.log.read_text(), service.said()

    async def kill_all(self) -> None:
        """End what still runs."""
        await asyncio.gather(*(service.kill() for service in self.services.values()))

    def _told(self) -> str:
        return "\n".join(f"--- {s.name}:\n{s.said()[-800:]}" for s in self.services.values())


@contextlib.asynccontextmanager
async def running(mesh: Mesh) -> AsyncIterator[Mesh]:
    """The mesh, started; whatever happens, nothing of it runs afterwards."""
    try:
        await mesh.start_all()
        yield mesh
    finally:
        await mesh.kill_all()
