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
from typing import TYPE_CHECKING, Any, NamedTuple

from p2pmq.config import OutboxPolicy
from p2pmq.core.effects import Overflowed, Published
from p2pmq.core.events import Confirmation, PublishRequested
from p2pmq.core.packets.publishing import (
    BATCH_MESSAGES_MAX,
    FRAME_BYTES_MAX,
    ID_HASH_BYTES,
    NO_KEY,
)
from p2pmq.core.quota import MESSAGE_OVERHEAD_BYTES, OUTBOX_FULL, cost_of
from p2pmq.errors import BodyTooLargeError, NotCommittedError, OutboxFullError, QueueFullError
from p2pmq.node.arguments import hashed_id
from p2pmq.node.receipts import BulkReceipt, Receipt
from p2pmq.wire.bodies import FORMAT_RAW, PackedBodies, pack_body

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from p2pmq.config import Limits
    from p2pmq.core.events import Event
    from p2pmq.core.ids import NodeId, PartitionKey
    from p2pmq.node.ordering import OrderingKey
    from p2pmq.wire.bodies import Keys

BULK_MESSAGES = 512
"""How many messages `publish_many` puts into one batch at the most."""
BULK_BYTES = FRAME_BYTES_MAX - 16 * 1024
"""… and how many bytes of bodies: the frame stays under its bound with the columns beside."""
BATCHES_MIN = 4
"""A batch takes no more than this part of the outbox: batches are refused or dropped whole."""
BULK_IN_FLIGHT_BYTES = 8 * 1024 * 1024
"""How far `publish_many` runs ahead of its confirms."""


KNOWN_TERMS_MAX = 256


class Terms(NamedTuple):
    """What a publisher asks for: messages of one batch have the same.

    `timeout_ms` ends the wait for what is `wanted`; `ttl_ms`, `priority` and `delay_ms` are as in
    `Batch`. `count_max` and `bytes_max` are what a batch may hold, where the queue has limits.
    """

    wanted: Confirmation
    timeout_ms: int
    ttl_ms: int = 0
    priority: int = 0
    delay_ms: int = 0
    count_max: int = BATCH_MESSAGES_MAX
    bytes_max: int = BULK_BYTES


class KnownTerms:
    """Terms that were made before: nearly every publish asks for the same as the one before it."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Terms] = {}
        self._version = -1

    def find(self, version: int, asked: Hashable, make: Callable[[], Terms]) -> Terms:
        """The terms for what is asked, while the queues' settings are of this version."""
        if version != self._version or len(self._made) > KNOWN_TERMS_MAX:
            self._version = version
            self._made.clear()
        found = self._made.get(asked)
        if found is None:
            found = self._made[asked] = make()
        return found


class OpenBatch:
    """Bodies gathered for one queue, and who waits for them.

    `keys` and their `hashes` are empty until a message comes that has an ordering key.
    """

    __slots__ = (
        "bodies",
        "bulk_max",
        "formats",
        "hashes",
        "headers",
        "ids",
        "keys",
        "size",
        "terms",
        "waiters",
    )

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.bodies: list[bytes] = []
        self.formats = bytearray()
        self.keys: Keys = []
        self.hashes = bytearray()
        self.bulk_max = min(BULK_MESSAGES, terms.count_max)
        self.ids: dict[bytes, int] = {}
        """The hashes of ids, and the position of the message that has it."""
        self.headers: dict[int, dict[str, Any]] = {}
        """Of those that have one, by position."""
        self.size = 0
        self.waiters: list[asyncio.Future[Receipt]] = []

    def add(
        self, body: bytes, body_format: int, hashed: bytes = b"", key: OrderingKey | None = None
    ) -> None:
        """Put one body in; `hashed` is of its id, and no other's here."""
        if hashed:
            self.ids[hashed] = len(self.bodies)
        if key is not None or self.keys:
            self._add_key(key)
        self.bodies.append(body)
        self.formats.append(body_format)
        self.size += len(body) if key is None else len(body) + key.size

    def take(
        self,
        body: bytes,
        body_format: int,
        hashed: bytes,
        key: OrderingKey | None,
        bytes_max: int = BULK_BYTES,
    ) -> bool:
        """Put one body in, if `publish_many` may make the batch that large, and its id is new."""
        bodies = self.bodies
        size = self.size + len(body)
        if key is not None:
            size += key.size
        if bodies and (
            cost_of(len(bodies) + 1, size) > min(bytes_max, self.terms.bytes_max)
            or len(bodies) >= self.bulk_max
        ):
            return False
        if hashed or key is not None or self.keys:
            if hashed in self.ids:
                return False
            self.add(body, body_format, hashed, key)
            return True
        bodies.append(body)
        self.formats.append(body_format)
        self.size = size
        return True

    def _add_key(self, key: OrderingKey | None) -> None:
        """Put the key of the next body in: those before the first that has one have none."""
        without = len(self.bodies) - len(self.keys) + (key is None)
        self.keys += [None] * without
        self.hashes += NO_KEY * without
        if key is not None:
            self.keys.append(key.value)
            self.hashes += key.hash

    def packed_ids(self) -> bytes:
        """The column of ids, as in `Batch`."""
        if not self.ids:
            return b""
        column = bytearray(ID_HASH_BYTES * len(self.bodies))
        for hashed, position in self.ids.items():
            column[ID_HASH_BYTES * position : ID_HASH_BYTES * (position + 1)] = hashed
        return bytes(column)

    def pack(self) -> PackedBodies:
        """The bodies as columns; a column of nothing but raw bytes is left out."""
        formats = bytes(self.formats) if any(self.formats) else None
        headers = None
        if self.headers:
            headers = [self.headers.get(at) for at in range(len(self.bodies))]
        return PackedBodies.from_bodies(self.bodies, formats, headers, self.keys or None)


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
    ) -> None:
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
        """Publish one message and wait for what is wanted of it; `hashed` is of its id."""
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
        if self._open.get(key) is not None:
            self._send(key, self._open.pop(key))
        progress = BulkProgress(self, key, terms.timeout_ms, self._loop)
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
            receipt = Receipt(queue, session, outcome.first + at, committed, stored, copies, owner)
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


class BulkProgress:
    """One `publish_many`: what is on its way, and what became of the rest."""

    def __init__(
        self,
        publisher: Publisher,
        key: PartitionKey,
        timeout_ms: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._publisher = publisher
        self._key = key
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

    async def send(self, batch: OpenBatch) -> None:
        """Send one batch; wait while too much is on its way."""
        while self._bytes > BULK_IN_FLIGHT_BYTES and self._error is None:
            await self._wait()
        if self._error is not None:
            raise self._error
        count = len(batch.bodies)
        size = batch.size + count * MESSAGE_OVERHEAD_BYTES
        self._published += count
        await self._publisher.make_room(self._key, count, batch.size, batch.terms)
        if batch.terms.wanted is not Confirmation.NONE:
            self._open += 1
            self._bytes += size

        def resolve(outcome: Published) -> None:
            self._on_outcome(outcome, count, size)

        self._publisher._request(self._key, batch, resolve, self._on_failure)  # noqa: SLF001  as above

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

    def _on_outcome(self, outcome: Published, count: int, size: int) -> None:
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
            )
            self._error = self._publisher.not_committed(
                self._key, receipt, outcome, self._timeout_ms
            )
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


def _fail_all(waiters: list[asyncio.Future[Receipt]], error: BaseException) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(error)
