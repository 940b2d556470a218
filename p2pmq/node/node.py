"""The node: what a service embeds. It ties the user's calls to one driver and its ports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from p2pmq.core import events
from p2pmq.core.delivery import VISIBILITY_MS_MIN
from p2pmq.core.ids import ID_BYTES, PartitionKey
from p2pmq.core.names import DEAD_LETTERS, check_queue_name
from p2pmq.core.spreading import partitions_of, share_of
from p2pmq.errors import (
    ClosedNodeError,
    UsageError,
)
from p2pmq.node.arguments import (
    check_prefetch,
    checked_priority,
    confirmation_of,
    hashed_id,
    key_of,
    mailbox_key,
    reading_key_of,
    to_ms,
)
from p2pmq.node.batches import BULK_BYTES, Terms
from p2pmq.node.consumer import Consumer
from p2pmq.node.drain import drained
from p2pmq.node.handlers import Handler, guarded
from p2pmq.node.managing import Managing
from p2pmq.node.moments import delay_ms_of
from p2pmq.node.ordering import key_for_each, ordering_key
from p2pmq.node.queue import Queue
from p2pmq.node.receipts import (
    BulkReceipt,
    QueueDepth,
    Receipt,
)
from p2pmq.node.redriving import Reposting, looked_at, redriven
from p2pmq.node.settings import (
    batch_limits,
)
from p2pmq.node.typed import converted, converter_to

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
    from datetime import datetime
    from typing import Literal

    from p2pmq.core.ids import ConsumerId
    from p2pmq.node.message import Message, MessageBatch
    from p2pmq.node.ordering import Key, KeyFor
    from p2pmq.node.redriving import RedriveReport

    Confirm = Literal["committed", "stored", "none"]
    HandlerFunction = Callable[[Message], Awaitable[Any]]
    Feed = Callable[[events.Event], None]

AnyConsumer = TypeVar("AnyConsumer", bound=Consumer)

PREFETCH = 100
"""Messages that a consumer may hold unsettled, unless it says otherwise."""
BATCH_PREFETCH = 4_096
MAIL_TTL_S = 7 * 86_400.0
"""A message to a node that does not come back must not lie there for ever."""


class Node(Managing):
    """One member of a mesh, inside this process.

    `name` is unique in the mesh. Everything else has a default that suits a
    laptop: it listens on loopback, finds the others by mDNS, and keeps its
    data in `~/.local/share/p2pmq/<mesh>/<name>`. See `config.NodeSettings`
    for each parameter. `on_overflow` is called with an `Overflow` whenever the
    outbox's limits (`Config.outbox`) make messages wait, or refuse or drop them;
    it runs in the node's loop, so it must be quick, and what it raises is logged.
    `world` is for simulations. Once it has started, `addresses` are where others
    reach it, `node_id` is its id (8 bytes), and `counters.snapshot()` what it counted.

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
        delay: float | None = None,
        at: datetime | float | None = None,
        key: Key = None,
        id: str | None = None,  # noqa: A002  the word for it
    ) -> Receipt:
        """Publish one message.

        `body`: bytes as they are, else anything msgpack holds. `confirm`:
        "committed" waits until it is fsynced at the queue's home; "stored"
        until it is fsynced in this node's outbox, to be sent when the owner
        can be reached; "none" waits for nothing. `timeout` is in seconds, and
        so is `ttl`: a message that nobody has acked by then is dropped, and
        counted as expired (None: after the queue's `ttl`, if it was declared with
        one). `priority` is 0 to 9, the
        higher the more urgent: it overtakes what waits at the queue's owner,
        and an outbox that must drop begins with the least. `delay` (seconds, up to a
        year) keeps it from every consumer for so long; `at`, an aware datetime or seconds
        since 1970, until then by this host's clock. Either is on disk with the message, and
        later messages go before it; its `ttl` runs from now on, and may end before.
        `key` is text or bytes, 1 to 255 bytes: messages of one key are processed one after
        another, each delivered only when the one before is acked or gone, whatever other
        keys do. Of messages with one `id` that come within the queue's `dedup_window` (two
        minutes) the first is kept, and the others are confirmed as if they were it.

        Raises NotCommittedError when time is up (the message stays in the
        outbox, unless the outbox's policy dropped it: `error.dropped`),
        QueueFullError (the queue was declared to reject), QueueNameError,
        BodyTooLargeError, NotSerializableError, OutboxFullError, ClosedNodeError.
        """
        self._check_running()
        place = key_of(queue)
        delay_ms = self._delay_ms(delay, at)
        terms = self._terms(place, confirm, timeout, ttl, priority, delay_ms)
        hashed = b"" if id is None else hashed_id(id)
        ordering = None if key is None else ordering_key(key)
        return await self._publisher.publish(place, body, terms, hashed, ordering)

    async def publish_many(
        self,
        queue: str,
        bodies: Iterable[object] | AsyncIterable[object],
        *,
        confirm: Confirm = "committed",
        timeout: float | None = None,  # noqa: ASYNC109  as above
        ttl: float | None = None,
        priority: int = 0,
        delay: float | None = None,
        at: datetime | float | None = None,
        key: Key | KeyFor = None,
        id: Callable[[Any], str] | None = None,  # noqa: A002  as above
    ) -> BulkReceipt:
        """Publish many messages, pipelined; returns when all are confirmed.

        Bodies are taken from the iterable only as fast as they can leave. `key` is that of
        all of them, or a function that is called with each body and gives its key; `id`
        gives the id of a body. `timeout` (seconds) is for each batch, not for all. Raises
        as `publish`; after an error the iterable may have been consumed in part.
        """
        self._check_running()
        place = key_of(queue)
        delay_ms = self._delay_ms(delay, at)
        terms = self._terms(place, confirm, timeout, ttl, priority, delay_ms)
        return await self._publisher.publish_many(place, bodies, terms, id, key_for_each(key))

    def _terms(
        self,
        key: PartitionKey,
        confirm: Confirm,
        timeout: float | None,
        ttl: float | None,
        priority: int,
        delay_ms: int,
    ) -> Terms:
        """What a publish asks for, checked. Raises UsageError."""

        def make() -> Terms:
            return Terms(
                confirmation_of(confirm),
                self._timeout_ms(timeout, self.settings.config.timing.confirm_timeout_ms),
                self._default_ttl_ms(key.queue) if ttl is None else to_ms(ttl, 1),
                checked_priority(priority),
                delay_ms,
                *batch_limits(self._machine.registry.settings_of(key.queue), BULK_BYTES),
                partitions_of(self._machine.registry.settings_of(key.queue)),
            )

        asked = (key, confirm, timeout, ttl, priority, delay_ms)
        return self._known_terms.find(self._machine.registry.version, asked, make)

    def _delay_ms(self, delay: float | None, at: datetime | float | None) -> int:
        if delay is None and at is None:
            return 0
        return delay_ms_of(delay, at, self._world.wall_clock())

    def _default_ttl_ms(self, queue: str) -> int:
        """The time to live that the queue was declared with; 0: none."""
        declared = self._machine.registry.settings_of(queue)
        return declared.ttl_ms if declared is not None else 0

    async def send(
        self,
        name: str,
        body: object,
        *,
        confirm: Confirm = "committed",
        timeout: float | None = None,  # noqa: ASYNC109  as above
        ttl: float | None = MAIL_TTL_S,
        priority: int = 0,
        delay: float | None = None,
        at: datetime | float | None = None,
    ) -> Receipt:
        """Send a message to exactly the node of that name: it reads it with `inbox`.

        The node may be away, or never have been there: its mailbox is a queue like any
        other, kept on the disks of its homes, for `ttl` seconds (a week; None: for
        ever). Everything else is as in `publish`, the errors too.
        """
        self._check_running()
        key = mailbox_key(name)
        delay_ms = self._delay_ms(delay, at)
        terms = self._terms(key, confirm, timeout, ttl, priority, delay_ms)
        return await self._publisher.publish(key, body, terms)

    async def send_many(
        self,
        name: str,
        bodies: Iterable[object] | AsyncIterable[object],
        *,
        confirm: Confirm = "committed",
        timeout: float | None = None,  # noqa: ASYNC109  as above
        ttl: float | None = MAIL_TTL_S,
        priority: int = 0,
        delay: float | None = None,
        at: datetime | float | None = None,
    ) -> BulkReceipt:
        """Send many messages to the node of that name: `send`, pipelined as by `publish_many`.

        Raises as that does, and UsageError where no node can have the name.
        """
        self._check_running()
        key = mailbox_key(name)
        delay_ms = self._delay_ms(delay, at)
        terms = self._terms(key, confirm, timeout, ttl, priority, delay_ms)
        return await self._publisher.publish_many(key, bodies, terms)

    # -- consuming --

    def consume(
        self,
        queue: str,
        *,
        prefetch: int = PREFETCH,
        visibility_timeout: float | None = None,
        type: Any = None,  # noqa: A002, ANN401  the word for it; any annotation
        once: bool = False,
    ) -> AsyncIterator[Message]:
        """The queue's messages, one by one, for ever; it survives its owner.

        At most `prefetch` messages are held unsettled, and one of each partition that the
        queue has, if these are more. One that is not settled
        within `visibility_timeout` seconds (30 by default) goes to somebody else.
        With `type`, a dataclass, pydantic model or other annotation, `message.body`
        is one of these; a body that does not fit becomes a dead letter with reason
        `rejected` (needs `pip install "p2pmq[types]"`).
        With `once`, this node remembers on its disk what was acked here, before the ack leaves:
        what comes again is acked, and not given out.

        Raises QueueNameError, UsageError and ClosedNodeError when the first one is asked
        for, and what made the node fail (StoreError, NodeFailedError) at any later one.
        The iteration ends when the node closes.
        """
        convert = None if type is None else converter_to(type)
        return self._messages(
            reading_key_of, queue, prefetch, visibility_timeout, convert, once=once
        )

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
        convert: Callable[[object], Any] | None = None,
        *,
        once: bool = False,
    ) -> AsyncIterator[Message]:
        """The messages of the queue that `key_for` finds for the name; it may raise."""
        key = key_for(name)
        consumer = self._subscribe(key, prefetch, visibility_timeout, Consumer, once=once)
        try:
            async for message in consumer.messages():
                if convert is None or converted(message, convert):
                    yield message
        finally:
            self._drop(consumer)

    def consume_batches(
        self, queue: str, *, prefetch: int = BATCH_PREFETCH, visibility_timeout: float | None = None
    ) -> AsyncIterator[MessageBatch]:
        """The queue's messages in batches as they come: the fastest way. See `consume`."""
        return self._batches(reading_key_of, queue, prefetch, visibility_timeout)

    def inbox_batches(
        self, *, prefetch: int = BATCH_PREFETCH, visibility_timeout: float | None = None
    ) -> AsyncIterator[MessageBatch]:
        """What was sent to this node by name, in batches as they come. See `inbox`."""
        return self._batches(mailbox_key, self.settings.name, prefetch, visibility_timeout)

    async def _batches(
        self,
        key_for: Callable[[str], PartitionKey],
        name: str,
        prefetch: int,
        visibility_timeout: float | None,
    ) -> AsyncIterator[MessageBatch]:
        """As `_messages`, in batches."""
        consumer = self._subscribe(key_for(name), prefetch, visibility_timeout, Consumer)
        try:
            async for batch in consumer.batches():
                yield batch
        finally:
            self._drop(consumer)

    def _subscribe(
        self,
        key: PartitionKey,
        prefetch: int,
        visibility_timeout: float | None,
        kind: Callable[
            [ConsumerId, PartitionKey, Callable[[events.Event], None], AbstractEventLoop],
            AnyConsumer,
        ],
        *,
        once: bool = False,
    ) -> AnyConsumer:
        """A consumer of this kind, begun; raises UsageError and its kin, ClosedNodeError.

        It is the head of one for each partition; those that the queue has later join it.
        """
        self._check_running()
        if self._draining:
            raise ClosedNodeError(self.settings.name, "closing")
        check_prefetch(prefetch)
        visibility_ms = self._visibility_ms(key.queue, visibility_timeout)
        head: AnyConsumer | None = None

        def attach(place: PartitionKey, share: int) -> AnyConsumer:
            consumer_id = self._world.random_bytes(ID_BYTES)
            consumer = kind(consumer_id, place, self._driver.feed, self._loop)
            consumer.output = self._output
            if head is not None:
                consumer.join(head)
            self._consumers[consumer_id] = consumer
            self._driver.feed(
                events.SubscribeRequested(consumer_id, place, share, visibility_ms, once)
            )
            return consumer

        places = self._machine.partitions_of(key.queue)
        head = attach(places[0], share_of(prefetch, len(places)))
        head.attach, head.prefetch = attach, prefetch
        self._attach_parts(head)
        return head

    def _visibility_ms(self, queue: str, asked: float | None) -> int:
        """The visibility timeout: as asked for in seconds, as declared, or the mesh's default."""
        if asked is not None:
            return to_ms(asked, least_ms=VISIBILITY_MS_MIN)
        declared = self._machine.registry.settings_of(queue)
        declared_ms = declared.visibility_timeout_ms if declared is not None else 0
        return declared_ms or self.settings.config.timing.visibility_timeout_ms

    def _drop(self, consumer: Consumer) -> None:
        consumer.close()
        for part in consumer.parts:
            self._consumers.pop(part.consumer_id, None)

    def drain(
        self, queue: str, *, prefetch: int = BATCH_PREFETCH, patience: float = 30.0
    ) -> AsyncIterator[Message]:
        """The queue's messages until it is empty, each acked as the next is asked for.

        It waits for what others hold and what rests after a failure, not for what was
        published with a delay and is not due. Raises RequestTimeoutError after `patience`
        seconds in which nothing came and the queue was not known to be empty.
        """
        return drained(self, queue, prefetch, patience)

    def handler(
        self,
        queue: str,
        *,
        concurrency: int = 1,
        prefetch: int | None = None,
        visibility_timeout: float | None = None,
        type: Any = None,  # noqa: A002, ANN401  as `consume`
        once: bool = False,
    ) -> Callable[[HandlerFunction], HandlerFunction]:
        """A decorator: the node calls the function with each message of the queue.

        `concurrency` messages are at work at once, each in a task of its own, and
        no more are held: a larger `prefetch` saves a round trip for each, but what
        waits for its turn is not extended, and goes to somebody else after the
        visibility timeout. The message is acked when the
        function returns, unless it was settled by hand, and nacked when it
        raises: it comes again after a pause, and is a dead letter after too many
        failures (`Config.retry`). While the function runs its visibility timeout
        is extended. A handler begins when the node runs; when it closes it may
        finish what it is at. `type` and `once` are as in `consume`. Raises UsageError,
        QueueNameError.
        """
        key_of(queue)
        if concurrency < 1:
            raise UsageError(f"concurrency={concurrency!r} cannot be: give 1 or more")
        held = concurrency if prefetch is None else prefetch
        check_prefetch(held)

        def register(function: HandlerFunction) -> HandlerFunction:
            handler = Handler(
                queue,
                function,
                concurrency,
                take=lambda: self.consume(
                    queue,
                    prefetch=held,
                    visibility_timeout=visibility_timeout,
                    type=type,
                    once=once,
                ),
                timeout=lambda: self._visibility_ms(queue, visibility_timeout) / 1000,
            )
            self._handlers.append(handler)
            if self._state == "running":
                self._begin(handler)
            return function

        return register

    def _begin(self, handler: Handler) -> None:
        task = self._loop.create_task(guarded(handler, self._loop))
        self._handling.add(task)
        task.add_done_callback(self._handling.discard)

    async def start(self) -> None:
        """Open the store, listen, meet the mesh, and begin to handle: see `Engine.start`."""
        await super().start()
        for handler in self._handlers:
            self._begin(handler)

    def queue(self, name: str) -> Queue:
        """A handle on one queue. Raises QueueNameError."""
        check_queue_name(name)
        return Queue(self, name)

    # -- dead letters --

    async def dead_letter_queues(self) -> list[QueueDepth]:
        """The dead-letter queues that hold something, by name. See `queues`."""
        return [d for d in await self.queues() if d.queue.endswith(DEAD_LETTERS) and d.total]

    async def dead_letters(self, queue: str, *, limit: int = 20) -> list[Message]:
        """The first letters of a queue's dead-letter queue, to be looked at: they stay there.

        `queue` is either name. They are taken as a consumer takes them, and given back at once,
        which counts as no failure; others may get them a little later, as `redelivered`. A letter
        that somebody holds is not among them. Raises RequestTimeoutError if the owner is silent.
        """
        return await looked_at(self, queue, limit)

    async def redrive(
        self, queue: str, *, rate: float | None = None, limit: int | None = None
    ) -> RedriveReport:
        """Give the dead letters of a queue back to it: those that are there now and nobody holds.

        `queue` is either name, `rate` the most that go back in a second, `limit` the most in all.
        Each is published to the queue it came from, as a new message that has not failed yet,
        and acked when that is committed on W disks. A crash or a cancellation in between loses
        none, and the next redrive makes no second message of it: it publishes it under the same
        dot. Raises NotRedrivenError when one is not committed in time, RequestTimeoutError,
        UsageError, QueueNameError, ClosedNodeError.
        """
        self._check_running()
        timing = self.settings.config.timing
        posting = Reposting(
            self._driver.feed,
            self._wait_token,
            self._default_ttl_ms,
            lambda name: len(self._machine.partitions_of(name)),
            timing.confirm_timeout_ms,
        )
        return await redriven(self, queue, rate, limit, posting)
