"""The settings of one queue: what a user declares, and what is in force."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

from p2pmq.core.delivery import VISIBILITY_MS_MIN
from p2pmq.core.names import DEAD_LETTERS
from p2pmq.core.packets.publishing import BATCH_MESSAGES_MAX
from p2pmq.core.packets.registering import (
    OVERFLOW_BLOCK,
    OVERFLOW_DROP_OLDEST,
    OVERFLOW_REJECT,
    PARTITIONS_MAX,
    QueueSettings,
)
from p2pmq.core.spreading import partitions_of, shares_of
from p2pmq.errors import UsageError
from p2pmq.node.arguments import to_ms

if TYPE_CHECKING:
    from p2pmq.config import Config, Replication
    from p2pmq.core.machine import Machine

REPLICAS_MAX = 9
"""More copies only cost: four nodes may be lost with nine."""
DELIVERIES_MAX = 2**16 - 1
SETTING_MS_MAX = 2**32 - 1
"""Seven weeks: the most that a declaration holds."""


LIMIT_MAX = 2**63 - 1
BATCHES_MIN = 4
"""A batch takes no more than this part of a queue's limits: batches wait or are rejected whole."""

Overflows = Literal["block", "reject", "drop-oldest"]
OVERFLOWS: dict[Overflows, int] = {
    "block": OVERFLOW_BLOCK,
    "reject": OVERFLOW_REJECT,
    "drop-oldest": OVERFLOW_DROP_OLDEST,
}


class Settings(TypedDict, total=False):
    """What `declare` takes; what is left out, or None, is the mesh's default."""

    replicas: int | None
    min_copies: int | None
    max_deliveries: int | None
    backoff: float | None
    backoff_max: float | None
    visibility_timeout: float | None
    ttl: float | None
    max_messages: int | None
    max_bytes: int | None
    overflow: Overflows | None
    dedup_window: float | None
    retain: float | None
    retain_bytes: int | None
    ageing: float | None
    partitions: int | None


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """The settings of a queue that are in force, as this node knows them. Times in seconds.

    `replicas` is on how many nodes its messages are kept, `min_copies` on how many of
    them a message is fsynced to be committed. Both are as asked for: a mesh with fewer
    nodes keeps what it can. `declared`: somebody declared it; else these are the defaults.
    `dedup_window` is for how long the ids of messages are remembered.
    `retain` is for how long messages can be replayed (None: they cannot), `retain_bytes` how many
    bytes of them are kept at most (None: any).
    `ttl` None: messages wait for ever unless they say otherwise. `ageing` None: priorities are
    strict; else a message goes before one of the next higher priority that came so much later.
    `max_messages` and `max_bytes` None: the queue has no such limit; `overflow` is what
    happens at one. `partitions` is over how many it is spread.

    >>> import asyncio, p2pmq
    >>> async def main():
    ...     async with p2pmq.Node("doc", mdns=False, store="memory") as node:
    ...         info = await node.declare("jobs", max_deliveries=3, ttl=60)
    ...         return info.max_deliveries, info.ttl, info.partitions, info.declared
    >>> asyncio.run(main())
    (3, 60.0, 1, True)
    """

    queue: str
    replicas: int
    min_copies: int
    declared: bool
    max_deliveries: int
    backoff: float
    backoff_max: float
    visibility_timeout: float
    ttl: float | None
    max_messages: int | None
    max_bytes: int | None
    overflow: Overflows
    dedup_window: float
    retain: float | None
    retain_bytes: int | None
    ageing: float | None
    partitions: int


def queue_info(queue: str, machine: Machine, config: Config) -> QueueInfo:
    """What is in force: as declared, else the mesh's default."""
    declared = machine.registry.settings_of(queue)
    found = declared if declared is not None else QueueSettings()
    retry, kept = machine.retry_of(queue), machine.kept_of(queue)
    visibility_ms = found.visibility_timeout_ms or config.timing.visibility_timeout_ms
    return QueueInfo(
        queue,
        *machine.copies_of(queue),
        declared is not None,
        retry.max_deliveries,
        retry.backoff_ms / 1000,
        retry.backoff_max_ms / 1000,
        visibility_ms / 1000,
        found.ttl_ms / 1000 if found.ttl_ms else None,
        found.max_messages or None,
        found.max_bytes or None,
        next(name for name, number in OVERFLOWS.items() if number == found.overflow),
        kept.ids_ms / 1000,
        kept.copies_ms / 1000 if kept.copies_ms else None,
        found.retain_bytes or None,
        found.ageing_ms / 1000 if found.ageing_ms else None,
        partitions_of(found),
    )


