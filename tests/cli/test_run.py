"""`p2pmq run`: a daemon that says what happens and ends well."""

import json
import signal
from pathlib import Path

import pytest

from tests.cli.kit import DEADLINE_S, Mesh, next_line, run, started


def test_a_daemon_tells_where_it_listens_and_who_is_there(mesh: Mesh) -> None:
    bee = mesh.daemons["bee"].log
    assert f"bee: listening on 127.0.0.1:{mesh.daemons['bee'].address.rpartition(':')[2]}" in bee
    assert "member ant (127.0.0.1:" in bee


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_0(number: signal.Signals, tmp_path: Path) -> None:
    options = ["--name", "solo", "--no-mdns", "--data-dir", str(tmp_path), "--json"]
    with started("run", *options) as process:
        assert "listening on" in json.loads(next_line(process.stdout))["text"]
        process.send_signal(number)
        out, said = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, said) == (0, b"")
    assert json.loads(out.splitlines()[-1])["text"] == "solo: stopped"


def test_a_second_node_in_one_directory_is_refused_in_one_line(mesh: Mesh) -> None:
    ant = mesh.daemons["ant"]
    options = ["--name", "other", "--no-mdns", "--data-dir", str(ant.folder / "ant")]
    refused = run("run", *options)
    assert refused.returncode == 1
    assert b"one node per directory" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_a_leaf_daemon_is_listed_as_a_leaf(mesh: Mesh) -> None:
    options = ["--name", "far", "--leaf", "--memory", "--json", "--mesh", mesh.name, "--no-mdns"]
    with started("run", *options, "--seed", mesh.addresses[0]) as process:
        while b"listening on" not in next_line(process.stdout):
            pass
        rows = run("peers", "--json", *mesh.options).stdout.splitlines()
        assert {row["name"]: row["leaf"] for row in map(json.loads, rows)}["far"]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
