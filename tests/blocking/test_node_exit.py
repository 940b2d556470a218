"""A program that does not close its node: it ends all the same, soon, and nothing is lost."""

import subprocess
import time
from pathlib import Path

import pytest

from p2pmq.blocking.loop_thread import EXIT_GRACE_S, EXIT_S
from tests.blocking.kit import node, python

BEGIN = """
import threading, sys
from p2pmq.blocking import Node
node = Node("n", mdns=False, data_dir={folder!r})
node.start()
node.publish_many("q", range(10), confirm="none")
"""
ENDINGS = {
    "in order": "",
    "by an error": "raise LookupError('the program')",
    "by sys.exit": "sys.exit(3)",
    "with messages in hand": "messages = node.consume('q'); message = next(messages)",
    "amid an iteration": "for message in node.consume('q'): raise LookupError('the program')",
    "with a daemon thread that waits": """
waits = node.consume("empty")
threading.Thread(target=lambda: list(waits), daemon=True).start()
""",
    "with a daemon thread that never settles": """
taken = threading.Event()
def work():
    for message in node.consume("q"):
        taken.set()
        threading.Event().wait()
threading.Thread(target=work, daemon=True).start()
taken.wait()
""",
}
CODES = {"by an error": 1, "by sys.exit": 3, "amid an iteration": 1}


def left_on(folder: Path) -> int:
    with node("n", store="disk", data_dir=str(folder)) as again:
        return again.depth("q").total


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_that_ends_without_closing_ends_soon_and_keeps_what_it_published(
    ending: str, tmp_path: Path
) -> None:
    ended = python(BEGIN.format(folder=str(tmp_path)) + ENDINGS[ending])
    assert ended.returncode == CODES.get(ending, 0), ended.stderr
    assert "node n was not closed" in ended.stderr
    assert "Fatal Python error" not in ended.stderr
    assert "did not close well" not in ended.stderr
    assert ("Traceback" in ended.stderr) == (ended.returncode == 1), "the program's own, if any"
    assert left_on(tmp_path) == 10


def test_the_end_is_bounded_even_while_an_owner_is_away(tmp_path: Path) -> None:
    code = """
from p2pmq.blocking import Node
from tests.blocking.kit import alive, until
first = Node("n", mdns=False, data_dir={folder!r})
first.start()
with Node("b", mdns=False, store="memory", seeds=first.addresses) as second:
    until(lambda: alive(first) == {{"n", "b"}})
first.publish_many("q", range(10), confirm="none")
"""
    began = time.monotonic()
    ended: subprocess.CompletedProcess[str] = python(code.format(folder=str(tmp_path)))
    assert ended.returncode == 0, ended.stderr
    assert time.monotonic() - began < EXIT_S + EXIT_GRACE_S + 15, "a generous start of Python"
    assert "10 messages in its outbox: they are stored" in ended.stderr
