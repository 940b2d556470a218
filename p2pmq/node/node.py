"""The node: what a service embeds. It ties the user's calls to one driver and its ports."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from p2pmq.core import effects, events
from p2pmq.core.delivery import VISIBILITY_MS_MIN
from p2pmq.core.ids import ID_BYTES, PartitionKey
from p2pmq.core.names import check_queue_name
from p2pmq.core.packets.registering import QueueSettings
from p2pmq.errors import (
    ClosedNodeError,
    NotDeclaredError,
    RequestTimeoutError,
    UsageError,
)
from p2pmq.node.arguments import (
    check_prefetch,
    checked_copies,
    checked_priority,
    confirmation_of,
    key_of,
    mailbox_key,
    patterns_of,
    place_of,
    responder_of,
    to_ms,
    topic_of,
)
from p2pmq.node.consumer import Consumer
from p2pmq.node.drain import drained
from p2pmq.node.engine import Engine
from p2pmq.node.publisher import Terms
from p2pmq.node.queue import Queue
from p2pmq.node.receipts import (
    BulkReceipt,
    MemberInfo,
    QueueDepth,
    QueueInfo,
    Receipt,
    depth_of,
    info_of,
)
from p2pmq.node.requests import Responder, packed, reply_of
from p2pmq.node.subscription import Subscription

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
    from typing import Literal

    from p2pmq.node.message import Message, MessageBatch
    from p2pmq.node.requests import RequestHandler
    from p2pmq.node.subscription import OnSlow

    Confirm = Literal["committed", "stored", "none"]

PREFETCH = 100
"""Messages that a consumer may hold unsettled, unless it says otherwise."""
BATCH_PREFETCH = 4_096
REQUEST_TIMEOUT_S = 5.0
CONCURRENCY = 16
"""Handlers of one responder at a time, unless it says otherwise …"""
WAITING = 64
"""… and requests that wait in line for one to end."""
BUFFER_EVENTS = 1_000
"""Events that wait for a subscriber's loop, unless it says otherwise."""
MAIL_TTL_S = 7 * 86_400.0
"""A message to a node that does not come back must not lie there for ever."""


H = TypeVar("H", bound="RequestHandler")


