"""Rows of the LMDB store: how records become keys and values.

Fixed binary rows, since a million of them are read at start; only members,
which are few and gain fields with time, are JSON. LMDB checks no page, so that
each row ends in a CRC-32 over its key and its value: a flipped bit in it is
found when it is read, and a row moved under another key as well. Bodies have
checksums of their own, one for each message (`wire.bodies`).

Invariant: keys sort as (partition id, batch number), so that one partition lies
together; what is unpacked here is what was packed, or LayoutError.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from p2pmq.core.ids import PartitionKey
from p2pmq.core.packets.binding import BindingRecord
from p2pmq.core.packets.membership import Rumour
from p2pmq.core.packets.publishing import KEY_HASH_BYTES, Death
from p2pmq.core.packets.registering import QueueRecord, QueueSettings
from p2pmq.core.packets.scheduling import ScheduleRecord
from p2pmq.core.records import ProcessedChanged, Space

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pmq.core.intervals import Interval
    from p2pmq.core.packets.publishing import Batch
    from p2pmq.core.packets.registry import Struct

S = TypeVar("S", bound="Struct")
FORMAT = 1
"""Raised when an older p2pmq could not read what this one writes."""

REFILLING = b"refilling"
"""The key of a note: it is there while the node is refilling."""
FILLED = b"filled/"
"""… and what those begin with that say of which partitions it is not any more."""

PROCESSED = b"once/"
"""… and those that hold a block of what consumers of this node have processed."""
SCHEDULE = b"schedule/"
"""… and those that hold a schedule."""

BINDING = b"binding/"
"""… and those that hold a pair of pattern and queue."""

HORIZON = b"horizon/"
"""… and those that say up to when what was acked in a partition may be forgotten."""

NUMBER_BYTES = 4
_BATCH_KEY = struct.Struct(">IQ")
_PARTITION_ID = struct.Struct(">I")
_CRC = struct.Struct("<I")
_META = struct.Struct("<8sQIQQQIIQB")
_PARTITION = struct.Struct("<BI")
_STAMP = struct.Struct("<Q")
_PROCESSED = struct.Struct("<QH")
_DEATH = struct.Struct("<IHHH")
_DELAY = struct.Struct("<QQ")
_ALL_ALIVE = 2**32 - 1
_IS_DEAD = 2**31
"""Beside the number of blobs: what makes dead letters of the batch follows …"""
_HAS_IDS = 2**30
"""… and the hashes that a marker remembers …"""
_IS_COPY = 2**29
_IS_DELAYED = 2**28
"""… and when it is due, and what its delay was when it was written …"""
_HAS_KEYS = 2**27
"""… and, before those of a marker, the hashes of ordering keys."""
_SIZE = struct.Struct("<I")


class LayoutError(ValueError):
    """A row is not what was written."""


class Kept(NamedTuple):
    """Positions start … stop - 1 of a batch, whose bodies are one blob of `size` bytes."""

    start: int
    stop: int
    size: int


class Meta(NamedTuple):
    """What is known of a stored batch without its bodies.

    `length` is how many messages it had. `alive` None: all of it. `kept` are the blobs
    that lie one after another in the bodies' row: one, until the batch was
    rewritten without its dead bodies. `unseen` are the seqs that it does not prove seen.
    `dead`, `keys` and `delay_ms` are as in `Batch`, `due_ms` is as in `BatchStored`.
    """

    session: bytes
    first: int
    length: int
    size: int
    stamp: int
    alive: tuple[Interval, ...] | None
    kept: tuple[Kept, ...]
    expires_ms: int = 0
    priority: int = 0
    unseen: tuple[Interval, ...] = ()
    dead: tuple[Death, ...] = ()
    keys: bytes = b""
    ids: bytes = b""
    retained: bool = False
    due_ms: int = 0
    delay_ms: int = 0


def seal(key: bytes, value: bytes) -> bytes:
    """The value with a checksum over it and its key."""
    return value + _CRC.pack(zlib.crc32(value, zlib.crc32(key)))


def unseal(key: bytes, row: bytes) -> bytes:
    """The value of a sealed row. Raises LayoutError."""
    value = row[:-4]
    if len(row) < _CRC.size or row[-4:] != _CRC.pack(zlib.crc32(value, zlib.crc32(key))):
        raise LayoutError(f"the row of key {key.hex()} has a wrong checksum")
    return value


def batch_key(partition_id: int, number: int) -> bytes:
    """The key of a batch in `meta` and `bodies`."""
    return _BATCH_KEY.pack(partition_id, number)


def split_batch_key(key: bytes) -> tuple[int, int]:
    """(partition id, batch number). Raises LayoutError."""
    if len(key) != _BATCH_KEY.size:
        raise LayoutError(f"{key.hex()} is no batch's key")
    partition_id, number = _BATCH_KEY.unpack(key)
    return partition_id, number


def id_key(partition_id: int) -> bytes:
    """The key of a partition; also what all keys of its batches and sessions begin with."""
    return _PARTITION_ID.pack(partition_id)


def split_id_key(key: bytes) -> tuple[int, bytes]:
    """(partition id, what follows it). Raises LayoutError."""
    if len(key) < _PARTITION_ID.size:
        raise LayoutError(f"{key.hex()} is too short for a key")
    return _PARTITION_ID.unpack_from(key)[0], key[_PARTITION_ID.size :]


def pack_partition(space: Space, key: PartitionKey) -> bytes:
    """The value of a partition."""
    return _PARTITION.pack(space, key.number) + key.queue.encode("utf-8", "surrogatepass")


def unpack_partition(value: bytes) -> tuple[Space, PartitionKey]:
    """What `pack_partition` packed. Raises LayoutError."""
    try:
        space, number = _PARTITION.unpack_from(value)
        queue = value[_PARTITION.size :].decode("utf-8", "surrogatepass")
        return Space(space), PartitionKey(queue, number)
    except (struct.error, ValueError) as error:
        raise LayoutError(f"a partition's row cannot be read: {error}") from error


def filled_key(key: PartitionKey) -> bytes:
    """The key of the note that a partition is filled; by name, as its number may be used again."""
    return FILLED + pack_partition(Space.PARTITION, key)


def horizon_key(key: PartitionKey) -> bytes:
    """The key of the note that says a partition's horizon."""
    return HORIZON + pack_partition(Space.PARTITION, key)


