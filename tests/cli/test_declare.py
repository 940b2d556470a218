"""`p2pmq declare` beside a real mesh: every node knows the settings, and they last."""

import json
from pathlib import Path

from tests.cli.kit import Mesh, run, running_mesh, until


def settings_of(mesh: Mesh, queue: str) -> tuple[int, int]:
    listed = map(json.loads, run("queues", "--json", *mesh.options).stdout.splitlines())
    row = {row["queue"]: row for row in listed}[queue]
    return row["replicas"], row["min_copies"]


def test_what_is_declared_is_said_and_holds_on_the_owner(mesh: Mesh) -> None:
    copies = ("--replicas", "2", "--min-copies", "1")
    retries = ("--max-deliveries", "3", "--backoff", "0.5", "--backoff-max", "60", "--ttl", "3600")
    declared = run("declare", "set", *copies, *retries, *mesh.options)
    assert (declared.returncode, declared.stdout) == (0, b"")
    assert (
        b"set: kept on 2 disks, committed when it is on 1; a dead letter after 3 failures, with "
        b"pauses of 0.5 to 60 s; visibility timeout 30 s, time to live 3600 s\n"
    ) in declared.stderr
    assert run("pub", "set", "x", *mesh.options).returncode == 0
    assert settings_of(mesh, "set") == (2, 1)


def test_what_is_left_out_goes_back_to_its_default(mesh: Mesh) -> None:
    assert run("pub", "reset", "x", *mesh.options).returncode == 0
    for options, expected in ((["--replicas", "1"], (1, 1)), ([], (3, 2))):
        told = run("declare", "reset", "--json", *options, *mesh.options)
        record = json.loads(told.stdout)
        assert (record["replicas"], record["min_copies"], record["declared"]) == (*expected, True)
        until(lambda expected=expected: settings_of(mesh, "reset") == expected, "declared")  # type: ignore[misc]  # defaults of a lambda have no type


def test_more_copies_than_replicas_are_refused_in_one_line(mesh: Mesh) -> None:
    refused = run("declare", "odd", "--replicas", "2", "--min-copies", "3", *mesh.options)
    assert refused.returncode == 1
    assert b"min_copies=3 cannot be" in refused.stderr
    assert b"Traceback" not in refused.stderr


def test_limits_are_declared_and_said(mesh: Mesh) -> None:
    limits = ("--max-messages", "1000", "--max-bytes", "5000000", "--overflow", "drop-oldest")
    declared = run("declare", "limited", *limits, *mesh.options)
    assert b"; holds at most 1,000 messages and 5,000,000 bytes, then drop-oldest\n" in (
        declared.stderr
    )
    assert run("declare", "limited", "--overflow", "explode", *mesh.options).returncode == 2


def test_partitions_are_declared_shown_and_never_fewer(mesh: Mesh) -> None:
    declared = run("declare", "spread", "--partitions", "6", *mesh.options)
    assert b"; spread over 6 partitions\n" in declared.stderr
    assert run("pub", "spread", "x", *mesh.options).returncode == 0
    listed = map(json.loads, run("queues", "--json", *mesh.options).stdout.splitlines())
    row = next(row for row in listed if row["queue"] == "spread")
    assert (row["partitions"], row["ready"]) == (6, 1)
    assert len(row["owners"]) > 1
    assert set(row["owners"]) <= set(mesh.daemons)
    (heading, line) = (
        each.split()
        for each in run("queues", *mesh.options).stdout.decode().splitlines()
        if each.split()[0] in ("QUEUE", "spread")
    )
    assert (heading[-1], line[-1]) == ("PARTITIONS", "6")
    fewer = run("declare", "spread", "--partitions", "5", *mesh.options)
    assert fewer.returncode == 1
    assert b"it has 6 partitions" in fewer.stderr
    assert run("declare", "spread", "--partitions", "257", *mesh.options).returncode == 2


def test_a_declaration_outlives_who_made_it_and_a_restart_of_the_mesh(tmp_path: Path) -> None:
    with running_mesh(tmp_path, ["ant"]) as mesh:
        assert run("declare", "kept", "--replicas", "5", *mesh.options).returncode == 0
        mesh.kill()
        mesh.start()
        assert run("pub", "kept", "x", *mesh.options).returncode == 0
        assert settings_of(mesh, "kept") == (5, 3)
