"""The blocking node: `p2pmq.Node` in a background thread, with every call waited for.

Nothing here knows the protocol. A call checks that it may wait, hands a
coroutine of the asyncio node to its loop, and takes the answer.

Every wait has a limit: the call's own time-out, and a grace after which only a
loop that hangs has not answered. Those without say why.
"""

from __future__ import annotations

import threading
import warnings
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from p2pmq.blocking.drain import drained
from p2pmq.blocking.feed import Feed
from p2pmq.blocking.inner import InnerNode
from p2pmq.blocking.loop_thread import GRACE_S, LoopThread
from p2pmq.blocking.queue import Queue
from p2pmq.blocking.replay import replayed
from p2pmq.blocking.serving import Serving
from p2pmq.blocking.taking import Batches, Messages
from p2pmq.core.names import check_queue_name
from p2pmq.errors import ClosedNodeError
from p2pmq.node.node import BATCH_PREFETCH, MAIL_TTL_S, PREFETCH
from p2pmq.node.talking import REQUEST_TIMEOUT_S
from p2pmq.node.typed import converter_to

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
    from datetime import datetime
    from types import TracebackType
    from typing import Any, Literal, Self, Unpack

    from p2pmq.blocking.consumer import ThreadedConsumer
    from p2pmq.config import Config, NodeSettings
    from p2pmq.node.binding import BindingInfo
    from p2pmq.node.message import Message
    from p2pmq.node.node import Confirm
    from p2pmq.node.ordering import Key, KeyFor
    from p2pmq.node.receipts import (
        BulkReceipt,
        MemberInfo,
        Overflow,
        QueueDepth,
        Receipt,
    )
    from p2pmq.node.redriving import RedriveReport
    from p2pmq.node.replay import Retained
    from p2pmq.node.scheduling import ScheduleInfo
    from p2pmq.node.settings import QueueInfo, Settings
    from p2pmq.observe.counters import Counters

T = TypeVar("T")
AnyTaking = TypeVar("AnyTaking", Messages, Batches)


