"""docs/guarantees.md and features.md name a test for each promise: every one of them exists."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = {name: (ROOT / "docs" / name).read_text() for name in ("guarantees.md", "features.md")}
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_every_test_that_a_guarantee_names_exists(page: str) -> None:
    named = TEST.findall(page)
    assert named
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file()
        or not re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_every_row_of_a_table_of_guarantees_names_a_test(page: str) -> None:
    head = ""
    for line in page.splitlines():
        if line.startswith("|") and not head:
            head = line
        elif line.startswith("|") and not line.startswith("| ---") and head.endswith("test |"):
            assert TEST.search(line) or "simulations/" in line, line
        elif not line.startswith("|"):
            head = ""


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_no_line_cuts_a_table_in_two(page: str) -> None:
    lines = page.splitlines()
    for before, line in pairwise(lines):
        assert not (line.startswith("| ") and before and not before.startswith("|")), before
