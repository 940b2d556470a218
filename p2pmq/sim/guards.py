"""Guards: while a simulation runs, its code cannot reach a real clock, chance, thread or socket.

`guards(loop)` replaces the functions that would let the outside in, and puts
all of them back at its end. They bite only in the thread and while the loop
runs: a test may time its simulation from outside. Who calls decides:

- user code, p2pmq itself and other packages get a SimulationUsageError;
- the standard library and the packages in `allow` get virtual time and
  seeded chance (so a log record is stamped with virtual time);
- the test tools (pytest, hypothesis, coverage) get the real thing.

A name that a module imported (`from time import time`) is replaced there
too. Out of reach stay clocks and chance inside C extensions, references kept
elsewhere than in a module (a default argument, an attribute), and code that
blocks by other means, as on a plain lock.

Python's garbage collector is part of it: its own schedule follows from the
allocations of the whole process, and a program can see finalizers run. So it
is off, what existed before is frozen, and the loop collects what the run
made at fixed numbers of events.

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
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, ClassVar

from p2pmq.sim.calendars import calendar_facades
from p2pmq.sim.loop import SimLoop
from p2pmq.sim.refuse import SimulationUsageError

__all__ = ["guards"]

# A pass over 100,000 objects takes some 10 ms; so many events take a busy run 100 ms or more.
_COLLECT_EVERY_EVENTS = 50_000
_TOOLS = frozenset(
    {"_hypothesis_pytestplugin", "_pytest", "coverage", "hypothesis", "pluggy", "pytest"}
    | {"pytest_asyncio", "pytest_timeout"}
)
# These draw on behalf of their caller: look through them at who that is.
_WRAPPERS = frozenset({"random", "secrets", "uuid"})
_CLOCK = "use asyncio.get_running_loop().time(), which is virtual in a simulation"
_SLEEP = "await asyncio.sleep(...), which takes virtual time"
_CHANCE = "draw from a random.Random(seed) that the scenario passes in"
_THREAD = "do the work in a task of the simulated loop"
_NETWORK = "talk to simulated nodes through the simulation's network"
_PROCESS = "run it as a task, or as another simulated node"
_OUTSIDE: tuple[tuple[Any, str, str], ...] = (
    (time, "sleep", _SLEEP),
    (threading.Thread, "start", _THREAD),
    (socket.socket, "__init__", _NETWORK),
    (socket, "getaddrinfo", _NETWORK),
    (socket, "gethostbyname", _NETWORK),
    (subprocess.Popen, "__init__", _PROCESS),
    (os, "fork", _PROCESS),
    (os, "system", _PROCESS),
    (uuid, "uuid1", _CHANCE),  # it asks a C library; the others draw from what is replaced below
)
_CLOCKS = ("time", "monotonic", "perf_counter", "process_time", "thread_time")
# They read the clock if called without the argument at this place: seconds, or a struct_time.
_CALENDAR = {"gmtime": 0, "localtime": 0, "ctime": 0, "asctime": 0, "strftime": 1}
_TAKE_STRUCT_TIME = ("asctime", "strftime")


@contextmanager
def guards(loop: SimLoop, *, allow: Collection[str] = ()) -> Iterator[None]:
    """Keep the real world out of what `loop` runs, until the end of the block.

    `allow` names top-level packages that may read clocks and draw chance: they get virtual time
    and seeded chance instead of an error. Raises SimulationUsageError if guards are up already:
    a process runs one simulation at a time.
    """
    if _Guard.active is not None:
        raise SimulationUsageError(
            "a second guards()", "run one simulation after the other, or each in its own process"
        )
    guard = _Guard(loop, frozenset(allow))
    with ExitStack() as undo:
        _Guard.active = guard
        undo.callback(setattr, _Guard, "active", None)
        undo.callback(guard.take_down)
        guard.put_up()
        undo.enter_context(_collecting_by_events(loop))
        yield


@contextmanager
def _collecting_by_events(loop: SimLoop) -> Iterator[None]:
    """Let the number of events decide when garbage is collected, and the run's alone."""
    was_enabled = gc.isenabled()
    may_freeze = gc.get_freeze_count() == 0  # else somebody froze before: thawing is theirs
    gc.disable()
    if may_freeze:
        gc.freeze()
    loop.collect_every_events = _COLLECT_EVERY_EVENTS
    try:
        yield
    finally:
        loop.collect_every_events = None
        gc.collect()  # what the run left behind ends here: errors of its tasks are the run's
        if may_freeze:
            gc.unfreeze()
        if was_enabled:
            gc.enable()


