"""Guards: while a simulation runs, its code cannot reach a real clock, chance, thread or socket.

`guards(loop)` replaces the functions that would let the outside in, and puts
all of them back at its end. They bite only in the thread and while the loop
runs: a test may time its simulation from outside. Who calls decides:

- user code, p2pmq itself and other packages get a SimulationUsageError;
- the standard library and the packages in `allow` get virtual time and
  seeded chance (so a log record is stamped with virtual time);
- the test tools (pytest, hypothesis, coverage) get the real thing.

A name that was imported into a module (`from time import time`, `from
datetime import datetime`) is replaced there too. What stays out of reach:
clocks and chance read inside C extensions, references kept elsewhere than
in a module (a default argument, an attribute), `random.Random()` made
before, and code that blocks without any of these, as on a plain lock.

Python's garbage collector is part of it: its own schedule follows from the
allocations of the whole process, and finalizers can be seen by a program.
So it is off, what existed before is frozen, and the loop collects the run's
own garbage at fixed numbers of events.

Invariant: after `guards`, every name that it replaced is what it was before.
"""

from __future__ import annotations

import gc
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType, ModuleType
from typing import Any

from p2pmq.sim.calendars import calendar_facades
from p2pmq.sim.loop import SimLoop
from p2pmq.sim.refuse import SimulationUsageError

__all__ = ["guards"]

_COLLECT_EVERY_EVENTS = 50_000  # some 0.1 s of a busy run; a pass costs about 10 ms per 100,000 objects
_TOOLS = frozenset(
    {"_hypothesis_pytestplugin", "_pytest", "coverage", "hypothesis", "pluggy", "pytest"}
    | {"pytest_asyncio", "pytest_timeout"}
)
# Who calls through these wants what they stand for: look at their caller.
_WRAPPERS = frozenset({"random", "secrets", "uuid"})
_CLOCK = "use asyncio.get_running_loop().time(), which is virtual in a simulation"
_SLEEP = "await asyncio.sleep(...), which takes virtual time"
_CHANCE = "draw from a random.Random(seed) that the scenario passes in"
_THREAD = "do the work in a task of the simulated loop"
_NETWORK = "talk to simulated nodes through the simulation's network"
_PROCESS = "run it as a task, or as another simulated node"
# The wall clock (true) and those that only measure (false), with the factor to their unit.
_CLOCKS = {
    "time": (True, 1),
    "monotonic": (False, 1),
    "perf_counter": (False, 1),
    "process_time": (False, 1),
    "thread_time": (False, 1),
    "time_ns": (True, 1_000_000_000),
    "monotonic_ns": (False, 1_000_000_000),
    "perf_counter_ns": (False, 1_000_000_000),
    "process_time_ns": (False, 1_000_000_000),
    "thread_time_ns": (False, 1_000_000_000),
}
# These read the clock if called with no more than so many arguments.
_CALENDAR = {"gmtime": 0, "localtime": 0, "ctime": 0, "asctime": 0, "strftime": 1}
_OUTSIDE: tuple[tuple[Any, str, str, str], ...] = (
    (threading.Thread, "start", "threading.Thread.start", _THREAD),
    (socket.socket, "__init__", "socket.socket", _NETWORK),
    (socket, "getaddrinfo", "socket.getaddrinfo", _NETWORK),
    (socket, "gethostbyname", "socket.gethostbyname", _NETWORK),
    (subprocess.Popen, "__init__", "subprocess.Popen", _PROCESS),
    (os, "fork", "os.fork", _PROCESS),
    (os, "system", "os.system", _PROCESS),
)


@contextmanager
def guards(loop: SimLoop, *, allow: Collection[str] = ()) -> Iterator[None]:
    """Keep the real world out of what `loop` runs, until the end of the block.

    `allow` names top-level packages that may read clocks and draw chance: they get virtual time
    and seeded chance instead of an error. Raises SimulationUsageError if guards are up already:
    one process runs one simulation at a time.
    """
    global _active  # noqa: PLW0603  what is guarded is the process
    if _active:
        raise SimulationUsageError(
            "a second guards()", "run one simulation after the other, or each in its own process"
        )
    _active = True
    guard = _Guard(loop, frozenset(allow))
    chance = random.getstate()
    was_collecting = gc.isenabled()
    frozen = gc.get_freeze_count() == 0  # else somebody froze before us: leave it to them
    try:
        guard.put_up()
        gc.disable()
        if frozen:
            gc.freeze()
        loop.collect_every_events = _COLLECT_EVERY_EVENTS
        yield
    finally:
        loop.collect_every_events = None
        gc.collect()  # what the run left behind ends here, and its errors count as the run's
        if frozen:
            gc.unfreeze()
        if was_collecting:
            gc.enable()
        guard.take_down()
        random.setstate(chance)
        _active = False


