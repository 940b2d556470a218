"""Bulk publishing: batches that are on their way, and those that fill for several partitions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Any

from p2pmq.core.events import Confirmation
from p2pmq.core.ids import PartitionKey
from p2pmq.core.quota import MESSAGE_OVERHEAD_BYTES
from p2pmq.core.spreading import of_hash
from p2pmq.errors import QueueFullError
from p2pmq.node.arguments import hashed_id
from p2pmq.node.batches import OpenBatch, Terms
from p2pmq.node.receipts import BulkReceipt, Receipt

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from p2pmq.core.effects import Published
    from p2pmq.node.ordering import OrderingKey
    from p2pmq.node.publisher import Publisher

    PackedBody = tuple[bytes, int]

BULK_IN_FLIGHT_BYTES = 8 * 1024 * 1024
"""How far `publish_many` runs ahead of its confirms."""
SPREAD_BYTES_MAX = 4 * 1024 * 1024
"""What batches may hold together that fill at once, one for each partition of a queue."""


class Turns:
    """Which partition of each queue is next, for messages that may go into any.

    Publishers begin in different places, so that many who publish little spread as one who
    publishes much.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self._turns: dict[str, int] = {}

    def next(self, queue: str, partitions: int) -> int:
        """The next partition in the round."""
        turn = self._turns[queue] = self._turns.get(queue, self._first) + 1
        return turn % partitions

    def place_of(
        self,
        queue: str,
        partitions: int,
        hashed: bytes,
        ordering: OrderingKey | None,
        is_open: Container[PartitionKey],
    ) -> PartitionKey:
        """Where a message goes: by its key, else by its id, else where a batch is open or next."""
        if ordering is not None:
            return PartitionKey(queue, of_hash(ordering.hash, partitions))
        if hashed:
            return PartitionKey(queue, of_hash(hashed, partitions))
        current = PartitionKey(queue, self._turns.get(queue, self._first) % partitions)
        if current in is_open:
            return current
        return PartitionKey(queue, self.next(queue, partitions))


