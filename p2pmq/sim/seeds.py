"""`@mesh.seeds(200)`: run a test under many seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from p2pmq.sim.refuse import SimulationUsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    _Test = TypeVar("_Test", bound=Callable[..., Any])

SEEDS_ATTRIBUTE = "p2pmq_seeds"


def seeds(count: int, *, first: int = 0) -> Callable[[_Test], _Test]:
    """Run the test with the seeds `first` … `first + count - 1`, each as a test of its own.

    For tests with the `mesh` fixture. `--p2pmq-seed` picks one seed, `--p2pmq-seeds` changes
    the count.

    >>> from p2pmq.sim import Mesh, seeds
    >>> @seeds(100)
    ... async def test_a_lone_node_commits(mesh: Mesh) -> None:
    ...     (node,) = await mesh.start("a")
    ...     assert (await node.publish("jobs", "wash up")).committed
    """
    if count < 1:
        raise SimulationUsageError(f"seeds({count})", "give 1 or more")

    def mark(test: _Test) -> _Test:
        setattr(test, SEEDS_ATTRIBUTE, range(first, first + count))
        return test

    return mark
