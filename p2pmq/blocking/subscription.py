"""A subscription for threads: events as they come, in the same bounded buffer.

The node's loop puts events in, threads take them out under a lock. The signal
only says that there may be something, or that it is over; whoever takes it passes
it on if there is more.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from p2pmq.blocking.loop_thread import LOOK_S
from p2pmq.errors import ClosedNodeError, UsageError
from p2pmq.node import subscription

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from p2pmq.blocking.loop_thread import LoopThread
    from p2pmq.node.subscription import Desk, Event, OnSlow


class Inbox(subscription.Subscription):
    """The buffer, as the node's loop knows it."""

    def __init__(self, desk: Desk, patterns: tuple[str, ...], buffer: int, on_slow: OnSlow) -> None:
        super().__init__(desk, patterns, buffer, on_slow)
        self._lock = threading.Lock()
        """Guards the events. Held for a few instructions."""
        self.signal: SimpleQueue[None] = SimpleQueue()

    # -- in the loop --

    def begin(self) -> None:
        """Gather events from now on. Raises SubscriptionLimitError."""
        self._open()

    def put(self, event: Event) -> None:
        """An event for it."""
        with self._lock:
            super().put(event)
        self.wake()

    def close(self) -> None:
        """End it: what waits to be read is given up."""
        with self._lock:
            super().close()

    def end(self) -> None:
        """No more events come."""
        super().end()
        self.wake()

    # -- in any thread --

    def take(self) -> Event | None:
        """The next event, if one is here."""
        with self._lock:
            if not self._events:
                return None
            event = self._events.popleft()
            self._bytes -= event.size
            return event

    def is_over(self) -> bool:
        """Whether no more events come; raises the node's error where it has failed."""
        if self._error is not None:
            raise self._error
        return not self._is_open

    def wake(self) -> None:
        """Wake a thread that waits."""
        if self.signal.empty():
            self.signal.put(None)


class Subscription:
    """What `subscribe()` of a blocking node gives: iterate it, within `with` or as it is.

    Any number of threads may share it: each event comes to one of them.

    >>> import p2pmq.blocking
    >>> with p2pmq.blocking.Node("doc-blocking", mdns=False, store="memory") as node:
    ...     with node.subscribe("site.*.temp") as events:
    ...         node.emit("site.7.temp", 21.5)
    ...         for event in events:
    ...             print(event.topic, event.body)
    ...             break
    site.7.temp 21.5
    """

    def __init__(self, node: object, inbox: Inbox, thread: LoopThread) -> None:
        self._node = node
        """Held so that a node is not taken for forgotten while it is listened to."""
        self._inbox = inbox
        self._thread = thread
        self._entered = False

    @property
    def patterns(self) -> tuple[str, ...]:
        """What it listens to."""
        return self._inbox.patterns

    @property
    def dropped(self) -> int:
        """Events that it missed because its buffer was full."""
        return self._inbox.dropped

    def __len__(self) -> int:
        """How many events wait to be read."""
        return len(self._inbox)

    def __enter__(self) -> Self:
        self._thread.ask(self._inbox.begin)
        self._entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._entered = False
        self.close()

    def __iter__(self) -> Iterator[Event]:
        """Events as they come, until the node closes.

        Outside of `with` the subscription begins with the first that is asked for, and lasts as
        long as the iteration.
        """
        keep = self._entered
        if not keep:
            self._thread.ask(self._inbox.begin)
        try:
            while (event := self._next(None)) is not None:
                yield event
        finally:
            if not keep and not self._thread.is_forked:
                with suppress(ClosedNodeError):  # the node's end was its end
                    self._thread.post(self._inbox.close)

    def get(self, timeout: float) -> Event | None:
        """The next event; None when nothing came within `timeout` seconds, or it is over.

        Raises ForkedNodeError, UsageError, and what made the node fail.
        """
        if not timeout >= 0:
            raise UsageError(f"a time of {timeout} s makes no sense here: give 0 s or more")
        return self._next(timeout)

    def close(self) -> None:
        """End it: what waits to be read is given up. Again, or in a fork, it does nothing."""
        if not self._thread.is_forked:
            with suppress(ClosedNodeError):
                self._thread.ask(self._inbox.close)

    def _next(self, timeout_s: float | None) -> Event | None:
        self._thread.check_may_wait()
        inbox = self._inbox
        deadline = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while (event := inbox.take()) is None:
            if inbox.is_over():
                inbox.wake()  # the next thread that waits
                return None
            remaining_s = deadline - time.monotonic()
            if remaining_s < 0:
                return None
            self._wait(min(LOOK_S, remaining_s))
        if len(inbox):
            inbox.wake()
        return event

    def _wait(self, seconds: float) -> None:
        try:
            self._inbox.signal.get(timeout=seconds)
        except Empty:
            if not self._thread.is_alive and not self._inbox.is_over():
                raise ClosedNodeError(self._thread.name, "closed") from None
        except BaseException:
            self._inbox.wake()  # an interrupt may have come when it was taken
            raise

    def __repr__(self) -> str:
        return f"<blocking Subscription to {', '.join(self.patterns)}>"
