"""Hosts on a network: namespaces of this kernel, joined by a bridge that has one of its own.

Nothing of it touches the machine's own network: every link has both ends in namespaces that were
made here, and goes when they do. Needs root, and Debian's iproute2 and iptables.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence

import pytest

COMMANDS = ("ip", "iptables", "tc")
DIRECTIONS = {"INPUT": "-i", "OUTPUT": "-o"}
NETWORK = "10.77.0."
PORT = 7_400


class NotHereError(Exception):
    """This machine does not let us do that; says what and why."""


def run(*command: str) -> str:
    """Run a command that takes no time; what it says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    if done.returncode:
        raise NotHereError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Hosts:
    """The hosts, by name; each has one interface, eth0, on the common network."""

    def __init__(self, names: Sequence[str]) -> None:
        self._token = secrets.token_hex(3)
        self.names = tuple(names)

    def namespace(self, host: str) -> str:
        """The namespace of a host."""
        return f"p2pmq-{self._token}-{host}"

    def inside(self, host: str) -> tuple[str, ...]:
        """What makes a command run on that host: it becomes the command, under the same id."""
        return ("ip", "netns", "exec", self.namespace(host))

    def address(self, host: str) -> str:
        """Its address."""
        return NETWORK + str(10 + self.names.index(host))

    def build(self) -> None:
        """Make them, their links and the bridge."""
        switch = self.namespace("switch")
        run("ip", "netns", "add", switch)
        run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "bridge", "up")
        for host in self.names:
            space = self.namespace(host)
            run("ip", "netns", "add", space)
            link = ("link", "add", "eth0", "netns", space, "type", "veth")
            run("ip", *link, "peer", "name", f"to-{host}", "netns", switch)
            run("ip", "-n", switch, "link", "set", f"to-{host}", "master", "bridge", "up")
            run("ip", "-n", space, "link", "set", "lo", "up")
            run("ip", "-n", space, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            run("ip", "-n", space, "link", "set", "eth0", "up")
            run("ip", "-n", space, "route", "add", "default", "dev", "eth0")
            run(*self.inside(host), "iptables", "-w", "-L", "-n")

    def destroy(self) -> None:
        """Remove what is there of it; the links go with their namespaces."""
        for host in (*self.names, "switch"):
            with contextlib.suppress(NotHereError):
                run("ip", "netns", "delete", self.namespace(host))

    def cut(self, host: str, *chains: str) -> None:
        """Let no packet to (INPUT) or from (OUTPUT) the host pass, or neither."""
        self._filter("-A", host, chains)

    def heal(self, host: str, *chains: str) -> None:
        """Let them pass again."""
        self._filter("-D", host, chains)

    def _filter(self, what: str, host: str, chains: Sequence[str]) -> None:
        for chain in chains:
            rule = (chain, DIRECTIONS[chain], "eth0", "-j", "DROP")
            run(*self.inside(host), "iptables", "-w", what, *rule)

    def sent_bytes(self, host: str) -> int:
        """What the host has sent so far."""
        return int(run(*self.inside(host), "cat", "/sys/class/net/eth0/statistics/tx_bytes"))

    def limit(self, host: str, kbit_per_s: int) -> None:
        """Let the host send no faster than that (a token bucket: tc-tbf(8))."""
        rate = ("rate", f"{kbit_per_s}kbit", "burst", "16kb", "latency", "1s")
        run(*self.inside(host), "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *rate)


@contextlib.contextmanager
def hosts_of(*names: str) -> Iterator[Hosts]:
    """Hosts of these names; the test is skipped where there cannot be any."""
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    for command in COMMANDS:
        if shutil.which(command) is None:
            pytest.skip(f"`{command}` is not installed (Debian: iproute2, iptables)")
    hosts = Hosts(names)
    try:
        try:
            hosts.build()
        except NotHereError as error:
            pytest.skip(f"no hosts can be made here: {error}")
        yield hosts
    finally:
        hosts.destroy()
