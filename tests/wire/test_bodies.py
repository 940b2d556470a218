"""Blobs of bodies: packing, parts, checksums; and single bodies of all types."""

import datetime as dt
import random
import zlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmq.errors import NotSerializableError
from p2pmq.wire.bodies import (
    FORMAT_MSGPACK,
    FORMAT_RAW,
    BodiesError,
    PackedBodies,
    check_header,
    pack_body,
    unpack_body,
)

BODIES = [b"one", b"", b"three" * 100]


def test_a_blob_has_the_documented_layout() -> None:
    checksums = b"".join(zlib.crc32(body).to_bytes(4, "little") for body in BODIES)
    assert PackedBodies.from_bodies(BODIES).blob == msgpack.packb([BODIES, checksums, None, None])


KEYS = st.none() | st.text(max_size=5) | st.binary(max_size=5)


@given(st.data())
def test_what_was_packed_comes_out(data: st.DataObject) -> None:
    bodies = data.draw(st.lists(st.binary(max_size=300), min_size=1, max_size=20))
    count = len(bodies)
    formats = data.draw(st.none() | st.binary(min_size=count, max_size=count))
    values = st.none() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
    header = st.none() | st.dictionaries(st.text(max_size=5), values, max_size=3)
    headers = data.draw(st.none() | st.lists(header, min_size=count, max_size=count))
    keys = data.draw(st.none() | st.lists(KEYS, min_size=count, max_size=count))
    packed = PackedBodies.from_bodies(bodies, formats, headers, keys)
    back = PackedBodies.from_blob(packed.blob)
    assert (back.bodies, back.formats, back.headers) == (bodies, formats, headers)
    assert back.keys == keys
    assert back.verify() == []
    start = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(start + 1, count))
    part = back.part(start, stop)
    assert part == PackedBodies.from_bodies(
        bodies[start:stop],
        formats and formats[start:stop],
        headers and headers[start:stop],
        keys and keys[start:stop],
    )
    assert PackedBodies.from_blob(part.blob).verify() == []


def test_nothing_is_unpacked_before_it_is_asked_for() -> None:
    bodies = PackedBodies.from_blob(b"no blob")
    assert bodies.blob == b"no blob"
    assert repr(bodies) == "<PackedBodies in 7 bytes>"
    with pytest.raises(BodiesError):
        len(bodies)


def test_a_part_of_all_is_the_same_object() -> None:
    bodies = PackedBodies.from_bodies(BODIES)
    assert bodies.part(0, 3) is bodies
    with pytest.raises(AssertionError):
        bodies.part(1, 4)


def test_a_part_keeps_a_wrong_checksum_wrong() -> None:
    blob = PackedBodies.from_bodies(BODIES).blob.replace(b"one", b"One")
    bodies = PackedBodies.from_blob(blob)
    assert bodies.verify() == [0]
    assert PackedBodies.from_blob(bodies.part(0, 2).blob).verify() == [0]
    assert PackedBodies.from_blob(bodies.part(1, 3).blob).verify() == []


def test_one_flipped_bit_in_a_body_its_format_or_header_costs_that_message_alone() -> None:
    headers: list[dict[str, Any] | None] = [{"trace": "abcd"}, None, None, {"trace": "efgh"}]
    packed = PackedBodies.from_bodies([b"aaaa", b"bbbb", b"", b"dddd"], b"\0\1\0\1", headers)
    blob = packed.blob
    places = {b"aaaa": 0, b"bbbb": 1, b"dddd": 3, b"abcd": 0, b"efgh": 3}
    for text, position in places.items():
        at = blob.index(text)
        for bit in range(7):  # the eighth makes text of a header no text: see test_mend.py
            flipped = bytearray(blob)
            flipped[at] ^= 1 << bit
            assert PackedBodies.from_blob(bytes(flipped)).verify() == [position]
    at = blob.index(b"\0\1\0\1")
    for position in range(4):
        flipped = bytearray(blob)
        flipped[at + position] ^= 1
        assert PackedBodies.from_blob(bytes(flipped)).verify() == [position]


def test_a_flipped_bit_of_a_key_is_found() -> None:
    packed = PackedBodies.from_bodies(BODIES, keys=["customer-7", None, b"customer-8"])
    for key, position in ((b"customer-7", 0), (b"customer-8", 2)):
        at = packed.blob.index(key)
        flipped = bytearray(packed.blob)
        flipped[at + 9] ^= 1
        assert PackedBodies.from_blob(bytes(flipped)).verify() == [position]


def test_unknown_trailing_columns_are_ignored() -> None:
    columns = [*msgpack.unpackb(PackedBodies.from_bodies(BODIES).blob), None, [1, 2], "new"]
    assert PackedBodies.from_blob(msgpack.packb(columns)).bodies == BODIES


