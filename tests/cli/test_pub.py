"""`p2pmq pub` through a real mesh: every line, once, whatever becomes of the owner."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from p2pmq.cli.demo_text import demo_lines
from tests.cli.kit import DEADLINE_S, Daemon, Mesh, feed, run, running_mesh, started, until

LINES = int(os.environ.get("P2PMQ_TEST_LINES", "20000"))


def real_lines(count: int) -> list[bytes]:
    """Lines of real text, each made unique by its number."""
    return [b"%d %b" % (n, line) for n, line in enumerate(demo_lines(None, count)[0], 1)]


def test_5000_lines_are_equal_on_both_sides(mesh: Mesh, tmp_path: Path) -> None:
    text, out = tmp_path / "in", tmp_path / "out"
    text.write_bytes(b"\n".join(real_lines(5_000)) + b"\n")
    published = run("pub", "lines", "--file", str(text), *mesh.options)
    assert published.returncode == 0
    assert b"5,000 published, 5,000 committed" in published.stderr
    assert run("sub", "lines", "--idle", "0.5", "--out", str(out), *mesh.options).returncode == 0
    assert out.read_bytes() == text.read_bytes()


def test_bytes_empty_lines_and_a_last_line_without_newline_arrive(mesh: Mesh) -> None:
    published = run("pub", "odd", "--json", *mesh.options, stdin=b"\xff\x00\r\n\n\nend")
    record = json.loads(published.stdout)
    assert (record["queue"], record["published"], record["committed"]) == ("odd", 4, 4)
    assert run("sub", "odd", "-n", "4", *mesh.options).stdout == b"\xff\x00\r\n\n\nend\n"


def test_lines_of_one_key_are_all_read_one_after_another(mesh: Mesh) -> None:
    published = run("pub", "keyed", "--key", "customer-7", *mesh.options, stdin=b"a\nb\nc\n")
    assert published.returncode == 0
    assert run("sub", "keyed", "--count", "3", *mesh.options).stdout == b"a\nb\nc\n"


def test_an_empty_input_publishes_nothing_and_is_no_error(mesh: Mesh) -> None:
    published = run("pub", "empty", *mesh.options)
    assert (published.returncode, published.stdout) == (0, b"")
    assert b"0 published" in published.stderr


def test_a_line_goes_out_while_the_input_is_still_open(mesh: Mesh) -> None:
    with started("pub", "typed", *mesh.options) as process:
        feed(process, b"typed\n")
        assert run("sub", "typed", "--count", "1", *mesh.options).stdout == b"typed\n"
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0


def test_ctrl_c_while_the_input_is_open_says_what_is_committed(mesh: Mesh) -> None:
    with started("pub", "stopped", *mesh.options) as process:
        feed(process, b"one\n")
        assert run("sub", "stopped", "--count", "1", *mesh.options).stdout == b"one\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
        _, said = process.communicate()
    assert b"the first 1 lines are committed\n" in said
    assert b"Traceback" not in said


def test_a_line_over_the_limit_stops_it_and_says_where(mesh: Mesh) -> None:
    body_bytes_max = 16 * 1024 * 1024
    text = b"short\n" * 100_000 + b"x" * (body_bytes_max + 1) + b"\n"
    published = run("pub", "long", *mesh.options, stdin=text)
    assert published.returncode == 1
    assert b"is over the limit of 16,777,216" in published.stderr
    assert b"lines are committed" in published.stderr


@pytest.mark.parametrize("confirm", ["none", "committed"])
def test_lines_arrive_whatever_confirm_is_waited_for(mesh: Mesh, confirm: str) -> None:
    text = b"\n".join(real_lines(3_000)) + b"\n"
    assert run("pub", confirm, "--confirm", confirm, *mesh.options, stdin=text).returncode == 0
    assert run("sub", confirm, "--count", "3000", *mesh.options).stdout == text


def test_stored_lines_are_sent_from_the_data_directory(mesh: Mesh, tmp_path: Path) -> None:
    text = b"\n".join(real_lines(3_000)) + b"\n"
    options = ["--confirm", "stored", "--data-dir", str(tmp_path / "outbox"), *mesh.options]
    for _ in range(2):  # a node may come back with its directory
        published = run("pub", "kept", *options, stdin=text)
        assert published.returncode == 0
        assert b"3,000 stored" in published.stderr
        assert run("sub", "kept", "--count", "3000", *mesh.options).stdout == text


def owner_of(mesh: Mesh, queue: str) -> Daemon:
    """The daemon that owns the queue."""
    listed = run("queues", "--json", *mesh.options).stdout.splitlines()
    owners = {row["queue"]: row["owner"] for row in map(json.loads, listed)}
    return mesh.daemons[owners[queue]]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_lines_are_equal_on_both_sides_though_the_owner_is_killed_and_restarted(
    tmp_path: Path,
) -> None:
    lines = real_lines(LINES)
    third = LINES // 3
    out = tmp_path / "out"
    with (
        running_mesh(tmp_path) as mesh,
        started("sub", "orders", "--follow", "--out", str(out), *mesh.options) as sub,
        started("pub", "orders", *mesh.options) as pub,
    ):
        feed(pub, b"".join(line + b"\n" for line in lines[:third]))
        until(lambda: out.exists() and out.read_bytes().count(b"\n") >= third // 2, "consumed")
        owner = owner_of(mesh, "orders")
        owner.kill()
        rest = b"".join(line + b"\n" for line in lines[third:])
        with ThreadPoolExecutor() as threads:
            feeding = threads.submit(pub.communicate, rest, DEADLINE_S)
            owner.start(mesh.addresses)
            _, said = feeding.result()
        assert pub.returncode == 0, said.decode()
        until(lambda: len(set(out.read_bytes().splitlines())) >= LINES, "all consumed")
        sub.send_signal(signal.SIGINT)
        sub.communicate(timeout=DEADLINE_S)
        assert sub.returncode == 0
    assert f"{LINES:,} published, {LINES:,} committed".encode() in said
    assert sorted(set(out.read_bytes().splitlines())) == sorted(lines)


@pytest.mark.slow
def test_without_owners_pub_waits_then_gives_up_and_says_where_to_go_on(tmp_path: Path) -> None:
    options = ["--timeout", "4"]
    with running_mesh(tmp_path, ["ant"]) as mesh:
        assert run("pub", "given-up", *mesh.options, stdin=b"first\n").returncode == 0
        with started("pub", "given-up", *options, *mesh.options) as pub:
            feed(pub, b"one\n")
            assert run("sub", "given-up", "--count", "2", *mesh.options).returncode == 0
            mesh.kill()
            _, said = pub.communicate(b"two\nthree\n", timeout=DEADLINE_S)
    assert pub.returncode == 1
    assert b"waiting: " in said
    assert b"publish again from line 2 on" in said
    assert b"Traceback" not in said
