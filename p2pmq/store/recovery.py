"""What a store holds when it is opened: who the node is, and all but the bodies.

Bodies stay on the disk, so that a backlog of a million messages is found again
by reading one small row for each batch.

Invariant: a row that cannot be read stops the opening. A batch that is left out
might be covered by `seen` and be taken for acked by a merge; a store that comes
back empty, under a new id, is not.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from p2pmq.core.ids import ID_BYTES, PartitionKey
from p2pmq.core.packets.publishing import Batch
from p2pmq.core.records import (
    HorizonMoved,
    Recovered,
    RecoveredBatch,
    SeenChanged,
    Space,
    StoredBodies,
)
from p2pmq.errors import DataDirectoryError
from p2pmq.store.layout import (
    BINDING,
    FILLED,
    FORMAT,
    HORIZON,
    PROCESSED,
    REFILLING,
    SCHEDULE,
    LayoutError,
    seal,
    split_batch_key,
    split_filled_key,
    split_id_key,
    unpack_binding,
    unpack_horizon,
    unpack_meta,
    unpack_partition,
    unpack_processed,
    unpack_queue,
    unpack_rumour,
    unpack_schedule,
    unpack_seen,
    unseal,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import lmdb

    from p2pmq.core.packets.membership import Rumour
    from p2pmq.core.packets.registering import QueueRecord
    from p2pmq.store.writes import Table, Tables

FORMAT_KEY = b"format"
NODE_KEY = b"node_id"
STORE_KEY = b"store_id"
BOOT_KEY = b"boot"
INCARNATION_KEY = b"incarnation"

PartitionIds = dict[tuple[Space, PartitionKey], int]


class Identity(NamedTuple):
    """Who the node is; the boot number is raised already."""

    node_id: bytes
    store_id: bytes
    boot: int
    incarnation: int


def start(
    txn: lmdb.Transaction, tables: Tables, path: Path, node_id: bytes | None, *, is_new: bool
) -> Identity:
    """Draw the ids of a new store, or check those of an old one; raise its boot number.

    Raises DataDirectoryError if the store is another version's or another node's.
    """

    def put(key: bytes, value: bytes) -> None:
        txn.put(key, seal(key, value), db=tables.identity)

    if is_new:
        put(FORMAT_KEY, _number(FORMAT))
        put(NODE_KEY, node_id or os.urandom(ID_BYTES))
        put(STORE_KEY, os.urandom(ID_BYTES))
        put(BOOT_KEY, _number(0))
        put(INCARNATION_KEY, _number(0))
    values = {key: unseal(key, row) for key, row in _rows(txn, tables.identity)}
    if FORMAT_KEY not in values:
        raise DataDirectoryError(str(path), "it holds an LMDB database of something else")
    found = _to_int(values[FORMAT_KEY])
    if found != FORMAT:
        raise DataDirectoryError(
            str(path),
            f"its store has format {found}, and this p2pmq reads format {FORMAT} "
            "(start the version that wrote it, or upgrade this one)",
        )
    try:
        identity = Identity(
            values[NODE_KEY],
            values[STORE_KEY],
            _to_int(values[BOOT_KEY]) + 1,
            _to_int(values[INCARNATION_KEY]),
        )
    except KeyError as error:
        raise LayoutError(f"the row {error} is missing") from error
    if node_id is not None and identity.node_id != node_id:
        raise DataDirectoryError(
            str(path), f"it belongs to node {identity.node_id.hex()}, not to {node_id.hex()}"
        )
    put(BOOT_KEY, _number(identity.boot))
    _drop_unused(txn, tables)
    return identity


def incarnation_row(incarnation: int) -> tuple[bytes, bytes]:
    """Key and value of this node's incarnation in `identity`."""
    return INCARNATION_KEY, _number(incarnation)


