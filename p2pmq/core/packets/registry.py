"""The registry: each packet is defined once, with a permanent number.

The codec, the table in `docs/wire.md` and the golden-bytes test are made from
it. A field's annotation states its type and bounds, which the codec checks
before the core sees the packet. A field added later stands last and has a
default: an older peer ignores it, a newer one fills it in.

Invariant: a number is never used again for another packet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, TypeVar, cast, dataclass_transform

if TYPE_CHECKING:
    from collections.abc import Callable

PROTOCOL_VERSION = 1
PROTOCOL_VERSION_MIN = 1


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of an int, both included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Size:
    """Bounds of a length: of a str in UTF-8 bytes, of bytes, of a tuple in items."""

    low: int
    high: int


U8 = Annotated[int, Range(0, 2**8 - 1)]
U16 = Annotated[int, Range(0, 2**16 - 1)]
U32 = Annotated[int, Range(0, 2**32 - 1)]
U64 = Annotated[int, Range(0, 2**64 - 1)]
Seq = Annotated[int, Range(1, 2**63 - 1)]
Milliseconds = Annotated[int, Range(0, 2**42)]
Id = Annotated[bytes, Size(8, 8)]
NameText = Annotated[str, Size(1, 255)]
ShortText = Annotated[str, Size(0, 255)]
LongText = Annotated[str, Size(0, 4096)]

ITEMS_MAX = 65_536
"""The most items a repeated field may have."""


class Packet:
    """What nodes send each other; every packet is a frozen dataclass under this one."""

    __slots__ = ()
    NUMBER: ClassVar[int]
    BULK: ClassVar[bool]


class Struct:
    """A composite field of packets, itself a frozen dataclass; it has no number."""

    __slots__ = ()


PACKETS: dict[int, type[Packet]] = {}

S = TypeVar("S", bound=type[Struct])
P = TypeVar("P", bound=type[Packet])


@dataclass_transform(frozen_default=True)
def struct(cls: S) -> S:
    """Make a class a composite field of packets."""
    return cast("S", dataclass(frozen=True, slots=True)(cls))


@dataclass_transform(frozen_default=True)
def packet(number: int, *, bulk: bool = False) -> Callable[[P], P]:
    """Make a class a packet with a permanent number.

    `bulk` packets carry message bodies: they wait for the link's byte window,
    and control packets overtake them.
    """

    def register(cls: P) -> P:
        made = cast("P", dataclass(frozen=True, slots=True)(cls))
        assert number not in PACKETS, f"packet number {number} is taken by {PACKETS[number]}"
        made.NUMBER = number
        made.BULK = bulk
        PACKETS[number] = made
        return made

    return register
