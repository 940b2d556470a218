"""What a consumer gets: messages one by one, or a batch of them.

Both are handles on one delivery. A message is settled once: by `ack`, by
`nack`, or by leaving its `async with` (ack, or nack on an exception). Nothing
of it waits, so a plain `with` does the same; it is what blocking code has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2pmq.core.events import GivenBack
from p2pmq.core.hlc import wall_ms_of
from p2pmq.core.ids import Run
from p2pmq.core.retries import bounded
from p2pmq.core.spreading import message_name
from p2pmq.core.tying import OUTPUTS_MAX
from p2pmq.errors import UsageError
from p2pmq.node.arguments import to_ms
from p2pmq.wire.bodies import PackedBodies, unpack_body

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType
    from typing import Self

    from p2pmq.core.events import Output
    from p2pmq.core.packets.delivering import Segment
    from p2pmq.core.packets.publishing import Batch
    from p2pmq.node.consumer import Consumer


OUTPUT_BYTES_MAX = 16 * 1024 * 1024
"""Of bodies that one message publishes with its ack, beyond the first."""
TOPIC = "$topic"
"""The header that tells the topic of an event's copy."""

_AS_PUBLISHED = object()


def packed_bodies(segment: Segment) -> PackedBodies:
    """The bodies of a delivered segment: the driver has put them in."""
    packed = segment.batch.bodies
    assert isinstance(packed, PackedBodies)
    return packed


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Why a message is a dead letter, and which queue it comes from.

    `reason` is "max-deliveries", "rejected" or "stale-replica"; `failures` is how often it had
    failed there, `error` what was said of the last failure (at most 1,024 bytes of UTF-8).

    >>> import asyncio, p2pmq
    >>> async def main():
    ...     async with p2pmq.Node("doc", mdns=False, store="memory") as node:
    ...         await node.publish("jobs", "paint it striped")
    ...         message = await anext(node.consume("jobs"))
    ...         message.reject("no such paint")
    ...         async for letter in node.consume("jobs.dlq"):
    ...             async with letter:
    ...                 why = letter.dead_letter
    ...                 return letter.body, why.reason, why.queue, why.error
    >>> asyncio.run(main())
    ('paint it striped', 'rejected', 'jobs', 'no such paint')
    """

    reason: str
    queue: str
    error: str
    failures: int


class Settleable(ABC):
    """What `async with` or `with` settles: an ack at its end, a nack if that is an exception."""

    __slots__ = ()

    @abstractmethod
    def ack(self) -> None:
        """It is done."""

    @abstractmethod
    def _give_back(self, delay_ms: int | None, error: str, **how: bool) -> None:
        """Nack it; `how` is as in `events.GivenBack`."""

    def nack(self, delay: float | None = None, error: str = "") -> None:
        """Give it back, to be delivered again after `delay` seconds.

        None: after a pause that doubles with each failure (`Config.retry`). Each nack counts
        as one; `error` is kept with the last, and shown on the dead letter.
        """
        self._give_back(None if delay is None else to_ms(delay), bounded(error))

    def reject(self, error: str = "") -> None:
        """It can never be processed: make a dead letter of it at once (`<queue>.dlq`)."""
        self._give_back(0, bounded(error), rejected=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.ack()
        elif issubclass(kind, Exception):
            self.nack(error=f"{kind.__qualname__}: {error}")
        else:  # cancelled: the message is not to blame
            self._give_back(0, "", failed=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)


class Message(Settleable):
    """One delivery of one message."""

    __slots__ = ("_body", "_consumer", "_outputs", "_position", "_segment", "settled")

    def __init__(self, consumer: Consumer, segment: Segment, position: int) -> None:
        self._outputs: list[Output] = []
        self._consumer = consumer
        self._segment = segment
        self._position = position
        self._body: Any = _AS_PUBLISHED
        self.settled = False

    @property
    def body(self) -> Any:  # noqa: ANN401  whatever was published
        """The body: bytes if bytes were published, else what msgpack made of it.

        With `consume(type=…)`: an instance of that.
        """
        if self._body is not _AS_PUBLISHED:
            return self._body
        packed = packed_bodies(self._segment)
        formats = packed.formats
        data = packed.bodies[self._position]
        return data if formats is None else unpack_body(data, formats[self._position])

    @body.setter
    def body(self, value: object) -> None:
        self._body = value

    @property
    def queue(self) -> str:
        """The queue it came from."""
        return self._consumer.queue

    @property
    def message_id(self) -> str:
        """Its name for ever, the same at every delivery: publisher's session and seq.

        Where the queue has several partitions, those but the first are named in between.
        """
        batch = self._segment.batch
        return message_name(batch.session, batch.first + self._position, self._consumer.partition)

    @property
    def key(self) -> str | bytes | None:
        """The ordering key that it was published with, as it was given; None: without one."""
        keys = packed_bodies(self._segment).keys
        return None if keys is None else keys[self._position]

    @property
    def attempt(self) -> int:
        """Which delivery this is, 1 being the first."""
        return self._segment.attempt

    @property
    def redelivered(self) -> bool:
        """Whether it was delivered before, as far as the owner knows."""
        return self._segment.attempt > 1

    @property
    def enqueued_at(self) -> float:
        """When the owner took it: seconds since 1970, by the owner's clock."""
        return wall_ms_of(self._segment.batch.stamp) / 1000

    @property
    def topic(self) -> str | None:
        """The topic of the event that it is a copy of (`Node.bind`); None: it was published."""
        headers = packed_bodies(self._segment).headers
        header = headers[self._position] if headers is not None else None
        return header.get(TOPIC) if header is not None else None

    @property
    def dead_letter(self) -> DeadLetter | None:
        """Why it is in this dead-letter queue; None: it is a message like any other."""
        for death in self._segment.batch.dead:
            return DeadLetter(death.reason, death.dead_queue, death.error, death.failures)
        return None

    def ack(self) -> None:
        """It is done. The ack goes out with others and is repeated until confirmed.

        Raises StaleReceiptError where the consumer has ended: the message was given back.
        """
        if not self.settled:
            batch = self._segment.batch
            seq = batch.first + self._position
            if self._outputs:
                self._consumer.settle_tied(batch.session, seq, tuple(self._outputs))
            else:
                self._consumer.settle_ack(batch.session, seq)
            self.settled = True

    def publish(
        self, queue: str, body: object, *, ttl: float | None = None, priority: int = 0
    ) -> None:
        """Publish a message when this one is acked: first that is committed, then the ack sent.

        Nothing waits here, and nothing is sent if this message is nacked or never acked. The new
        message's id is derived from this one's, the queue and the place among what is published
        to it: where this message is processed again, before its ack arrived or by another
        node, what is published in the same place is the same message, and comes once; if it
        differs, the first one stays. So publish the same things in the same order each
        time. At most 64 messages, and 16 MiB of bodies, for each message.

        Raises UsageError (this one is settled; too much), QueueNameError, BodyTooLargeError,
        NotSerializableError.
        """
        if self.settled:
            raise UsageError(
                f"message {self.message_id} is settled, and what is published with its ack had to "
                "be said before: use node.publish"
            )
        output = self._consumer.output(queue, body, ttl, priority)
        size = output.size + sum(other.size for other in self._outputs)
        if len(self._outputs) >= OUTPUTS_MAX or (self._outputs and size > OUTPUT_BYTES_MAX):
            raise UsageError(
                f"a message may publish {OUTPUTS_MAX} others and {OUTPUT_BYTES_MAX:,} bytes with "
                "its ack: use node.publish for more, or one message that lists them"
            )
        self._outputs.append(output)

    def _give_back(self, delay_ms: int | None, error: str, **how: bool) -> None:
        if not self.settled:
            batch = self._segment.batch
            seq = batch.first + self._position
            run = Run(batch.session, seq, seq)
            self._consumer.settle_nack(GivenBack(run, delay_ms, error, **how))
            self.settled = True

    def extend(self, seconds: float) -> None:
        """Keep it hidden from others for `seconds` from now. Raises as `ack`, and UsageError."""
        if not self.settled:
            batch = self._segment.batch
            seq = batch.first + self._position
            self._consumer.settle_extend(Run(batch.session, seq, seq), seconds)

    def __repr__(self) -> str:
        return f"<Message {self.message_id} of {self.queue!r}, attempt {self.attempt}>"


