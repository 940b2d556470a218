"""Processes for the tests of the command line: daemons of one mesh, and commands beside them."""

import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

DEADLINE_S = 120.0
POLL_S = 0.05
LISTENING = re.compile(r"listening on (\S+) in mesh")


@contextmanager
def started(*args: str) -> Iterator[subprocess.Popen[bytes]]:
    """`p2pmq ARGS` while it runs, with everything that it hears and says in pipes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "p2pmq", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={k: v for k, v in os.environ.items() if not k.startswith("P2PMQ_")},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(*args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run `p2pmq ARGS` to its end."""
    with started(*args) as process:
        out, err = process.communicate(stdin, timeout=DEADLINE_S)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    """Give a command something on its stdin, which stays open."""
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()


def next_line(pipe: IO[bytes] | None) -> bytes:
    """The next line that a command says."""
    assert pipe is not None
    return pipe.readline()


def until(is_so: Callable[[], bool], what: str) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {DEADLINE_S:g} s: {what}"
        time.sleep(POLL_S)


class Daemon:
    """One `p2pmq run`."""

    def __init__(self, name: str, mesh: str, folder: Path) -> None:
        self.name = name
        self.mesh = mesh
        self.folder = folder
        self.address = ""
        self._log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, seeds: list[str]) -> None:
        """Run it; it listens when this returns."""
        args = ["run", "--name", self.name, "--mesh", self.mesh, "--no-mdns"]
        args += ["--data-dir", str(self.folder / self.name)]
        for seed in seeds:
            args += ["--seed", seed]
        before = self.log.count("listening on ")
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "p2pmq", *args], stdout=log, stderr=log
            )
        until(lambda: self.log.count("listening on ") > before, f"{self.name} listens")
        self.address = LISTENING.findall(self.log)[-1]

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text() if self._log.exists() else ""

    def kill(self) -> None:
        """`kill -9`."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Mesh:
    """Daemons on loopback that met by seeds."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.name = f"test-{secrets.token_hex(4)}"
        self.daemons = {name: Daemon(name, self.name, folder) for name in names}

    def start(self) -> None:
        """Run all, and wait until each knows the others."""
        for daemon in self.daemons.values():
            daemon.start(self.addresses)
        for daemon in self.daemons.values():
            for other in self.daemons.values():
                if other is not daemon:
                    until(
                        lambda log=daemon, name=other.name: f"member {name} " in log.log,  # type: ignore[misc]  # defaults of a lambda have no type
                        f"{daemon.name} knows {other.name}",
                    )

    @property
    def addresses(self) -> list[str]:
        """The addresses of those that were started."""
        return [daemon.address for daemon in self.daemons.values() if daemon.address]

    @property
    def options(self) -> list[str]:
        """The options of a command that is to join."""
        seeds = [option for address in self.addresses for option in ("--seed", address)]
        return ["--mesh", self.name, "--no-mdns", "--wait", "60", *seeds]

    def kill(self) -> None:
        """End all."""
        for daemon in self.daemons.values():
            daemon.kill()


@contextmanager
def running_mesh(folder: Path, names: Sequence[str] = ("ant", "bee", "cat")) -> Iterator[Mesh]:
    """A mesh of daemons with these names."""
    mesh = Mesh(folder, names)
    try:
        mesh.start()
        yield mesh
    finally:
        mesh.kill()
