"""What `consume()` gives a blocking caller: an iterator that waits, and ends what it began."""

from __future__ import annotations

import time
from abc import abstractmethod
from contextlib import suppress
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Generic, TypeVar

from p2pmq.blocking.loop_thread import LOOK_S
from p2pmq.errors import ClosedNodeError, UsageError
from p2pmq.node.message import Message, MessageBatch
from p2pmq.node.typed import converted

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Self

    from p2pmq.blocking.consumer import ThreadedConsumer
    from p2pmq.blocking.inner import InnerNode
    from p2pmq.blocking.loop_thread import LoopThread

T = TypeVar("T")


class OverError(Exception):
    """Nothing more comes: the node has closed, or the consumer has."""


class Taking(Generic[T]):
    """An iterator over what a consumer is given, for any number of threads.

    It waits for the next one without a limit, as a consumer does; `get` waits
    for so long. It ends when the node closes, and raises what made the node
    fail. Its own end (`close`, the end of its `with`, or its last reference
    gone, as when a loop over it is left) settles what was settled and gives the
    rest back, to be delivered to others.
    """

    def __init__(
        self, node: object, inner: InnerNode, consumer: ThreadedConsumer, thread: LoopThread
    ) -> None:
        self._node = node
        """Held so that a node is not taken for forgotten while it is consumed from."""
        self._inner = inner
        self._consumer = consumer
        self._thread = thread

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        try:
            taken = self._take(None)
        except OverError:
            raise StopIteration from None
        assert taken is not None, "without a limit"
        return taken

    def get(self, timeout: float) -> T | None:
        """The next one; None when nothing came within `timeout` seconds.

        Raises ClosedNodeError when the node or this iterator is closed, ForkedNodeError,
        UsageError, and what made the node fail.
        """
        if not timeout >= 0:
            raise UsageError(f"a time of {timeout} s makes no sense here: give 0 s or more")
        try:
            return self._take(timeout)
        except OverError:
            name = self._thread.name
            raise ClosedNodeError(name, "closed, or consumes no more") from None

    def _take(self, timeout_s: float | None) -> T | None:
        """The next one; None when time is up. Raises OverError at the end."""
        self._thread.check_here()
        consumer = self._consumer
        deadline: float | None = None
        while not consumer.is_over():
            taken = self._claim()
            if taken is not None:
                if deadline is not None:
                    consumer.pass_on()
                return taken
            if deadline is None:
                self._thread.check_may_wait()
                deadline = float("inf") if timeout_s is None else time.monotonic() + timeout_s
            remaining_s = deadline - time.monotonic()
            if remaining_s < 0:
                return None
            self._wait(min(LOOK_S, remaining_s))
        consumer.pass_on()
        raise OverError

    @abstractmethod
    def _claim(self) -> T | None:
        """The next one, if it is here."""

    def _wait(self, seconds: float) -> None:
        try:
            self._consumer.signal.get(timeout=seconds)
        except Empty:
            if not self._thread.is_alive and not self._consumer.is_over():
                raise ClosedNodeError(self._thread.name, "closed") from None
        except BaseException:
            self._consumer.signal.put(None)  # an interrupt may have come when it was taken
            raise

    # -- its end --

    def close(self) -> None:
        """Stop: what is not settled goes back. Again, or in a fork, it does nothing."""
        if self._thread.is_forked or self._consumer.closed:
            return
        with suppress(ClosedNodeError):  # the node's end was its end
            self._thread.ask(partial(self._inner.drop, self._consumer))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._thread.is_forked or self._consumer.closed:
            return
        with suppress(ClosedNodeError):  # as above; and nobody may wait here
            self._thread.post(partial(self._inner.drop, self._consumer))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._consumer.queue!r}>"


class Messages(Taking[Message]):
    """Messages one by one: what `consume` and `inbox` of a blocking node give.

    >>> import p2pmq.blocking
    >>> with p2pmq.blocking.Node("doc-blocking", mdns=False, store="memory") as node:
    ...     receipt = node.publish("jobs", "wash up")
    ...     with node.consume("jobs") as messages:  # gives back what is not settled
    ...         with next(messages) as message:
    ...             print(message.body)
    wash up
    """

    convert: Callable[[object], Any] | None = None
    """What makes bodies of the type that was asked for."""

    def _claim(self) -> Message | None:
        while (message := self._consumer.take_message()) is not None:
            if self.convert is None or converted(message, self.convert):
                return message
        return None


class Batches(Taking[MessageBatch]):
    """Messages in batches as they came: what `consume_batches` and `inbox_batches` give.

    >>> import p2pmq.blocking
    >>> with p2pmq.blocking.Node("doc-blocking", mdns=False, store="memory") as node:
    ...     receipt = node.publish_many("jobs", range(3))
    ...     with node.consume_batches("jobs") as batches:
    ...         batch = next(batches)
    ...         print(list(batch.bodies))
    ...         batch.ack()
    [0, 1, 2]
    """

    def _claim(self) -> MessageBatch | None:
        return self._consumer.take_batch()
