"""Headers made and read by hand: a msgpack array, and behind it its CRC-32."""

from typing import Any
from zlib import crc32

import msgpack

from p2pmq.wire.codec import CHECKSUM_BYTES


def with_crc(header: bytes) -> bytes:
    """The frame of a header, whatever bytes it is of, with a right CRC."""
    return header + crc32(header).to_bytes(4, "little")


def header_frame(*values: object) -> bytes:
    """The frame of a header that holds these values."""
    return with_crc(msgpack.packb(values))


def header_of(frame: bytes) -> bytes:
    """What is in front of the CRC."""
    return frame[:-CHECKSUM_BYTES]


def values_of(frame: bytes) -> list[Any]:
    """The array in a header's frame, whose CRC must be right."""
    assert frame == with_crc(header_of(frame))
    array = msgpack.unpackb(header_of(frame))
    assert isinstance(array, list)
    return array
