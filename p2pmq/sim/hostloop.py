"""One host's view of the loop: it can be paused, as SIGSTOP or a suspended laptop does.

While a host is paused, its callbacks gather; on resume they all run at once,
late, as a real process would find them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from p2pmq.sim.loop import SimLoop


class HostLoop:
    """What a node's runtime uses of an event loop, for one host."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._held: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.paused = False

    def time(self) -> float:
        """Virtual seconds."""
        return self._loop.time()

    def call_soon(self, callback: Callable[..., object], *args: Any) -> asyncio.Handle:  # noqa: ANN401  asyncio's signature
        """Run in this round of the loop, unless the host is paused."""
        return self._loop.call_soon(self.call_now, callback, *args)

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,  # noqa: ANN401  as above
    ) -> asyncio.TimerHandle:
        """Run after `delay` seconds, or at resume if that is later."""
        return self._loop.call_later(delay, self.call_now, callback, *args)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any
    ) -> asyncio.TimerHandle:  # noqa: ANN401  as above
        """Run at a time, or at resume if that is later."""
        return self._loop.call_at(when, self.call_now, callback, *args)

    def create_future(self) -> asyncio.Future[Any]:
        """A future of the simulation's loop."""
        return self._loop.create_future()

    def create_task(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of the simulation's loop; it is not paused, only what it calls of the node."""
        return self._loop.create_task(coroutine)

    def call_now(self, callback: Callable[..., object], *args: Any) -> None:  # noqa: ANN401  as above
        """Run it, or hold it while the host is paused."""
        if self.paused:
            self._held.append((callback, args))
        else:
            callback(*args)

    def pause(self) -> None:
        """Hold everything."""
        self.paused = True

    def resume(self) -> None:
        """Run what was held, in order, and go on."""
        self.paused = False
        held, self._held = self._held, []
        for callback, args in held:
            self._loop.call_soon(self.call_now, callback, *args)
