"""What a node says in the log of the messages that are left in its outbox when it closes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pmq.config import NodeSettings
    from p2pmq.core.effects import Flushed

log = logging.getLogger("p2pmq")


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
