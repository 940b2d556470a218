"""The commands' usage: what is refused, what is said, and with which exit code."""

import pytest
from typer.testing import CliRunner, Result

from p2pmq import __version__
from p2pmq.cli.app import app

ALONE = ["--no-mdns", "--wait", "0.1", "--mesh", "of-nobody"]


def invoke(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def test_version_and_help_end_well() -> None:
    assert invoke("--version").output == f"p2pmq {__version__}\n"
    nodes = ("run", "pub", "send", "sub", "inbox", "declare", "peers", "queues", "forget")
    for command in (*nodes, "demo"):
        assert invoke(command, "--help").exit_code == 0


@pytest.mark.parametrize(
    "args",
    [
        ["pub"],
        ["sub"],
        ["forget"],
        ["nonsense"],
        ["pub", ""],
        ["pub", "a\x07b"],
        ["pub", "q", "--file", "/nowhere/at/all"],
        ["pub", "q", "--confirm", "perhaps"],
        ["pub", "q", "--confirm", "stored"],
        ["pub", "q", "body", "--file", __file__],
        ["pub", "q", "--priority", "10"],
        ["pub", "q", "--ttl", "0"],
        ["pub", "q", "--key", ""],
        ["pub", "q", "--key", "x" * 256],
        ["send", "n", "--key", "k"],
        ["send"],
        ["send", "a\x07b"],
        ["send", "x" * 255],
        ["send", "n", "--confirm", "stored"],
        ["inbox"],
        ["inbox", "--name", "x" * 255],
        ["declare", "q", "--replicas", "0"],
        ["declare", "q", "--min-copies", "10"],
        ["sub", "q", "--count", "0"],
        ["sub", "q", "--idle", "0"],
        ["run", "--weight", "0"],
        ["demo", "--messages", "1"],
    ],
)
def test_wrong_usage_ends_with_2_before_anything_is_done(args: list[str]) -> None:
    result = invoke(*args)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "args",
    [
        ["pub", "q"],
        ["send", "n"],
        ["sub", "q"],
        ["inbox", "--name", "n"],
        ["declare", "q"],
        ["peers"],
        ["queues"],
    ],
)
def test_without_a_full_node_a_command_says_what_to_do(args: list[str]) -> None:
    result = invoke(*args, *ALONE)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "no full node of mesh 'of-nobody' was found" in line
    assert "p2pmq run --mesh of-nobody" in line


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["run", "--listen", "nonsense"], "is not an address to listen on"),
        (["run", "--listen", "0.0.0.0:0", "--memory"], "refusing to listen on 0.0.0.0:0"),
        (["peers", "--seed", "nonsense"], "nonsense"),
        (["run", "--data-dir", "/dev/null/x"], "/dev/null/x cannot be used"),
    ],
)
def test_an_error_is_one_line_and_ends_with_1(args: list[str], said: str) -> None:
    result = invoke(*args, "--no-mdns")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("p2pmq: ")
    assert said in line


def test_debug_shows_the_traceback() -> None:
    result = invoke("peers", *ALONE, "--debug")
    assert type(result.exception).__name__ == "NoOwnerError"
