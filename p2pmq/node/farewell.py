"""What a node does and says before it closes: handlers end, and what is left is told."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pmq.config import NodeSettings
    from p2pmq.core.effects import Flushed
    from p2pmq.node.consumer import Consumer
    from p2pmq.node.requests import RequestDesk

log = logging.getLogger("p2pmq")


async def let_handlers_finish(
    consumers: Iterable[Consumer], requests: RequestDesk, seconds: float
) -> None:
    """Take no more messages and requests, and wait so long for those that handlers are at."""
    closer = asyncio.current_task()
    waits = [consumer.drain(closer) for consumer in consumers]
    under_way: list[asyncio.Future[Any]] = [done for done in waits if done is not None]
    under_way += requests.drain(closer)
    if under_way:
        await asyncio.wait(under_way, timeout=seconds)


def tell_what_is_left(flushed: Flushed, settings: NodeSettings) -> None:
    """Nothing is dropped silently: what is kept for the next start, and what is lost."""
    lost = flushed.unstored if settings.store == "disk" else flushed.messages_left
    kept = flushed.messages_left - lost
    if kept:
        log.warning(
            "node %s closes with %d messages in its outbox: they are stored, and are sent when "
            "it runs again",
            settings.name,
            kept,
        )
    if lost:
        log.error(
            "node %s closes with %d messages in its outbox that are lost: their owners were away, "
            "and it has no disk to keep them on, or no room there",
            settings.name,
            lost,
        )
