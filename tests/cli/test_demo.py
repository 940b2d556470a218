"""`p2pmq demo`, played with few lines: it kills the owner for good and loses nothing."""

import json
from pathlib import Path

import pytest

from tests.cli.kit import run


def test_the_demo_kills_the_owner_for_good_and_loses_no_line(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(b"".join(b"line %d\n" % number for number in range(500)))
    played = run("demo", "--file", str(file), "--no-mdns", "--json")
    assert played.returncode == 0, played.stderr.decode()
    found = json.loads(played.stdout)
    assert (found["lines"], found["published"], found["processed"]) == (500, 500, 500)
    assert (found["lost"], found["damaged"], found["discovery"]) == (0, 0, "seeds")
    assert found["killed"] in ("bank", "depot")
    assert found["successor"] in {"shop", "bank", "depot"} - {found["killed"]}
    said = played.stderr.decode()
    assert "is killed with -9, and will not run again" in said
    assert said.count(" runs as process ") == 3
    assert f"{found['successor']} found out and took the queue over" in said


@pytest.mark.slow
def test_the_demo_meets_by_mdns_or_says_that_it_cannot() -> None:
    played = run("demo", "--messages", "200")
    assert played.returncode == 0, played.stderr.decode()
    said = played.stderr.decode()
    assert ("found each other by mDNS" in said) != ("no multicast here" in said)
    assert "lost" in played.stdout.decode()
