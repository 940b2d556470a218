"""A subscription: events as they come, in a buffer that drops when its reader is slow.

Nothing waits for a reader, neither who emits nor the node: what does not fit
is dropped by the rule that the subscriber chose, and counted.

Invariant: the buffer never holds more events than it was given room for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from p2pmq.errors import UsageError
from p2pmq.wire.bodies import unpack_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType
    from typing import Literal, Self

    OnSlow = Literal["drop-oldest", "drop-newest"]

POLICIES = ("drop-oldest", "drop-newest")
BUFFER_EVENTS_MAX = 1_000_000
BUFFER_BYTES_MAX = 64 * 1024 * 1024
"""Bodies in one buffer, whatever their number: large ones are dropped sooner. A single one fits."""


class Event:
    """One event: what was emitted, to which topic, and by which node."""

    __slots__ = ("_data", "_format", "sender", "topic")

    def __init__(self, topic: str, sender: str, data: bytes, body_format: int) -> None:
        self.topic = topic
        self.sender = sender
        """The name of the node that emitted it."""
        self._data = data
        self._format = body_format

    @property
    def body(self) -> Any:  # noqa: ANN401  whatever was emitted
        """The body: bytes if bytes were emitted, else what msgpack made of it."""
        return unpack_body(self._data, self._format)

    @property
    def size(self) -> int:
        """Bytes of the body as it travelled."""
        return len(self._data)

    def __repr__(self) -> str:
        return f"<Event to {self.topic!r} from {self.sender!r}, {self.size} bytes>"


class Desk(Protocol):
    """Where subscriptions are entered."""

    def open(self, subscription: Subscription) -> None:
        """Events are to be put into it from now on."""

    def close(self, subscription: Subscription) -> None:
        """… and no more."""

    def count_dropped(self, count: int) -> None:
        """A buffer had no room for so many."""


class Subscription:
    """What `node.subscribe()` gives: iterate it, within `async with` or as it is."""

    def __init__(self, desk: Desk, patterns: tuple[str, ...], buffer: int, on_slow: OnSlow) -> None:
        if not 1 <= buffer <= BUFFER_EVENTS_MAX:
            raise UsageError(
                f"a buffer of {buffer:,} events cannot be: give 1 to {BUFFER_EVENTS_MAX:,}"
            )
        if on_slow not in POLICIES:
            raise UsageError(
                f"on_slow={on_slow!r} is unknown: choose one of {', '.join(map(repr, POLICIES))}"
            )
        self.patterns = patterns
        self.dropped = 0
        """Events that this subscription missed because its buffer was full."""
        self._desk = desk
        self._buffer = buffer
        self._drops_oldest = on_slow == "drop-oldest"
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._is_open = False
        self._entered = False
        self._error: BaseException | None = None

    # -- to the user --

    async def __aenter__(self) -> Self:
        self._entered = True
        self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._entered = False
        self.close()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Events as they come, until the node closes; several tasks may share them.

        Outside of `async with` the subscription lasts as long as the iteration.
        """
        keep = self._entered
        if not keep:
            self._open()
        try:
            while (event := await self._next()) is not None:
                yield event
        finally:
            if not keep:
                self.close()

    def __len__(self) -> int:
        """How many events wait to be read."""
        return len(self._events)

    async def _next(self) -> Event | None:
        while not self._events:
            if self._error is not None:
                raise self._error
            if not self._is_open:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        event = self._events.popleft()
        self._bytes -= event.size
        return event

    def _open(self) -> None:
        if not self._is_open:
            self._desk.open(self)
            self._is_open = True

    def close(self) -> None:
        """End it: what waits to be read is given up."""
        if self._is_open:
            self._desk.close(self)
            self._events.clear()
            self._bytes = 0
            self.end()

    # -- from the desk --

    def put(self, event: Event) -> None:
        """An event for it."""
        events = self._events
        size = event.size
        while len(events) >= self._buffer or (events and self._bytes + size > BUFFER_BYTES_MAX):
            self.dropped += 1
            self._desk.count_dropped(1)
            if not self._drops_oldest:
                return
            self._bytes -= events.popleft().size
        events.append(event)
        self._bytes += size
        self._arrived.set()

    def end(self) -> None:
        """No more events come; who iterates gets what is there, then the end."""
        self._is_open = False
        self._arrived.set()

    def fail(self, error: BaseException) -> None:
        """The node has stopped: who iterates gets the error, after what is there."""
        if self._is_open:
            self._error = error
            self.end()
