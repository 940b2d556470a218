"""Packets of publishing: batches to the owner, confirms back; and the batch itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Protocol

from p2pmq.core.ids import Run
from p2pmq.core.packets.registry import (
    ITEMS_MAX,
    U8,
    U16,
    U32,
    U64,
    Id,
    Milliseconds,
    NameText,
    Packet,
    Range,
    Seq,
    ShortText,
    Size,
    Struct,
    packet,
    struct,
)

BATCH_MESSAGES_MAX = 4096
PRIORITY_MAX = 9
ERROR_BYTES_MAX = 1_024
"""Of an error's text in UTF-8: so much is kept."""
KEY_HASH_BYTES = 8
"""Of an ordering key the core knows a hash: two keys that share one only wait for each other."""
NO_KEY = bytes(KEY_HASH_BYTES)
"""In `Batch.keys`: this message has no key."""
ID_HASH_BYTES = 16
"""Of a message's id, as its user gave it: a hash is all that travels."""
FRAME_BYTES_MAX = 256 * 1024
"""A data frame stays under this where the bodies allow, so that probes never wait long."""


class Bodies(Protocol):
    """The bodies of a batch, with their formats and headers: opaque to the core.

    The core only passes them on or takes a part. `wire.bodies` has the real
    ones; `records.StoredBodies` says where they lie in the store. On the wire
    each `Bodies` is a frame of its own, never encoded again on the way.
    """

    def part(self, start: int, stop: int) -> Bodies:
        """The bodies at positions start … stop - 1."""
        ...


@struct
class Death(Struct):
    """Why messages are dead letters: a reason, where they come from, what was said last.

    `failures` is how often they had failed, `error` what was said of it the last time.
    """

    reason: ShortText
    dead_queue: Annotated[str, Size(0, 255)] = ""
    error: Annotated[str, Size(0, ERROR_BYTES_MAX)] = ""
    failures: U32 = 0


@struct
class Batch(Struct):
    """Messages of one publisher with consecutive seqs, as columns; a default column is None.

    `size` is the bodies' total in bytes. `stamp` is the owner's hybrid-clock
    stamp, 0 until an owner has appended the batch. `ttl_ms` is how much longer
    the messages live, as of when the batch was sent or written (0: for ever):
    never a point in time, which another node's clock would misjudge. `priority`
    is 0 … 9, the higher the more urgent, as in RabbitMQ. `dead` has one item if these
    are dead letters. `delay_ms` is how much longer nobody is to get the messages, told
    as `ttl_ms` is. `keys` is empty, or has KEY_HASH_BYTES for each message: the hash of
    its ordering key, or NO_KEY. `ids` are hashes of the users' ids of the messages, 16 bytes
    each (zeros: it has none), or nothing; from an owner on only a *marker* has them
    (`core.dedup`). `retained`: a copy to be read again (`core.replays`).
    """

    session: Id
    first: Seq
    count: Annotated[int, Range(1, BATCH_MESSAGES_MAX)]
    size: U64
    bodies: Bodies
    stamp: U64 = 0
    ttl_ms: Milliseconds = 0
    priority: Annotated[int, Range(0, PRIORITY_MAX)] = 0
    dead: Annotated[tuple[Death, ...], Size(0, 1)] = ()
    delay_ms: Milliseconds = 0
    keys: Annotated[bytes, Size(0, KEY_HASH_BYTES * BATCH_MESSAGES_MAX)] = b""
    ids: Annotated[bytes, Size(0, ID_HASH_BYTES * BATCH_MESSAGES_MAX)] = b""
    retained: bool = False

    @property
    def last(self) -> int:
        """The last seq."""
        return self.first + self.count - 1

    @property
    def run(self) -> Run:
        """The dots of the batch."""
        return Run(self.session, self.first, self.first + self.count - 1)

    def after(self, waited_ms: int) -> Batch:
        """The batch with what is left of its times after it has waited here for so long."""
        if not waited_ms or not (self.ttl_ms or self.delay_ms):
            return self
        ttl_ms = max(1, self.ttl_ms - waited_ms) if self.ttl_ms else 0
        return replace(self, ttl_ms=ttl_ms, delay_ms=max(0, self.delay_ms - waited_ms))

    def part(self, first: int, last: int) -> Batch:
        """The messages first … last of it; `size` is shared out in proportion."""
        if first == self.first and last == self.last:
            return self
        start, stop = first - self.first, last - self.first + 1
        return replace(
            self,
            first=first,
            count=stop - start,
            size=self.size * (stop - start) // self.count,
            bodies=self.bodies.part(start, stop),
            keys=self.keys[KEY_HASH_BYTES * start : KEY_HASH_BYTES * stop],
            ids=self.ids[start * ID_HASH_BYTES : stop * ID_HASH_BYTES],
        )


@struct
class RunField(Struct):
    """A run of dots, as a field."""

    session: Id
    first: Seq
    last: Seq


Runs = Annotated[tuple[RunField, ...], Size(0, ITEMS_MAX)]


@packet(20, bulk=True)
class Publish(Packet):
    """Append the batch to the partition, durably, and confirm.

    `previous` is the last seq of the publisher's preceding batch that is not
    confirmed yet, 0 if there is none: the owner takes a batch only after that
    one, which keeps a publisher's order when packets are lost.
    """

    queue: NameText
    partition: U16
    previous: U64
    batch: Batch


@packet(21)
class Confirm(Packet):
    """The dots are committed, on `copies` distinct disks."""

    queue: NameText
    partition: U16
    runs: Runs
    copies: U8


@packet(22)
class Gap(Packet):
    """A batch came without the one before it: send again from the first unconfirmed."""

    queue: NameText
    partition: U16
    session: Id


@packet(23)
class PublishRefused(Packet):
    """The batch was not taken; keep it and try later. `reason` is one of `REFUSED`.

    Where that is REFUSED_REJECTED it is not to be tried again: the publisher lets go of it.
    """

    queue: NameText
    partition: U16
    session: Id
    first: Seq
    reason: U8


@packet(24)
class Moved(Packet):
    """This node does not own the partition; `owner` does, as far as it knows (8 zeros: none)."""

    queue: NameText
    partition: U16
    owner: Id


REFUSED_DISK_FULL = 1
REFUSED_READ_ONLY = 2
REFUSED_ALONE = 3
REFUSED_QUEUE_FULL = 4
REFUSED_REJECTED = 5
REFUSED = {
    REFUSED_DISK_FULL: "the owner's disk is full",
    REFUSED_READ_ONLY: "the owner's disk failed",
    REFUSED_ALONE: "the owner cannot reach enough of the queue's other homes",
    REFUSED_QUEUE_FULL: "the queue is full",
    REFUSED_REJECTED: "the queue is full, and rejects new messages",
}


@packet(50)
class StatsRequest(Packet):
    """How deep are your queues? An empty `queue` asks for all that you own."""

    number: U32
    queue: Annotated[str, Size(0, 255)] = ""


@struct
class QueueStats(Struct):
    """One partition as its owner sees it. Counts of messages; `size` in bytes.

    `scheduled` are those of the `delayed` that their publisher wants delivered later.
    `replicas` and `min_copies` are the settings in force there; 0 from an owner that says none.
    """

    queue: NameText
    partition: U16
    ready: U64
    in_flight: U64
    delayed: U64
    size: U64
    consumers: U32
    replicas: U8 = 0
    min_copies: U8 = 0
    scheduled: U64 = 0


@packet(51)
class StatsReply(Packet):
    """The answer to StatsRequest `number`."""

    number: U32
    queues: Annotated[tuple[QueueStats, ...], Size(0, ITEMS_MAX)]
