"""What the annotations of a packet say about its fields, as data.

The registry in the core defines each packet once; the codec, the table in
`docs/wire.md` and the tests all read it through this module.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, dataclass
from types import EllipsisType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from p2pmq.core.packets.publishing import Bodies
from p2pmq.core.packets.registry import Range, Size, Struct

SCALARS = (bool, int, bytes, str)


QUEUE_NAMES = ("queue", "dead_queue")
"""The fields that hold the name of a queue."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The type of a field, or of the items of one.

    `type` is bool, int, bytes, str, tuple, Bodies or a Struct class; `low` and
    `high` bound an int's value or another's length; a tuple has `item`.
    """

    type: type
    low: int = 0
    high: int = 0
    item: Kind | None = None

    @property
    def is_struct(self) -> bool:
        """Whether it is a composite of fields."""
        return issubclass(self.type, Struct)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a packet or struct, in wire order; `default` is MISSING if it must be there."""

    name: str
    kind: Kind
    default: Any

    @property
    def required(self) -> bool:
        """Whether a packet without it is malformed."""
        return self.default is MISSING

    @property
    def is_queue_name(self) -> bool:
        """Whether the rule for names of queues holds for it, beside its bounds."""
        return self.name in QUEUE_NAMES and self.kind.type is str


def fields_of(cls: type) -> tuple[Field, ...]:
    """The fields of a packet or struct, in the order in which they travel."""
    hints = get_type_hints(cls, include_extras=True)
    assert dataclasses.is_dataclass(cls)
    fields = tuple(
        Field(field.name, kind_of(hints[field.name]), field.default)
        for field in dataclasses.fields(cls)
    )
    optional = [not field.required for field in fields]
    assert optional == sorted(optional), f"{cls}: a field without default follows one with"
    return fields


def kind_of(hint: object) -> Kind:
    """Read an annotation; our own bug, an assertion, if the wire has no form for it."""
    bounds: Range | Size | None = None
    if get_origin(hint) is Annotated:
        hint, bounds = get_args(hint)
    if get_origin(hint) is tuple:
        item, dots = get_args(hint)
        assert dots is EllipsisType or dots is ...
        assert isinstance(bounds, Size), f"{hint}: how many items?"
        return Kind(tuple, bounds.low, bounds.high, kind_of(item))
    assert isinstance(hint, type), f"{hint} has no form on the wire"
    if hint in {int, bytes, str}:
        assert isinstance(bounds, Range if hint is int else Size), f"{hint}: which bounds?"
        return Kind(hint, bounds.low, bounds.high)
    assert hint in {bool, Bodies} or issubclass(hint, Struct), f"{hint} has no form on the wire"
    return Kind(hint)
