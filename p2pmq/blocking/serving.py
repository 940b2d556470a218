"""What a blocking node calls: handlers of queues and responders, in threads; and who listens."""

from __future__ import annotations

import inspect
import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from p2pmq.blocking.handlers import ThreadedHandler
from p2pmq.blocking.subscription import Subscription
from p2pmq.blocking.workers import Workers, handling_in
from p2pmq.errors import ClosedNodeError, UsageError
from p2pmq.node.arguments import check_prefetch, key_of
from p2pmq.node.talking import BUFFER_EVENTS, CONCURRENCY, WAITING
from p2pmq.node.typed import converter_to

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from p2pmq.blocking.inner import InnerNode
    from p2pmq.blocking.loop_thread import LoopThread
    from p2pmq.blocking.taking import Messages
    from p2pmq.node.message import Message
    from p2pmq.node.requests import Request
    from p2pmq.node.subscription import OnSlow

T = TypeVar("T")
F = TypeVar("F", bound="Callable[[Message], Any]")
H = TypeVar("H", bound="Callable[[Request], Any]")


class Responder:
    """What `respond()` of a blocking node gives: it answers to a name until it is closed.

    >>> import p2pmq.blocking
    >>> with p2pmq.blocking.Node("doc-blocking", mdns=False, store="memory") as node:
    ...     responder = node.respond("double", lambda request: 2 * request.body)
    ...     print(node.request("double", 21, timeout=30))
    ...     responder.close()
    42
    """

    def __init__(self, name: str, close: Callable[[], None]) -> None:
        self.name = name
        self._close = close

    def close(self) -> None:
        """Answer no more: requests that wait in line go elsewhere, handlers that run may end."""
        self._close()


class Serving(ABC):
    """The part of a blocking node that calls functions of the user's in threads."""

    _thread: LoopThread | None = None
    _inner: InnerNode

    def __init__(self) -> None:
        self._handlers: list[ThreadedHandler] = []
        self._starting = threading.RLock()

    @abstractmethod
    def consume(
        self,
        queue: str,
        *,
        prefetch: int = ...,
        visibility_timeout: float | None = None,
        type: Any = None,  # noqa: A002, ANN401  as the node's
        once: bool = False,
    ) -> Messages:
        """The queue's messages."""

    @abstractmethod
    def _running(self) -> LoopThread:
        """The thread; raises ClosedNodeError when none runs."""

    def handler(
        self,
        queue: str,
        *,
        concurrency: int = 1,
        prefetch: int | None = None,
        visibility_timeout: float | None = None,
        type: Any = None,  # noqa: A002, ANN401  as `consume`
        once: bool = False,
    ) -> Callable[[F], F]:
        """A decorator: threads of the node's call the function with each message of the queue.

        `concurrency` threads do. A message is acked when the function returns, and nacked when
        it raises; while it runs its visibility timeout is extended. Everything else is as in
        `p2pmq.Node.handler`: it begins when the node runs, and may finish when it closes.
        """
        key_of(queue)
        if concurrency < 1:
            raise UsageError(f"concurrency={concurrency!r} cannot be: give 1 or more")
        held = concurrency if prefetch is None else prefetch
        check_prefetch(held)
        if type is not None:
            converter_to(type)

        def register(function: F) -> F:
            _check_plain(function)
            handler = ThreadedHandler(
                queue,
                function,
                concurrency,
                lambda: self.consume(
                    queue,
                    prefetch=held,
                    visibility_timeout=visibility_timeout,
                    type=type,
                    once=once,
                ),
                partial(self._inner.hidden_s, queue, visibility_timeout),
            )
            with self._starting:
                self._handlers.append(handler)
                if self._thread is not None:
                    self._begin(handler)
            return function

        return register

    def _begin(self, handler: ThreadedHandler) -> None:
        handler.begin()
        self._running().post(partial(self._inner.keep_hidden, handler))

    def respond(
        self,
        responder: str,
        handler: Callable[[Request], object],
        *,
        concurrency: int = CONCURRENCY,
        waiting: int = WAITING,
    ) -> Responder:
        """Answer requests to the name with what `handler(request)` returns, until it is closed.

        At most `concurrency` threads call it at a time. A thread cannot be cancelled: when its
        caller waits no more the handler goes on, and `request.remaining` is 0; only then
        is its place free. Everything else is as in `p2pmq.Node.respond`.
        """
        _check_plain(handler)
        workers = Workers(responder, concurrency, lambda: self._thread)
        respond = partial(
            self._inner.respond,
            responder,
            handling_in(workers, handler),
            concurrency=concurrency,
            waiting=waiting,
        )
        made = self._ask_or_do(respond)

        def close() -> None:
            workers.closed = True
            with suppress(ClosedNodeError):  # the node's end was its end
                self._ask_or_do(made.close)

        return Responder(responder, close)

    def responder(
        self, responder: str, *, concurrency: int = CONCURRENCY, waiting: int = WAITING
    ) -> Callable[[H], H]:
        """A decorator: the function is the handler of the name. See `respond`."""

        def register(handler: H) -> H:
            self.respond(responder, handler, concurrency=concurrency, waiting=waiting)
            return handler

        return register

    def subscribe(
        self, *patterns: str, buffer: int = BUFFER_EVENTS, on_slow: OnSlow = "drop-oldest"
    ) -> Subscription:
        """Events whose topic matches one of the patterns: see `p2pmq.Node.subscribe`.

        Iterate it as it is, or within `with`, where events gather from its start on.
        """
        thread = self._running()
        inbox = thread.ask(partial(self._inner.listen, patterns, buffer, on_slow))
        return Subscription(self, inbox, thread)

    def _ask_or_do(self, function: Callable[[], T]) -> T:
        """Call it in the loop, or here where none runs yet."""
        with self._starting:
            if self._thread is None:
                return function()
        return self._running().ask(function)


def _check_plain(function: object) -> None:
    call = getattr(function, "__call__", None)  # noqa: B004  an object's own, which may be async
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
        raise UsageError(
            f"the function {getattr(function, '__name__', function)!r} is asynchronous, and "
            "p2pmq.blocking calls plain ones in threads: give a `def`, or use p2pmq.Node"
        )
