"""Packets to frames and back; whatever bytes a peer sends, a PacketError is the worst of it.

A packet is one frame, its header: the msgpack array [number, field, …], fields
in the order of the dataclass, and behind it 4 bytes of CRC-32, little-endian.
Each `Bodies` in it is a frame of its own behind the header, in order, and has
no place in the array. Trailing fields that equal their defaults are left out;
missing ones take their defaults, unknown ones are ignored, in structs as in
packets: this is how versions talk to each other.

TCP's checksum is 16 bits wide: every packet's header is checked by its CRC, and
every body by the checksum that it carries from its publisher on.

Invariant: what `decode` returns has every field of the annotated type, within
its bounds, and bodies that are unpacked and as many as their batch says, so
nothing that the core does with them can raise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from p2pmq.core.packets import PACKETS, Packet
from p2pmq.core.packets.registry import PROTOCOL_VERSION, PROTOCOL_VERSION_MIN
from p2pmq.wire.compiler import Decoder, Encoder, decoder_of, encoder_of
from p2pmq.wire.errors import PacketError
from p2pmq.wire.msgpacked import UnpackError, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["CHECKSUM_BYTES", "CODEC", "Codec", "PacketError", "checked", "decode", "encode"]

CHECKSUM_BYTES = 4

ENCODERS: dict[type[Packet], Encoder] = {cls: encoder_of(cls) for cls in PACKETS.values()}
DECODERS: dict[int, Decoder] = {number: decoder_of(cls) for number, cls in PACKETS.items()}


def encode(packet: Packet) -> list[bytes]:
    """The frames of a packet: [header, bodies, bodies, …].

    All bodies are `PackedBodies`: who sends reads stored ones first.
    """
    frames: list[bytes] = [b""]
    frames[0] = checked(pack(ENCODERS[type(packet)](packet, frames)))
    return frames


def checked(header: bytes) -> bytes:
    """A packet's header with its checksum behind it."""
    return header + crc32(header).to_bytes(CHECKSUM_BYTES, "little")


def decode(frames: Sequence[bytes]) -> Packet:
    """The packet in the frames, checked. Raises PacketError and nothing else."""
    following = iter(frames)
    frame = next(following, None)
    if frame is None:
        raise PacketError("frames")
    header = frame[:-CHECKSUM_BYTES]
    if crc32(header).to_bytes(CHECKSUM_BYTES, "little") != frame[-CHECKSUM_BYTES:]:
        raise PacketError("checksum")
    try:
        fields = unpack(header)
    except UnpackError as error:
        raise PacketError("not-msgpack") from error
    if type(fields) is not list or not fields:
        raise PacketError("not-msgpack")
    number = fields[0]
    decoder = DECODERS.get(number) if type(number) is int else None
    if decoder is None:
        raise PacketError("unknown-packet")
    packet: Packet = decoder(fields, following)
    if next(following, None) is not None:
        raise PacketError("frames", type(packet).__name__)
    return packet


class Codec(NamedTuple):
    """What a node speaks: protocol versions, the least and the most, and packets to frames."""

    versions: tuple[int, int]
    encode: Callable[[Packet], list[bytes]]
    decode: Callable[[Sequence[bytes]], Packet]


CODEC = Codec((PROTOCOL_VERSION_MIN, PROTOCOL_VERSION), encode, decode)
"""This version's. A simulation gives some nodes a later one's."""
