"""What the README and `examples/` say runs, and prints what it says."""

from __future__ import annotations

import asyncio
import doctest
import os
import re
import sys
from pathlib import Path

import pytest

from p2pmq.node import node as node_module

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TIMEOUT_S = 60


async def run(code_or_path: str | Path, data_home: Path) -> str:
    """Run a script in a process of its own; give what it prints."""
    arguments = [str(code_or_path)] if isinstance(code_or_path, Path) else ["-c", code_or_path]
    environment = os.environ | {"XDG_DATA_HOME": str(data_home), "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode == 0, err.decode()
    return out.decode()


def readme_example() -> str:
    """The README's one Python example."""
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return str(code)


async def test_the_example_of_the_readme_prints_the_message_that_it_published(
    tmp_path: Path,
) -> None:
    assert await run(readme_example(), tmp_path) == "True billing\n{'id': 1}\n"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
async def test_every_example_runs_to_its_end(path: Path, tmp_path: Path) -> None:
    assert await run(path, tmp_path)


def test_the_example_in_the_docstring_of_node_is_true() -> None:
    failed, tried = doctest.testmod(node_module)
    assert tried
    assert not failed
