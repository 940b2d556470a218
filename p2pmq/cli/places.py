"""Where a command's messages go or come from: a queue, or the mailbox of a node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2pmq.core.names import mailbox_of
from p2pmq.node.node import MAIL_TTL_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable

    from p2pmq.cli.options import PostOptions
    from p2pmq.node.message import MessageBatch
    from p2pmq.node.node import Node
    from p2pmq.node.receipts import BulkReceipt


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue, which anybody publishes to and consumes. `key` is what is published under."""

    name: str
    key: str | None = None

    @property
    def queue(self) -> str:
        """The queue."""
        return self.name

    def publish(
        self, node: Node, bodies: Iterable[object], post: PostOptions
    ) -> Coroutine[Any, Any, BulkReceipt]:
        """Publish the bodies from this node."""
        return node.publish_many(
            self.name,
            bodies,
            confirm=post.confirm,
            timeout=post.timeout,
            ttl=post.ttl,
            priority=post.priority,
            delay=post.delay,
            at=post.moment,
            key=self.key,
        )

    def consume(self, node: Node, prefetch: int) -> AsyncIterator[MessageBatch]:
        """The messages, for this node."""
        return node.consume_batches(self.name, prefetch=prefetch)


@dataclass(frozen=True, slots=True)
class Mailbox:
    """The mail of the node with this name, which it alone reads."""

    name: str

    @property
    def queue(self) -> str:
        """The queue in which the mail lies."""
        return mailbox_of(self.name)

    def publish(
        self, node: Node, bodies: Iterable[object], post: PostOptions
    ) -> Coroutine[Any, Any, BulkReceipt]:
        """Send the bodies from this node."""
        return node.send_many(
            self.name,
            bodies,
            confirm=post.confirm,
            timeout=post.timeout,
            ttl=MAIL_TTL_S if post.ttl is None else post.ttl,
            priority=post.priority,
            delay=post.delay,
            at=post.moment,
        )

    def consume(self, node: Node, prefetch: int) -> AsyncIterator[MessageBatch]:
        """The mail; `node` is the one with the name."""
        assert node.settings.name == self.name
        return node.inbox_batches(prefetch=prefetch)


Place = Queue | Mailbox
