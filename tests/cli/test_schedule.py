"""`p2pmq schedule` and `p2pmq pub --delay` beside a real mesh."""

import json

from tests.cli.kit import Mesh, run


def listed(mesh: Mesh) -> list[tuple[str, str, str, str]]:
    rows = map(json.loads, run("schedule", "list", "--json", *mesh.options).stdout.splitlines())
    return [(row["name"], row["cron"], row["queue"], row["body"]) for row in rows]


def test_what_is_scheduled_is_listed_until_it_is_removed(mesh: Mesh) -> None:
    added = run("schedule", "add", "nightly", "30 4 * * *", "jobs", "do it", *mesh.options)
    assert (added.returncode, added.stdout) == (0, b"")
    assert b"nightly: into jobs at 30 4 * * * UTC, next at 2" in added.stderr
    assert listed(mesh) == [("nightly", "30 4 * * *", "jobs", "do it")]
    removed = run("schedule", "remove", "nightly", *mesh.options)
    assert removed.stderr.endswith(b"p2pmq: nightly is published no more\n")
    assert listed(mesh) == []


def test_what_never_ticks_is_refused_in_one_line(mesh: Mesh) -> None:
    refused = run("schedule", "add", "odd", "* * * *", "jobs", *mesh.options)
    assert refused.returncode == 1
    assert b"give five fields" in refused.stderr
    assert b"Traceback" not in refused.stderr


def test_what_is_published_for_later_is_delayed_and_not_waited_for(mesh: Mesh) -> None:
    for options in (["--delay", "3600"], ["--at", "2099-01-01"], ["--at", "soon"], ["--at", "1"]):
        published = run("pub", "later", str(options), *options, *mesh.options)
        well = options[1] in ("3600", "1")
        assert (published.returncode == 0) == well, published.stderr
    rows = map(json.loads, run("queues", "--json", *mesh.options).stdout.splitlines())
    (row,) = [row for row in rows if row["queue"] == "later"]
    assert (row["ready"], row["delayed"]) == (1, 1)
    read = run("sub", "later", "--idle", "0.2", *mesh.options)
    assert read.stdout == b"['--at', '1']\n"
