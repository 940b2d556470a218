"""`p2pmq bind` and its kin beside a real mesh."""

import json

from tests.cli.kit import Mesh, run


def listed(mesh: Mesh) -> list[tuple[str, str]]:
    rows = map(json.loads, run("bindings", "--json", *mesh.options).stdout.splitlines())
    return [(row["pattern"], row["queue"]) for row in rows]


def test_what_is_bound_is_listed_until_it_is_parted(mesh: Mesh) -> None:
    bound = run("bind", "site.>", "archive", *mesh.options)
    assert (bound.returncode, bound.stdout) == (0, b"")
    assert b"events of site.> are copied into archive" in bound.stderr
    assert listed(mesh) == [("site.>", "archive")]
    parted = run("unbind", "site.>", "archive", *mesh.options)
    assert b"are not copied into archive any more" in parted.stderr
    assert listed(mesh) == []


def test_what_is_no_pattern_is_refused_in_one_line(mesh: Mesh) -> None:
    refused = run("bind", "a*", "archive", *mesh.options)
    assert refused.returncode == 1
    assert b"only in part a wildcard" in refused.stderr
    assert b"Traceback" not in refused.stderr
