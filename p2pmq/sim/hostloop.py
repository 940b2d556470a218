"""Hosts on one loop: each can be paused, as SIGSTOP or a suspended laptop does.

While a host is paused, what it would run gathers; on resume it all runs at
once, late, as a real process would find it. Two ways lead into a host. Its
tasks (the node's and the user's) bear its name in a context variable, which
the loop looks at. What comes from outside (packets, disks) and the node's
timers go through its `HostLoop`.

Invariant: nothing of a paused host runs, and nothing that it would have run is lost.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any, TypeVarTuple, Unpack

from p2pmq.sim.loop import SimHandle, SimLoop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

_Ts = TypeVarTuple("_Ts")

HOST: contextvars.ContextVar[str] = contextvars.ContextVar("p2pmq_sim_host", default="")
"""The host that a task runs on; empty: the test itself."""


class MeshLoop(SimLoop):
    """The simulation's loop; it knows which hosts are paused."""

    def __init__(self, *, events_max: int | None = None) -> None:
        super().__init__(events_max=events_max)
        self._paused: dict[str, list[SimHandle]] = {}

    def call_soon(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> SimHandle:
        """Run `callback` at this instant, or when its host is resumed.

        Every step of a task comes this way, those after a timer or a future too.
        """
        if not self._paused:
            return super().call_soon(callback, *args, context=context)
        handle = super().call_soon(callback, *args, context=context)
        held = self._paused.get(handle.context.get(HOST, ""))
        if held is not None:
            self._ready.pop()
            held.append(handle)
        return handle

    def pause_host(self, host: str) -> None:
        """Hold the tasks of a host."""
        self._paused.setdefault(host, [])

    def resume_host(self, host: str) -> None:
        """Let them go on, in order."""
        self._ready.extend(self._paused.pop(host, ()))


class HostLoop:
    """What a node's runtime uses of an event loop, for one host."""

    def __init__(self, loop: SimLoop, context: contextvars.Context) -> None:
        self._loop = loop
        # Not the caller's: who sends a packet or lends a hand may be paused when its turn comes.
        self._context = context
        self._held: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.paused = False

    def time(self) -> float:
        """Virtual seconds."""
        return self._loop.time()

    def call_soon(self, callback: Callable[..., object], *args: Any) -> asyncio.Handle:  # noqa: ANN401  asyncio's signature
        """Run in this round of the loop, unless the host is paused."""
        return self._loop.call_soon(self.call_now, callback, *args, context=self._context)

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,  # noqa: ANN401  as above
    ) -> asyncio.TimerHandle:
        """Run after `delay` seconds, or at resume if that is later."""
        return self._loop.call_later(delay, self.call_now, callback, *args, context=self._context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,  # noqa: ANN401  as above
    ) -> asyncio.TimerHandle:
        """Run at a time, or at resume if that is later."""
        return self._loop.call_at(when, self.call_now, callback, *args, context=self._context)

    def create_future(self) -> asyncio.Future[Any]:
        """A future of the simulation's loop."""
        return self._loop.create_future()

    def create_task(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of the simulation's loop, on this host."""
        return self._loop.create_task(coroutine, context=self._context.copy())

    def call_now(self, callback: Callable[..., object], *args: Any) -> None:  # noqa: ANN401  as above
        """Run it, or hold it while the host is paused."""
        if self.paused:
            self._held.append((callback, args))
        else:
            callback(*args)

    def pause(self) -> None:
        """Hold everything."""
        self.paused = True

    def drop(self) -> None:
        """The process is gone: what was held never runs."""
        self._held.clear()
        self.paused = False

    def resume(self) -> None:
        """Run what was held, in order, and go on."""
        self.paused = False
        held, self._held = self._held, []
        for callback, args in held:
            self._loop.call_soon(self.call_now, callback, *args, context=self._context)