class _Caller(Enum):
    OUTSIDE = auto()  # not in the run, or a tool: the real thing
    LIBRARY = auto()  # virtual time and seeded chance
    USER = auto()  # an error


@dataclass(frozen=True, slots=True)
class _Replaced:
    owner: Any  # a module or a class
    name: str
    real: Any
    guarded: Any


@dataclass
class _Guard:
    """The replacements of one run."""

    active: ClassVar[_Guard | None] = None
    loop: SimLoop
    allow: frozenset[str]
    thread_id: int = field(default_factory=threading.get_ident)
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    is_seeded: bool = False  # whether the run called random.seed(...) itself
    replaced: list[_Replaced] = field(default_factory=list)

    # ---------------------------------------------------------------- up and down

    def put_up(self) -> None:
        """Replace all that is guarded; `take_down` undoes as much as was done."""
        for name in _CLOCKS:
            self._replace(time, name, self._clock(name))
            self._replace(time, f"{name}_ns", self._clock(f"{name}_ns"))
        for name in _CALENDAR:
            self._replace(time, name, self._calendar(name))
        for owner, name, instead in _OUTSIDE:
            self._replace(owner, name, self._outside(owner, name, instead))
        shared = getattr(random.random, "__self__", None)  # the generator behind the functions
        for name in random.__all__:
            if getattr(getattr(random, name), "__self__", None) is shared:
                self._replace(random, name, self._module_chance(name))
        system_chance = self._system_chance()
        self._replace(os, "urandom", system_chance)
        self._replace(random, "_urandom", system_chance)
        self._replace(random.Random, "seed", self._seed())
        self._guard_imported_names()

    def _guard_imported_names(self) -> None:
        """Replace the same functions, and datetime, where a module imported them by name."""
        functions = {
            id(r.real): r.guarded for r in self.replaced if isinstance(r.owner, ModuleType)
        }
        with_calendars = functions | calendar_facades(self.refuse_clock)
        spared = sys.stdlib_module_names | _TOOLS | self.allow
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in spared or not isinstance(module, ModuleType):
                continue
            # A stand-in for a class goes to the user's own code only, lest it break a library.
            guarded = functions if _is_installed(module) else with_calendars
            for attribute, value in list(vars(module).items()):
                if id(value) in guarded:
                    self._replace(module, attribute, guarded[id(value)])

    def _replace(self, owner: Any, name: str, guarded: Any) -> None:  # noqa: ANN401  any attribute
        if name in vars(owner):  # some systems lack some
            self.replaced.append(_Replaced(owner, name, vars(owner)[name], guarded))
            setattr(owner, name, guarded)

    def take_down(self) -> None:
        """Put back what was there before."""
        for replaced in reversed(self.replaced):
            # What somebody else put there in the meantime is theirs to take away.
            if vars(replaced.owner).get(replaced.name) is replaced.guarded:
                setattr(replaced.owner, replaced.name, replaced.real)

    # ---------------------------------------------------------------- who calls

    def _judge(
        self, what: str, instead: str, frame: FrameType, *, is_spared: bool = False
    ) -> _Caller:
        """Who the caller in `frame` is; raises for user code inside the run, if not spared."""
        if not self.loop.is_running() or threading.get_ident() != self.thread_id:
            return _Caller.OUTSIDE
        while _package_of(frame) in _WRAPPERS and frame.f_back is not None:
            what = f"{_package_of(frame)}.{frame.f_code.co_qualname}".removesuffix(".__init__")
            frame = frame.f_back
        package = _package_of(frame)
        if package in _TOOLS:
            return _Caller.OUTSIDE
        if package in sys.stdlib_module_names or package in self.allow or is_spared:
            return _Caller.LIBRARY
        raise self._refusal(what, instead, frame)

    def _refusal(self, what: str, instead: str, frame: FrameType) -> SimulationUsageError:
        while frame.f_back is not None and _package_of(frame) in sys.stdlib_module_names:
            frame = frame.f_back  # the line to change is the user's
        return self.loop.refusal(
            f"{what}()", instead, f"{frame.f_code.co_filename}:{frame.f_lineno}"
        )

    def refuse_clock(self, what: str) -> None:
        """Raise if the run is under way; for callers that are known to be the user's."""
        self._judge(what, _CLOCK, _frame(2))

    # ---------------------------------------------------------------- the replacements

    def _clock(self, name: str) -> Callable[[], float]:
        real: Callable[[], float] = getattr(time, name)
        read = self.loop.wall_time if name.startswith("time") else self.loop.time

        def guarded() -> float:
            if self._judge(f"time.{name}", _CLOCK, _frame(1)) is _Caller.OUTSIDE:
                return real()
            return round(read() * 1_000_000_000) if name.endswith("_ns") else read()

        return guarded

    def _calendar(self, name: str) -> Callable[..., Any]:
        real, broken_down, place = getattr(time, name), time.localtime, _CALENDAR[name]

        def guarded(*given: Any) -> Any:  # noqa: ANN401  stands in for many signatures
            if len(given) > place and given[place] is not None:
                return real(*given)
            if self._judge(f"time.{name}", _CLOCK, _frame(1)) is _Caller.OUTSIDE:
                return real(*given)
            now = self.loop.wall_time()
            return real(*given[:place], broken_down(now) if name in _TAKE_STRUCT_TIME else now)

        return guarded

    def _outside(self, owner: Any, name: str, instead: str) -> Callable[..., Any]:  # noqa: ANN401  modules and classes
        real = getattr(owner, name)
        what = real.__qualname__.removesuffix(".__init__") if isinstance(owner, type) else name
        module = owner.__module__ if isinstance(owner, type) else owner.__name__

        def guarded(*given: Any, **named: Any) -> Any:  # noqa: ANN401  stands in for many signatures
            frame = _frame(1)
            if self._judge(f"{module}.{what}", instead, frame) is _Caller.LIBRARY:
                raise self._refusal(f"{module}.{what}", instead, frame)  # no pretending here
            return real(*given, **named)

        return guarded

    def _module_chance(self, name: str) -> Callable[..., Any]:
        real, seeded = getattr(random, name), getattr(self.chance, name)

        def guarded(*given: Any, **named: Any) -> Any:  # noqa: ANN401  stands in for many signatures
            seeds = name == "seed" and bool(given) and given[0] is not None
            is_spared = seeds or self.is_seeded
            judged = self._judge(f"random.{name}", _CHANCE, _frame(1), is_spared=is_spared)
            if judged is _Caller.OUTSIDE:
                return real(*given, **named)
            self.is_seeded = is_spared
            return seeded(*given, **named)

        return guarded

    def _system_chance(self) -> Callable[[int], bytes]:
        real = os.urandom

        def urandom(size: int, /) -> bytes:
            if self._judge("os.urandom", _CHANCE, _frame(1)) is _Caller.OUTSIDE:
                return real(size)
            return self.chance.randbytes(size)

        return urandom

    def _seed(self) -> Callable[..., None]:
        real = random.Random.seed

        def seed(generator: random.Random, a: Any = None, version: int = 2) -> None:  # noqa: ANN401  random's signature
            judged = _Caller.OUTSIDE
            if a is None:
                judged = self._judge("random.Random", _CHANCE, _frame(1))
            real(
                generator, self.chance.getrandbits(64) if judged is _Caller.LIBRARY else a, version
            )

        return seed


def _frame(depth: int) -> FrameType:
    """The frame `depth` above the caller's."""
    return sys._getframe(depth + 1)  # noqa: SLF001  the one way to know who calls


def _package_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_installed(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)
