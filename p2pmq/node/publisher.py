"""Publishing: calls gathered into batches, and the waits that they leave behind.

Single publishes of one round of the loop leave as one batch for each queue
and terms. `publish_many` cuts its own batches. Order is kept between
both: whatever a queue's open batch holds leaves before a cut one.

Invariant: a queue has at most one open batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from functools import partial
from typing import TYPE_CHECKING, Any

from p2pmq.config import OutboxPolicy
from p2pmq.core.effects import Overflowed, Published
from p2pmq.core.events import Confirmation, PublishRequested
from p2pmq.core.quota import OUTBOX_FULL, cost_of
from p2pmq.errors import BodyTooLargeError, NotCommittedError, OutboxFullError, QueueFullError
from p2pmq.node.arguments import hashed_id
from p2pmq.node.batches import BULK_BYTES, OpenBatch, Terms
from p2pmq.node.bulk import BulkProgress, SpreadBatches, Turns
from p2pmq.node.receipts import BulkReceipt, Receipt
from p2pmq.wire.bodies import FORMAT_RAW, pack_body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from p2pmq.config import Limits
    from p2pmq.core.events import Event
    from p2pmq.core.ids import NodeId, PartitionKey
    from p2pmq.node.ordering import OrderingKey

BATCHES_MIN = 4
"""A batch takes no more than this part of the outbox: batches are refused or dropped whole."""


class Publisher:
    """All publishing of one node."""

    def __init__(
        self,
        feed: Callable[[Event], None],
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        name_of: Callable[[NodeId | None], str | None],
        wanted_of: Callable[[PartitionKey], int],
        *,
        policy: OutboxPolicy | None = None,
        report: Callable[[Overflowed], None] = lambda _: None,
        first_turn: int = 0,
    ) -> None:
        self._turns = Turns(first_turn)
        self._feed = feed
        self._loop = loop
        self._limits = limits
        self._name_of = name_of
        self._wanted_of = wanted_of
        self._open: dict[PartitionKey, OpenBatch] = {}
        self._flushing = False
        self._next_token = 1
        self._on_outcome: dict[int, Callable[[Published], None]] = {}
        self._on_failure: dict[int, Callable[[BaseException], None]] = {}
        self._policy = policy or OutboxPolicy()
        self._report = report
        self.batch_bytes_max = min(BULK_BYTES, max(1, self._policy.bytes_max // BATCHES_MIN))
        self._in_memory = 0
        self._total = 0
        self._open_bytes = 0
        self._room: asyncio.Future[None] | None = None
        self._error: BaseException | None = None

    # -- one message --

    async def publish(
        self,
        key: PartitionKey,
        body: object,
        terms: Terms,
        hashed: bytes = b"",
        ordering: OrderingKey | None = None,
        header: dict[str, Any] | None = None,
    ) -> Receipt:
        """Publish one message and wait for what is wanted of it; `hashed` is of its id.

        `key` names the queue: where that has several partitions, it is found here which one.
        """
        if terms.partitions > 1:
            key = self._turns.place_of(key.queue, terms.partitions, hashed, ordering, self._open)
        data, body_format = self._packed(body)
        size = len(data) if ordering is None else len(data) + ordering.size
        cost = cost_of(1, size)
        if not self._has_room(cost):
            await self.make_room(key, 1, size, terms)
        if self._error is not None:
            raise self._error
        batch = self._open_batch(key, terms, size, hashed)
        position = len(batch.bodies)
        batch.add(data, body_format, hashed, ordering)
        if header is not None:
            batch.headers[position] = header
        self._open_bytes += cost
        if terms.wanted is Confirmation.NONE:
            return Receipt(key.queue, b"", 0, committed=False, stored=False, copies=0, owner=None)
        waiter: asyncio.Future[Receipt] = self._loop.create_future()
        assert position == len(batch.waiters)
        batch.waiters.append(waiter)
        return await waiter

    def _open_batch(self, key: PartitionKey, terms: Terms, size: int, hashed: bytes) -> OpenBatch:
        """The queue's open batch, if it has room and is on the same terms; else a new one.

        One batch has an id once: what an owner is asked to compare is another's.
        """
        batch = self._open.get(key)
        if batch is not None and (
            batch.terms != terms
            or cost_of(len(batch.bodies) + 1, batch.size + size)
            > min(self.batch_bytes_max, terms.bytes_max)
            or len(batch.bodies) >= terms.count_max
            or hashed in batch.ids
        ):
            self._send(key, self._open.pop(key))
            batch = None
        if batch is None:
            batch = self._open[key] = OpenBatch(terms)
            if not self._flushing:
                self._flushing = True
                self._loop.call_soon(self.flush)
        return batch

    def flush(self) -> None:
        """Send every open batch."""
        self._flushing = False
        batches, self._open = self._open, {}
        self._open_bytes = 0
        for key, batch in batches.items():
            self._send(key, batch)

    def _send(self, key: PartitionKey, batch: OpenBatch) -> None:
        waiters = batch.waiters

        def resolve(outcome: Published) -> None:
            self._resolve_all(key, waiters, outcome, batch.terms.timeout_ms)

        self._request(key, batch, resolve, partial(_fail_all, waiters))

    def _request(
        self,
        key: PartitionKey,
        batch: OpenBatch,
        resolve: Callable[[Published], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        if self._error is not None:
            fail(self._error)
            return
        token = self._next_token
        self._next_token += 1
        if batch.terms.wanted is not Confirmation.NONE:
            self._on_outcome[token] = resolve
            self._on_failure[token] = fail
        self._feed(
            PublishRequested(
                key,
                batch.pack(),
                len(batch.bodies),
                batch.size,
                batch.terms.wanted,
                batch.terms.timeout_ms,
                token,
                batch.terms.ttl_ms,
                batch.terms.priority,
                batch.terms.delay_ms,
                bytes(batch.hashes),
                batch.packed_ids(),
            )
        )

    # -- many messages --

    async def publish_many(
        self,
        key: PartitionKey,
        bodies: Iterable[object] | AsyncIterable[object],
        terms: Terms,
        id_of: Callable[[Any], str] | None = None,
        key_for: Callable[[object], OrderingKey | None] | None = None,
    ) -> BulkReceipt:
        """Publish all of them, pipelined; wait once, for what is wanted of every one.

        `key_for` gives the ordering key of each.
        """
        next_number = None
        if terms.partitions > 1:
            self.flush()
            next_number = partial(self._turns.next, key.queue, terms.partitions)
        progress = BulkProgress(self, key, terms.timeout_ms, self._loop, next_number)
        if terms.partitions > 1 and (id_of is not None or key_for is not None):
            spread = SpreadBatches(key.queue, terms, self._turns, progress, self.batch_bytes_max)
            return await spread.publish(bodies, self._packed, id_of, key_for)
        if self._open.get(key) is not None:
            self._send(key, self._open.pop(key))
        batch = OpenBatch(terms)
        if isinstance(bodies, AsyncIterable):
            async for body in bodies:
                ordering = None if key_for is None else key_for(body)
                hashed = b"" if id_of is None else hashed_id(id_of(body))
                data, kind = self._packed(body)
                if not batch.take(data, kind, hashed, ordering, self.batch_bytes_max):
                    await progress.send(batch)
                    batch = OpenBatch(terms)
                    batch.add(data, kind, hashed, ordering)
        else:
            for body in bodies:
                ordering = None if key_for is None else key_for(body)
                hashed = b"" if id_of is None else hashed_id(id_of(body))
                data, kind = self._packed(body)
                if not batch.take(data, kind, hashed, ordering, self.batch_bytes_max):
                    await progress.send(batch)
                    batch = OpenBatch(terms)
                    batch.add(data, kind, hashed, ordering)
        if batch.bodies:
            await progress.send(batch)
        return await progress.finish()

    # -- from the core --

    def on_resolve(self, token: int, outcome: Published) -> None:
        """A batch has its confirm, or has waited long enough."""
        resolve = self._on_outcome.pop(token, None)
        self._on_failure.pop(token, None)
        if resolve is not None:
            resolve(outcome)

    def on_outbox_changed(self, in_memory: int, total: int = 0) -> None:
        """The outbox has grown or shrunk: let those look again who wait for room."""
        self._in_memory = in_memory
        self._total = total
        limits, policy = self._limits, self._policy
        has_room = in_memory <= limits.outbox_bytes_max and total < policy.bytes_max
        if self._room is not None and has_room:
            if not self._room.done():
                self._room.set_result(None)
            self._room = None

    def fail(self, error: BaseException) -> None:
        """The node has stopped: whoever waits gets the error, and whoever comes still."""
        self._error = error
        batches, self._open = self._open, {}
        failures, self._on_failure = self._on_failure, {}
        self._on_outcome.clear()
        for batch in batches.values():
            _fail_all(batch.waiters, error)
        for fail in failures.values():
            fail(error)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # -- within --

    def _packed(self, body: object) -> tuple[bytes, int]:
        if type(body) is bytes:
            data, body_format = body, FORMAT_RAW
        else:
            data, body_format = pack_body(body)
        if len(data) > self._limits.body_bytes_max:
            raise BodyTooLargeError(len(data), self._limits.body_bytes_max)
        return data, body_format

    def _has_room(self, cost: int) -> bool:
        """Whether a batch may go to the outbox. Under "drop-lowest" its total is the core's say."""
        if self._in_memory > self._limits.outbox_bytes_max:
            return False
        policy = self._policy
        fits = self._total + self._open_bytes + cost <= policy.bytes_max
        return fits or policy.overflow == "drop-lowest"

    def outbox_full(self, waited_ms: int) -> OutboxFullError:
        """The error for whoever finds no room; it names the limit that was reached."""
        limits, policy = self._limits, self._policy
        if self._in_memory > limits.outbox_bytes_max:
            return OutboxFullError(self._in_memory, limits.outbox_bytes_max, waited_ms)
        return OutboxFullError(self._total, policy.bytes_max, waited_ms, "OutboxPolicy.bytes_max")

    async def make_room(self, key: PartitionKey, count: int, size: int, terms: Terms) -> None:
        """Wait for room, or refuse, as the policy says. Raises OutboxFullError."""
        cost = cost_of(count, size)
        if self._has_room(cost):
            return
        if self._error is not None:
            raise self._error
        numbers = (key, count, size, terms.priority, OUTBOX_FULL)
        if self._policy.overflow == "refuse" or cost > self._policy.bytes_max:
            self._report(Overflowed("refused", *numbers))
            raise self.outbox_full(0)
        self._report(Overflowed("waited", *numbers))
        try:
            await self._wait_for_room(cost, terms.timeout_ms)
        except OutboxFullError:
            self._report(Overflowed("refused", *numbers))
            raise

    async def _wait_for_room(self, cost: int, timeout_ms: int) -> None:
        deadline = self._loop.time() + timeout_ms / 1000
        while not self._has_room(cost):
            if self._error is not None:
                raise self._error
            if self._room is None:
                self._room = self._loop.create_future()
            remaining = deadline - self._loop.time()
            done, _ = await asyncio.wait((self._room,), timeout=max(0.0, remaining))
            if not done:
                raise self.outbox_full(timeout_ms)

    def _resolve_all(
        self,
        key: PartitionKey,
        waiters: list[asyncio.Future[Receipt]],
        outcome: Published,
        timeout_ms: int,
    ) -> None:
        owner = self._name_of(outcome.owner)
        queue, session, copies, stored = key.queue, outcome.session, outcome.copies, outcome.stored
        committed = copies > 0
        for at, waiter in enumerate(waiters):
            if waiter.done():
                continue  # its publisher was cancelled
            receipt = Receipt(
                queue, session, outcome.first + at, committed, stored, copies, owner, key.number
            )
            if outcome.gone == "refused":
                waiter.set_exception(self.outbox_full(0))
            elif outcome.gone == "rejected":
                waiter.set_exception(QueueFullError(queue))
            elif outcome.timed_out:
                waiter.set_exception(self.not_committed(key, receipt, outcome, timeout_ms))
            else:
                waiter.set_result(receipt)

    def not_committed(
        self, key: PartitionKey, receipt: Receipt, outcome: Published, waited_ms: int
    ) -> NotCommittedError:
        """The error of a publish whose confirm did not come in time."""
        return NotCommittedError(
            receipt=receipt,
            copies=outcome.copies,
            wanted=self._wanted_of(key),
            waited_ms=waited_ms,
            away=[receipt.owner] if receipt.owner is not None else [],
            reason=outcome.reason,
            dropped=outcome.gone == "dropped",
        )


def _fail_all(waiters: list[asyncio.Future[Receipt]], error: BaseException) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(error)
