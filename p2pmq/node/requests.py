"""Requests and responders: a handler for each request that came, an error for each that failed.

The core decides which request runs when, and when it ends; here are only the
tasks, one for each handler that runs.

Invariant: each `Handle` of the core is followed by one `RequestHandled`, when
its task has ended, unless the node has.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from p2pmq.core import events
from p2pmq.core.effects import Replied
from p2pmq.core.topics import responder_topic
from p2pmq.errors import (
    BodyTooLargeError,
    NoResponderError,
    OverloadedError,
    RemoteError,
    RequestTimeoutError,
    ResponderGoneError,
    UsageError,
)
from p2pmq.wire.bodies import FORMAT_RAW, PackedBodies, pack_body, unpack_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2pmq.core.effects import Handle, NotReplied
    from p2pmq.core.ids import JobId, NodeId
    from p2pmq.core.packets.publishing import Bodies
    from p2pmq.node.wanted import Wanted

    RequestHandler = Callable[["Request"], Awaitable[object]]

log = logging.getLogger("p2pmq")

CONCURRENCY_MAX = 65_536
WAITING_MAX = 65_536
KIND_CHARACTERS_MAX = 60
TEXT_CHARACTERS_MAX = 1_000
"""Of an error that goes to the caller: UTF-8 needs four bytes for each at most, 4,096 fit."""


class Request:
    """One request, as its handler gets it."""

    __slots__ = ("_bodies", "_deadline", "_now", "responder", "sender")

    def __init__(
        self, responder: str, sender: str, bodies: Bodies, deadline: float, now: Callable[[], float]
    ) -> None:
        self.responder = responder
        """The name that it was made to."""
        self.sender = sender
        """The name of the node that made it."""
        self._bodies = bodies
        self._deadline = deadline
        self._now = now

    @property
    def body(self) -> Any:  # noqa: ANN401  whatever was sent
        """The body: bytes if bytes were sent, else what msgpack made of it."""
        return body_of(self._bodies)

    @property
    def remaining(self) -> float:
        """Seconds until its caller waits no more, and the handler is cancelled."""
        return max(0.0, self._deadline - self._now())

    def __repr__(self) -> str:
        return f"<Request to {self.responder!r} from {self.sender!r}>"


class Responder:
    """What `node.respond()` gives: this node answers to a name until it is closed."""

    def __init__(self, desk: RequestDesk, name: str) -> None:
        self._desk = desk
        self.name = name

    def close(self) -> None:
        """Answer no more: requests that wait in line go elsewhere, handlers that run may end."""
        self._desk.stop(self)


class _Terms:
    """What a responder was given."""

    __slots__ = ("concurrency", "handle", "handler", "waiting")

    def __init__(
        self, handle: Responder, handler: RequestHandler, concurrency: int, waiting: int
    ) -> None:
        self.handle = handle
        self.handler = handler
        self.concurrency = concurrency
        self.waiting = waiting


class RequestDesk:
    """The responders of one node, and the tasks of their handlers."""

    def __init__(self) -> None:
        self._responders: dict[str, _Terms] = {}
        self._tasks: dict[JobId, asyncio.Task[object]] = {}
        self._is_open = False

    # -- responders --

    def respond(
        self, name: str, handler: RequestHandler, concurrency: int, waiting: int
    ) -> Responder:
        """Answer to a valid name, now or from the node's start on."""
        _check_numbers(concurrency, waiting)
        if not _is_async(handler):
            raise UsageError(
                f"the handler for {name!r} is not asynchronous: give an `async def` that takes a "
                "Request and returns the body of the reply"
            )
        if name in self._responders:
            raise UsageError(
                f"this node answers to {name!r} already: give the responder more concurrency, or "
                "close it first"
            )
        handle = Responder(self, name)
        terms = _Terms(handle, handler, concurrency, waiting)
        if self._is_open:
            self._begin(name, terms)
        self._responders[name] = terms
        return handle

    def _begin(self, name: str, terms: _Terms) -> None:
        """Raise SubscriptionLimitError, or make it known."""
        self._wanted.add((responder_topic(name),))
        self._feed(events.RespondRequested(name, terms.concurrency, terms.waiting))

    def stop(self, handle: Responder) -> None:
        """Answer to a name no more; once more is no harm."""
        terms = self._responders.get(handle.name)
        if terms is not None and terms.handle is handle:
            del self._responders[handle.name]
            if self._is_open:
                self._end(handle.name)

    def _end(self, name: str) -> None:
        self._wanted.drop((responder_topic(name),))
        self._feed(events.RespondEnded(name))

    # -- the node's life --

    def open(
        self,
        feed: Callable[[events.Event], None],
        loop: asyncio.AbstractEventLoop,
        body_bytes_max: int,
        wanted: Wanted,
        name_of: Callable[[NodeId | None], str | None],
        counted: Callable[[str], None],
    ) -> None:
        """The node runs: make known to whom it answers. Raises SubscriptionLimitError."""
        self._feed = feed
        self._loop = loop
        self._body_bytes_max = body_bytes_max
        self._wanted = wanted
        self._name_of = name_of
        self._counted = counted
        self._is_open = True
        for name, terms in self._responders.items():
            self._begin(name, terms)

    def drain(self, closer: asyncio.Task[object] | None) -> list[asyncio.Future[object]]:
        """Answer nothing new, and let others know at once; the handlers to wait for, if any."""
        if self._is_open:
            self._is_open = False
            for name in self._responders:
                self._end(name)
            self._wanted.flush()
        return [task for task in self._tasks.values() if task is not closer]

    def end(self) -> None:
        """Stop the handlers that still run: their callers get an error."""
        closer: asyncio.Task[object] | None = None
        with contextlib.suppress(RuntimeError):  # no loop runs: a simulation is taken down
            closer = asyncio.current_task()
        for task in list(self._tasks.values()):
            if task is not closer:
                task.cancel()

    # -- from the core --

    def on_handle(self, request: Handle) -> None:
        """Run a handler."""
        deadline = self._loop.time() + request.left_ms / 1000
        sender = self._name_of(request.job_id.peer) or ""
        given = Request(request.responder, sender, request.bodies, deadline, self._loop.time)
        terms = self._responders.get(request.responder)
        if terms is None:  # it has just been closed, and the core had begun already
            kind, text = "ClosedNodeError", "the responder was closed"
            self._feed(events.RequestHandled(request.job_id, kind=kind, text=text))
            return
        task = self._loop.create_task(_handled(terms.handler, given))
        self._tasks[request.job_id] = task
        task.add_done_callback(partial(self._on_done, request.job_id, request.responder))

    def on_stop_handling(self, job_id: JobId) -> None:
        """Stop a handler."""
        task = self._tasks.get(job_id)
        if task is not None:
            task.cancel()

    def _on_done(self, job_id: JobId, name: str, task: asyncio.Task[object]) -> None:
        """A handler has ended, in whichever way."""
        del self._tasks[job_id]
        if task.cancelled():
            error: BaseException | None = asyncio.CancelledError("the handler was cancelled")
        else:
            error = task.exception()
        if error is None:
            try:
                bodies, size = packed(task.result(), self._body_bytes_max)
            except UsageError as fault:
                error = fault
            else:
                self._counted("requests_answered")
                self._feed(events.RequestHandled(job_id, bodies, size))
                return
        if not task.cancelled():
            self._counted("requests_raised")
            log.error("the handler for %r raised; its caller is told", name, exc_info=error)
        kind, text = text_of(error)
        self._feed(events.RequestHandled(job_id, kind=kind, text=text))