def pack_stamp(stamp: int) -> bytes:
    """A stamp of the hybrid clock."""
    return _STAMP.pack(stamp)


def unpack_horizon(key: bytes, value: bytes) -> tuple[PartitionKey, int]:
    """The partition and the horizon of such a note. Raises LayoutError."""
    if len(value) != _STAMP.size:
        raise LayoutError("a horizon is cut short")
    return unpack_partition(key.removeprefix(HORIZON))[1], _STAMP.unpack(value)[0]


def split_filled_key(key: bytes) -> PartitionKey:
    """The partition of such a note. Raises LayoutError."""
    return unpack_partition(key.removeprefix(FILLED))[1]


def pack_intervals(intervals: Sequence[Interval]) -> bytes:
    """Intervals as unsigned 64-bit numbers."""
    return struct.pack(f"<{2 * len(intervals)}Q", *(end for pair in intervals for end in pair))


def unpack_intervals(value: bytes) -> tuple[Interval, ...]:
    """What `pack_intervals` packed. Raises LayoutError."""
    if len(value) % 16:
        raise LayoutError("intervals are cut short")
    return tuple(struct.iter_unpack("<QQ", value))


def pack_seen(seqs: Sequence[Interval], touched: int) -> bytes:
    """What a partition has seen of a session, and when that last changed."""
    return pack_intervals(seqs) + pack_stamp(touched)


def unpack_seen(value: bytes) -> tuple[tuple[Interval, ...], int]:
    """What `pack_seen` packed, or an older version: intervals alone. Raises LayoutError."""
    if len(value) % 16 == _STAMP.size:
        end = len(value) - _STAMP.size
        return unpack_intervals(value[:end]), _STAMP.unpack_from(value, end)[0]
    return unpack_intervals(value), 0


def meta_of(batch: Batch, blob_bytes: int, expires_ms: int, due_ms: int = 0) -> Meta:
    """The row of a batch that is stored now, all of it alive."""
    return Meta(
        batch.session,
        batch.first,
        batch.count,
        batch.size,
        batch.stamp,
        alive=None,
        kept=(Kept(0, batch.count, blob_bytes),),
        expires_ms=expires_ms,
        priority=batch.priority,
        dead=batch.dead,
        keys=batch.keys,
        ids=batch.ids,
        retained=batch.retained,
        due_ms=due_ms,
        delay_ms=batch.delay_ms,
    )


