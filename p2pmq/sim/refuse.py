"""What a simulation refuses or gives up on, and the loop methods that reach outside.

A simulated run is a function of its seed only while nothing in it touches
the machine: a socket, a thread, a signal or another process would bring in
a timing that no seed controls. So each of these fails at the call, and says
what stands in for it.

Invariant: a refusal is also entered in the loop's `unhandled`, so that an
`except Exception` in a handler cannot hide it from the run.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, NoReturn

from p2pmq.errors import P2PMQError

__all__ = [
    "RefusingLoop",
    "SimulationDeadlineError",
    "SimulationDeadlockError",
    "SimulationError",
    "SimulationEventLimitError",
    "SimulationUsageError",
    "Unhandled",
]

_NETWORK = "talk to simulated nodes through the simulation's network"
_THREAD = "call the function directly, and await asyncio.sleep(...) for the time that it would take"
_PROCESS = "run it as a task, or as another simulated node"
_SIGNAL = "have the scenario await node.close(), or cancel the task"
_WAITERS_SHOWN = 20


class SimulationError(P2PMQError):
    """A simulated run cannot go on; the root of what this room raises."""


class SimulationUsageError(SimulationError):
    """Code inside a simulation reached for the real world.

    `what` names the call, `instead` what to use; `where` is `file:line` of the caller, if known.
    """

    def __init__(self, what: str, instead: str, where: str = "") -> None:
        caller = f", called at {where}," if where else ""
        super().__init__(
            f"{what}{caller} is refused inside a simulation, for no seed controls what it does: "
            f"{instead}"
        )
        self.what = what
        self.instead = instead
        self.where = where


class SimulationDeadlockError(SimulationError):
    """Nothing is ready and no timer is set: the tasks wait for each other, or for nobody."""

    def __init__(self, at_s: float, waiters: list[str]) -> None:
        super().__init__(
            f"deadlock at {at_s:.6f} s: nothing is ready and no timer is set, so nothing will ever "
            f"wake these {len(waiters)} tasks; set what they wait for, or give the wait a timeout"
            + _listed(waiters)
        )
        self.at_s = at_s
        self.waiters = waiters


class SimulationDeadlineError(SimulationError):
    """The awaited result did not come within the virtual time that it was given."""

    def __init__(self, deadline_s: float, waiters: list[str]) -> None:
        super().__init__(
            f"not done by the deadline of {deadline_s:.6f} s of virtual time; raise the deadline "
            f"if the work may take so long. {len(waiters)} tasks still wait" + _listed(waiters)
        )
        self.deadline_s = deadline_s
        self.waiters = waiters


class SimulationEventLimitError(SimulationError):
    """More callbacks ran than allowed, in all or without the clock moving."""

    def __init__(self, events: int, at_s: float, setting: str, next_up: list[str]) -> None:
        super().__init__(
            f"{events:,} callbacks ran by {at_s:.6f} s, over {setting}: something runs in circles "
            f"(look for a loop around sleep(0), or a timer set for a time that has passed), or "
            f"{setting} is too low. Next to run" + _listed(next_up)
        )
        self.events = events
        self.at_s = at_s
        self.setting = setting
        self.next_up = next_up


@dataclass(frozen=True, slots=True)
class Unhandled:
    """An error that nobody awaited: `at_s` is virtual time, `source` the task or callback."""

    at_s: float
    message: str
    error: BaseException | None
    source: str


def _listed(lines: list[str]) -> str:
    shown = "".join(f"\n  {line}" for line in lines[:_WAITERS_SHOWN])
    more = len(lines) - _WAITERS_SHOWN
    return (":" + shown if lines else "") + (f"\n  and {more} more" if more > 0 else "")


def _refused(name: str, instead: str) -> Any:  # noqa: ANN401  stands in for many signatures
    """A method that refuses at the call, so that the traceback shows who called."""

    def refuse(self: RefusingLoop, *_: object, **__: object) -> NoReturn:
        raise self.refusal(f"loop.{name}()", instead)

    refuse.__name__ = name
    refuse.__doc__ = f"Refused: {instead}."
    return refuse


class RefusingLoop(asyncio.AbstractEventLoop):
    """The half of the loop interface that a simulation has no use for: all of it refuses."""

    def refusal(self, what: str, instead: str, where: str = "") -> SimulationUsageError:
        """The error to raise for `what`, already entered in `unhandled`."""
        error = SimulationUsageError(what, instead, where)
        self.call_exception_handler({"message": str(error), "exception": error})
        return error

    run_in_executor = _refused("run_in_executor", _THREAD)
    set_default_executor = _refused("set_default_executor", _THREAD)

    getaddrinfo = _refused("getaddrinfo", _NETWORK)
    getnameinfo = _refused("getnameinfo", _NETWORK)
    create_connection = _refused("create_connection", _NETWORK)
    create_server = _refused("create_server", _NETWORK)
    create_unix_connection = _refused("create_unix_connection", _NETWORK)
    create_unix_server = _refused("create_unix_server", _NETWORK)
    create_datagram_endpoint = _refused("create_datagram_endpoint", _NETWORK)
    connect_accepted_socket = _refused("connect_accepted_socket", _NETWORK)
    start_tls = _refused("start_tls", _NETWORK)
    sendfile = _refused("sendfile", _NETWORK)
    add_reader = _refused("add_reader", _NETWORK)
    remove_reader = _refused("remove_reader", _NETWORK)
    add_writer = _refused("add_writer", _NETWORK)
    remove_writer = _refused("remove_writer", _NETWORK)
    sock_recv = _refused("sock_recv", _NETWORK)
    sock_recv_into = _refused("sock_recv_into", _NETWORK)
    sock_recvfrom = _refused("sock_recvfrom", _NETWORK)
    sock_recvfrom_into = _refused("sock_recvfrom_into", _NETWORK)
    sock_sendall = _refused("sock_sendall", _NETWORK)
    sock_sendto = _refused("sock_sendto", _NETWORK)
    sock_connect = _refused("sock_connect", _NETWORK)
    sock_accept = _refused("sock_accept", _NETWORK)
    sock_sendfile = _refused("sock_sendfile", _NETWORK)

    connect_read_pipe = _refused("connect_read_pipe", _PROCESS)
    connect_write_pipe = _refused("connect_write_pipe", _PROCESS)
    subprocess_exec = _refused("subprocess_exec", _PROCESS)
    subprocess_shell = _refused("subprocess_shell", _PROCESS)

    add_signal_handler = _refused("add_signal_handler", _SIGNAL)
    remove_signal_handler = _refused("remove_signal_handler", _SIGNAL)