class Node(Engine):
    """One member of a mesh, inside this process.

    `name` is unique in the mesh. Everything else has a default that suits a
    laptop: it listens on loopback, finds the others by mDNS, and keeps its
    data in `~/.local/share/p2pmq/<mesh>/<name>`. See `config.NodeSettings`
    for each parameter. `on_overflow` is called with an `Overflow` whenever the
    outbox's limits (`Config.outbox`) make messages wait, or refuse or drop them;
    it runs in the node's loop, so it must be quick, and what it raises is logged.

    >>> import asyncio, p2pmq
    >>> async def main():
    ...     async with p2pmq.Node("doc", mdns=False, store="memory") as node:
    ...         await node.publish("greetings", "hello")
    ...         async for message in node.consume("greetings"):
    ...             async with message:
    ...                 return message.body
    >>> asyncio.run(main())
    'hello'
    """

    # -- publishing --

    async def publish(
        self,
        queue: str,
        body: object,
        *,
        confirm: Confirm = "committed",
        timeout: float | None = None,  # noqa: ASYNC109  one deadline for a batch, kept by the core
        ttl: float | None = None,
        priority: int = 0,
    ) -> Receipt:
        """Publish one message.

        `body`: bytes as they are, else anything msgpack holds. `confirm`:
        "committed" waits until it is fsynced at the queue's home; "stored"
        until it is fsynced in this node's outbox, to be sent when the owner
        can be reached; "none" waits for nothing. `timeout` is in seconds, and
        so is `ttl`: a message that nobody has acked by then is dropped, and
        counted as expired (None: it waits for ever). `priority` is 0 to 9, the
        higher the more urgent: it overtakes what waits at the queue's owner,
        and an outbox that must drop begins with the least.

        Raises NotCommittedError when time is up (the message stays in the
        outbox, unless the outbox's policy dropped it: `error.dropped`),
        QueueNameError, BodyTooLargeError, NotSerializableError,
        OutboxFullError, ClosedNodeError.
        """
        self._check_running()
        terms = self._terms(confirm, timeout, ttl, priority)
        return await self._publisher.publish(key_of(queue), body, terms)

    async def publish_many(
        self,
        queue: str,
        bodies: Iterable[object] | AsyncIterable[object],
        *,
        confirm: Confirm = "committed",
        timeout: float | None = None,  # noqa: ASYNC109  as above
        ttl: float | None = None,
        priority: int = 0,
    ) -> BulkReceipt:
        """Publish many messages, pipelined; returns when all are confirmed.

        Bodies are taken from the iterable only as fast as they can leave.
        `timeout` (seconds) is for each batch, not for all. Raises as `publish`;
        after an error the iterable may have been consumed in part.
        """
        self._check_running()
        terms = self._terms(confirm, timeout, ttl, priority)
        return await self._publisher.publish_many(key_of(queue), bodies, terms)

    def _terms(
        self, confirm: Confirm, timeout: float | None, ttl: float | None, priority: int
    ) -> Terms:
        """What a publish asks for, checked. Raises UsageError."""
        return Terms(
            confirmation_of(confirm),
            self._timeout_ms(timeout, self.settings.config.timing.confirm_timeout_ms),
            0 if ttl is None else to_ms(ttl, least_ms=1),
            checked_priority(priority),
        )

    async def send(
        self,
        name: str,
        body: object,
        *,
        confirm: Confirm = "committed",
        timeout: float | None = None,  # noqa: ASYNC109  as above
        ttl: float | None = MAIL_TTL_S,
        priority: int = 0,
    ) -> Receipt:
        """Send a message to exactly the node of that name: it reads it with `inbox`.

        The node may be away, or never have been there: its mailbox is a queue like any
        other, kept on the disks of its homes, for `ttl` seconds (a week; None: for
        ever). Everything else is as in `publish`, the errors too.
        """
        self._check_running()
        terms = self._terms(confirm, timeout, ttl, priority)
        return await self._publisher.publish(mailbox_key(name), body, terms)

    # -- consuming --

    def consume(
        self, queue: str, *, prefetch: int = PREFETCH, visibility_timeout: float | None = None
    ) -> AsyncIterator[Message]:
        """The queue's messages, one by one, for ever; it survives its owner.

        At most `prefetch` messages are held unsettled. One that is not settled
        within `visibility_timeout` seconds (30 by default) goes to somebody else.
        """
        return self._messages(key_of, queue, prefetch, visibility_timeout)

    def inbox(
        self, *, prefetch: int = PREFETCH, visibility_timeout: float | None = None
    ) -> AsyncIterator[Message]:
        """What was sent to this node by name (`send`), one by one, for ever. See `consume`."""
        return self._messages(mailbox_key, self.settings.name, prefetch, visibility_timeout)

    async def _messages(
        self,
        key_for: Callable[[str], PartitionKey],
        name: str,
        prefetch: int,
        visibility_timeout: float | None,
    ) -> AsyncIterator[Message]:
        """The messages of the queue that `key_for` finds for the name; it may raise."""
        consumer = self._subscribe(key_for(name), prefetch, visibility_timeout)
        try:
            async for message in consumer.messages():
                yield message
        finally:
            self._drop(consumer)

    async def consume_batches(
        self, queue: str, *, prefetch: int = BATCH_PREFETCH, visibility_timeout: float | None = None
    ) -> AsyncIterator[MessageBatch]:
        """The queue's messages in batches as they come: the fastest way. See `consume`."""
        consumer = self._subscribe(key_of(queue), prefetch, visibility_timeout)
        try:
            async for batch in consumer.batches():
                yield batch
        finally:
            self._drop(consumer)

    def _subscribe(
        self, key: PartitionKey, prefetch: int, visibility_timeout: float | None
    ) -> Consumer:
        self._check_running()
        if self._draining:
            raise ClosedNodeError(self.settings.name, "closing")
        check_prefetch(prefetch)
        visibility_ms = self.settings.config.timing.visibility_timeout_ms
        if visibility_timeout is not None:
            visibility_ms = to_ms(visibility_timeout, least_ms=VISIBILITY_MS_MIN)
        consumer_id = self._world.random_bytes(ID_BYTES)
        consumer = Consumer(consumer_id, key, self._driver.feed, self._loop)
        self._consumers[consumer_id] = consumer
        self._driver.feed(events.SubscribeRequested(consumer_id, key, prefetch, visibility_ms))
        return consumer

    def _drop(self, consumer: Consumer) -> None:
        consumer.close()
        self._consumers.pop(consumer.consumer_id, None)

    def drain(
        self, queue: str, *, prefetch: int = BATCH_PREFETCH, patience: float = 30.0
    ) -> AsyncIterator[Message]:
        """The queue's messages until it is empty, each acked as the next is asked for.

        It waits for what others hold. Raises RequestTimeoutError after `patience`
        seconds in which nothing came and the queue was not known to be empty.
        """
        return drained(self, queue, prefetch, patience)

    def queue(self, name: str) -> Queue:
        """A handle on one queue."""
        check_queue_name(name)
        return Queue(self, name)

    # -- topics --

    async def emit(self, topic: str, body: object) -> None:
        """Emit an event to everybody who is subscribed to its topic right now, at most once.

        Nothing is stored, nothing is confirmed and nobody is waited for: who is away misses it,
        and a slow link or subscriber drops events and counts them. `topic` is 1 to 255 bytes
        of UTF-8 in up to 32 tokens parted by dots, without wildcards; `body` is as in `publish`.

        Raises TopicError, BodyTooLargeError, NotSerializableError, ClosedNodeError.

        >>> import asyncio, p2pmq
        >>> async def main():
        ...     async with p2pmq.Node("doc", mdns=False, store="memory") as node:
        ...         async with node.subscribe("site.*.temp") as events:
        ...             await node.emit("site.7.temp", 21.5)
        ...             async for event in events:
        ...                 return event.topic, event.body, event.sender
        >>> asyncio.run(main())
        ('site.7.temp', 21.5, 'doc')
        """
        self._check_running()
        if self._emitter.emit(topic_of(topic), body):
            await asyncio.sleep(0)  # a loop that does nothing but emit lets the others run

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
        self._check_running()
        if self._draining:
            raise ClosedNodeError(self.settings.name, "closing")
        return Subscription(self._emitter, patterns_of(patterns), buffer, on_slow)

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

    # -- settings --

    async def declare(
        self, queue: str, *, replicas: int | None = None, min_copies: int | None = None
    ) -> QueueInfo:
        """Give a queue settings of its own, on every node of the mesh; now or at any later time.

        `replicas` (R, 1 to 9) is on how many nodes' disks its messages are kept,
        `min_copies` (W, 1 to R) on how many of them a message must be fsynced to
        be committed: 1 keeps every side of a partition available. What is left
        out is the mesh's default (`config.Replication`), and a majority of R. The latest
        declaration holds; it is on this node's disk when this returns, and the
        others learn it as they are reached. No queue needs to be declared.

        Raises UsageError, QueueNameError, NotDeclaredError, ClosedNodeError.
        """
        self._check_running()
        check_queue_name(queue)
        settings = QueueSettings(
            *checked_copies(replicas, min_copies, self.settings.config.replication)
        )
        token, future = self._wait_token()
        self._driver.feed(events.DeclareRequested(queue, settings, token))
        outcome = await future
        if isinstance(outcome, effects.Refused):
            raise NotDeclaredError(queue, outcome.reason)
        return self.settings_of(queue)

    def settings_of(self, queue: str) -> QueueInfo:
        """The settings of a queue that are in force, as this node knows them."""
        self._check_running()
        check_queue_name(queue)
        declared = self._machine.registry.settings_of(queue) is not None
        return QueueInfo(queue, *self._machine.copies_of(queue), declared)

    # -- looking --

    async def depth(self, queue: str) -> QueueDepth:
        """How many messages the queue holds; raises RequestTimeoutError if its owner is silent."""
        key = place_of(queue)
        stats = await self._ask_stats(queue)
        owner = self._name_of(self._machine.owner_of(key))
        if stats.missing or owner is None:
            raise RequestTimeoutError(
                f"the owner of queue {queue!r} ({owner or 'away'}) did not answer in time: "
                "its messages are on its disk; ask again when it is back"
            )
        found = stats.queues[0] if stats.queues else None
        return depth_of(queue, found, owner, self._machine.copies_of(queue))

    async def queues(self) -> list[QueueDepth]:
        """Every queue that a living owner holds, by name."""
        stats = await self._ask_stats("")
        depths = [
            depth_of(
                s.queue,
                s,
                self._name_of(self._machine.owner_of(PartitionKey(s.queue, s.partition))),
                self._machine.copies_of(s.queue),
            )
            for s in stats.queues
        ]
        return sorted(depths, key=lambda depth: depth.queue)

    def members(self) -> list[MemberInfo]:
        """Every member of the roster as this node sees it, by name; itself among them."""
        self._check_running()
        infos = [info_of(member, self.node_id) for member in self._machine.swim.roster()]
        return sorted(infos, key=lambda info: info.name)

    def owner_of(self, queue: str) -> str | None:
        """The name of the queue's living owner, as this node sees it."""
        self._check_running()
        return self._name_of(self._machine.owner_of(place_of(queue)))

    async def forget(self, name: str) -> None:
        """Take a member that is gone for good off the roster; its queues get new owners.

        Raises UsageError where no dead member has the name.
        """
        self._check_running()
        for member in self._machine.swim.roster():
            if member.name == name and not self._machine.swim.is_alive(member.node_id):
                token, future = self._wait_token()
                self._driver.feed(events.ForgetRequested(member.node_id, token))
                await future
                return
        raise UsageError(
            f"no dead member is named {name!r}: only one that is gone can be forgotten "
            "(`p2pmq peers` lists them)"
        )

    async def _ask_stats(self, queue: str) -> effects.Stats:
        self._check_running()
        token, future = self._wait_token()
        timeout_ms = self.settings.config.timing.stats_timeout_ms
        self._driver.feed(events.StatsRequested(queue, timeout_ms, token))
        stats: effects.Stats = await future
        return stats
