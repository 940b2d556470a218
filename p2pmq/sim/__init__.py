"""The simulator: real nodes, and your own async code, on virtual time and a network that breaks."""

from p2pmq.sim.checks import SimulationCheckError
from p2pmq.sim.mesh import Mesh, SimulationSettleError
from p2pmq.sim.refuse import SimulationError, SimulationUsageError
from p2pmq.sim.seeds import seeds
from p2pmq.sim.simulation import Simulation, SimulationUnhandledError, simulate
from p2pmq.sim.violation import Violation

__all__ = [
    "Mesh",
    "Simulation",
    "SimulationCheckError",
    "SimulationError",
    "SimulationSettleError",
    "SimulationUnhandledError",
    "SimulationUsageError",
    "Violation",
    "seeds",
    "simulate",
]