def batch_limits(declared: QueueSettings | None, bytes_max: int) -> tuple[int, int]:
    """How many messages and bytes a publisher puts into one batch, for a queue with limits."""
    if declared is None or not (declared.max_messages or declared.max_bytes):
        return BATCH_MESSAGES_MAX, bytes_max
    share = shares_of(declared)
    count, size = share.max_messages or LIMIT_MAX, share.max_bytes or LIMIT_MAX
    return (
        min(BATCH_MESSAGES_MAX, max(1, count // BATCHES_MIN)),
        min(bytes_max, max(1, size // BATCHES_MIN)),
    )


def checked_limits(settings: Settings) -> tuple[int, int, int]:
    """The limits and what happens at them, as the registry keeps them; raises UsageError."""
    limits = {name: settings.get(name) for name in ("max_messages", "max_bytes")}
    for name, limit in limits.items():
        if limit is not None and limit not in range(1, LIMIT_MAX + 1):
            raise UsageError(f"{name}={limit!r} cannot be: give 1 or more, or leave it out")
    overflow = settings.get("overflow")
    if overflow is not None and overflow not in OVERFLOWS:
        raise UsageError(f"overflow={overflow!r} is unknown: use {', '.join(map(repr, OVERFLOWS))}")
    return (
        settings.get("max_messages") or 0,
        settings.get("max_bytes") or 0,
        OVERFLOWS[overflow] if overflow is not None else OVERFLOW_BLOCK,
    )


def checked_copies(
    replicas: int | None, min_copies: int | None, default: Replication
) -> tuple[int, int]:
    """R and W as the registry keeps them (0: left out); raises UsageError where they cannot be."""
    if replicas is not None and replicas not in range(1, REPLICAS_MAX + 1):
        raise UsageError(f"replicas={replicas!r} cannot be: give 1 to {REPLICAS_MAX}")
    most = replicas or default.replicas
    if min_copies is not None and min_copies not in range(1, most + 1):
        raise UsageError(
            f"min_copies={min_copies!r} cannot be: with {most} replicas a message can be "
            f"on 1 to {most} disks"
        )
    return replicas or 0, min_copies or 0


def checked_partitions(partitions: int | None) -> int:
    """Their number as the registry keeps it (0: left out); raises UsageError."""
    if partitions is not None and partitions not in range(1, PARTITIONS_MAX + 1):
        raise UsageError(
            f"partitions={partitions!r} cannot be: give 1 to {PARTITIONS_MAX}, about as many as "
            "nodes and consumers are to share the work"
        )
    return partitions or 0


def check_lone(queue: str, partitions: int | None) -> None:
    """Raise UsageError for a queue that has one partition whatever is declared."""
    if partitions is not None and partitions > 1 and queue.endswith(DEAD_LETTERS):
        raise UsageError(
            f"partitions={partitions} makes no sense for {queue!r}: dead letters of one message "
            "must come to one place, so that a dead-letter queue has one partition"
        )


def checked_settings(config: Config, settings: Settings) -> QueueSettings:
    """The settings of a queue as the registry keeps them; raises UsageError."""
    most = settings.get("max_deliveries")
    if most is not None and most not in range(1, DELIVERIES_MAX + 1):
        raise UsageError(f"max_deliveries={most!r} cannot be: give 1 to {DELIVERIES_MAX:,}")

    def ms(seconds: float | None, least_ms: int = 1) -> int:
        return 0 if seconds is None else min(to_ms(seconds, least_ms), SETTING_MS_MAX)

    copies = settings.get("replicas"), settings.get("min_copies")
    backoff_ms, backoff_max_ms = ms(settings.get("backoff")), ms(settings.get("backoff_max"))
    if (backoff_max_ms or config.retry.backoff_max_ms) < (backoff_ms or config.retry.backoff_ms):
        raise UsageError(
            f"a backoff of {settings.get('backoff')} s is more than backoff_max="
            f"{settings.get('backoff_max')} allows: raise that too"
        )
    retain, retain_bytes = settings.get("retain"), settings.get("retain_bytes")
    if retain_bytes is not None and (retain is None or retain_bytes < 1):
        raise UsageError(
            f"retain_bytes={retain_bytes!r} cannot be: it is a limit, 1 or more, for what `retain` "
            "keeps, so give that too"
        )
    return QueueSettings(
        *checked_copies(*copies, config.replication),
        most or 0,
        backoff_ms,
        backoff_max_ms,
        ms(settings.get("visibility_timeout"), VISIBILITY_MS_MIN),
        ms(settings.get("ttl")),
        *checked_limits(settings),
        ms(settings.get("dedup_window")),
        0 if retain is None else to_ms(retain, 1),
        retain_bytes or 0,
        ms(settings.get("ageing")),
        checked_partitions(settings.get("partitions")),
    )
