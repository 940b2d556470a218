"""docs/api.md is what `make api` makes of the docstrings, and leaves nothing public out."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import p2pmq
from p2pmq import blocking, errors

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_the_page_is_what_the_docstrings_say(tmp_path: Path) -> None:
    made = tmp_path / "api.md"
    subprocess.run(
        [sys.executable, str(ROOT / "docs" / "api_page.py"), str(made)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        timeout=60,
    )
    assert made.read_text(encoding="utf-8") == PAGE, "run `make api`"


def test_every_public_class_is_there() -> None:
    for name in p2pmq.__all__:
        found = getattr(p2pmq, name)
        if inspect.isclass(found):
            assert f".{name}\n" in PAGE, name
    for name in (*blocking.__all__, *errors.__all__):
        assert f".{name}\n" in PAGE, name


PUBLIC = [
    pytest.param(member, id=f"{found.__module__}.{found.__qualname__}.{name}")
    for found in (
        *(getattr(p2pmq, name) for name in p2pmq.__all__),
        *(getattr(blocking, name) for name in blocking.__all__),
    )
    if inspect.isclass(found)
    for name, member in inspect.getmembers(found, inspect.isfunction)
    if not name.startswith("_") and member.__module__.startswith("p2pmq")
]


@pytest.mark.parametrize("member", PUBLIC)
def test_every_public_method_says_what_it_does(member: object) -> None:
    assert inspect.getdoc(member)
