"""A consumer: what the core delivers, as an async iterator; what the user settles, in batches.

Settles gather while the loop runs through ready work and leave together, at
the end of the loop's round: one packet for many acks.

Of a queue of several partitions there is a consumer for each, which settles what came
from there. The first is the *head*: it gives out what comes to all of them, and ends
them together.

When the node is about to close, a consumer takes no more, gives back what the
user has not seen, and waits for what he has in hand.

Invariant: a message is given to the user at most once for each delivery.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from p2pmq.core import events
from p2pmq.core.ids import Run
from p2pmq.errors import StaleReceiptError
from p2pmq.node.arguments import to_ms
from p2pmq.node.message import Message, MessageBatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from p2pmq.core.ids import ConsumerId, PartitionKey, Session
    from p2pmq.core.packets.delivering import Segment


class Consumer:
    """One `consume()` of one partition: a subscription and its buffer, bounded by the prefetch."""

    def __init__(
        self,
        consumer_id: ConsumerId,
        key: PartitionKey,
        feed: Callable[[events.Event], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.consumer_id = consumer_id
        self._key = key
        self._feed = feed
        self._loop = loop
        self._head: Consumer = self
        self.parts: list[Consumer] = [self]
        """The consumers of all partitions, where this is a head; it is the first of them."""
        self.prefetch = 0
        self.attach: Callable[[PartitionKey, int], object] | None = None
        """What a head's user asked for, of all partitions, and how to consume one more of them with
        so much of it: the node sets both."""
        self._segments: deque[tuple[Consumer, Segment]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._acks: list[tuple[Session, int, int]] = []
        self._nacks: list[events.GivenBack] = []
        self._extends: list[tuple[Run, int]] = []
        self._ties: list[events.TieRequested] = []
        self.output: Callable[[str, object, float | None, int], events.Output]
        """Makes a message to be published with an ack, checked: the node sets it."""
        self._flushing = False
        self._error: BaseException | None = None
        self._ended = False
        self._taker: asyncio.Task[object] | None = None
        """Who took the last messages …"""
        self._reading: tuple[Consumer, Segment, int] | None = None
        """… of which those from this position on were not given out yet …"""
        self._in_hand = 0
        """… and how many that were are not settled."""
        self._done: asyncio.Future[None] | None = None
        self._draining = False
        self.closed = False

    @property
    def queue(self) -> str:
        """The queue that is consumed."""
        return self._key.queue

    @property
    def partition(self) -> int:
        """… and which partition of it."""
        return self._key.number

    @property
    def is_draining(self) -> bool:
        """Whether it takes no more."""
        return self._draining

    def join(self, head: Consumer) -> None:
        """What comes here is given out by another from now on."""
        self._head = head
        self.parts = []
        head.parts.append(self)

    # -- from the core --

    def on_deliver(self, segments: tuple[Segment, ...]) -> None:
        """Messages came."""
        self._head.take_in(self, segments)

    def take_in(self, part: Consumer, segments: tuple[Segment, ...]) -> None:
        """What came to one of the parts is given out here."""
        self._segments.extend([(part, segment) for segment in segments])
        self._wake()

    def fail(self, error: BaseException) -> None:
        """The node has stopped: whoever waits gets the error."""
        if not self._ended:
            self._error = error
            self._wake()
            self._settled(self._in_hand)

    def end(self) -> None:
        """The node has closed in good order: the iteration is over."""
        self._ended = True
        self._wake()
        self._settled(self._in_hand)

    # -- to the user --

    async def messages(self) -> AsyncIterator[Message]:
        """Messages one by one, for ever."""
        try:
            while (found := await self._next()) is not None:
                part, segment = found
                for position in range(segment.batch.count):
                    if self._error is not None:
                        raise self._error
                    if self.closed or self._draining:  # the rest has been given back
                        await self._finished()
                        return
                    self._reading = part, segment, position + 1
                    self._in_hand += 1
                    yield Message(part, segment, position)
                self._reading = None
        finally:
            self.close()

    async def batches(self) -> AsyncIterator[MessageBatch]:
        """Batches as they were delivered, for ever."""
        try:
            while (found := await self._next()) is not None:
                part, segment = found
                self._in_hand += segment.batch.count
                yield MessageBatch(part, segment)
        finally:
            self.close()

    async def _next(self) -> tuple[Consumer, Segment] | None:
        """The next messages, and whose they are; None when there will be no more."""
        while True:
            if self._error is not None:
                raise self._error
            if self._ended or self._draining:
                await self._finished()
                return None
            self._taker = asyncio.current_task()
            if self._segments:
                return self._segments.popleft()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def close(self) -> None:
        """Stop, with all that belong together: settle what is settled, give the rest back."""
        if self._head is not self:
            self._head.close()
            return
        if self.closed:
            return
        for part in self.parts:
            part.closed = True
            part.flush()
        unread = self._unread()
        for part in self.parts:
            self._feed(events.UnsubscribeRequested(part.consumer_id, _of(part, unread)))

    def drain(self, closer: asyncio.Task[object] | None) -> asyncio.Future[None] | None:
        """Take no more, and give back what nobody has seen; what to await for the rest, if any.

        Nobody waits for a handler that is the one who closes, or that is gone: it will not settle.
        """
        if self.closed or self._draining or self._head is not self:
            return None
        self._draining = True
        unread = self._unread()
        for part in self.parts:
            self._feed(events.DrainRequested(part.consumer_id, _of(part, unread)))
        self._wake()
        if not self._in_hand:
            return None
        self._done = self._loop.create_future()
        return self._done if self._will_settle(closer) else None

    def _will_settle(self, closer: asyncio.Task[object] | None) -> bool:
        """Whether who took the last messages may settle them while `closer` waits."""
        taker = self._taker
        return taker is not None and taker is not closer and not taker.done()

    async def _finished(self) -> None:
        """Wait for handlers beside the loop of who takes: when that ends, the rest goes back."""
        if self._done is not None and not self._done.done():
            await asyncio.wait((self._done,))

    def _unread(self) -> list[tuple[Consumer, Run]]:
        """Take back what has come and was not given out, of each its own."""
        runs = self.waiting()
        self._reading = None
        self._segments.clear()
        return runs

    def _settled(self, count: int) -> None:
        """So many of those in hand are settled."""
        self._head.take_off(count)

    def take_off(self, count: int) -> None:
        """So many of those that were given out here are settled."""
        self._in_hand -= count
        if self._in_hand <= 0 and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- settling --

    def settle_ack(self, session: Session, seq: int) -> None:
        """Ack one message; consecutive ones become one run."""
        self._check_open()
        self._settled(1)
        acks = self._acks
        if acks:
            last_session, first, last = acks[-1]
            if last == seq - 1 and last_session == session:
                acks[-1] = (session, first, seq)
                return
        acks.append((session, seq, seq))
        self._schedule()

    def settle_tied(self, session: Session, seq: int, outputs: tuple[events.Output, ...]) -> None:
        """Ack one message when its outputs are committed."""
        self._check_open()
        self._settled(1)
        run = Run(session, seq, seq)
        self._ties.append(events.TieRequested(self.consumer_id, self._key, run, outputs))
        self._schedule()

    def settle_ack_run(self, run: Run) -> None:
        """Ack a run of messages."""
        self._check_open()
        self._settled(run.length)
        self._acks.append(run)
        self._schedule()

    def settle_nack(self, given_back: events.GivenBack) -> None:
        """Give messages back; at the consumer's end they were."""
        if not self.closed:
            self._settled(given_back.run.length)
            self._nacks.append(given_back)
            self._schedule()

    def settle_extend(self, run: Run, seconds: float) -> None:
        """Hide messages for `seconds` from now."""
        self._check_open()
        self._extends.append((run, to_ms(seconds)))
        self._schedule()

    def extend_waiting(self, seconds: float) -> None:
        """Hide what waits here because there are more partitions than it was to hold messages.

        Each gives one at least; a handler that is slow is not to lose them to others meanwhile.
        """
        head = self._head
        if head.prefetch < len(head.parts) and not (head.closed or head.is_draining):
            for part, run in head.waiting():
                part.settle_extend(run, seconds)

    def waiting(self) -> list[tuple[Consumer, Run]]:
        """What has come to which part, and was not given out."""
        runs: list[tuple[Consumer, Run]] = []
        if self._reading is not None:
            part, segment, position = self._reading
            session, first, last = segment.batch.run
            if first + position <= last:
                runs.append((part, Run(session, first + position, last)))
        return runs + [(part, segment.batch.run) for part, segment in self._segments]

    def _check_open(self) -> None:
        if self._error is not None:
            raise self._error
        if self.closed:
            raise StaleReceiptError(self.queue)

    def _schedule(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Pass everything settled since the last time to the core, as one."""
        self._flushing = False
        for event in self._gathered():
            self._feed(event)

    def _gathered(self) -> list[events.Event]:
        """What was settled since the last time: as one, and what is published with an ack."""
        found: list[events.Event] = []
        if self._ties:
            found += self._ties
            self._ties = []
        if not (self._acks or self._nacks or self._extends):
            return found
        acks, self._acks = self._acks, []
        nacks, self._nacks = self._nacks, []
        extends, self._extends = self._extends, []
        found.append(
            events.SettleRequested(
                self.consumer_id,
                self._key,
                acks=tuple(Run(*ack) for ack in acks),
                nacks=tuple(nacks),
                extends=tuple(extends),
            )
        )
        return found


def _of(part: Consumer, unread: Iterable[tuple[Consumer, Run]]) -> tuple[Run, ...]:
    return tuple(run for whose, run in unread if whose is part)
