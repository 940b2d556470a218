"""Packets of SWIM with Lifeguard: probes, rumours and the exchange of whole states."""

from __future__ import annotations

from typing import Annotated

from p2pmq.core.packets.link import Addresses
from p2pmq.core.packets.registry import (
    U32,
    Id,
    Milliseconds,
    NameText,
    Packet,
    Range,
    ShortText,
    Size,
    Struct,
    packet,
    struct,
)

StateNumber = Annotated[int, Range(0, 5)]


@struct
class Rumour(Struct):
    """What somebody believes about one member (SWIM's update).

    `state` is a `membership.MemberState`. Facts about the member itself
    (name, addresses, zone, weight, …) are as of `incarnation`; the name is empty
    where only the state is spread (suspect, dead). `predecessor` is the node that bore
    the name before it and whose place it has taken; zeros: none.
    """

    node_id: Id
    state: StateNumber
    incarnation: U32
    accuser: Id = b"\0" * 8
    name: ShortText = ""
    addresses: Addresses = ()
    boot: U32 = 0
    store_id: Id = b"\0" * 8
    zone: ShortText = ""
    weight: U32 = 1
    predecessor: Id = b"\0" * 8


Rumours = Annotated[tuple[Rumour, ...], Size(0, 65_536)]


@packet(10)
class Ping(Packet):
    """Are you there? Answered by a ProbeAck with the same number."""

    number: U32
    target: Id
    rumours: Rumours = ()


@packet(11)
class PingRequest(Packet):
    """Ask the target for me (SWIM's indirect probe)."""

    number: U32
    target: Id
    timeout_ms: Milliseconds
    rumours: Rumours = ()


@packet(12)
class ProbeAck(Packet):
    """The target of Ping or PingRequest `number` answers."""

    number: U32
    target: Id
    rumours: Rumours = ()


@packet(13)
class ProbeNack(Packet):
    """The relay of PingRequest `number` is alive, the target did not answer it (Lifeguard)."""

    number: U32
    target: Id
    rumours: Rumours = ()


@packet(14)
class Gossip(Packet):
    """Rumours with nothing else to travel on."""

    rumours: Rumours


@packet(15)
class StateExchange(Packet):
    """All that the sender believes (push-pull), itself first; a `reply` is not answered again.

    `stranger`: the sender did not have the receiver on its roster, or no more.
    """

    mesh: NameText
    rumours: Rumours
    reply: bool = False
    stranger: bool = False