def recover(
    txn: lmdb.Transaction, tables: Tables, identity: Identity
) -> tuple[Recovered, PartitionIds]:
    """What is there, and the ids of the partitions. Raises LayoutError."""
    partitions: dict[int, tuple[Space, PartitionKey]] = {}
    for key, row in _rows(txn, tables.partitions):
        partition_id, rest = split_id_key(key)
        if rest:
            raise LayoutError(f"{key.hex()} is no partition's key")
        partitions[partition_id] = unpack_partition(unseal(key, row))
    batches = _batches(txn, tables, partitions)
    seen = _seen(txn, tables, partitions)
    notes = {key: unseal(key, row) for key, row in _rows(txn, tables.notes)}
    recovered = Recovered(
        node_id=identity.node_id,
        store_id=identity.store_id,
        boot=identity.boot,
        incarnation=identity.incarnation,
        batches=batches,
        seen=seen,
        members=_members(txn, tables),
        queues=_queues(txn, tables),
        refilling=REFILLING in notes,
        filled=tuple(sorted(split_filled_key(key) for key in notes if key.startswith(FILLED))),
        horizons=tuple(
            HorizonMoved(*unpack_horizon(key, notes[key]))
            for key in sorted(notes)
            if key.startswith(HORIZON)
        ),
        processed=tuple(
            unpack_processed(key, notes[key]) for key in sorted(notes) if key.startswith(PROCESSED)
        ),
        bindings=tuple(
            unpack_binding(notes[key]) for key in sorted(notes) if key.startswith(BINDING)
        ),
        schedules=tuple(
            unpack_schedule(notes[key]) for key in sorted(notes) if key.startswith(SCHEDULE)
        ),
    )
    return recovered, {where: partition_id for partition_id, where in partitions.items()}


def _drop_unused(txn: lmdb.Transaction, tables: Tables) -> None:
    """Delete the rows of partitions that hold nothing."""
    for prefix, _ in list(_rows(txn, tables.partitions)):
        if not any(_holds(txn, table, prefix) for table in (tables.meta, tables.seen)):
            txn.delete(prefix, db=tables.partitions)


def _holds(txn: lmdb.Transaction, table: Table, prefix: bytes) -> bool:
    with txn.cursor(db=table) as cursor:
        return bool(cursor.set_range(prefix)) and bytes(cursor.key()).startswith(prefix)


def _batches(
    txn: lmdb.Transaction, tables: Tables, partitions: dict[int, tuple[Space, PartitionKey]]
) -> tuple[RecoveredBatch, ...]:
    found: dict[int, list[RecoveredBatch]] = {}
    for stored_key, row in _rows(txn, tables.meta):
        partition_id, number = split_batch_key(stored_key)
        try:
            space, key = partitions[partition_id]
        except KeyError:
            raise LayoutError(f"partition {partition_id} of batch {number} is missing") from None
        meta = unpack_meta(unseal(stored_key, row))
        batch = Batch(
            session=meta.session,
            first=meta.first,
            count=meta.length,
            size=meta.size,
            bodies=StoredBodies(space, key, number, 0, meta.length),
            stamp=meta.stamp,
            priority=meta.priority,
            dead=meta.dead,
            delay_ms=meta.delay_ms,
            keys=meta.keys,
            ids=meta.ids,
            retained=meta.retained,
        )
        alive = ((meta.first, batch.last),) if meta.alive is None else meta.alive
        times = meta.expires_ms, meta.due_ms
        batch_found = RecoveredBatch(space, key, number, batch, alive, meta.unseen, *times)
        found.setdefault(partition_id, []).append(batch_found)
    in_order = sorted(found, key=partitions.__getitem__)
    return tuple(batch for partition_id in in_order for batch in found[partition_id])


def _seen(
    txn: lmdb.Transaction, tables: Tables, partitions: dict[int, tuple[Space, PartitionKey]]
) -> tuple[SeenChanged, ...]:
    found = []
    for stored_key, row in _rows(txn, tables.seen):
        partition_id, session = split_id_key(stored_key)
        try:
            _, key = partitions[partition_id]
        except KeyError:
            raise LayoutError(f"partition {partition_id} of a session is missing") from None
        seqs, touched = unpack_seen(unseal(stored_key, row))
        found.append(SeenChanged(key, session, seqs, touched))
    found.sort(key=lambda seen: (seen.key, seen.session))
    return tuple(found)


def _members(txn: lmdb.Transaction, tables: Tables) -> tuple[Rumour, ...]:
    return tuple(unpack_rumour(unseal(key, row)) for key, row in _rows(txn, tables.members))


def _queues(txn: lmdb.Transaction, tables: Tables) -> tuple[QueueRecord, ...]:
    return tuple(unpack_queue(unseal(key, row)) for key, row in _rows(txn, tables.queues))


def _rows(txn: lmdb.Transaction, table: Table) -> Iterator[tuple[bytes, bytes]]:
    with txn.cursor(db=table) as cursor:
        for key, row in cursor:
            yield bytes(key), bytes(row)


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def _to_int(value: bytes) -> int:
    return int.from_bytes(value, "big")
