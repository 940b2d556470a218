"""A consumer whose messages go to other threads, and whose settles come from them.

The loop appends what is delivered; threads claim it, message by message,
without a hop and without a lock: a claim is the next step of an iterator over a
segment's positions, which is atomic, so that each is given out once however
many threads ask, and the loop takes back what is left by exhausting it. Settles
gather under a lock, and a hop takes all that have gathered to the loop.

The signal only says that there may be something, or that it is over. Whoever
takes it passes it on if there is more, so that one is enough for all threads.

Invariant: every position of a delivered segment is claimed once, by a thread or
by the loop that gives it back.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from operator import length_hint
from queue import SimpleQueue
from typing import TYPE_CHECKING

from p2pmq.core.ids import Run
from p2pmq.node.consumer import Consumer
from p2pmq.node.message import Message, MessageBatch, packed_bodies
from p2pmq.wire.bodies import BodiesError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from p2pmq.blocking.loop_thread import LoopThread
    from p2pmq.core import events
    from p2pmq.core.ids import ConsumerId, PartitionKey, Session
    from p2pmq.core.packets.delivering import Segment


class Handout:
    """A segment that came to `part`, and those of its positions that nobody has claimed."""

    __slots__ = ("part", "positions", "segment")

    def __init__(self, part: Consumer, segment: Segment) -> None:
        self.part = part
        self.segment = segment
        self.positions: Iterator[int] = iter(range(segment.batch.count))


class ThreadedConsumer(Consumer):
    """One `consume()` of a blocking node, of one partition: see the base."""

    def __init__(
        self,
        thread: LoopThread,
        consumer_id: ConsumerId,
        key: PartitionKey,
        feed: Callable[[events.Event], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(consumer_id, key, feed, loop)
        self._thread = thread
        self._lock = threading.RLock()
        """Guards what is settled, and the removal of handouts. Held for a few instructions."""
        self._handouts: deque[Handout] = deque()
        self._settled_since = 0
        self._last_taker: threading.Thread | None = None
        self.signal: SimpleQueue[None] = SimpleQueue()

    # -- in the loop --

    def take_in(self, part: Consumer, segments: tuple[Segment, ...]) -> None:
        """Messages came; their bodies are unpacked here, as that is not for two threads at once."""
        for segment in segments:
            with suppress(BodiesError):  # whoever reads the body is told
                packed_bodies(segment).bodies  # noqa: B018  for what it remembers
            if not self._draining:
                self._in_hand += segment.batch.count
            self._handouts.append(Handout(part, segment))
        self._wake()

    def drain(self, closer: asyncio.Task[object] | None) -> asyncio.Future[None] | None:
        """Take no more, as in the base; what was settled so far is not in hand."""
        for part in self.parts:
            part.flush()
        return super().drain(closer)

    def close(self) -> None:
        """Stop, as in the base, and tell the threads that wait."""
        super().close()
        self._wake()

    def _will_settle(
        self,
        closer: asyncio.Task[object] | None,  # noqa: ARG002  it is a thread that closes
    ) -> bool:
        taker = self._last_taker
        return taker is not None and taker is not self._thread.closer and taker.is_alive()

    def _unread(self) -> list[tuple[Consumer, Run]]:
        with self._lock:
            handouts = list(self._handouts)
            self._handouts.clear()
        runs: list[tuple[Consumer, Run]] = []
        for handout in handouts:
            left = list(handout.positions)  # in one step: no thread claims any in between
            if left:
                session, first, _ = handout.segment.batch.run
                runs.append((handout.part, Run(session, first + left[0], first + left[-1])))
                self._in_hand -= len(left)
        return runs

    def waiting(self) -> list[tuple[Consumer, Run]]:
        """What has come, and no thread has claimed so far."""
        runs: list[tuple[Consumer, Run]] = []
        for handout in list(self._handouts):
            session, _, last = handout.segment.batch.run
            left = length_hint(handout.positions)  # a range's iterator knows exactly
            if left:
                runs.append((handout.part, Run(session, last - left + 1, last)))
        return runs

    def _wake(self) -> None:
        if self.signal.empty():
            self.signal.put(None)

    def _gathered(self) -> list[events.Event]:
        with self._lock:
            count, self._settled_since = self._settled_since, 0
            gathered = super()._gathered()
        super()._settled(count)
        return gathered

    # -- in any thread: taking --

    def is_over(self) -> bool:
        """Whether nothing more is given out; raises the node's error where it has failed."""
        if self._error is not None:
            raise self._error
        return self._draining or self._ended or self.closed

    def take_message(self) -> Message | None:
        """The next message, if one is here."""
        while (handout := self._first()) is not None:
            position = next(handout.positions, None)
            if position is not None:
                self._last_taker = threading.current_thread()
                return Message(handout.part, handout.segment, position)
            self._remove(handout)
        return None

    def take_batch(self) -> MessageBatch | None:
        """The next batch, if one is here."""
        while (handout := self._first()) is not None:
            claimed = list(handout.positions)
            self._remove(handout)
            if claimed:
                assert len(claimed) == handout.segment.batch.count, "all are taken by batches"
                self._last_taker = threading.current_thread()
                return MessageBatch(handout.part, handout.segment)
        return None

    def pass_on(self) -> None:
        """Wake the next thread that waits, if there is anything to wake it for."""
        if self._handouts or self._draining or self._ended or self.closed or self._error:
            self._wake()

    def _first(self) -> Handout | None:
        try:
            return self._handouts[0]
        except IndexError:
            return None

    def _remove(self, handout: Handout) -> None:
        """Nothing is left of it; another thread may have seen that first."""
        with self._lock:
            if self._handouts and self._handouts[0] is handout:
                self._handouts.popleft()

    # -- in any thread: settling --

    def settle_ack(self, session: Session, seq: int) -> None:
        """Ack one message: see the base."""
        self._thread.check_here()
        with self._lock:
            super().settle_ack(session, seq)

    def settle_tied(self, session: Session, seq: int, outputs: tuple[events.Output, ...]) -> None:
        """Ack one message when its outputs are committed: see the base."""
        self._thread.check_here()
        with self._lock:
            super().settle_tied(session, seq, outputs)

    def settle_ack_run(self, run: Run) -> None:
        """Ack a run of messages: see the base."""
        self._thread.check_here()
        with self._lock:
            super().settle_ack_run(run)

    def settle_nack(self, given_back: events.GivenBack) -> None:
        """Give messages back: see the base."""
        self._thread.check_here()
        with self._lock:
            super().settle_nack(given_back)

    def settle_extend(self, run: Run, seconds: float) -> None:
        """Hide messages for `seconds` from now: see the base."""
        self._thread.check_here()
        with self._lock:
            super().settle_extend(run, seconds)

    def _settled(self, count: int) -> None:
        """Count them when they are gathered: the loop's own numbers are the loop's."""
        with self._lock:
            self._settled_since += count
            self._schedule()

    def _schedule(self) -> None:
        if not self._flushing:
            self._flushing = True
            try:
                self._thread.post(self.flush)
            except BaseException:
                self._flushing = False
                raise
