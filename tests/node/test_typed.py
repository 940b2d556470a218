"""Bodies that are the user's own types."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pydantic
import pytest

from p2pmq.errors import NotSerializableError, UsageError
from p2pmq.node.typed import converter_to
from p2pmq.wire.bodies import pack_body, unpack_body


@dataclass
class Line:
    article: str
    count: int


@dataclass
class Order:
    number: int
    lines: list[Line]


class Customer(pydantic.BaseModel):
    name: str
    age: int = 0


def through(body: object, kind: object) -> object:
    return converter_to(kind)(unpack_body(*pack_body(body)))


def test_dataclasses_and_models_come_out_as_they_went_in() -> None:
    order = Order(7, [Line("pen", 2), Line("ink", 1)])
    assert through(order, Order) == order
    assert through(Customer(name="Ada"), Customer) == Customer(name="Ada")
    assert through([Customer(name="Ada", age=36)], list[Customer]) == [Customer(name="Ada", age=36)]


def test_a_consumer_without_a_type_gets_maps() -> None:
    assert unpack_body(*pack_body(Order(7, [Line("pen", 2)]))) == {
        "number": 7,
        "lines": [{"article": "pen", "count": 2}],
    }


@pytest.mark.parametrize("body", [b"bytes", {"number": "x", "lines": []}, {"number": 1}, None])
def test_what_does_not_fit_is_a_value_error(body: object) -> None:
    with pytest.raises(ValueError, match="Order"):
        through(body, Order)


def test_what_is_no_type_is_refused_when_it_is_given() -> None:
    with pytest.raises(UsageError, match="cannot be made of type"):
        converter_to(object.__new__(type("Odd", (), {})))


def test_without_pydantic_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic", None)
    with pytest.raises(UsageError, match="p2pmq\\[types\\]"):
        converter_to(Order)


def test_the_innermost_thing_that_cannot_be_packed_is_named() -> None:
    with pytest.raises(NotSerializableError, match="set"):
        pack_body(Order(1, [Line("pen", {1, 2})]))  # type: ignore[arg-type]  # that is the point
