"""Packets of topics: which patterns a node is interested in, and events straight to it."""

from __future__ import annotations

from typing import Annotated

from p2pmq.core.packets.publishing import BATCH_MESSAGES_MAX, Batch
from p2pmq.core.packets.registry import U64, NameText, Packet, Size, packet

PATTERNS_MAX = 4_096
"""Patterns and responders of one node: every other node keeps them all."""
PATTERN_BYTES_MAX = 192 * 1024
"""… and their bytes in all, so that `Interests` stays below the size of a data frame."""

Patterns = Annotated[tuple[NameText, ...], Size(0, PATTERNS_MAX)]


@packet(80, bulk=True)
class Interests(Packet):
    """All that this node is interested in, as of `version`, which rises over its boots too."""

    version: U64
    patterns: Patterns = ()


@packet(81)
class InterestsChanged(Packet):
    """What changed from version `version - 1` to `version`."""

    version: U64
    added: Patterns = ()
    removed: Patterns = ()


@packet(82)
class InterestsKnown(Packet):
    """The receiver's interests are known up to `version`; if `wanted`, all are asked for."""

    version: U64
    wanted: bool = False


@packet(83, bulk=True)
class Emit(Packet):
    """Events for a node that is interested in their topics, in order, one for each body.

    The batch's dots count the events of the sender's process to this node: what is not above the
    last that came is a repeat. `interests` is the version of the sender's own interests.
    """

    topics: Annotated[tuple[NameText, ...], Size(1, BATCH_MESSAGES_MAX)]
    batch: Batch
    interests: U64 = 0
