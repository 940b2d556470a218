"""Dead-letter queues for those who look after them: look into one, and give its letters back.

Letters are redriven as they are delivered, many at once; each is acked when the
message that it makes is committed in the queue that it came from. Whatever ends
a redrive in between leaves letters where they are: the next one makes the same
messages of them, under the same dots, and a queue takes each of these once.

Invariant: a letter is acked only after its message is committed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from p2pmq.core.effects import Refused
from p2pmq.core.events import RepostRequested
from p2pmq.core.names import DEAD_LETTERS
from p2pmq.core.reposting import reposted_session
from p2pmq.core.spreading import by_partition
from p2pmq.errors import NotRedrivenError, QueueNameError, RequestTimeoutError, UsageError
from p2pmq.node.arguments import place_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pmq.core.effects import Done
    from p2pmq.core.events import Event
    from p2pmq.core.ids import PartitionKey
    from p2pmq.core.packets.publishing import Batch
    from p2pmq.node.message import Message, MessageBatch
    from p2pmq.node.node import Node

QUIET_S = 0.1
"""Nothing came for so long: ask whether anything is left."""
UNDER_WAY_MAX = 64
"""Letters (batches) that are on their way back at once."""
PREFETCH = 1_000
PATIENCE_S = 30.0
"""In which nothing comes and the owner does not answer, until a redrive or a look gives up."""


@dataclass(frozen=True, slots=True)
class RedriveReport:
    """What a redrive did: `redriven` letters of `queue` are messages of `source` again.

    `left` is how many of those that were there when it began were not: they were beyond its
    limit, or others held them.

    >>> import asyncio, p2pmq
    >>> async def main():
    ...     async with p2pmq.Node("doc", mdns=False, store="memory") as node:
    ...         await node.publish("jobs", "paint it striped")
    ...         message = await anext(node.consume("jobs"))
    ...         message.reject("no such paint")
    ...         while not (await node.depth("jobs.dlq")).ready:
    ...             await asyncio.sleep(0.01)
    ...         return await node.redrive("jobs.dlq")
    >>> asyncio.run(main())
    RedriveReport(queue='jobs.dlq', source='jobs', redriven=1, left=0)
    """

    queue: str
    source: str
    redriven: int
    left: int


@dataclass(frozen=True, slots=True)
class Reposting:
    """What a redrive needs of its node beside its calls."""

    feed: Callable[[Event], None]
    wait_token: Callable[[], tuple[int, asyncio.Future[Done | Refused]]]
    ttl_ms_of: Callable[[str], int]
    partitions_of: Callable[[str], int]
    timeout_ms: int


def letters_of(queue: str) -> str:
    """The dead-letter queue that is meant, by its own name or by that of its queue.

    Raises QueueNameError.
    """
    name = queue if queue.endswith(DEAD_LETTERS) else queue + DEAD_LETTERS
    place_of(name)
    if name == DEAD_LETTERS:
        raise QueueNameError(f"{queue!r} names no dead-letter queue: those are <queue>.dlq")
    return name


def source_of(letters: str) -> str:
    """The queue whose dead letters are in this one."""
    return letters.removesuffix(DEAD_LETTERS)


async def redriven(
    node: Node, queue: str, rate: float | None, limit: int | None, posting: Reposting
) -> RedriveReport:
    """Redrive: see `Node.redrive`."""
    letters = letters_of(queue)
    if rate is not None and not rate > 0:
        raise UsageError(f"rate={rate!r} cannot be: give messages per second, more than 0")
    _check_limit(limit)
    # Those of now, and no more: what fails again at once would go round for ever.
    total = (await node.depth(letters)).total
    most = total if limit is None else min(limit, total)
    redrive = Redrive(node, letters, most, rate, posting)
    if most:
        await redrive.run()
    return RedriveReport(letters, source_of(letters), redrive.done, total - redrive.done)


class Redrive:
    """One redrive of at most `most` letters."""

    def __init__(
        self, node: Node, letters: str, most: int, rate: float | None, posting: Reposting
    ) -> None:
        self._node = node
        self._letters = place_of(letters)
        self._source = place_of(source_of(letters))
        self._most = most
        self._rate = rate
        self._posting = posting
        self._begun = 0
        self._under_way: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._next_at = self._loop.time()
        self.done = 0

    async def run(self) -> None:
        """Redrive until enough are, or none is ready. Raises NotRedrivenError."""
        # What waits here for its turn must not time out: no more than leave in a second.
        paced = PREFETCH if self._rate is None else max(1, int(self._rate))
        coming = Coming(self._node, self._letters.queue, min(PREFETCH, paced, self._most))
        try:
            while self._begun < self._most and (batch := await coming.next()) is not None:
                await self._take(batch)
            await self._wait_for(0)
        finally:
            await _end_all(self._under_way)
            await coming.end()

    async def _take(self, batch: MessageBatch) -> None:
        """Begin with as much of a batch as is wanted, a message at a time where there is a rate."""
        run = batch.run
        last = min(run.last, run.first + self._most - self._begun - 1)
        step = last - run.first + 1 if self._rate is None else 1
        for first in range(run.first, last + 1, step):
            await self._wait_for(UNDER_WAY_MAX - 1)
            await self._keep_pace()
            self._begun += step
            part = batch.published.part(first, first + step - 1)
            message = replace(
                part,
                session=reposted_session(self._letters, part.session),
                stamp=0,
                ttl_ms=self._posting.ttl_ms_of(self._source.queue),
                dead=(),
            )
            partitions = self._posting.partitions_of(self._source.queue)
            for number, piece in by_partition(message, partitions):
                await self._wait_for(UNDER_WAY_MAX - 1)
                source = self._source._replace(number=number)
                self._under_way.add(self._loop.create_task(self._post(batch, source, piece)))

    async def _post(self, batch: MessageBatch, source: PartitionKey, message: Batch) -> None:
        """Publish what some letters are made of, and ack them when that is committed."""
        posting = self._posting
        token, ended = posting.wait_token()
        posting.feed(RepostRequested(source, message, posting.timeout_ms, token))
        outcome = await ended
        if isinstance(outcome, Refused):
            raise NotRedrivenError(self._letters.queue, source.queue, self.done, outcome.reason)
        batch.ack_part(message.run._replace(session=batch.run.session))
        self.done += message.count

    async def _wait_for(self, most: int) -> None:
        """Wait until at most so many are on their way. Raises what one of them has met."""
        while self._under_way and len(self._under_way) > most:
            done, self._under_way = await asyncio.wait(
                self._under_way, return_when=asyncio.FIRST_COMPLETED
            )
            for error in [e for task in done if (e := task.exception()) is not None][:1]:
                raise error

    async def _keep_pace(self) -> None:
        if self._rate is None:
            return
        now = self._loop.time()
        await asyncio.sleep(max(0.0, self._next_at - now))
        self._next_at = max(self._next_at, now) + 1 / self._rate


async def looked_at(node: Node, queue: str, limit: int) -> list[Message]:
    """The first letters of a dead-letter queue, which stay in it: see `Node.dead_letters`."""
    letters = letters_of(queue)
    _check_limit(limit)
    found: list[Message] = []
    most = min(limit, (await node.depth(letters)).ready)
    if not most:
        return found
    coming = Coming(node, letters, min(PREFETCH, most))
    try:
        while len(found) < most and (batch := await coming.next()) is not None:
            found += list(batch)[: most - len(found)]
    finally:
        await coming.end()  # all are given back, and have not failed
    return found


class Coming:
    """The letters of a queue as they come, until none is ready any more."""

    def __init__(self, node: Node, letters: str, prefetch: int) -> None:
        self._node = node
        self._letters = letters
        self._batches = node.consume_batches(letters, prefetch=prefetch)
        self._next: asyncio.Future[MessageBatch] | None = None
        self._loop = asyncio.get_running_loop()

    async def next(self) -> MessageBatch | None:
        """The next letters; None when the owner says that none is ready.

        Raises RequestTimeoutError where nobody says anything for PATIENCE_S.
        """
        give_up_at = self._loop.time() + PATIENCE_S
        while True:
            if self._next is None:
                self._next = asyncio.ensure_future(anext(self._batches))
            await asyncio.wait((self._next,), timeout=QUIET_S)
            if self._next.done():
                try:
                    batch, self._next = self._next.result(), None
                except StopAsyncIteration:
                    return None  # the node has closed
                return batch
            try:
                if not (await self._node.depth(self._letters)).ready:
                    return None
            except RequestTimeoutError:
                if self._loop.time() >= give_up_at:
                    raise
            if self._loop.time() >= give_up_at:
                raise RequestTimeoutError(
                    f"no letter of {self._letters!r} came within {PATIENCE_S:g} s, though its "
                    "owner counts some: try again when the mesh is at rest"
                )

    async def end(self) -> None:
        """Take no more: what was not acked goes back."""
        if self._next is not None:
            await _end_all({self._next})
        await self._batches.aclose()  # type: ignore[attr-defined]  # an async generator, as Node makes it


async def _end_all(tasks: set[asyncio.Task[None]] | set[asyncio.Future[MessageBatch]]) -> None:
    """Cancel what is left, and look at what became of it: the first error is raised already."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.gather(*tasks, return_exceptions=True)


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UsageError(f"limit={limit!r} cannot be: give 1 or more")
