"""Background tasks of one source: none is forgotten, none dies unheard.

Invariant: after `close` has returned, no task is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["BackgroundTasks"]


class BackgroundTasks:
    """Tasks that live until they end or `close` is called."""

    def __init__(self) -> None:
        # A dict, since the loop itself holds tasks only weakly, and it keeps their order.
        self._tasks: dict[asyncio.Task[None], None] = {}

    def __len__(self) -> int:
        """Return how many are running."""
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Run `work` in the background; what it raises goes to the loop's exception handler."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._on_done)

    async def close(self) -> None:
        """Cancel all that still run, and wait until they have ended."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            task.get_loop().call_exception_handler(
                {
                    "message": f"{task.get_name()} of p2pmq stopped by its own bug: report it",
                    "exception": error,
                    "task": task,
                }
            )
