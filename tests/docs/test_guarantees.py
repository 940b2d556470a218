"""docs/guarantees.md names a test for each promise: every one of them exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_test_that_a_guarantee_names_exists() -> None:
    named = TEST.findall(PAGE)
    assert named
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file()
        or not re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
    ]
    assert not missing


def test_every_row_of_a_table_of_guarantees_names_a_test() -> None:
    head = ""
    for line in PAGE.splitlines():
        if line.startswith("|") and not head:
            head = line
        elif line.startswith("|") and not line.startswith("| ---") and head.endswith("test |"):
            assert TEST.search(line) or "simulations/" in line, line
        elif not line.startswith("|"):
            head = ""
