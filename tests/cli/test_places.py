"""`p2pmq send` and `p2pmq inbox` through a real mesh: mail for one node, there or not."""

import json

from tests.cli.kit import DEADLINE_S, Mesh, run, started, until


def waiting_in(mesh: Mesh, queue: str) -> int:
    listed = map(json.loads, run("queues", "--json", *mesh.options).stdout.splitlines())
    return sum(row["ready"] for row in listed if row["queue"] == queue)


def test_mail_waits_for_a_node_that_is_away_and_comes_out_as_it_went_in(mesh: Mesh) -> None:
    sent = run("send", "away", *mesh.options, stdin=b"first\n\xff\x00\n\nlast")
    assert sent.returncode == 0
    assert b"4 published, 4 committed" in sent.stderr
    read = run("inbox", "--name", "away", "--count", "4", *mesh.options)
    assert (read.returncode, read.stdout) == (0, b"first\n\xff\x00\n\nlast\n")
    again = run("inbox", "--name", "away", "--idle", "0.2", *mesh.options)
    assert (again.returncode, again.stdout) == (0, b"")


def test_bodies_may_be_arguments_each_a_message_whole(mesh: Mesh) -> None:
    sent = run("send", "clerk", "--json", "open at nine", "two\nlines", *mesh.options)
    record = json.loads(sent.stdout)
    assert (record["queue"], record["published"], record["committed"]) == ("@clerk", 2, 2)
    read = run("inbox", "--name", "clerk", "--count", "2", "--json", *mesh.options)
    records = [json.loads(line) for line in read.stdout.splitlines()]
    assert [record["body"] for record in records] == ["open at nine", "two\nlines"]
    assert run("pub", "said", "a", "b", *mesh.options).returncode == 0
    assert run("sub", "said", "--count", "2", *mesh.options).stdout == b"a\nb\n"


def test_mail_reaches_an_inbox_that_waits_for_it(mesh: Mesh) -> None:
    inbox = ["inbox", "--name", "waiting", "--follow", "--count", "1"]
    with started(*inbox, *mesh.options) as process:
        assert run("send", "waiting", "hello", *mesh.options).returncode == 0
        out, _ = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out) == (0, b"hello\n")


def test_what_is_past_its_time_to_live_is_not_read(mesh: Mesh) -> None:
    assert run("send", "late", "gone", "--ttl", "1", *mesh.options).returncode == 0
    until(lambda: waiting_in(mesh, "@late") == 0, "it is dropped")
    assert run("send", "late", "kept", "--ttl", "inf", *mesh.options).returncode == 0
    read = run("inbox", "--name", "late", "--idle", "0.2", *mesh.options)
    assert (read.returncode, read.stdout) == (0, b"kept\n")


def test_nobody_reads_a_daemons_mail_beside_it(mesh: Mesh) -> None:
    assert run("send", "ant", "secret", *mesh.options).returncode == 0
    refused = run("inbox", "--name", "ant", *mesh.options)
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"the name 'ant' is taken" in refused.stderr
