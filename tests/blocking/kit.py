"""What the blocking node's tests share: nodes in memory, threads with a deadline, processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p2pmq.blocking import Node
from tests.node.kit import CONFIG, PATIENCE_S, POLL_S

ROOT = Path(__file__).parents[2]


def node(name: str, **settings: Any) -> Node:  # noqa: ANN401  Node's own settings
    """A node in memory that meets nobody by itself, but for what is changed."""
    usual: dict[str, Any] = {"mesh": "test", "mdns": False, "store": "memory", "config": CONFIG}
    return Node(name, **(usual | settings))


def until(condition: Callable[[], object], what: str = "it is so") -> None:
    """Wait until something is so that no event tells of."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(POLL_S)


class Working(threading.Thread):
    """A thread; `result` waits for what it returns, or raises what it raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._found: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Do it."""
        try:
            self._found = self._work()
        except BaseException as error:  # noqa: BLE001  it is raised where the result is asked for
            self._error = error

    def result(self) -> Any:  # noqa: ANN401  whatever it returns
        """What it returned."""
        self.join(PATIENCE_S)
        assert not self.is_alive(), "the thread hangs"
        if self._error is not None:
            raise self._error
        return self._found


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, to an end within twice the patience."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )


@contextmanager
def mesh(*names: str) -> Iterator[list[Node]]:
    """Blocking nodes that all see each other, in this one process."""
    nodes: list[Node] = []
    try:
        for name in names:
            made = node(name, seeds=nodes[0].addresses if nodes else ())
            made.start()
            nodes.append(made)
        for each in nodes:
            until(lambda each=each: alive(each) == set(names))  # type: ignore[misc]  # bound now
        yield nodes
    finally:
        for each in nodes:
            each.close()


def alive(of: Node) -> set[str]:
    """Whom the node sees alive."""
    return {member.name for member in of.members() if member.state == "alive"}
