"""Packets between two nodes as such: who is at the other end of a connection."""

from __future__ import annotations

from typing import Annotated

from p2pmq.core.packets.registry import (
    U8,
    U16,
    U32,
    U64,
    Id,
    LongText,
    NameText,
    Packet,
    Size,
    packet,
)

ADDRESSES_MAX = 16
Addresses = Annotated[tuple[NameText, ...], Size(0, ADDRESSES_MAX)]
"""`host:port` each, best first."""


@packet(1)
class Hello(Packet):
    """The first packet on a connection, each way: who I am and what I speak."""

    mesh: NameText
    node_id: Id
    boot: U32
    name: NameText
    addresses: Addresses
    version_min: U16
    version_max: U16
    leaf: bool = False
    answer: bool = False


@packet(2)
class HelloWanted(Packet):
    """A packet came on a connection that has not said Hello (this end restarted)."""


@packet(3)
class HelloRefused(Packet):
    """This connection cannot be; the reason is one of `REFUSALS`."""

    reason: U8
    text: LongText = ""


@packet(4)
class WindowUpdate(Packet):
    """The receiver has taken bulk bytes up to the sender's counter `received`."""

    received: U64


REFUSED_OTHER_MESH = 1
REFUSED_VERSION = 2
REFUSED_NAME_TAKEN = 3
REFUSED_SELF = 4
REFUSALS = {
    REFUSED_OTHER_MESH: "another mesh",
    REFUSED_VERSION: "no protocol version in common",
    REFUSED_NAME_TAKEN: "the name is taken by a living node",
    REFUSED_SELF: "the node dialled itself",
}
