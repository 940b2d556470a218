"""Batches while they are gathered, and the terms that the messages of one have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from p2pmq.core.packets.publishing import (
    BATCH_MESSAGES_MAX,
    FRAME_BYTES_MAX,
    ID_HASH_BYTES,
    NO_KEY,
)
from p2pmq.core.quota import cost_of
from p2pmq.wire.bodies import PackedBodies

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable

    from p2pmq.core.events import Confirmation
    from p2pmq.node.ordering import OrderingKey
    from p2pmq.node.receipts import Receipt
    from p2pmq.wire.bodies import Keys

BULK_MESSAGES = 512
"""How many messages `publish_many` puts into one batch at the most."""
BULK_BYTES = FRAME_BYTES_MAX - 16 * 1024
"""… and how many bytes of bodies: the frame stays under its bound with the columns beside."""


KNOWN_TERMS_MAX = 256


class Terms(NamedTuple):
    """What a publisher asks for: messages of one batch have the same.

    `timeout_ms` ends the wait for what is `wanted`; `ttl_ms`, `priority` and `delay_ms` are as in
    `Batch`. `count_max` and `bytes_max` are what a batch may hold, where the queue has limits;
    `partitions` is over how many the queue is spread.
    """

    wanted: Confirmation
    timeout_ms: int
    ttl_ms: int = 0
    priority: int = 0
    delay_ms: int = 0
    count_max: int = BATCH_MESSAGES_MAX
    bytes_max: int = BULK_BYTES
    partitions: int = 1


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