def pack_meta(meta: Meta) -> bytes:
    """The value of a batch in `meta`."""
    session, first, count, size, stamp, alive, kept, expires_ms, priority, unseen = meta[:10]
    plain = len(kept) == 1 and kept[0].start == 0 and kept[0].stop == count
    blob_bytes = sum(part.size for part in kept)
    flags = (
        (_IS_DEAD if meta.dead else 0)
        | (_HAS_IDS if meta.ids else 0)
        | (_IS_COPY if meta.retained else 0)
        | (_IS_DELAYED if meta.due_ms else 0)
        | (_HAS_KEYS if meta.keys else 0)
    )
    head = _META.pack(
        session,
        first,
        count,
        size,
        stamp,
        blob_bytes,
        _ALL_ALIVE if alive is None else len(alive),
        (0 if plain else len(kept)) | flags,
        expires_ms,
        priority,
    )
    if alive:
        head += pack_intervals(alive)
    if not plain:
        head += struct.pack(f"<{3 * len(kept)}Q", *(n for part in kept for n in part))
    for death in meta.dead:
        head += _pack_death(death)
    head += meta.keys
    if meta.ids:
        head += _SIZE.pack(len(meta.ids)) + meta.ids
    if meta.due_ms:
        head += _DELAY.pack(meta.due_ms, meta.delay_ms)
    return head + pack_intervals(unseen) if unseen else head


def unpack_meta(value: bytes) -> Meta:
    """What `pack_meta` packed. Raises LayoutError."""
    try:
        head = _META.unpack_from(value)
    except struct.error as error:
        raise LayoutError(f"a batch's row cannot be read: {error}") from error
    session, first, count, size, stamp, blob_bytes, alives, parts, expires_ms, priority = head
    if alives == _ALL_ALIVE and not parts and len(value) == _META.size:
        kept: tuple[Kept, ...] = (Kept(0, count, blob_bytes),)
        return Meta(session, first, count, size, stamp, None, kept, expires_ms, priority)
    dead, has_ids, delayed = parts & _IS_DEAD, parts & _HAS_IDS, parts & _IS_DELAYED
    retained, has_keys = bool(parts & _IS_COPY), parts & _HAS_KEYS
    parts &= ~(_IS_DEAD | _HAS_IDS | _IS_COPY | _IS_DELAYED | _HAS_KEYS)
    alive = None if alives == _ALL_ALIVE else alives
    middle = _META.size + 16 * (alive or 0)
    end = middle + 24 * parts
    if len(value) < end:
        raise LayoutError("a batch's row has a wrong length")
    intervals = None if alive is None else unpack_intervals(value[_META.size : middle])
    kept = tuple(Kept(*part) for part in struct.iter_unpack("<QQQ", value[middle:end]))
    whole = (Kept(0, count, blob_bytes),)
    deaths, end = _unpack_death(value, end) if dead else ((), end)
    keys_end = end + KEY_HASH_BYTES * count if has_keys else end
    if len(value) < keys_end:
        raise LayoutError("the hashes of a batch's keys are cut short")
    keys, end = value[end:keys_end], keys_end
    ids, end = _unpack_ids(value, end) if has_ids else (b"", end)
    delay, end = _unpack_delay(value, end) if delayed else ((0, 0), end)
    unseen = unpack_intervals(value[end:])
    head = (session, first, count, size, stamp, intervals, kept or whole, expires_ms, priority)
    return Meta(*head, unseen, deaths, keys, ids, retained, *delay)


def _unpack_ids(value: bytes, at: int) -> tuple[bytes, int]:
    """The hashes of ids, and where the row goes on."""
    try:
        end = at + _SIZE.size + _SIZE.unpack_from(value, at)[0]
    except struct.error as error:
        raise LayoutError(f"a marker's row cannot be read: {error}") from error
    if len(value) < end:
        raise LayoutError("a marker's row is cut short")
    return value[at + _SIZE.size : end], end


def _unpack_delay(value: bytes, at: int) -> tuple[tuple[int, int], int]:
    """When a batch is due, and what its delay was; and where the row goes on."""
    try:
        due_ms, delay_ms = _DELAY.unpack_from(value, at)
    except struct.error as error:
        raise LayoutError(f"a scheduled batch's row cannot be read: {error}") from error
    return (due_ms, delay_ms), at + _DELAY.size


def _pack_death(death: Death) -> bytes:
    texts = [t.encode("utf-8", "surrogatepass") for t in (death.reason, death.dead_queue)]
    texts.append(death.error.encode())
    return _DEATH.pack(death.failures, *map(len, texts)) + b"".join(texts)


def _unpack_death(value: bytes, at: int) -> tuple[tuple[Death, ...], int]:
    """Why messages are dead letters, and where the row goes on."""
    try:
        failures, *sizes = _DEATH.unpack_from(value, at)
        at += _DEATH.size
        texts = []
        for size in sizes:
            if len(value) < at + size:
                raise LayoutError("a dead letter's row is cut short")
            texts.append(value[at : at + size].decode("utf-8", "surrogatepass"))
            at += size
        reason, dead_queue, text = texts
        return (Death(reason, dead_queue, text, failures),), at
    except (struct.error, ValueError) as error:
        raise LayoutError(f"a dead letter's row cannot be read: {error}") from error


