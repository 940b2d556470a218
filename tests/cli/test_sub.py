"""`p2pmq sub` through a real mesh: how many, how written, and what is given back."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from p2pmq.cli.sub import as_line, plain
from tests.cli.kit import DEADLINE_S, Mesh, next_line, run, started, until

NUMBERS = b"".join(b"%d\n" % number for number in range(100))


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"\xff raw", b"\xff raw"),
        ("text", b'"text"'),
        ({"a": [1, None, True]}, b'{"a": [1, null, true]}'),
        ({1: b"bytes"}, b'{"1": "bytes"}'),
        ("ä".encode(), "ä".encode()),
    ],
)
def test_bytes_are_written_as_they_are_and_all_else_as_json(body: object, line: bytes) -> None:
    assert as_line(body) == line


def test_what_json_cannot_hold_becomes_text() -> None:
    value: dict[Any, Any] = {b"k": b"\xff", (1, 2): {None: 1}}
    assert plain(value) == {"k": "\\xff", "[1, 2]": {"None": 1}}


def test_count_stops_exactly_and_gives_the_rest_back(mesh: Mesh, tmp_path: Path) -> None:
    assert run("pub", "counted", *mesh.options, stdin=NUMBERS).returncode == 0
    first = run("sub", "counted", "--count", "30", *mesh.options)
    assert (first.returncode, len(first.stdout.splitlines())) == (0, 30)
    rest = run("sub", "counted", "--idle", "0.5", "--out", str(tmp_path / "rest"), *mesh.options)
    assert rest.returncode == 0
    lines = first.stdout.splitlines() + (tmp_path / "rest").read_bytes().splitlines()
    assert sorted(lines) == sorted(NUMBERS.splitlines())
    assert b"70 messages" in rest.stderr


def test_out_appends_to_what_is_there(mesh: Mesh, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"before\n")
    run("pub", "appended", *mesh.options, stdin=b"after\n")
    assert run("sub", "appended", "-n", "1", "--out", str(out), *mesh.options).returncode == 0
    assert out.read_bytes() == b"before\nafter\n"


def test_json_tells_of_each_message_and_of_bytes_that_are_no_text(mesh: Mesh) -> None:
    run("pub", "told", *mesh.options, stdin=b"text\n\xff\n")
    found = run("sub", "told", "-n", "2", "--json", *mesh.options)
    records = [json.loads(line) for line in found.stdout.splitlines()]
    assert [record.get("body") for record in records] == ["text", None]
    assert records[1]["body_base64"] == "/w=="
    assert {"queue", "message_id", "attempt", "enqueued_at"} < records[0].keys()


def test_follow_waits_for_more_until_ctrl_c_and_ends_with_0(mesh: Mesh, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.touch()
    with started("sub", "followed", "--follow", "--out", str(out), *mesh.options) as process:
        for body in (b"one\n", b"two\n"):
            assert run("pub", "followed", *mesh.options, stdin=body).returncode == 0
            until(lambda body=body: body in out.read_bytes(), "written")  # type: ignore[misc]  # defaults of a lambda have no type
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, b"Traceback" in said) == (0, False)
    assert b"2 messages" in said


def test_a_reader_that_goes_away_ends_it_without_a_word_of_python(mesh: Mesh) -> None:
    run("pub", "piped", *mesh.options, stdin=NUMBERS * 10_000)
    with started("sub", "piped", "--follow", *mesh.options) as process:
        assert next_line(process.stdout) == b"0\n"
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(DEADLINE_S) == 0
    assert b"Traceback" not in said


def test_a_message_is_not_acked_when_it_cannot_be_written(mesh: Mesh) -> None:
    run("pub", "full", *mesh.options, stdin=b"kept\n")
    failed = run("sub", "full", "--out", "/dev/full", *mesh.options)
    assert (failed.returncode, b"Traceback" in failed.stderr) == (1, False)
    assert b"No space left" in failed.stderr
    assert run("sub", "full", "-n", "1", *mesh.options).stdout == b"kept\n"


def test_nobody_needs_to_read_for_ctrl_c_to_end_it(mesh: Mesh) -> None:
    run("pub", "unread", *mesh.options, stdin=NUMBERS * 10_000)
    with started("sub", "unread", "--follow", *mesh.options) as process:
        next_line(process.stdout)
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
