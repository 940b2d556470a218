"""The plugin as a user has it: tests in a folder of their own, run by a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STORY = """
import asyncio
from p2pmq.sim import mesh

async def test_hours_pass(mesh):
    (shop,) = await mesh.start("shop")
    await asyncio.sleep(3600)
    assert asyncio.get_running_loop().time() >= 3600

async def test_fails(mesh):
    await mesh.start("a")
    assert mesh.seed < 0

async def test_reads_a_clock(mesh):
    import time
    time.time()

async def test_forgets_an_error(mesh):
    async def fail():
        raise KeyError("forgotten")
    await mesh.start("a")
    mesh.run("a", fail())
    await asyncio.sleep(1)

@mesh.seeds(3, first=5)
async def test_of_many_seeds(mesh):
    assert mesh.seed != 6

class TestInAClass:
    async def test_has_the_mesh_too(self, mesh, tmp_path):
        assert tmp_path.exists()

def test_without_a_coroutine(mesh):
    assert mesh.now == 0
"""
OTHER = """
import asyncio
import pytest

@pytest.fixture
def mesh():
    return "a mesh of another kind"

@pytest.mark.asyncio
async def test_another_fixture_of_that_name_is_left_alone(mesh):
    await asyncio.sleep(0)
    assert mesh == "a mesh of another kind"
"""


def run_pytest(folder: Path, *options: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-p", "p2pmq.sim.pytest_plugin", "-p"]
    command += ["no:cacheprovider", "-rA", "--rootdir", str(folder), *options]
    found = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return found.stdout + found.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (tmp_path / "test_story.py").write_text(STORY)
    return tmp_path


LOOP_SCOPE = ("-o", "asyncio_default_fixture_loop_scope=function")


@pytest.mark.parametrize(
    "options",
    [
        ("-p", "no:asyncio"),
        ("-o", "asyncio_mode=auto", *LOOP_SCOPE),
        ("-o", "asyncio_mode=strict", *LOOP_SCOPE),
    ],
    ids=["alone", "auto", "strict"],
)
def test_tests_run_in_virtual_time_beside_any_plugin_for_coroutines(
    folder: Path, options: tuple[str, ...]
) -> None:
    said = run_pytest(folder, *options)
    assert "PASSED test_story.py::test_hours_pass" in said
    assert "PASSED test_story.py::TestInAClass::test_has_the_mesh_too" in said
    assert "PASSED test_story.py::test_without_a_coroutine" in said
    assert "4 failed, 5 passed" in said, said
    assert "pytest 'test_story.py::test_fails' --p2pmq-seed 0" in said
    assert "is refused inside a simulation" in said
    assert "KeyError('forgotten')" in said
    assert "FAILED test_story.py::test_of_many_seeds[seed6]" in said
    assert "pytest 'test_story.py::test_of_many_seeds' --p2pmq-seed 6" in said


def test_a_seed_can_be_picked_and_their_number_changed(folder: Path) -> None:
    said = run_pytest(folder, "-k", "many_seeds", "--p2pmq-seed", "6", *LOOP_SCOPE)
    assert "1 failed, 6 deselected" in said
    said = run_pytest(folder, "-k", "many_seeds", "--p2pmq-seeds", "10", *LOOP_SCOPE)
    assert "1 failed, 9 passed" in said


def test_another_fixture_named_mesh_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(OTHER)
    assert "1 passed" in run_pytest(tmp_path)


MANY = """
import gc
from p2pmq.sim import mesh
from p2pmq.sim.mesh import Mesh

@mesh.seeds(5)
async def test_many(mesh):
    await mesh.start("a", "b")

def test_nothing_is_left_of_them():
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, Mesh)]
"""


def test_a_mesh_goes_when_its_test_is_over(tmp_path: Path) -> None:
    (tmp_path / "test_many.py").write_text(MANY)
    assert "6 passed" in run_pytest(tmp_path, *LOOP_SCOPE)
