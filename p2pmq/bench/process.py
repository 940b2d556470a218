"""The parent's hold on the processes of the benchmark, each started and ended by its handle.

Invariant: whatever happens, `stop` leaves nothing running that this module
started, and touches nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from typing import TYPE_CHECKING, Any

from p2pmq.bench.plan import PHASE_TIMEOUT_S, BenchmarkError

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from pathlib import Path
    from typing import Self

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
LOG_TAIL_CHARS = 2_000
POLL_S = 0.02


async def end(process: Process) -> None:
    """Wait for a process that was told to end; kill it if it does not."""
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


class Worker:
    """One worker process: commands go in, replies come out (see `worker`)."""

    def __init__(self, role: str, process: Process, log: Path) -> None:
        self.role = role
        self._process = process
        self._log = log
        self.hello: dict[str, Any] = {}

    @classmethod
    async def start(cls, role: str, options: dict[str, Any], directory: Path) -> Self:
        """Start the process and wait until it is ready; its log goes into the directory."""
        log = directory / f"{role}.log"
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "p2pmq.bench.worker", role, json.dumps(options)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
            )
        worker = cls(role, process, log)
        try:
            worker.hello = await worker.reply(START_TIMEOUT_S)
        except BaseException:
            await worker.stop()
            raise
        return worker

    async def ask(self, command: str, **fields: object) -> dict[str, Any]:
        """Send a command and wait for its (first) reply."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": command, **fields}).encode() + b"\n")
        with contextlib.suppress(ConnectionError):  # it has died: reply() says so better
            await self._process.stdin.drain()
        return await self.reply()

    async def reply(self, timeout_s: float = PHASE_TIMEOUT_S + STOP_TIMEOUT_S) -> dict[str, Any]:
        """The next reply; BenchmarkError if the process ends or hangs instead."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise BenchmarkError(
                f"the {self.role} did not answer in {timeout_s:.0f} s: is the machine overloaded? "
                f"Its log:\n{self._log_tail()}"
            ) from None
        if not line:
            raise BenchmarkError(f"the {self.role} ended early; its log:\n{self._log_tail()}")
        reply: dict[str, Any] = json.loads(line)
        return reply

    async def cpu_s(self) -> float:
        """The CPU time that the process has used."""
        usage = await self.ask("usage")
        return float(usage["cpu_s"])

    async def stop(self) -> None:
        """End the process: the end of its input tells it to."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await end(self._process)

    def _log_tail(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARS:]


class RedisServer:
    """A Redis of the benchmark's own, durable as p2pmq is: every write fsynced first.

    The append-only file is never rewritten, which spares Redis work that a real
    one has.
    """

    def __init__(self, process: Process, port: int) -> None:
        self._process = process
        self.port = port

    @classmethod
    async def start(cls, program: str, directory: Path) -> Self:
        """Start it on a free port of the loopback interface, its data in the directory."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        arguments = f"--port {port} --bind 127.0.0.1 --appendonly yes --appendfsync always"
        arguments += " --auto-aof-rewrite-percentage 0 --daemonize no --save"
        with (directory / "redis.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                program, *arguments.split(), "", "--dir", str(directory), stdout=log, stderr=log
            )
        server = cls(process, port)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not await server._is_ready():  # noqa: ASYNC110  no event of another program
                    await asyncio.sleep(POLL_S)
        except BaseException as error:
            await server.stop()
            if isinstance(error, TimeoutError):
                raise BenchmarkError("redis-server did not start: try --no-redis") from None
            raise
        return server

    async def cpu_s(self) -> float:
        """The CPU time that the server has used, by its own account."""
        fields = dict(
            line.split(":", 1) for line in (await self._ask("INFO cpu")).splitlines() if ":" in line
        )
        return float(fields["used_cpu_sys"]) + float(fields["used_cpu_user"])

    async def stop(self) -> None:
        """End the server; its data is thrown away with the directory."""
        if self._process.returncode is None:
            self._process.terminate()
        await end(self._process)

    async def _is_ready(self) -> bool:
        if self._process.returncode is not None:
            raise BenchmarkError("redis-server ended at once: try --no-redis")
        try:
            return "PONG" in await self._ask("PING")
        except OSError:
            return False

    async def _ask(self, command: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"{command}\r\nQUIT\r\n".encode())
            return (await reader.read()).decode()
        finally:
            writer.close()
            await writer.wait_closed()