_active = False


@dataclass(frozen=True, slots=True)
class _Replaced:
    owner: Any  # a module or a class
    name: str
    real: Any
    guarded: Any


@dataclass(slots=True)
class _Guard:
    """The replacements of one run."""

    loop: SimLoop
    allow: frozenset[str]
    thread_id: int = field(default_factory=threading.get_ident)
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    is_seeded: bool = False  # whether the run called random.seed(...) itself
    replaced: list[_Replaced] = field(default_factory=list)

    # ---------------------------------------------------------------- up and down

    def put_up(self) -> None:
        for name, (is_wall, factor) in _CLOCKS.items():
            self._replace_function(time, name, self._clock(name, factor, is_wall=is_wall))
        for name, arguments in _CALENDAR.items():
            self._replace_function(time, name, self._calendar(name, arguments))
        self._replace_function(time, "sleep", self._outside(time.sleep, "time.sleep", _SLEEP))
        for owner, name, shown, instead in _OUTSIDE:
            self._replace(owner, name, self._outside(getattr(owner, name), shown, instead))
        self._guard_chance()
        self._guard_imported_names()

    def _guard_chance(self) -> None:
        shared = getattr(random.random, "__self__", None)  # the generator behind the module
        for name in random.__all__:
            if getattr(getattr(random, name), "__self__", None) is shared:
                self._replace_function(random, name, self._module_chance(name))
        system_chance = self._system_chance(os.urandom)
        self._replace(os, "urandom", system_chance)
        self._replace(random, "_urandom", system_chance)
        self._replace(random.Random, "seed", self._seed(random.Random.seed))

    def _guard_imported_names(self) -> None:
        """Replace the same functions where a module of the user's imported them by name."""
        by_id = {id(r.real): r.guarded for r in self.replaced if isinstance(r.owner, ModuleType)}
        by_id |= calendar_facades(self.refuse_clock)
        spared = sys.stdlib_module_names | _TOOLS | self.allow
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in spared or module in _SELF:
                continue
            for attribute, value in list(vars(module).items()):
                if id(value) in by_id:
                    self._replace(module, attribute, by_id[id(value)])

    def _replace_function(self, module: ModuleType, name: str, guarded: Callable[..., Any]) -> None:
        guarded.__name__ = guarded.__qualname__ = name
        self._replace(module, name, guarded)

    def _replace(self, owner: Any, name: str, guarded: Any) -> None:  # noqa: ANN401  any attribute
        self.replaced.append(_Replaced(owner, name, vars(owner)[name], guarded))
        setattr(owner, name, guarded)

    def take_down(self) -> None:
        for replaced in reversed(self.replaced):
            # What somebody else put there in the meantime is theirs to take away.
            if vars(replaced.owner).get(replaced.name) is replaced.guarded:
                setattr(replaced.owner, replaced.name, replaced.real)

    # ---------------------------------------------------------------- who calls

    def _is_inside(self) -> bool:
        return self.loop.is_running() and threading.get_ident() == self.thread_id

    def _is_tool(self, frame: FrameType) -> bool:
        return _package_of(frame) in _TOOLS

    def _may_pretend(self, frame: FrameType) -> bool:
        package = _package_of(frame)
        return package in sys.stdlib_module_names or package in self.allow

    def _refuse(self, what: str, instead: str, frame: FrameType | None) -> SimulationUsageError:
        while frame is not None and frame.f_back and _package_of(frame) in sys.stdlib_module_names:
            frame = frame.f_back
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""
        return self.loop.refusal(what, instead, where)

    def refuse_clock(self, what: str) -> None:
        """Raise if the run is under way: the caller is known to be the user's."""
        if self._is_inside():
            raise self._refuse(f"{what}()", _CLOCK, sys._getframe(2))  # noqa: SLF001  who called

    # ---------------------------------------------------------------- the replacements

    def _clock(self, name: str, factor: int, *, is_wall: bool) -> Callable[..., Any]:
        real = getattr(time, name)

        def guarded() -> float:
            if not self._is_inside():
                return float(real()) if factor == 1 else int(real())
            what, frame = _caller(f"time.{name}", sys._getframe(1))  # noqa: SLF001  who called
            if self._is_tool(frame):
                return float(real()) if factor == 1 else int(real())
            if not self._may_pretend(frame):
                raise self._refuse(f"{what}()", _CLOCK, frame)
            virtual = self.loop.wall_time() if is_wall else self.loop.time()
            return virtual if factor == 1 else round(virtual * factor)

        return guarded

    def _calendar(self, name: str, arguments: int) -> Callable[..., Any]:
        real = getattr(time, name)

        def guarded(*given: Any) -> Any:  # noqa: ANN401  stands in for many signatures
            if len(given) <= arguments and self._is_inside():
                what, frame = _caller(f"time.{name}", sys._getframe(1))  # noqa: SLF001  who called
                if self._may_pretend(frame):
                    now = self.loop.wall_time()
                    given += (now,) if name.endswith("time") and name[0] in "glc" and arguments == 0 and name != "asctime" else (_local(now),)
                elif not self._is_tool(frame):
                    raise self._refuse(f"{what}()", _CLOCK, frame)
            return real(*given)

        return guarded

    def _outside(self, real: Callable[..., Any], what: str, instead: str) -> Callable[..., Any]:
        def guarded(*given: Any, **named: Any) -> Any:  # noqa: ANN401  stands in for many signatures
            if self._is_inside():
                frame = sys._getframe(1)  # noqa: SLF001  who called
                if not self._is_tool(frame):
                    raise self._refuse(f"{what}()", instead, frame)
            return real(*given, **named)

        return guarded

    def _module_chance(self, name: str) -> Callable[..., Any]:
        real, seeded = getattr(random, name), getattr(self.chance, name)

        def guarded(*given: Any, **named: Any) -> Any:  # noqa: ANN401  stands in for many signatures
            if not self._is_inside():
                return real(*given, **named)
            what, frame = _caller(f"random.{name}", sys._getframe(1))  # noqa: SLF001  who called
            if self._is_tool(frame):
                return real(*given, **named)
            if name == "seed" and given and given[0] is not None:
                self.is_seeded = True
            elif not self.is_seeded and not self._may_pretend(frame):
                raise self._refuse(f"{what}()", _CHANCE, frame)
            return seeded(*given, **named)

        return guarded

    def _system_chance(self, real: Callable[[int], bytes]) -> Callable[[int], bytes]:
        def urandom(size: int) -> bytes:
            if not self._is_inside():
                return real(size)
            what, frame = _caller("os.urandom", sys._getframe(1))  # noqa: SLF001  who called
            if self._is_tool(frame):
                return real(size)
            if not self._may_pretend(frame):
                raise self._refuse(f"{what}()", _CHANCE, frame)
            return self.chance.randbytes(size)

        return urandom

    def _seed(self, real: Callable[..., None]) -> Callable[..., None]:
        def seed(generator: random.Random, a: Any = None, version: int = 2) -> None:  # noqa: ANN401  random's signature
            if a is None and self._is_inside():
                _, frame = _caller("random.Random", sys._getframe(1))  # noqa: SLF001  who called
                if self._may_pretend(frame):
                    a = self.chance.getrandbits(64)
                elif not self._is_tool(frame):
                    raise self._refuse("random.Random() without a seed", _CHANCE, frame)
            real(generator, a, version)

        return seed


def _package_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _caller(what: str, frame: FrameType) -> tuple[str, FrameType]:
    """What was called, and by whom, if wrappers such as uuid are looked through."""
    while _package_of(frame) in _WRAPPERS and frame.f_back is not None:
        what = f"{_package_of(frame)}.{frame.f_code.co_name}"
        frame = frame.f_back
    return what, frame
