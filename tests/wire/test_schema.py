"""Annotations read as data; and the generated code that follows from them."""

from typing import Annotated

import pytest

from p2pmq.core.packets.delivering import Delivery, Settle
from p2pmq.core.packets.membership import Ping, Rumour
from p2pmq.core.packets.publishing import Batch, Bodies
from p2pmq.core.packets.registry import Range, Size
from p2pmq.wire.compiler import source_of
from p2pmq.wire.schema import Kind, fields_of, kind_of


def test_fields_stand_in_the_order_of_the_dataclass_with_kinds_and_defaults() -> None:
    number, target, rumours = fields_of(Ping)
    assert (number.name, number.kind, number.required) == ("number", Kind(int, 0, 2**32 - 1), True)
    assert target.kind == Kind(bytes, 8, 8)
    assert rumours.kind == Kind(tuple, 0, 65_536, Kind(Rumour))
    assert (rumours.required, rumours.default) == (False, ())


@pytest.mark.parametrize(
    "hint",
    [
        int,
        str,
        bytes,
        float,
        dict,
        tuple[int, ...],
        Annotated[int, Size(0, 1)],
        Annotated[str, Range(0, 1)],
        Annotated[tuple[int, ...], Size(0, 1)],
    ],
)
def test_a_field_without_bounds_or_form_is_our_own_bug(hint: object) -> None:
    with pytest.raises(AssertionError):
        kind_of(hint)


def test_a_queue_name_is_known_by_its_field() -> None:
    assert [field.name for field in fields_of(Settle) if field.is_queue_name] == ["queue"]
    assert not any(field.is_queue_name for field in fields_of(Rumour))


def test_bodies_are_a_kind_of_their_own() -> None:
    assert {field.name: field.kind.type for field in fields_of(Batch)}["bodies"] is Bodies


def test_the_generated_code_can_be_read_and_names_every_field() -> None:
    source = source_of(Delivery)
    assert all(f"set_{field.name}(made, {field.name})" in source for field in fields_of(Delivery))
    compile(source, "generated", "exec")
