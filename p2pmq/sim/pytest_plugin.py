"""The pytest plugin: the fixture `mesh`, and coroutine tests that use it run in virtual time.

A test that takes `mesh` and is `async def` is run on the simulation's loop,
whether or not pytest-asyncio or another plugin for coroutines is there: its
item is replaced before they see it run. Other tests are left alone.

Invariant: a test gets a simulation of its own, from one seed, which a failure names.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import pytest

from p2pmq.sim.seeds import SEEDS_ATTRIBUTE
from p2pmq.sim.simulation import simulate

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from p2pmq.sim.mesh import Mesh
    from p2pmq.sim.simulation import Simulation

SEED_DEFAULT = 0
_SIMULATION: pytest.StashKey[Simulation] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options."""
    group = parser.getgroup("p2pmq", "simulations of p2pmq meshes")
    group.addoption(
        "--p2pmq-seed",
        type=int,
        default=None,
        metavar="N",
        help="run tests with the `mesh` fixture with this seed only",
    )
    group.addoption(
        "--p2pmq-seeds",
        type=int,
        default=None,
        metavar="COUNT",
        help="run tests that are marked with @mesh.seeds(...) with so many seeds",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test for each seed of `@mesh.seeds(...)`."""
    marked: range | None = getattr(metafunc.function, SEEDS_ATTRIBUTE, None)
    if "mesh" not in metafunc.fixturenames or marked is None:
        return
    seed, count = (metafunc.config.getoption(f"--p2pmq-{name}") for name in ("seed", "seeds"))
    seeds = marked if count is None else range(marked.start, marked.start + count)
    if seed is not None:
        seeds = range(seed, seed + 1)
    metafunc.parametrize("mesh", seeds, indirect=True, ids=[f"seed{n}" for n in seeds])


@pytest.fixture(name="mesh")
def mesh_fixture(request: pytest.FixtureRequest) -> Iterator[Mesh]:
    """A simulated mesh without nodes; the test runs in virtual time."""
    picked = request.config.getoption("--p2pmq-seed")
    default = SEED_DEFAULT if picked is None else picked
    with simulate(getattr(request, "param", default)) as sim:
        request.node.stash[_SIMULATION] = sim
        test = request.node.nodeid.partition("[")[0]
        sim.mesh.replay = f"replay it with: pytest '{test}' --p2pmq-seed {sim.seed}"
        yield sim.mesh


class SimulatedTest(pytest.Function):
    """A coroutine test that takes `mesh`."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> Generator[None, Any, Any]:
    """Take the tests that are ours from whoever else runs coroutines."""
    del collector, name, obj
    items = yield
    if isinstance(items, list):
        return [_simulated(item) if _is_ours(item) else item for item in items]
    return items


def _is_ours(item: object) -> bool:
    return (
        isinstance(item, pytest.Function)
        and inspect.iscoroutinefunction(item.obj)
        and "mesh" in item.fixturenames
        and getattr(item._fixtureinfo.name2fixturedefs.get("mesh", [None])[-1], "func", None)  # noqa: SLF001  nothing public tells whose fixture it is
        is _fixture_function()
    )


def _fixture_function() -> object:
    return inspect.unwrap(getattr(mesh_fixture, "_fixture_function", mesh_fixture))


def _simulated(item: pytest.Function) -> pytest.Function:
    test = item.obj

    @functools.wraps(test)
    def run(**given: Any) -> None:  # noqa: ANN401  the test's fixtures
        simulated.stash[_SIMULATION].run(lambda _: test(**given))

    # A wrapper that looked like a coroutine function would be awaited by others.
    del run.__wrapped__
    simulated = SimulatedTest.from_parent(
        item.parent,
        name=item.name,
        callspec=getattr(item, "callspec", None),
        callobj=run,
        fixtureinfo=item._fixtureinfo,  # noqa: SLF001  the one way to make an item like another
        keywords=item.keywords,
        originalname=item.originalname,
    )
    # pytest-asyncio's mark would have it warn of a test that it does not run.
    simulated.own_markers = [mark for mark in item.own_markers if mark.name != "asyncio"]
    return simulated


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say the seed, the trace and how to replay, if the test failed."""
    report = yield
    sim = item.stash.get(_SIMULATION, None)
    if sim is not None and call.excinfo is not None and report.failed:
        mesh = sim.mesh
        text = (
            f"seed {sim.seed}, at {sim.loop.time():.3f} s of virtual time, after "
            f"{sim.loop.events} events; trace {mesh.trace.digest}\n{mesh.replay}"
        )
        report.sections.append(("p2pmq simulation", text))
    if sim is not None and call.when == "teardown":
        del item.stash[_SIMULATION]  # pytest keeps every item to the end, and with it each mesh
    return report
