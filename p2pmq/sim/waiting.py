"""Names for callbacks and for what tasks wait on, fit for traces and for people.

Invariant: no name holds an address or a counter of the process, so that two
runs of one seed give the same names.
"""

from __future__ import annotations

import asyncio
import functools
import os
from typing import Any

__all__ = ["label_of", "waits_of"]

_ASYNCIO_FOLDER = os.path.dirname(asyncio.__file__)  # noqa: PTH120  compared with co_filename, a str


def label_of(callback: Any) -> str:  # noqa: ANN401  callbacks are any callable
    """The name of the task that a callback steps, or that of its function."""
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return owner.get_name()
    while isinstance(callback, functools.partial):
        callback = callback.func
    return str(getattr(callback, "__qualname__", type(callback).__qualname__))


def waits_of(task: asyncio.Task[Any]) -> str:
    """`name: file:line in function, in Queue.get`, the place being the last outside asyncio."""
    frames = _frames(task.get_coro())
    own = [frame for frame in frames if not frame.f_code.co_filename.startswith(_ASYNCIO_FOLDER)]
    if not frames:
        return f"{task.get_name()}: not started"
    place = own[-1] if own else frames[-1]
    file = os.path.basename(place.f_code.co_filename)  # noqa: PTH119  co_filename may be no path
    line = f"{task.get_name()}: {file}:{place.f_lineno} in {place.f_code.co_qualname}"
    if frames[-1] is not place:
        line += f", in {frames[-1].f_code.co_qualname}"
    awaited = getattr(task, "_fut_waiter", None)
    if isinstance(awaited, asyncio.Task):
        line += f", for {awaited.get_name()}"
    return line


def _frames(awaited: Any) -> list[Any]:  # noqa: ANN401  coroutines, generators and what they await
    """The frames of a suspended chain of awaits, outermost first."""
    frames = []
    while awaited is not None:
        frame, then = None, None
        for kind, link in (("cr", "cr_await"), ("ag", "ag_await"), ("gi", "gi_yieldfrom")):
            frame = frame or getattr(awaited, f"{kind}_frame", None)
            then = then or getattr(awaited, link, None)
        if frame is None:
            break
        frames.append(frame)
        awaited = then
    return frames
