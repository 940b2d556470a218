"""A later protocol version, as a codec: what this one knows, and more that it does not.

It is what a release to come may do by the rules of the wire (section 7 of the
design): every packet, and every struct in it, has one more field at its end,
and now and then there is a packet of a number that nobody here has heard of.

Invariant: what it adds stands after every field that this version knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2pmq.core.packets.publishing import Bodies
from p2pmq.core.packets.registry import PACKETS, PROTOCOL_VERSION
from p2pmq.wire.codec import CHECKSUM_BYTES, CODEC, Codec, checked
from p2pmq.wire.msgpacked import pack, unpack
from p2pmq.wire.schema import Field, fields_of

if TYPE_CHECKING:
    from p2pmq.core.packets.registry import Packet, Struct

LATEST = PROTOCOL_VERSION + 2
"""The latest that can be simulated; one that speaks it alone has nothing in common with us."""
UNKNOWN_NUMBER = 9_999
UNKNOWN_EVERY = 25
"""Of so many packets, one more is of an unknown number."""
NEWS = "a field of a later version"


def codec_of(versions: tuple[int, int]) -> Codec:
    """What a node speaks whose versions are these, the least and the most."""
    if versions[1] <= PROTOCOL_VERSION:
        return CODEC._replace(versions=versions)
    return Codec(versions, encode_later, CODEC.decode)


def encode_later(packet: Packet) -> list[bytes]:
    """The frames of a packet with more in them than this version knows."""
    header, *bodies = CODEC.encode(packet)
    array = unpack(header[:-CHECKSUM_BYTES])
    assert isinstance(array, list)
    number, *fields = array
    return [checked(pack([number, *_widened(PACKETS[number], fields)])), *bodies]


def unknown_packet() -> list[bytes]:
    """A packet of a number that this version does not know."""
    return [checked(pack([UNKNOWN_NUMBER, NEWS]))]


_fields: dict[type, tuple[Field, ...]] = {}


def _in_array(cls: type) -> tuple[Field, ...]:
    if cls not in _fields:
        _fields[cls] = tuple(f for f in fields_of(cls) if f.kind.type is not Bodies)
    return _fields[cls]


def _widened(cls: type[Packet | Struct], values: list[Any]) -> list[Any]:
    """The array of a packet or struct with all its fields, and one more."""
    fields = _in_array(cls)
    widened = [_widened_value(field, value) for field, value in zip(fields, values, strict=False)]
    for field in fields[len(values) :]:  # left out, for they equal their defaults
        default = field.default
        widened.append(list(default) if isinstance(default, tuple) else default)
    return [*widened, NEWS]


def _widened_value(field: Field, value: Any) -> Any:  # noqa: ANN401  any field's
    if field.kind.is_struct:
        return _widened(field.kind.type, value)
    if field.kind.item is not None and field.kind.item.is_struct:
        return [_widened(field.kind.item.type, item) for item in value]
    return value
