"""What the README and `examples/` say runs, and prints what it says."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import os
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

import p2pmq

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


PRINTED = ["True billing\n{'id': 1}\n", "{'id': 2}\n"]
"""What the README's examples print, in their order."""


def readme_examples() -> list[str]:
    """The README's Python examples: with asyncio, and without."""
    text = (ROOT / "README.md").read_text()
    return [str(code) for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


@pytest.mark.parametrize(("code", "printed"), list(zip(readme_examples(), PRINTED, strict=True)))
async def test_the_examples_of_the_readme_print_the_message_that_they_published(
    code: str, printed: str, tmp_path: Path
) -> None:
    assert await run(code, tmp_path) == printed


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
async def test_every_example_runs_to_its_end(path: Path, tmp_path: Path) -> None:
    assert await run(path, tmp_path)


PACKAGES = {
    "p2pmq": (
        "config",
        "errors",
        *(
            f"node.{name}"
            for name in (
                *(
                    "binding",
                    "managing",
                    "message",
                    "node",
                    "queue",
                    "receipts",
                    "redriving",
                    "replay",
                ),
                *("scheduling", "settings", "talking"),
            )
        ),
    ),
    "p2pmq.blocking": ("node", "queue", "serving", "subscription", "taking"),
    "p2pmq.sim": ("mesh", "seeds", "simulation", "violation"),
}
"""Where the public names of each package are made."""
MODULES = [f"{package}.{name}" for package, names in PACKAGES.items() for name in names]


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_the_docstrings_of_public_names_are_true(module: str) -> None:
    failed, tried = doctest.testmod(import_module(module), optionflags=doctest.ELLIPSIS)
    assert tried
    assert not failed


WITHOUT_EXAMPLE = {
    "Message": "the example of `Node` gets one",
    "Event": "the example of `Node.emit` gets one",
    "Subscription": "the example of `Node.emit` uses one",
    "Request": "the example of `Node.request` handles one",
    "Responder": "the example of `Node.request` has one",
}
"""Public names without one of their own, and why; `P2PMQError` has one for all errors."""


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_an_example_or_a_reason_why_not(package: str) -> None:
    module = import_module(package)
    public = {name: getattr(module, name) for name in module.__all__}
    explained = {
        name: found
        for name, found in public.items()
        if (inspect.isclass(found) or inspect.isfunction(found))
        and (found is p2pmq.P2PMQError or not _is_error(found))
    }
    without = {
        name
        for name, found in explained.items()
        if not any(test.examples for test in doctest.DocTestFinder().find(found, name, globs={}))
    }
    assert without == (set(WITHOUT_EXAMPLE) if package == "p2pmq" else set())


def _is_error(found: object) -> bool:
    return inspect.isclass(found) and issubclass(found, p2pmq.P2PMQError)
