"""`p2pmq peers`, `queues` and `forget` beside a real mesh."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2pmq.cli.app import app
from tests.cli.kit import Mesh, run, running_mesh, started, until


def test_peers_lists_the_daemons(mesh: Mesh) -> None:
    result = CliRunner().invoke(app, ["peers", "--json", *mesh.options])
    assert result.exit_code == 0
    rows = [row for row in map(json.loads, result.stdout.splitlines()) if not row["leaf"]]
    assert [row["name"] for row in rows] == ["ant", "bee", "cat"]
    assert {row["state"] for row in rows} == {"alive"}
    assert rows[0]["addresses"] == [mesh.daemons["ant"].address]
    assert rows[0].keys() == {"name", "node_id", "state", "addresses", "zone", "leaf"}


def test_a_pipe_gets_the_peers_as_aligned_text(mesh: Mesh) -> None:
    lines = run("peers", *mesh.options).stdout.decode().splitlines()
    assert lines[0].split()[:4] == ["NAME", "STATE", "LEAF", "ZONE"]
    assert [line.split()[:3] for line in lines[1:4]] == [
        [name, "alive", "no"] for name in ("ant", "bee", "cat")
    ]


def test_passing_nodes_are_neither_listed_nor_remembered(mesh: Mesh) -> None:
    for _ in range(2):
        assert b"peers-" not in run("peers", *mesh.options).stdout


def test_a_reader_that_goes_away_is_no_error_to_tell_of(mesh: Mesh) -> None:
    with started("peers", "--json", *mesh.options) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_queues_tells_what_waits_and_where(mesh: Mesh) -> None:
    run("pub", "listed", *mesh.options, stdin=b"one\ntwo\n")
    result = CliRunner().invoke(app, ["queues", "--json", *mesh.options])
    rows = {row["queue"]: row for row in map(json.loads, result.stdout.splitlines())}
    row = rows["listed"]
    assert row["owner"] in mesh.daemons
    assert row.pop("owners") == [row.pop("owner")]
    assert row == {
        "queue": "listed",
        "ready": 2,
        "in_flight": 0,
        "delayed": 0,
        "size_bytes": 6,
        "consumers": 0,
        "replicas": 3,
        "min_copies": 2,
        "partitions": 1,
    }


def test_forget_refuses_a_member_that_lives_and_one_that_is_not_there(mesh: Mesh) -> None:
    for name in ("ant", "nobody"):
        result = CliRunner().invoke(app, ["forget", name, *mesh.options])
        assert result.exit_code == 1
        assert "no dead member is named" in result.stderr


@pytest.mark.slow
def test_a_dead_member_is_listed_as_such_until_it_is_forgotten(tmp_path: Path) -> None:
    with running_mesh(tmp_path) as mesh:
        mesh.daemons["cat"].kill()

        def state_of_cat() -> str | None:
            found = run("peers", "--json", *mesh.options)
            rows = map(json.loads, found.stdout.splitlines())
            return {row["name"]: row["state"] for row in rows}.get("cat")

        until(lambda: state_of_cat() == "dead", "cat is dead")
        until(
            lambda: b"away: cat; what is on no other" in run("queues", *mesh.options).stderr,
            "its queues are missed",
        )
        until(lambda: run("forget", "cat", *mesh.options).returncode == 0, "cat is forgotten")
        until(lambda: state_of_cat() is None, "cat is not listed any more")


def test_a_deletion_asks_first_and_takes_settings_and_messages(mesh: Mesh) -> None:
    assert run("declare", "gone", "--max-deliveries", "3", *mesh.options).returncode == 0
    assert run("pub", "gone", *mesh.options, stdin=b"1\n2\n").returncode == 0
    asked = run("delete", "gone", *mesh.options, stdin=b"n\n")
    assert asked.returncode == 1
    assert b"Delete gone with all that is in it, on every node, for good? [y/N]" in asked.stderr
    done = run("delete", "gone", "--yes", *mesh.options)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"p2pmq: gone is deleted" in done.stderr
    again = run("purge", "gone", "--yes", "--json", *mesh.options)
    assert json.loads(again.stdout) == {"queue": "gone", "purged": 0}


def test_a_purge_asks_first_and_says_how_many_are_gone(mesh: Mesh) -> None:
    lines = b"".join(b"%d\n" % number for number in range(30))
    assert run("pub", "full", *mesh.options, stdin=lines).returncode == 0
    asked = run("purge", "full", *mesh.options, stdin=b"n\n")
    assert asked.returncode == 1
    assert b"Remove every message that waits in full, for good? [y/N]" in asked.stderr
    (told,) = run("purge", "full", "--json", *mesh.options, stdin=b"y\n").stdout.splitlines()
    assert json.loads(told) == {"queue": "full", "purged": 30}
    again = run("purge", "full", "--yes", *mesh.options)
    assert (again.returncode, again.stdout) == (0, b"")
    assert b"p2pmq: full: 0 messages are gone\n" in again.stderr
