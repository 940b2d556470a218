"""Spreading: over how many partitions a queue is spread, and into which of them a message goes.

Each partition is on its own: owner, order, copies and dots. So what must meet has to
come to one place, whoever sends it there: messages of one ordering key, of one id, and
those whose dots are derived, which are published again by whoever does the same work
again. All of it is computed from hashes that travel anyway, never from `hash()`, and
depends on the number of partitions alone, which only ever rises.

Invariant: with one partition everything is in number 0.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from p2pmq.core.packets.publishing import KEY_HASH_BYTES, NO_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pmq.core.ids import Session
    from p2pmq.core.packets.publishing import Batch
    from p2pmq.core.packets.registering import QueueSettings

DERIVED_BITS = 9
"""So many consecutive seqs (512) of a derived session go into one partition: they stay intervals,
and the work of a single publisher is spread all the same."""


def partitions_of(settings: QueueSettings | None) -> int:
    """How many partitions a queue of these settings has."""
    return settings.partitions or 1 if settings is not None else 1


def of_hash(hashed: bytes, partitions: int) -> int:
    """The partition of the messages whose ordering key, or id, has this hash."""
    return int.from_bytes(hashed) % partitions


def of_derived(session: Session, seq: int, partitions: int) -> int:
    """The partition of a message with a derived dot and no key."""
    return (int.from_bytes(session) + (seq >> DERIVED_BITS)) % partitions


def by_partition(batch: Batch, partitions: int) -> Iterator[tuple[int, Batch]]:
    """A batch with derived dots, cut where the next message goes into another partition."""
    if partitions == 1:
        yield 0, batch
        return
    first = batch.first
    into = _of_message(batch, first, partitions)
    for seq in range(first + 1, batch.last + 1):
        following = _of_message(batch, seq, partitions)
        if following != into:
            yield into, batch.part(first, seq - 1)
            first, into = seq, following
    yield into, batch.part(first, batch.last)


def _of_message(batch: Batch, seq: int, partitions: int) -> int:
    at = KEY_HASH_BYTES * (seq - batch.first)
    key = batch.keys[at : at + KEY_HASH_BYTES] if batch.keys else NO_KEY
    if key == NO_KEY:
        return of_derived(batch.session, seq, partitions)
    return of_hash(key, partitions)


def share_of(limit: int, partitions: int) -> int:
    """What one partition may have of a limit on the whole queue: rounded up; 0 stays none."""
    return -(-limit // partitions)


def shares_of(settings: QueueSettings) -> QueueSettings:
    """The settings with limits as they are for one partition."""
    partitions = partitions_of(settings)
    if partitions == 1:
        return settings
    return replace(
        settings,
        max_messages=share_of(settings.max_messages, partitions),
        max_bytes=share_of(settings.max_bytes, partitions),
        retain_bytes=share_of(settings.retain_bytes, partitions),
    )


def message_name(session: Session, seq: int, partition: int) -> str:
    """A message's name for ever: dots count in each partition by itself, so that it is said."""
    return f"{session.hex()}.{partition}-{seq}" if partition else f"{session.hex()}-{seq}"
