"""A user's arguments, checked before anything is sent, in the form that the core takes."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from p2pmq.core.events import Confirmation
from p2pmq.core.ids import PartitionKey
from p2pmq.core.names import DEAD_LETTERS, MAILBOX, check_queue_name, mailbox_of
from p2pmq.core.packets.publishing import ID_HASH_BYTES, PRIORITY_MAX
from p2pmq.core.packets.registry import ITEMS_MAX
from p2pmq.core.topics import check_pattern, check_responder, check_topic
from p2pmq.errors import QueueNameError, UsageError

MS_MAX = 2**42
"""139 years: the most that a packet's `Milliseconds` hold. What is longer means for ever."""
NAME_BYTES_MAX = 255
PREFETCH_MAX = ITEMS_MAX
"""An attach lists all that its consumer holds, in one packet."""

CONFIRMATIONS = {
    "committed": Confirmation.COMMITTED,
    "stored": Confirmation.STORED,
    "none": Confirmation.NONE,
}


def to_ms(seconds: float, least_ms: int = 0) -> int:
    """Whole milliseconds, at the most MS_MAX; raises UsageError below `least_ms`, or for NaN."""
    if not seconds >= least_ms / 1000:
        raise UsageError(
            f"a time of {seconds} s makes no sense here: give {least_ms / 1000:g} s or more"
        )
    return round(min(seconds * 1000, MS_MAX))


@lru_cache(maxsize=4_096)
def key_of(queue: str) -> PartitionKey:
    """The partition of a queue to publish to or consume; remembered, since every publish asks.

    Raises QueueNameError.
    """
    key = place_of(queue)
    if queue.startswith(MAILBOX):
        raise QueueNameError(
            f"the queue name {queue!r} is a mailbox's: send to it with "
            f"node.send({queue[1:]!r}, …), and read your own with node.inbox()"
        )
    return key


def reading_key_of(queue: str) -> PartitionKey:
    """The partition of a queue to consume: those of a mailbox's dead letters, too.

    Raises QueueNameError.
    """
    return place_of(queue) if queue.endswith(DEAD_LETTERS) else key_of(queue)


def place_of(queue: str) -> PartitionKey:
    """The partition of any queue, mailboxes too. Raises QueueNameError."""
    check_queue_name(queue)
    return PartitionKey(queue, 0)


@lru_cache(maxsize=4_096)
def mailbox_key(name: str) -> PartitionKey:
    """The partition that is a node's mailbox. Raises UsageError."""
    check_name("node", name)
    return place_of(mailbox_of(name))


@lru_cache(maxsize=4_096)
def topic_of(topic: str) -> str:
    """The topic to emit to; remembered, since every emit asks. Raises TopicError."""
    check_topic(topic)
    return topic


@lru_cache(maxsize=4_096)
def responder_of(name: str) -> str:
    """The name to ask or to answer to; remembered. Raises TopicError."""
    check_responder(name)
    return name


def patterns_of(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Patterns to subscribe to, each once. Raises TopicError, UsageError."""
    if not patterns:
        raise UsageError("a subscription without a pattern gets nothing: give it one or more")
    for pattern in patterns:
        check_pattern(pattern)
    return tuple(dict.fromkeys(patterns))


def confirmation_of(confirm: str) -> Confirmation:
    """What to wait for."""
    try:
        return CONFIRMATIONS[confirm]
    except KeyError:
        raise UsageError(
            f"confirm={confirm!r} is unknown: use 'committed', 'stored' or 'none'"
        ) from None


def check_name(what: str, name: str) -> None:
    """Raise UsageError if this cannot be the name of a node or a mesh."""
    size = len(name.encode("utf-8", "surrogatepass"))
    if not 0 < size <= NAME_BYTES_MAX or not name.isprintable():
        raise UsageError(
            f"the {what} name {name[:40]!r} cannot be used: 1 to {NAME_BYTES_MAX} bytes of "
            "printable text are needed"
        )


def checked_priority(priority: int) -> int:
    """The priority; raises UsageError unless it is 0 to 9."""
    if priority not in range(PRIORITY_MAX + 1):
        raise UsageError(
            f"priority={priority!r} cannot be: give 0 to {PRIORITY_MAX}, the higher the more urgent"
        )
    return priority


def hashed_id(id_: str) -> bytes:
    """The hash of a message's id, as it travels; raises UsageError for an empty or odd one."""
    if not id_:
        raise UsageError("an empty id names no message: give some text, or no id")
    data = id_.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=ID_HASH_BYTES).digest()


def check_prefetch(prefetch: int) -> None:
    """Raise UsageError if nothing could be delivered with it, or more than a packet can list."""
    if not 1 <= prefetch <= PREFETCH_MAX:
        raise UsageError(
            f"a prefetch of {prefetch:,} cannot be: give 1 to {PREFETCH_MAX:,} (a few thousand "
            "keep any consumer busy)"
        )
