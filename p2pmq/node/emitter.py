"""The emitter: what this node emits, gathered for a round of the loop, and who here listens.

Emits of one round leave together. Local subscribers get an event without the
network, and a node's own interests never bring it back its own events.

Invariant: an event is put into each subscription that matches it at most once.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

from p2pmq.core.events import EmitRequested
from p2pmq.core.packets.publishing import FRAME_BYTES_MAX
from p2pmq.core.topics import Trie
from p2pmq.errors import BodyTooLargeError
from p2pmq.node.subscription import Event
from p2pmq.wire.bodies import FORMAT_RAW, PackedBodies, pack_body

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Iterator

    from p2pmq.core import events
    from p2pmq.core.packets.publishing import Bodies
    from p2pmq.node.subscription import Subscription
    from p2pmq.node.wanted import Wanted

BATCH_EVENTS = 512
BATCH_BYTES = FRAME_BYTES_MAX - 16 * 1024
"""Of topics and bodies together: the frames stay under their bound with the columns beside."""


class Emitter:
    """All emitting and subscribing of one node. `name` is its own."""

    def __init__(
        self,
        name: str,
        feed: Callable[[events.Event], None],
        loop: asyncio.AbstractEventLoop,
        body_bytes_max: int,
        wanted: Wanted,
        counted: Callable[[str, int], None],
    ) -> None:
        self._name = name
        self._feed = feed
        self._loop = loop
        self._body_bytes_max = body_bytes_max
        self._wanted = wanted
        self._counted = counted
        self._trie: Trie[Subscription] = Trie()
        self._open: dict[Subscription, None] = {}
        self._topics: list[str] = []
        self._bodies: list[bytes] = []
        self._formats = bytearray()
        self._size = 0
        self._flushing = False

    # -- emitting --

    def emit(self, topic: str, body: object) -> bool:
        """Let an event leave at the end of the round; whether so many did that others should run.

        The topic is valid. Raises BodyTooLargeError, NotSerializableError.
        """
        data, body_format = (body, FORMAT_RAW) if type(body) is bytes else pack_body(body)
        if len(data) > self._body_bytes_max:
            raise BodyTooLargeError(len(data), self._body_bytes_max)
        size = self._size + len(data) + len(topic)
        full = bool(self._topics) and size > BATCH_BYTES
        if full:
            self.flush()
        self._topics.append(topic)
        self._bodies.append(data)
        self._formats.append(body_format)
        self._size += len(data) + len(topic)
        if len(self._topics) >= BATCH_EVENTS:
            self.flush()
            return True
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._on_round_over)
        return full

    def _on_round_over(self) -> None:
        self._flushing = False
        self.flush()

    def flush(self) -> None:
        """Let what was gathered leave."""
        topics, self._topics = tuple(self._topics), []
        bodies, self._bodies = self._bodies, []
        formats, self._formats = bytes(self._formats), bytearray()
        size, self._size = self._size, 0
        if not topics:
            return
        self._counted("events_emitted", len(topics))
        if self._open:
            self._put(self._name, zip(topics, bodies, formats, strict=True))
        packed = PackedBodies.from_bodies(bodies, formats if any(formats) else None)
        self._feed(EmitRequested(topics, packed, size))

    # -- events for who listens here --

    def on_emitted(self, sender: str, topics: tuple[str, ...], bodies: Bodies) -> None:
        """Events came from another node."""
        assert isinstance(bodies, PackedBodies), "events never lie in a store"
        formats = bodies.formats
        columns = zip(topics, bodies.bodies, formats or repeat(FORMAT_RAW), strict=False)
        self._put(sender, columns)

    def _put(self, sender: str, columns: Iterable[tuple[str, bytes, int]]) -> None:
        match = self._trie.match
        delivered = 0
        for topic, data, body_format in columns:
            found = match(topic)
            if found:
                event = Event(topic, sender, data, body_format)
                delivered += len(found)
                for subscription in found:
                    subscription.put(event)
        if delivered:
            self._counted("events_received", delivered)

    # -- subscriptions --

    def open(self, subscription: Subscription) -> None:
        """Put events into it from now on. Raises SubscriptionLimitError."""
        self._wanted.add(subscription.patterns)
        self._open[subscription] = None
        for pattern in subscription.patterns:
            self._trie.insert(pattern, subscription)

    def close(self, subscription: Subscription) -> None:
        """Put no more events into it."""
        if subscription in self._open:
            del self._open[subscription]
            self._wanted.drop(subscription.patterns)
            for pattern in subscription.patterns:
                self._trie.remove(pattern, subscription)

    def count_dropped(self, count: int) -> None:
        """A reader was slow."""
        self._counted("events_dropped_slow", count)

    def subscriptions(self) -> Iterator[Subscription]:
        """Those that are open."""
        yield from list(self._open)

    def end(self) -> None:
        """The node closes in good order: let what was gathered leave, and iterations end."""
        self.flush()
        for subscription in self.subscriptions():
            subscription.end()

    def fail(self, error: BaseException) -> None:
        """The node has stopped."""
        for subscription in self.subscriptions():
            subscription.fail(error)