class BulkProgress:
    """One `publish_many`: what is on its way, and what became of the rest."""

    def __init__(
        self,
        publisher: Publisher,
        key: PartitionKey,
        timeout_ms: int,
        loop: asyncio.AbstractEventLoop,
        next_number: Callable[[], int] | None = None,
    ) -> None:
        self._publisher = publisher
        self._key = key
        self._next_number = next_number
        """Of the partition for a batch that may go into any; None: there is only one."""
        self._timeout_ms = timeout_ms
        self._loop = loop
        self._published = 0
        self._committed = 0
        self._stored = 0
        self._owners: dict[str, None] = {}
        self._bytes = 0
        self._open = 0
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def send(self, batch: OpenBatch, key: PartitionKey | None = None) -> None:
        """Send one batch, where `key` says if it does; wait while too much is on its way."""
        if key is None:
            turn = self._next_number
            key = self._key if turn is None else self._key._replace(number=turn())
        while self._bytes > BULK_IN_FLIGHT_BYTES and self._error is None:
            await self._wait()
        if self._error is not None:
            raise self._error
        count = len(batch.bodies)
        size = batch.size + count * MESSAGE_OVERHEAD_BYTES
        self._published += count
        await self._publisher.make_room(key, count, batch.size, batch.terms)
        if batch.terms.wanted is not Confirmation.NONE:
            self._open += 1
            self._bytes += size

        def resolve(outcome: Published) -> None:
            self._on_outcome(key, outcome, count, size)

        self._publisher._request(key, batch, resolve, self._on_failure)  # noqa: SLF001  as above

    async def finish(self) -> BulkReceipt:
        """Wait for the last confirm."""
        while self._open and self._error is None:
            await self._wait()
        if self._error is not None:
            raise self._error
        return BulkReceipt(
            self._key.queue, self._published, self._committed, self._stored, tuple(self._owners)
        )

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _on_outcome(self, key: PartitionKey, outcome: Published, count: int, size: int) -> None:
        self._open -= 1
        self._bytes -= size
        owner = self._publisher._name_of(outcome.owner)  # noqa: SLF001  as above
        if outcome.gone == "refused":
            self._error = self._publisher.outbox_full(0)
        elif outcome.gone == "rejected":
            self._error = QueueFullError(self._key.queue)
        elif outcome.timed_out:
            receipt = Receipt(
                self._key.queue,
                outcome.session,
                outcome.first,
                committed=False,
                stored=outcome.stored,
                copies=outcome.copies,
                owner=owner,
                partition=key.number,
            )
            self._error = self._publisher.not_committed(key, receipt, outcome, self._timeout_ms)
        elif outcome.copies:
            self._committed += count
            if owner is not None:
                self._owners[owner] = None
        self._stored += count if outcome.stored else 0
        self._wake()

    def _on_failure(self, error: BaseException) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class SpreadBatches:
    """One `publish_many` into a queue of several partitions: a batch fills for each."""

    def __init__(
        self, queue: str, terms: Terms, turns: Turns, progress: BulkProgress, bytes_max: int
    ) -> None:
        self._queue = queue
        self._terms = terms
        self._turns = turns
        self._progress = progress
        self._bytes_max = bytes_max
        self._open: dict[int, OpenBatch] = {}
        self._size = 0
        self._current = turns.next(queue, terms.partitions)
        """Where messages go that have neither key nor id, until that batch is full."""

    async def publish(
        self,
        bodies: Iterable[object] | AsyncIterable[object],
        packed: Callable[[object], PackedBody],
        id_of: Callable[[Any], str] | None,
        key_for: Callable[[object], OrderingKey | None] | None,
    ) -> BulkReceipt:
        """Publish all of them."""
        if isinstance(bodies, AsyncIterable):
            async for body in bodies:
                ordering = None if key_for is None else key_for(body)
                hashed = b"" if id_of is None else hashed_id(id_of(body))
                data = packed(body)
                if not self._take(data, hashed, ordering):
                    await self._make_way(data, hashed, ordering)
        else:
            for body in bodies:
                ordering = None if key_for is None else key_for(body)
                hashed = b"" if id_of is None else hashed_id(id_of(body))
                data = packed(body)
                if not self._take(data, hashed, ordering):
                    await self._make_way(data, hashed, ordering)
        while self._open:
            await self._send(next(iter(self._open)))
        return await self._progress.finish()

    def _take(self, data: PackedBody, hashed: bytes, ordering: OrderingKey | None) -> bool:
        """Put one body where it belongs, if that batch has room, and all of them have."""
        number = self._number_of(hashed, ordering)
        batch = self._open.get(number)
        if batch is None or self._size > SPREAD_BYTES_MAX:
            return False
        before = batch.size
        if not batch.take(*data, hashed, ordering, self._bytes_max):
            return False
        self._size += batch.size - before
        return True

    async def _make_way(
        self, data: PackedBody, hashed: bytes, ordering: OrderingKey | None
    ) -> None:
        """Send what is full, and put the body into a batch that has room."""
        if self._size > SPREAD_BYTES_MAX:
            await self._send(max(self._open, key=lambda at: self._open[at].size))
        while not self._take(data, hashed, ordering):
            number = self._number_of(hashed, ordering)
            if number in self._open:
                await self._send(number)
                self._current = self._turns.next(self._queue, self._terms.partitions)
                continue
            batch = self._open[number] = OpenBatch(self._terms)
            batch.add(*data, hashed, ordering)
            self._size += batch.size
            return

    def _number_of(self, hashed: bytes, ordering: OrderingKey | None) -> int:
        if ordering is not None:
            return of_hash(ordering.hash, self._terms.partitions)
        return of_hash(hashed, self._terms.partitions) if hashed else self._current

    async def _send(self, number: int) -> None:
        batch = self._open.pop(number)
        self._size -= batch.size
        await self._progress.send(batch, PartitionKey(self._queue, number))
