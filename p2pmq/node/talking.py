"""What nodes say to one another without a queue: events to topics, requests and their replies."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from p2pmq.core import events
from p2pmq.errors import ClosedNodeError
from p2pmq.node.arguments import patterns_of, responder_of, to_ms
from p2pmq.node.engine import Engine
from p2pmq.node.requests import Responder, packed, reply_of
from p2pmq.node.subscription import Subscription

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.node.emitter import Emitter
    from p2pmq.node.requests import RequestHandler
    from p2pmq.node.subscription import OnSlow

H = TypeVar("H", bound="RequestHandler")
AnySubscription = TypeVar("AnySubscription", bound=Subscription)

REQUEST_TIMEOUT_S = 5.0
CONCURRENCY = 16
"""Handlers of one responder at a time, unless it says otherwise …"""
WAITING = 64
"""… and requests that wait in line for one to end."""
BUFFER_EVENTS = 1_000
"""Events that wait for a subscriber's loop, unless it says otherwise."""


class Talking(Engine):
    """A node's topics and requests."""

    # -- topics --

    def subscribe(
        self, *patterns: str, buffer: int = BUFFER_EVENTS, on_slow: OnSlow = "drop-oldest"
    ) -> Subscription:
        """Events whose topic matches one of the patterns, from all nodes, this one too.

        Iterate it as it is, or within `async with`, where events gather from its start on. In
        a pattern `*` stands for one token, `>` for one or more at the end. At most `buffer`
        events (1 to a million, and 64 MiB of bodies) wait for a slow reader; beyond that
        `on_slow` says which are dropped, "drop-oldest" or "drop-newest", and
        `subscription.dropped` counts them. Events of one node come in the order emitted.

        Raises TopicError, UsageError, ClosedNodeError; SubscriptionLimitError as it begins, where
        this node has 4,096 patterns and responders, or 192 KiB of them.
        """
        return self._subscription(Subscription, patterns, buffer, on_slow)

    def _subscription(
        self,
        kind: Callable[[Emitter, tuple[str, ...], int, OnSlow], AnySubscription],
        patterns: tuple[str, ...],
        buffer: int,
        on_slow: OnSlow,
    ) -> AnySubscription:
        """A subscription of this kind, not begun."""
        self._check_running()
        if self._draining:
            raise ClosedNodeError(self.settings.name, "closing")
        return kind(self._emitter, patterns_of(patterns), buffer, on_slow)

    # -- requests --

    async def request(
        self,
        responder: str,
        body: object = None,
        *,
        timeout: float = REQUEST_TIMEOUT_S,  # noqa: ASYNC109  it travels with the request
    ) -> Any:  # noqa: ANN401  whatever the handler returned
        """Ask one living node that answers to the name, and wait for its reply, at most once.

        `body` is as in `publish`, and so is what comes back. `timeout` (seconds) travels along:
        at the end of it the handler is cancelled, as it is when this call is cancelled. A
        request is never sent again, but to another responder if the first did not take it.

        Raises NoResponderError, OverloadedError (not taken, nothing was done); RemoteError (the
        handler raised); RequestTimeoutError, ResponderGoneError (whether it was acted on is
        unknown); TopicError, BodyTooLargeError, NotSerializableError, UsageError, ClosedNodeError.

        >>> import asyncio, p2pmq
        >>> async def main():
        ...     async with p2pmq.Node("doc", mdns=False, store="memory") as node:
        ...         @node.responder("prices")
        ...         async def prices(request):
        ...             return {"gold": 71.5}[request.body]
        ...         print(await node.request("prices", "gold", timeout=2))
        ...         try:
        ...             await node.request("prices", "tin")
        ...         except p2pmq.RemoteError as error:
        ...             return error.kind, error.text
        >>> import logging; logging.getLogger("p2pmq").setLevel(logging.CRITICAL)
        >>> asyncio.run(main())
        71.5
        ('KeyError', "'tin'")
        >>> logging.getLogger("p2pmq").setLevel(logging.NOTSET)
        """
        self._check_running()
        name = responder_of(responder)
        timeout_ms = to_ms(timeout, least_ms=1)
        bodies, size = packed(body, self.settings.config.limits.body_bytes_max)
        token, future = self._wait_token()
        self._driver.feed(events.CallRequested(name, bodies, size, timeout_ms, token))
        try:
            outcome = await future
        except asyncio.CancelledError:
            if self._waiting.pop(token, None) is not None:
                self._driver.feed(events.CallCancelled(token))
            raise
        return reply_of(outcome, name, timeout, self._name_of(getattr(outcome, "peer", None)))

    def respond(
        self,
        responder: str,
        handler: RequestHandler,
        *,
        concurrency: int = CONCURRENCY,
        waiting: int = WAITING,
    ) -> Responder:
        """Answer requests to the name with what `handler(request)` returns, until it is closed.

        At most `concurrency` handlers run at a time and `waiting` requests wait in line; what
        comes beyond that is refused. May be called before the node starts. A handler is
        cancelled when its caller waits no more; what it raises reaches the caller as RemoteError.

        Raises TopicError, UsageError, SubscriptionLimitError.
        """
        if self._draining:
            raise ClosedNodeError(self.settings.name, "closing")
        return self._requests.respond(responder_of(responder), handler, concurrency, waiting)

    def responder(
        self, responder: str, *, concurrency: int = CONCURRENCY, waiting: int = WAITING
    ) -> Callable[[H], H]:
        """A decorator: the function is the handler of the name. See `respond`."""

        def register(handler: H) -> H:
            self.respond(responder, handler, concurrency=concurrency, waiting=waiting)
            return handler

        return register
