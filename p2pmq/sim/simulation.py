"""A simulation: one seed, one loop, one mesh, and the guards around them.

    with p2pmq.sim.simulate(seed=7) as sim:
        sim.run(scenario)            # async def scenario(mesh): ...

Invariant: a run whose code raised errors that nobody awaited does not end well.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from p2pmq.sim.guards import guards
from p2pmq.sim.hostloop import MeshLoop
from p2pmq.sim.mesh import Mesh
from p2pmq.sim.refuse import SimulationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterator

_T = TypeVar("_T")


class SimulationUnhandledError(SimulationError):
    """Something failed in the simulation, and nobody awaited it. `errors` are those."""

    def __init__(self, lines: list[str], errors: list[BaseException], replay: str) -> None:
        listed = "".join(f"\n  {line}" for line in lines)
        super().__init__(
            f"{len(lines)} errors that nobody awaited; await the tasks, or handle the errors "
            f"in them:{listed}\n{replay}"
        )
        self.errors = errors


class Simulation:
    """One simulated world. It is made by `simulate`; a process has one at a time.

    >>> from p2pmq.sim import simulate
    >>> async def later(mesh):
    ...     await mesh.run_for(days=1)
    ...     return mesh.now
    >>> with simulate() as sim:
    ...     sim.run(later)
    86400.0
    """

    def __init__(self, seed: int, *, events_max: int | None, keep_trace: bool) -> None:
        self.seed = seed
        self.loop = MeshLoop(events_max=events_max)
        self.mesh = Mesh(self.loop, seed, keep_trace=keep_trace)

    def run(self, scenario: Callable[[Mesh], Coroutine[Any, Any, _T]]) -> _T:
        """Run `scenario(mesh)` to its end in virtual time, and return its result.

        It may be called again: the mesh goes on where it was. Raises what the scenario raises,
        or SimulationUnhandledError for what failed beside it.
        """
        result = self.loop.run_until_complete(scenario(self.mesh))
        gc.collect()  # errors that nobody awaited are told when their tasks are dropped
        self._raise_unhandled()
        return result

    def close(self) -> None:
        """End every process and task."""
        self.mesh.end()
        self.loop.cancel_all()
        self.loop.close()

    def _raise_unhandled(self) -> None:
        unhandled, self.loop.unhandled = self.loop.unhandled, []
        if unhandled:
            lines = [f"at {u.at_s:.3f} s, {u.source}: {u.message}: {u.error!r}" for u in unhandled]
            errors = [u.error for u in unhandled if u.error is not None]
            raise SimulationUnhandledError(lines, errors, self.mesh.replay) from (
                errors[0] if errors else None
            )


@contextmanager
def simulate(
    seed: int = 0,
    *,
    allow: Collection[str] = (),
    events_max: int | None = None,
    keep_trace: bool = False,
) -> Iterator[Simulation]:
    """A simulation without pytest: `sim.run(scenario)`, `sim.mesh`.

    `allow` names packages that may read clocks and draw chance (they get virtual and seeded
    ones); `events_max` ends a run that goes on for ever; `keep_trace` keeps the trace's lines.

    >>> from p2pmq.sim import simulate
    >>> async def publish(mesh):
    ...     (node,) = await mesh.start("a")
    ...     return await node.publish("jobs", "wash up")
    >>> with simulate(seed=7) as sim:
    ...     first = sim.run(publish)
    >>> with simulate(seed=7) as sim:
    ...     sim.run(publish) == first  # a seed gives one history
    True
    """
    sim = Simulation(seed, events_max=events_max, keep_trace=keep_trace)
    with guards(sim.loop, allow=allow):
        try:
            yield sim
        finally:
            sim.close()