class Node(Serving):
    """One member of a mesh, for code that does not use asyncio.

    The arguments are those of `p2pmq.Node`; `on_overflow` runs in the node's
    own thread, so it must be quick, and must not call this node. Any number of
    threads may use one node at once. A process that forks makes its nodes after
    the fork: in a fork every call raises ForkedNodeError.

    >>> import p2pmq.blocking
    >>> with p2pmq.blocking.Node("doc-blocking", mdns=False, store="memory") as node:
    ...     receipt = node.publish("greetings", "hello")
    ...     for message in node.consume("greetings"):
    ...         with message:  # ack; on an exception nack
    ...             print(message.body)
    ...         break
    hello
    """

    def __init__(
        self,
        name: str,
        *,
        mesh: str = "default",
        listen: str = "127.0.0.1:0",
        seeds: Iterable[str] = (),
        mdns: bool = True,
        store: Literal["disk", "memory"] = "disk",
        data_dir: str | None = None,
        leaf: bool = False,
        zone: str = "",
        weight: int = 1,
        insecure: bool = False,
        config: Config | None = None,
        on_overflow: Callable[[Overflow], object] | None = None,
    ) -> None:
        super().__init__()
        self._inner = InnerNode(
            name,
            mesh=mesh,
            listen=listen,
            seeds=seeds,
            mdns=mdns,
            store=store,
            data_dir=data_dir,
            leaf=leaf,
            zone=zone,
            weight=weight,
            insecure=insecure,
            config=config,
            on_overflow=on_overflow,
        )

    # -- life --

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the thread, open the store, listen, and meet the mesh.

        It waits without a limit of its own: reading a large store takes as long as
        its disk. Raises as `p2pmq.Node.start`; then nothing is left open.
        """
        with self._starting:
            if self._thread is not None:
                self._thread.check_here()
                raise ClosedNodeError(self.settings.name, self._inner.state)
            thread = LoopThread(self.settings.name, self._inner.close)
            try:
                thread.start()
                thread.call(self._inner.start, None)
                self._thread = thread
                for handler in self._handlers:
                    self._begin(handler)
            except BaseException:
                self._thread = None
                thread.stop(GRACE_S)
                raise

    def close(self, timeout: float | None = None) -> None:
        """Drain and stop; when it returns, the node's thread has ended.

        Consumers get no more messages, and other threads have until `timeout` (seconds) to settle
        those that they are at. What this thread holds unsettled goes to others. In a fork, and on
        a node that does not run, it does nothing.
        """
        thread = self._thread
        if thread is None or thread.is_forked:
            return
        thread.check_may_wait()
        limit_s = self._limit(timeout, self.settings.config.timing.drain_timeout_ms)
        if thread.closer is None:
            thread.closer = threading.current_thread()
        try:
            with suppress(ClosedNodeError):  # another thread was faster
                thread.call(partial(self._inner.close, timeout), limit_s, closes=True)
        finally:
            thread.stop(limit_s)  # and close it, if an interrupt came before the call did

    def leave(self, timeout: float | None = None) -> None:
        """Leave the mesh for good: see `p2pmq.Node.leave`. The node is to be closed then."""
        limit_s = self._limit(timeout, self.settings.config.timing.drain_timeout_ms, times=2)
        self._call(partial(self._inner.leave, timeout), limit_s)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was published is committed and all acks are confirmed.

        Returns False when `timeout` (seconds) was over first: see `p2pmq.Node.flush`.
        """
        limit_s = self._limit(timeout, self.settings.config.timing.drain_timeout_ms)
        return self._call(partial(self._inner.flush, timeout), limit_s)

    def wait_stopped(self) -> None:
        """Wait until the node has stopped, without a limit: for a main thread that only serves.

        Returns when another thread has closed it. Raises the error that made it stop by itself.
        """
        self._call(self._inner.wait_stopped, None)

    def __del__(self) -> None:
        thread = self._thread
        if thread is None or thread.is_forked or not thread.is_alive:
            return
        warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)
        thread.close_soon(self.settings.config.timing.drain_timeout_ms / 1000, None)

    # -- publishing --

    def publish(
        self,
        queue: str,
        body: object,
        *,
        confirm: Confirm = "committed",
        timeout: float | None = None,
        ttl: float | None = None,
        priority: int = 0,
        delay: float | None = None,
        at: datetime | float | None = None,
        key: Key = None,
        id: str | None = None,  # noqa: A002  the word for it
    ) -> Receipt:
        """Publish one message, and wait for what `confirm` says: see `p2pmq.Node.publish`.

        Messages that several threads publish at once share their packets and fsyncs.
        """
        return self._call(
            partial(
                self._inner.publish,
                queue,
                body,
                confirm=confirm,
                timeout=timeout,
                ttl=ttl,
                priority=priority,
                delay=delay,
                at=at,
                key=key,
                id=id,
            ),
            self._publish_limit(timeout),
        )

    def publish_many(
        self,
        queue: str,
        bodies: Iterable[object],
        *,
        confirm: Confirm = "committed",
        timeout: float | None = None,
        ttl: float | None = None,
        priority: int = 0,
        delay: float | None = None,
        at: datetime | float | None = None,
        key: Key | KeyFor = None,
        id: Callable[[Any], str] | None = None,  # noqa: A002  as above
    ) -> BulkReceipt:
        """Publish many messages, pipelined; returns when all are confirmed.

        The iterable runs in the calling thread, and only as fast as its bodies
        can leave. `timeout` (seconds) is for each batch; for all there is no limit.
        A function as `key` runs in the node's thread, so it must be quick.
        See `p2pmq.Node.publish_many`.
        """
        publish = partial(
            self._inner.publish_many,
            queue,
            confirm=confirm,
            timeout=timeout,
            ttl=ttl,
            priority=priority,
            delay=delay,
            at=at,
            key=key,
            id=id,
        )
        return self._bulk(publish, bodies)

    def send(
        self,
        name: str,
        body: object,
        *,
        confirm: Confirm = "committed",
        timeout: float | None = None,
        ttl: float | None = MAIL_TTL_S,
        priority: int = 0,
        delay: float | None = None,
        at: datetime | float | None = None,
    ) -> Receipt:
        """Send a message to exactly the node of that name: see `p2pmq.Node.send`."""
        return self._call(
            partial(
                self._inner.send,
                name,
                body,
                confirm=confirm,
                timeout=timeout,
                ttl=ttl,
                priority=priority,
                delay=delay,
                at=at,
            ),
            self._publish_limit(timeout),
        )

    def send_many(
        self,
        name: str,
        bodies: Iterable[object],
        *,
        confirm: Confirm = "committed",
        timeout: float | None = None,
        ttl: float | None = MAIL_TTL_S,
        priority: int = 0,
        delay: float | None = None,
        at: datetime | float | None = None,
    ) -> BulkReceipt:
        """Send many messages to the node of that name: `send`, as `publish_many`."""
        publish = partial(
            self._inner.send_many,
            name,
            confirm=confirm,
            timeout=timeout,
            ttl=ttl,
            priority=priority,
            delay=delay,
            at=at,
        )
        return self._bulk(publish, bodies)

    # -- consuming --

    def consume(
        self,
        queue: str,
        *,
        prefetch: int = PREFETCH,
        visibility_timeout: float | None = None,
        type: Any = None,  # noqa: A002, ANN401  the word for it; any annotation
        once: bool = False,
    ) -> Messages:
        """The queue's messages, one by one, for ever: an iterator that waits.

        It consumes from this call on, until it is closed or dropped: a `for` loop
        over it that is left does that. At most `prefetch` messages are held here
        unsettled; see `p2pmq.Node.consume`.
        """
        convert = None if type is None else converter_to(type)
        messages = self._consume(Messages, queue, prefetch, visibility_timeout, once=once)
        messages.convert = convert
        return messages

    def inbox(
        self, *, prefetch: int = PREFETCH, visibility_timeout: float | None = None
    ) -> Messages:
        """What was sent to this node by name (`send`), one by one, for ever. See `consume`."""
        return self._consume(Messages, None, prefetch, visibility_timeout)

    def consume_batches(
        self, queue: str, *, prefetch: int = BATCH_PREFETCH, visibility_timeout: float | None = None
    ) -> Batches:
        """The queue's messages in batches as they come: the fastest way. See `consume`."""
        return self._consume(Batches, queue, prefetch, visibility_timeout)

    def inbox_batches(
        self, *, prefetch: int = BATCH_PREFETCH, visibility_timeout: float | None = None
    ) -> Batches:
        """What was sent to this node by name, in batches as they come. See `inbox`."""
        return self._consume(Batches, None, prefetch, visibility_timeout)

    def drain(
        self, queue: str, *, prefetch: int = BATCH_PREFETCH, patience: float = 30.0
    ) -> Iterator[Message]:
        """The queue's messages until it is empty, each acked as the next is asked for.

        It waits for what others hold. Raises RequestTimeoutError after `patience`
        seconds in which nothing came and the queue was not known to be empty.
        """
        return drained(self, queue, prefetch, patience)

    def replay(
        self, queue: str, *, since: float | datetime | None = None, timeout: float = 30.0
    ) -> Iterator[Retained]:
        """What the queue retains, in order, acked or not: see `p2pmq.Node.replay`."""
        self._running()
        return replayed(self._inner.replay(queue, since=since, timeout=timeout), self._call)

    def queue(self, name: str) -> Queue:
        """A handle on one queue."""
        check_queue_name(name)
        return Queue(self, name)

    # -- topics and requests --

    def emit(
        self,
        topic: str,
        body: object,
        *,
        confirm: Confirm = "none",
        timeout: float | None = None,
    ) -> None:
        """Emit an event to everybody who is subscribed to its topic: see `p2pmq.Node.emit`."""
        emit = partial(self._inner.emit, topic, body, confirm=confirm, timeout=timeout)
        self._call(emit, self._publish_limit(timeout))

    def bind(self, pattern: str, *, queue: str) -> None:
        """Copy events of the pattern into a queue, on every node: see `p2pmq.Node.bind`."""
        self._call(partial(self._inner.bind, pattern, queue=queue), GRACE_S)

    def unbind(self, pattern: str, *, queue: str) -> None:
        """Copy them no more: see `p2pmq.Node.unbind`."""
        self._call(partial(self._inner.unbind, pattern, queue=queue), GRACE_S)

    def bindings(self) -> list[BindingInfo]:
        """What is bound, as this node knows it, by pattern and queue."""
        return self._running().ask(self._inner.bindings)

    def schedule(
        self,
        name: str,
        cron: str,
        queue: str,
        body: object = None,
        *,
        ttl: float | None = None,
        priority: int = 0,
    ) -> ScheduleInfo:
        """Publish `body` whenever `cron` says: see `p2pmq.Node.schedule`."""
        inner = self._inner
        schedule = partial(inner.schedule, name, cron, queue, body, ttl=ttl, priority=priority)
        return self._call(schedule, GRACE_S)

    def unschedule(self, name: str) -> None:
        """Publish no more of that schedule: see `p2pmq.Node.unschedule`."""
        self._call(partial(self._inner.unschedule, name), GRACE_S)

    def schedules(self) -> list[ScheduleInfo]:
        """The schedules in force, as this node knows them, by name."""
        return self._running().ask(self._inner.schedules)

    def request(
        self, responder: str, body: object = None, *, timeout: float = REQUEST_TIMEOUT_S
    ) -> Any:  # noqa: ANN401  whatever the handler returned
        """Ask one living node that answers to the name: see `p2pmq.Node.request`."""
        ask = partial(self._inner.request, responder, body, timeout=timeout)
        return self._call(ask, timeout + GRACE_S)

    # -- settings --

    def declare(self, queue: str, **settings: Unpack[Settings]) -> QueueInfo:
        """Give a queue settings of its own, on every node: see `p2pmq.Node.declare`."""
        return self._call(partial(self._inner.declare, queue, **settings), GRACE_S)

    def settings_of(self, queue: str) -> QueueInfo:
        """The settings of a queue that are in force, as this node knows them."""
        return self._running().ask(partial(self._inner.settings_of, queue))

    def delete(self, queue: str) -> None:
        """Delete a queue with all that is in it: see `p2pmq.Node.delete`."""
        self._call(partial(self._inner.delete, queue), self._publish_limit(None))

    def purge(self, queue: str) -> int:
        """Remove every message that waits in the queue: see `p2pmq.Node.purge`."""
        return self._call(partial(self._inner.purge, queue), self._publish_limit(None))

    # -- looking --

    def depth(self, queue: str) -> QueueDepth:
        """How many messages the queue holds; raises RequestTimeoutError if its owner is silent."""
        return self._call(partial(self._inner.depth, queue), self._stats_limit())

    def queues(self) -> list[QueueDepth]:
        """Every queue that a living owner holds, by name."""
        return self._call(self._inner.queues, self._stats_limit())

    # -- dead letters --

    def dead_letter_queues(self) -> list[QueueDepth]:
        """The dead-letter queues that hold something, by name. See `queues`."""
        return self._call(self._inner.dead_letter_queues, self._stats_limit())

    def dead_letters(self, queue: str, *, limit: int = 20) -> list[Message]:
        """The first letters of a queue's dead-letter queue: see `p2pmq.Node.dead_letters`."""
        return self._call(partial(self._inner.dead_letters, queue, limit=limit), None)

    def redrive(
        self, queue: str, *, rate: float | None = None, limit: int | None = None
    ) -> RedriveReport:
        """Give the dead letters of a queue back to it: see `p2pmq.Node.redrive`.

        It takes as long as it takes; an interrupt ends it between letters.
        """
        return self._call(partial(self._inner.redrive, queue, rate=rate, limit=limit), None)

    def members(self) -> list[MemberInfo]:
        """Every member of the roster as this node sees it, by name; itself among them."""
        return self._running().ask(self._inner.members)

    def owner_of(self, queue: str, partition: int = 0) -> str | None:
        """The name of the living owner of the queue, or of one of its partitions, as seen here."""
        return self._running().ask(partial(self._inner.owner_of, queue, partition))

    def forget(self, name: str) -> None:
        """Take a member that is gone for good off the roster: see `p2pmq.Node.forget`."""
        self._call(partial(self._inner.forget, name), GRACE_S)

    @property
    def settings(self) -> NodeSettings:
        """Who the node is, as it was made."""
        return self._inner.settings

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others can reach it, once it has started."""
        return self._inner.addresses

    @property
    def node_id(self) -> bytes:
        """Its id, once it has started: 8 bytes."""
        return self._inner.node_id

    @property
    def counters(self) -> Counters:
        """What it has counted."""
        return self._inner.counters

    def __repr__(self) -> str:
        return f"<blocking Node {self.settings.name!r}>"

    # -- within --

    def _running(self) -> LoopThread:
        """The thread; raises ClosedNodeError when none runs, ForkedNodeError in a fork."""
        thread = self._thread
        if thread is None:
            raise ClosedNodeError(self.settings.name, self._inner.state)
        thread.check_here()
        if not thread.is_alive:
            raise ClosedNodeError(self.settings.name, self._inner.state)
        return thread

    def _call(self, begin: Callable[[], Coroutine[Any, Any, T]], limit_s: float | None) -> T:
        return self._running().call(begin, limit_s)

    def _bulk(
        self,
        publish: Callable[[Iterable[object] | AsyncIterator[object]], Coroutine[Any, Any, T]],
        bodies: Iterable[object],
    ) -> T:
        """Publish what is at hand with one hop, and what is yet to be made by chunks."""
        thread = self._running()
        if isinstance(bodies, list | tuple | range):
            return thread.call(partial(publish, bodies), None)  # each batch has its time-out
        return Feed(thread).run(publish, bodies)

    def _consume(
        self,
        kind: type[AnyTaking],
        queue: str | None,
        prefetch: int,
        visibility_timeout: float | None,
        *,
        once: bool = False,
    ) -> AnyTaking:
        """An iterator over the queue, or over this node's mailbox (None)."""
        thread = self._running()
        made: list[ThreadedConsumer] = []

        def subscribe() -> ThreadedConsumer:
            begin = self._inner.begin_consuming
            made.append(begin(thread, queue, prefetch, visibility_timeout, once=once))
            return made[0]

        def drop() -> None:
            for consumer in made:
                self._inner.drop(consumer)

        try:
            return kind(self, self._inner, thread.ask(subscribe), thread)
        except BaseException:  # an interrupt: what has begun, or still will, has nobody
            with suppress(ClosedNodeError):
                thread.post(drop)
            raise

    def _limit(self, timeout: float | None, default_ms: int, times: int = 1) -> float:
        """How long a call may take that gives up by itself after `timeout`, `times` over."""
        return times * (default_ms / 1000 if timeout is None else timeout) + GRACE_S

    def _publish_limit(self, timeout: float | None) -> float:
        """A publish waits for room, then for its confirm."""
        return self._limit(timeout, self.settings.config.timing.confirm_timeout_ms, times=2)

    def _stats_limit(self) -> float:
        return self._limit(None, self.settings.config.timing.stats_timeout_ms)