def keep_hidden(messages: Iterable[Message], seconds: float) -> None:
    """Hide what a handler is at from others, and what waits only since partitions are many."""
    consumers: dict[Consumer, None] = {}
    for message in messages:
        message.extend(seconds)
        consumers[message._consumer] = None  # noqa: SLF001  this is their module
    for consumer in consumers:
        consumer.extend_waiting(seconds)


class MessageBatch(Settleable):
    """Messages that are settled together: iterate `bodies`, then `ack()`.

    >>> import asyncio, p2pmq
    >>> async def main():
    ...     async with p2pmq.Node("doc", mdns=False, store="memory") as node:
    ...         await node.publish_many("jobs", range(3))
    ...         async for batch in node.consume_batches("jobs"):
    ...             batch.ack()
    ...             return list(batch.bodies)
    >>> asyncio.run(main())
    [0, 1, 2]
    """

    __slots__ = ("_consumer", "_segment", "settled")

    def __init__(self, consumer: Consumer, segment: Segment) -> None:
        self._consumer = consumer
        self._segment = segment
        self.settled = False

    @property
    def bodies(self) -> list[Any]:
        """The bodies in order, as `Message.body` gives them."""
        packed = packed_bodies(self._segment)
        if packed.formats is None:
            return packed.bodies
        return [unpack_body(d, f) for d, f in zip(packed.bodies, packed.formats, strict=True)]

    @property
    def run(self) -> Run:
        """The dots of the messages."""
        return self._segment.batch.run

    @property
    def published(self) -> Batch:
        """The messages as the core has them, to be published elsewhere."""
        return self._segment.batch

    @property
    def attempt(self) -> int:
        """Which delivery this is, 1 being the first."""
        return self._segment.attempt

    @property
    def redelivered(self) -> bool:
        """Whether they were delivered before, as far as the owner knows."""
        return self._segment.attempt > 1

    def __len__(self) -> int:
        return self._segment.batch.count

    def __iter__(self) -> Iterator[Message]:
        """The messages one by one; settle them or the batch, not both."""
        for position in range(self._segment.batch.count):
            yield Message(self._consumer, self._segment, position)

    def ack_part(self, run: Run) -> None:
        """Some of them are done. Raises as `ack`."""
        self._consumer.settle_ack_run(run)

    def ack(self) -> None:
        """All of them are done. Raises StaleReceiptError where the consumer has ended."""
        if not self.settled:
            self._consumer.settle_ack_run(self._segment.batch.run)
            self.settled = True

    def _give_back(self, delay_ms: int | None, error: str, **how: bool) -> None:
        if not self.settled:
            run = self._segment.batch.run
            self._consumer.settle_nack(GivenBack(run, delay_ms, error, **how))
            self.settled = True
