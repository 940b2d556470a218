"""Packets of request and reply: one question to one responder, and what became of it."""

from __future__ import annotations

from p2pmq.core.packets.publishing import Batch
from p2pmq.core.packets.registry import (
    U8,
    U64,
    Id,
    LongText,
    NameText,
    Packet,
    Seq,
    ShortText,
    packet,
)


@packet(84, bulk=True)
class Request(Packet):
    """Answer the one body of the batch, within its `ttl_ms`: what is left until the deadline.

    The batch's dot counts the requests of the sender's process: what came before is a repeat.
    `interests` is the version of the sender's own interests.
    """

    responder: NameText
    batch: Batch
    interests: U64 = 0


@packet(85, bulk=True)
class Reply(Packet):
    """The answer is the one body of the batch, whose dot is that of the request."""

    batch: Batch


@packet(86)
class RequestFailed(Packet):
    """There is no answer to the request with this dot, for one of the reasons of `FAILED`.

    `kind` and `text` are those of the error that a handler raised.
    """

    session: Id
    number: Seq
    reason: U8
    kind: ShortText = ""
    text: LongText = ""


@packet(87)
class RequestCancelled(Packet):
    """Whoever made the request with this dot waits for it no more."""

    session: Id
    number: Seq


FAILED_RAISED = 1
FAILED_OVERLOADED = 2
FAILED_NOBODY = 3
FAILED = {
    FAILED_RAISED: "its handler raised an error",
    FAILED_OVERLOADED: "the responder has too much to do, and did not take it",
    FAILED_NOBODY: "nobody answers to the name here, or not any more, and it was not taken",
}