async def _handled(handler: RequestHandler, request: Request) -> object:
    return await handler(request)


def packed(body: object, body_bytes_max: int) -> tuple[PackedBodies, int]:
    """One body and its size. Raises BodyTooLargeError, NotSerializableError."""
    data, body_format = (body, FORMAT_RAW) if type(body) is bytes else pack_body(body)
    if len(data) > body_bytes_max:
        raise BodyTooLargeError(len(data), body_bytes_max)
    formats = bytes((body_format,)) if body_format else None
    return PackedBodies.from_bodies([data], formats), len(data)


def body_of(bodies: Bodies) -> Any:  # noqa: ANN401  whatever was sent
    """The one body."""
    assert isinstance(bodies, PackedBodies), "requests never lie in a store"
    formats = bodies.formats
    return unpack_body(bodies.bodies[0], formats[0] if formats else FORMAT_RAW)


def text_of(error: BaseException) -> tuple[str, str]:
    """The class of an error and its text, as a packet can carry them."""
    try:
        text = str(error)
    except Exception as fault:  # noqa: BLE001  whatever a user's class does
        text = f"(its text cannot be had: {type(fault).__name__})"
    cut = text if len(text) <= TEXT_CHARACTERS_MAX else text[: TEXT_CHARACTERS_MAX - 1] + "…"
    kind = type(error).__name__[:KIND_CHARACTERS_MAX]
    return _portable(kind), _portable(cut)


def _portable(text: str) -> str:
    """Without lone surrogates, which no UTF-8 carries."""
    return text.encode("utf-8", "replace").decode()


def reply_of(
    outcome: Replied | NotReplied, responder: str, seconds: float, node: str | None
) -> object:
    """The body of the reply, or the error that says why there is none, raised."""
    if isinstance(outcome, Replied):
        return body_of(outcome.bodies)
    name = node or "unknown"
    match outcome.reason:
        case "nobody":
            raise NoResponderError(responder)
        case "overloaded":
            raise OverloadedError(responder, name)
        case "gone":
            raise ResponderGoneError(responder, name)
        case "raised":
            raise RemoteError(responder, name, outcome.kind, outcome.text)
        case "timeout":
            raise RequestTimeoutError(
                f"node {name!r} did not answer the request for {responder!r} within {seconds:g} s: "
                "it may have acted on it or not, so send it again only if twice does no harm, or "
                "give it a longer timeout"
            )


def _is_async(handler: object) -> bool:
    call = getattr(handler, "__call__", None)  # noqa: B004  an object's own, which may be async
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)


def _check_numbers(concurrency: int, waiting: int) -> None:
    if not 1 <= concurrency <= CONCURRENCY_MAX:
        raise UsageError(
            f"concurrency={concurrency!r} cannot be: give 1 to {CONCURRENCY_MAX:,} handlers at once"
        )
    if not 0 <= waiting <= WAITING_MAX:
        raise UsageError(
            f"waiting={waiting!r} cannot be: give 0 to {WAITING_MAX:,} requests in line"
        )