def pack_rumour(rumour: Rumour) -> bytes:
    """A member as JSON, by the names of its fields; ids in hex."""
    return json.dumps(_plain(rumour)).encode()


def unpack_rumour(value: bytes) -> Rumour:
    """What `pack_rumour` packed, by this or another version: unknown fields are left out.

    Raises LayoutError.
    """
    return _unpacked(Rumour, value, "a member's row")


def pack_queue(record: QueueRecord) -> bytes:
    """A queue's declaration as JSON, by the names of its fields."""
    return json.dumps(_plain(record) | {"settings": _plain(record.settings)}).encode()


def unpack_queue(value: bytes) -> QueueRecord:
    """What `pack_queue` packed, by this or another version. Raises LayoutError."""
    record = _unpacked(QueueRecord, value, "a queue's row")
    settings = json.dumps(record.settings).encode()
    return dataclasses.replace(record, settings=_unpacked(QueueSettings, settings, "a queue's row"))


def binding_key(record: BindingRecord) -> bytes:
    """The key of a binding's note; hashed, as pattern and queue are longer than keys may be."""
    pair = f"{record.pattern}\n{record.queue}".encode("utf-8", "surrogatepass")
    return BINDING + hashlib.blake2b(pair, digest_size=16).digest()


def pack_binding(record: BindingRecord) -> bytes:
    """A binding as JSON, by the names of its fields."""
    return json.dumps(_plain(record)).encode()


def unpack_binding(value: bytes) -> BindingRecord:
    """What `pack_binding` packed, by this or another version. Raises LayoutError."""
    return _unpacked(BindingRecord, value, "a binding's row")


def processed_key(record: ProcessedChanged) -> bytes:
    """The key of such a block; the queue is hashed, as its name may be longer than a key."""
    where = pack_partition(Space.PARTITION, record.key)
    hashed = hashlib.blake2b(where, digest_size=16).digest()
    return PROCESSED + record.session + record.block.to_bytes(8) + hashed


def pack_processed(record: ProcessedChanged) -> bytes:
    """A block: when it was touched, the queue's name with its length, the intervals."""
    where = pack_partition(Space.PARTITION, record.key)
    return _PROCESSED.pack(record.touched, len(where)) + where + pack_intervals(record.seqs)


def unpack_processed(key: bytes, value: bytes) -> ProcessedChanged:
    """What `pack_processed` packed. Raises LayoutError."""
    start = len(PROCESSED)
    if len(value) < _PROCESSED.size or len(key) != start + 32:
        raise LayoutError("a block of processed messages is cut short")
    touched, size = _PROCESSED.unpack_from(value)
    at = _PROCESSED.size
    _, where = unpack_partition(value[at : at + size])
    session, block = key[start : start + 8], int.from_bytes(key[start + 8 : start + 16])
    return ProcessedChanged(where, session, block, unpack_intervals(value[at + size :]), touched)


def schedule_key(record: ScheduleRecord) -> bytes:
    """The key of a schedule's note."""
    name = record.name.encode("utf-8", "surrogatepass")
    return SCHEDULE + hashlib.blake2b(name, digest_size=16).digest()


def pack_schedule(record: ScheduleRecord) -> bytes:
    """A schedule as JSON, by the names of its fields."""
    return json.dumps(_plain(record)).encode()


def unpack_schedule(value: bytes) -> ScheduleRecord:
    """What `pack_schedule` packed, by this or another version. Raises LayoutError."""
    return _unpacked(ScheduleRecord, value, "a schedule's row")


def _plain(struct: Struct) -> dict[str, object]:
    fields = {f.name: getattr(struct, f.name) for f in dataclasses.fields(struct)}  # type: ignore[arg-type]  # every struct is a dataclass
    return {
        name: {"hex": value.hex()} if isinstance(value, bytes) else value
        for name, value in fields.items()
    }


def _unpacked(cls: type[S], value: bytes, what: str) -> S:
    try:
        plain = json.loads(value)
        fields = {
            field.name: _unplain(plain[field.name])
            for field in dataclasses.fields(cls)  # type: ignore[arg-type]  # every struct is a dataclass
            if field.name in plain
        }
        return cls(**fields)
    except (ValueError, TypeError, KeyError) as error:
        raise LayoutError(f"{what} cannot be read: {error}") from error


def _unplain(value: object) -> object:
    if isinstance(value, dict) and "hex" in value:
        return bytes.fromhex(value["hex"])
    return tuple(value) if isinstance(value, list) else value
