"""Packets of limits: an owner calls the publishers that it held back."""

from __future__ import annotations

from p2pmq.core.packets.registry import U16, NameText, Packet, packet


@packet(100)
class RoomAgain(Packet):
    """The partition was full, and has room again: whoever was refused may try at once.

    It may be lost: publishers try again by themselves, a little later.
    """

    queue: NameText
    partition: U16
