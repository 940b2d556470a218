"""One msgpack value out of bytes that anybody may have written."""

import msgpack
import pytest

from p2pmq.wire.msgpacked import WALK_FIRST_BYTES, UnpackError, pack, unpack


@pytest.mark.parametrize("size", [1, WALK_FIRST_BYTES, 3 * WALK_FIRST_BYTES])
def test_a_value_comes_back_whatever_its_length(size: int) -> None:
    assert unpack(pack([b"x" * size, "é", None, -1, 1.5, {"a": []}])) == [
        *(b"x" * size, "é", None, -1, 1.5),
        {"a": []},
    ]


@pytest.mark.parametrize("padding", [0, 2 * WALK_FIRST_BYTES])
@pytest.mark.parametrize(
    "tail",
    [b"", b"\xc0\xc0", b"\xc1", b"\x92\x01", b"\xa1\xff", b"\x81\x01\x02", b"\x91" * 2000],
    ids=["missing", "two", "reserved", "short", "not UTF-8", "key of int", "deep"],
)
def test_what_is_not_one_value_raises_unpack_error_alone(padding: int, tail: bytes) -> None:
    with pytest.raises(UnpackError):
        unpack(b"\x92" + msgpack.packb(b"x" * padding) + tail)


def test_keys_of_any_type_are_taken_only_when_asked_for() -> None:
    assert unpack(b"\x81\x01\x02", any_key=True) == {1: 2}
    with pytest.raises(UnpackError):
        unpack(b"\x81\x01\x02")