@pytest.mark.parametrize(
    "columns",
    [
        None,
        [],
        [BODIES, bytes(12), None],
        [[], b"", None, None],
        [[b""] * 4097, bytes(4 * 4097), None, None],
        [[b"", "text"], bytes(8), None, None],
        ["body", bytes(16), None, None],
        [BODIES, bytes(11), None, None],
        [BODIES, None, None, None],
        [BODIES, bytes(12), bytes(2), None],
        [BODIES, bytes(12), [0, 0, 0], None],
        [BODIES, bytes(12), None, {}],
        [BODIES, bytes(12), None, None, b"key"],
        [BODIES, bytes(12), None, None, [None, "key"]],
        [BODIES, bytes(12), None, None, [None, "key", 7]],
        [BODIES, bytes(12), None, [None]],
        [BODIES, bytes(12), None, [None, None, "h"]],
        [BODIES, bytes(12), None, [None, None, {b"bytes": 1}]],
        [BODIES, bytes(12), None, [None, None, {1: 1}]],
    ],
)
def test_a_malformed_blob_raises_bodies_error_alone(columns: object) -> None:
    for use in (len, PackedBodies.verify, lambda bodies: bodies.part(0, 1)):
        with pytest.raises(BodiesError):
            use(PackedBodies.from_blob(msgpack.packb(columns)))


# ------------------------------------------------------------------------------------ single bodies

MSGPACK_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(-9, 9), inner),
    max_leaves=20,
)


@given(MSGPACK_VALUES)
def test_every_msgpack_value_comes_back(body: object) -> None:
    data, body_format = pack_body(body)
    assert body_format == (FORMAT_RAW if isinstance(body, bytes) else FORMAT_MSGPACK)
    assert unpack_body(data, body_format) == body


@pytest.mark.parametrize("body", [b"raw", bytearray(b"raw"), memoryview(b"-r-a-w")[1::2]])
def test_bytes_of_all_kinds_go_raw(body: object) -> None:
    assert pack_body(body) == (b"raw", FORMAT_RAW)


def test_a_tuple_is_a_list_after_the_journey_but_stays_a_tuple_as_a_key() -> None:
    assert unpack_body(*pack_body((1, (2,)))) == [1, [2]]
    assert unpack_body(*pack_body({(1, (2, 3)): [{(4,): (5,)}]})) == {(1, (2, 3)): [{(4,): [5]}]}


def itself() -> list[Any]:
    body: list[Any] = []
    body.append(body)
    return body


@pytest.mark.parametrize(
    ("body", "culprit"),
    [
        ({1, 2}, set),
        ({"a": [1, (2, {"b": object()})]}, object),
        ([{"when": dt.date(2024, 1, 1)}], dt.date),
        ({frozenset(): 1}, frozenset),
        ([2**64], int),
        ([-(2**63) - 1], int),
        ("\ud800", str),
        ([1 + 2j], complex),
        (itself(), list),
        ({"a": [b"ok", itself()]}, dict),
    ],
)
def test_what_cannot_be_packed_is_named(body: object, culprit: type) -> None:
    with pytest.raises(NotSerializableError, match=repr(culprit.__name__)) as caught:
        pack_body(body)
    assert caught.value.body_type is culprit


def test_hostile_bodies_raise_bodies_error_alone() -> None:
    rng = random.Random(1)
    hostile = [
        b"",
        b"\xc1",
        b"\x91" * 5000,
        b"\xdd\xff\xff\xff\xff" * 5000,
        b"\x81\x81\x01\x02\x03",
    ]
    hostile += [b"\x81\x91\x81\x01\x02\x03", b"\xc7\x05\xff12345", b"\xa1\xff"]
    hostile += [b"\x81" + b"\x91" * 1020 + b"\xc0\xc0", b"\xc7\x0c\xff" + b"\xff" * 12]
    hostile += [rng.randbytes(rng.randrange(40)) for _ in range(5000)]
    for data in hostile:
        try:
            unpack_body(data, FORMAT_MSGPACK)
        except BodiesError:
            continue
    with pytest.raises(BodiesError, match="upgrade"):
        unpack_body(b"", 7)


def test_headers_that_a_blob_cannot_carry_are_refused_at_once() -> None:
    check_header({"a": [1, {"b": b"c"}]})
    for bad in ({1: 2}, {"a": {1: 2}}, {"a": object()}, {"a": 2**64}):
        with pytest.raises(NotSerializableError):
            check_header(bad)  # type: ignore[arg-type]  # not every user runs mypy
