"""Packets of replay: pages of the copies that a queue retains."""

from __future__ import annotations

from typing import Annotated

from p2pmq.core.packets.publishing import Batch
from p2pmq.core.packets.registry import (
    U16,
    U32,
    U64,
    Id,
    NameText,
    Packet,
    Size,
    Struct,
    packet,
    struct,
)

PAGE_BATCHES_MAX = 64


@struct
class CursorField(Struct):
    """A place in the order of a partition's retained copies: by stamp, then session, then seq."""

    stamp: U64
    session: Id = bytes(8)
    first: U64 = 0


@packet(108)
class ReplayRequest(Packet):
    """To the owner: the next page of what is retained, after `cursor`."""

    number: U32
    queue: NameText
    partition: U16
    cursor: CursorField


@packet(109, bulk=True)
class Replayed(Packet):
    """The answer to ReplayRequest `number`: retained batches in order; `more` follow the last."""

    number: U32
    batches: Annotated[tuple[Batch, ...], Size(0, PAGE_BATCHES_MAX)]
    more: bool
