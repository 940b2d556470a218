"""A handle on one queue: the same calls as the node's, with the name given once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime
    from typing import Literal, Unpack

    from p2pmq.blocking.node import Node
    from p2pmq.blocking.taking import Batches, Messages
    from p2pmq.node.message import Message
    from p2pmq.node.ordering import Key, KeyFor
    from p2pmq.node.receipts import BulkReceipt, QueueDepth, Receipt
    from p2pmq.node.settings import QueueInfo, Settings


class Queue:
    """One queue, seen from one blocking node. Any number of threads may use it.

    >>> import p2pmq.blocking
    >>> with p2pmq.blocking.Node("doc-blocking", mdns=False, store="memory") as node:
    ...     jobs = node.queue("jobs")
    ...     receipt = jobs.put("wash up")
    ...     print(jobs.depth().ready)
    1
    """

    __slots__ = ("_node", "name")

    def __init__(self, node: Node, name: str) -> None:
        self._node = node
        self.name = name

    def publish(
        self,
        body: object,
        *,
        confirm: Literal["committed", "stored", "none"] = "committed",
        timeout: float | None = None,
        ttl: float | None = None,
        priority: int = 0,
        delay: float | None = None,
        at: datetime | float | None = None,
        key: Key = None,
        id: str | None = None,  # noqa: A002  the word for it
    ) -> Receipt:
        """Publish one message: see `Node.publish`."""
        return self._node.publish(
            self.name,
            body,
            confirm=confirm,
            timeout=timeout,
            ttl=ttl,
            priority=priority,
            delay=delay,
            at=at,
            key=key,
            id=id,
        )

    def publish_many(
        self,
        bodies: Iterable[object],
        *,
        confirm: Literal["committed", "stored", "none"] = "committed",
        timeout: float | None = None,
        ttl: float | None = None,
        priority: int = 0,
        delay: float | None = None,
        at: datetime | float | None = None,
        key: Key | KeyFor = None,
        id: Callable[[Any], str] | None = None,  # noqa: A002  as above
    ) -> BulkReceipt:
        """Publish many messages: see `Node.publish_many`."""
        return self._node.publish_many(
            self.name,
            bodies,
            confirm=confirm,
            timeout=timeout,
            ttl=ttl,
            priority=priority,
            delay=delay,
            at=at,
            key=key,
            id=id,
        )

    def declare(self, **settings: Unpack[Settings]) -> QueueInfo:
        """Give the queue settings of its own: see `Node.declare`."""
        return self._node.declare(self.name, **settings)

    put = publish
    """The same, by the name that other queues have for it."""

    def consume(
        self,
        *,
        prefetch: int = 100,
        visibility_timeout: float | None = None,
        type: Any = None,  # noqa: A002, ANN401  the word for it; any annotation
        once: bool = False,
    ) -> Messages:
        """Messages one by one: see `Node.consume`."""
        return self._node.consume(
            self.name,
            prefetch=prefetch,
            visibility_timeout=visibility_timeout,
            type=type,
            once=once,
        )

    def consume_batches(
        self, *, prefetch: int = 4_096, visibility_timeout: float | None = None
    ) -> Batches:
        """Messages in batches: see `Node.consume_batches`."""
        return self._node.consume_batches(
            self.name, prefetch=prefetch, visibility_timeout=visibility_timeout
        )

    batches = consume_batches
    """The same, in short."""

    def drain(self, *, prefetch: int = 4_096, patience: float = 30.0) -> Iterator[Message]:
        """Messages until the queue is empty, each acked as the next is asked for: `Node.drain`."""
        return self._node.drain(self.name, prefetch=prefetch, patience=patience)

    def delete(self) -> None:
        """Delete the queue with all that is in it: see `Node.delete`."""
        self._node.delete(self.name)

    def purge(self) -> int:
        """Remove every message that waits in the queue: see `Node.purge`."""
        return self._node.purge(self.name)

    def depth(self) -> QueueDepth:
        """How many messages the queue holds: see `Node.depth`."""
        return self._node.depth(self.name)

    def __repr__(self) -> str:
        return f"<blocking Queue {self.name!r}>"
