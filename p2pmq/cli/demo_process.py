"""The demo's side of one service: a process that can be told, heard, killed and run again."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import Any

from p2pmq.cli.demo_service import ServicePlan
from p2pmq.errors import P2PMQError

STOP_TIMEOUT_S = 5.0


class ServiceDiedError(P2PMQError):
    """A service of the demo ended by itself."""


class Service:
    """One service and the events that it has told."""

    def __init__(self, plan: ServicePlan) -> None:
        self.plan = plan
        self.ledger = Path(plan.folder) / f"{plan.name}.ledger"
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        """The process id of the latest run."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> str:
        """Run it; the address that it listens on."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "p2pmq.cli.demo_service",
            self.plan.as_json(),
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,  # Ctrl-C is for the demo, which then stops its services
        )
        address: str = (await self.heard("ready"))["address"]
        return address

    async def heard(self, event: str) -> dict[str, Any]:
        """The next event of this kind; others before it are dropped."""
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            told: dict[str, Any] = json.loads(line)
            if told["event"] == event:
                return told
        raise ServiceDiedError(
            f"the service {self.plan.name!r} of the demo ended before it was {event!r}: "
            "see above, or run the demo with --debug"
        )

    def tell(self, command: dict[str, Any]) -> None:
        """Give it work."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def kill(self) -> None:
        """End it as `kill -9` does."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def stop(self) -> None:
        """End its stdin, upon which it stops; kill it if it does not."""
        if self._process is None or self._process.returncode is not None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            await self.kill()
