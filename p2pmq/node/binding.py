"""A node's bindings: topics whose events are copied into queues, and events that are."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pmq.core import effects, events
from p2pmq.core.spreading import partitions_of
from p2pmq.errors import NotBoundError
from p2pmq.node.arguments import (
    checked_priority,
    confirmation_of,
    key_of,
    patterns_of,
    to_ms,
    topic_of,
)
from p2pmq.node.batches import Terms
from p2pmq.node.message import TOPIC
from p2pmq.node.requests import packed
from p2pmq.node.talking import Talking

if TYPE_CHECKING:
    from typing import Literal


@dataclass(frozen=True, slots=True)
class BindingInfo:
    """Events whose topic matches the pattern are copied into the queue.

    >>> import asyncio, p2pmq
    >>> async def main():
    ...     async with p2pmq.Node("doc", mdns=False, store="memory") as node:
    ...         await node.bind("site.*.temp", queue="archive")
    ...         return node.bindings()
    >>> asyncio.run(main())
    [BindingInfo(pattern='site.*.temp', queue='archive')]
    """

    pattern: str
    queue: str


class Binding(Talking):
    """What a node does with events that are to be kept."""

    async def bind(self, pattern: str, *, queue: str) -> None:
        """Copy events whose topic matches the pattern into a queue, from now on, on every node.

        The binding is on this node's disk when this returns, and members in reach are told at
        once; the others learn it as they are reached. An emitter copies what it emits after it
        has learnt of it, one message into each bound queue, however many of its patterns match:
        `message.topic` tells the topic. To bind what is bound changes nothing.

        Raises TopicError, QueueNameError, NotBoundError, ClosedNodeError.
        """
        await self._bind(pattern, queue, bound=True)

    async def unbind(self, pattern: str, *, queue: str) -> None:
        """Copy no more events of that pattern into the queue; what is in it stays.

        It holds on every node as it hears of it, and against every earlier `bind`, also one
        that is known only to members that are away. Raises as `bind`.
        """
        await self._bind(pattern, queue, bound=False)

    async def _bind(self, pattern: str, queue: str, *, bound: bool) -> None:
        self._check_running()
        patterns_of((pattern,))
        key_of(queue)
        token, future = self._wait_token()
        self._driver.feed(events.BindRequested(pattern, queue, bound, token))
        outcome = await future
        if isinstance(outcome, effects.Refused):
            raise NotBoundError(pattern, queue, outcome.reason)

    def bindings(self) -> list[BindingInfo]:
        """What is bound, as this node knows it, by pattern and queue."""
        self._check_running()
        return [BindingInfo(found.pattern, found.queue) for found in self._machine.bindings.bound()]

    async def emit(
        self,
        topic: str,
        body: object,
        *,
        confirm: Literal["committed", "stored", "none"] = "none",
        timeout: float | None = None,  # noqa: ASYNC109  as in `publish`
    ) -> None:
        """Emit an event to everybody who is subscribed to its topic right now, at most once.

        For these nothing is stored, nothing is confirmed and nobody is waited for: who is away
        misses it, and a slow link or subscriber drops events and counts them. `topic` is 1 to 255
        bytes of UTF-8 in up to 32 tokens parted by dots, without wildcards; `body` is as in
        `publish`.

        Into each queue that this node knows to be bound to the topic (`bind`) one copy is
        published, through the outbox; `confirm` and `timeout` are for these, as in `publish`.
        Where it raises for want of room or of a confirm, subscribers have got the event.

        Raises TopicError, BodyTooLargeError, NotSerializableError, ClosedNodeError; for copies
        NotCommittedError, OutboxFullError.

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
        wanted = confirmation_of(confirm)
        is_full = self._emitter.emit(topic_of(topic), body)
        queues = self._machine.bindings.match(topic)
        if queues:
            timeout_ms = self._timeout_ms(timeout, self.settings.config.timing.confirm_timeout_ms)
            copies = [
                self._publisher.publish(
                    key_of(queue),
                    body,
                    self._copy_terms(wanted, timeout_ms, queue),
                    header={TOPIC: topic},
                )
                for queue in queues
            ]
            self.counters.add("events_copied", len(copies))
            await asyncio.gather(*copies)
        elif is_full:
            await asyncio.sleep(0)  # a loop that does nothing but emit lets the others run

    def _copy_terms(self, wanted: events.Confirmation, timeout_ms: int, queue: str) -> Terms:
        partitions = partitions_of(self._machine.registry.settings_of(queue))
        return Terms(wanted, timeout_ms, self._ttl_ms(queue), partitions=partitions)

    def _output(self, queue: str, body: object, ttl: float | None, priority: int) -> events.Output:
        """A message that is to be published with an ack, checked."""
        bodies, size = packed(body, self.settings.config.limits.body_bytes_max)
        ttl_ms = self._ttl_ms(queue) if ttl is None else to_ms(ttl, 1)
        partitions = partitions_of(self._machine.registry.settings_of(queue))
        checked = checked_priority(priority)
        return events.Output(key_of(queue), bodies, size, ttl_ms, checked, partitions)

    def _ttl_ms(self, queue: str) -> int:
        declared = self._machine.registry.settings_of(queue)
        return declared.ttl_ms if declared is not None else 0
