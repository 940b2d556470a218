"""Replay a queue: `node.replay` for a caller that waits, a page of it at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from typing import Any

    from p2pmq.node.replay import Retained

    Call = Callable[
        [Callable[[], Coroutine[Any, Any, list[Retained]]], float | None], list[Retained]
    ]

CHUNK = 256
"""Messages for one hop between the threads."""


def replayed(messages: AsyncIterator[Retained], call: Call) -> Iterator[Retained]:
    """The messages of a replay; `call` runs a coroutine in the node's thread."""

    async def some() -> list[Retained]:
        found: list[Retained] = []
        async for message in messages:
            found.append(message)
            if len(found) == CHUNK:
                break
        return found

    while chunk := call(some, None):  # each page of it has its time-out
        yield from chunk
