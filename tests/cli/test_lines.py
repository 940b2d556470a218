"""Lines cut from blocks: none lost, none joined, none too long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmq.cli.lines import LineSplitter
from p2pmq.errors import BodyTooLargeError

BLOCKS = st.lists(st.text("ab\n", min_size=1).map(str.encode))


@given(BLOCKS)
def test_lines_do_not_depend_on_where_blocks_end(blocks: list[bytes]) -> None:
    splitter = LineSplitter(10_000)
    lines = [line for block in blocks for line in splitter.feed(block)] + splitter.end()
    whole = b"".join(blocks)
    assert lines == (whole.removesuffix(b"\n").split(b"\n") if whole else [])


def test_bytes_that_are_no_text_and_carriage_returns_stay_as_they_are() -> None:
    splitter = LineSplitter(100)
    assert splitter.feed(b"\xff\x00\r\n\xfe") == [b"\xff\x00\r"]
    assert splitter.end() == [b"\xfe"]


@pytest.mark.parametrize("blocks", [[b"12345\n"], [b"123", b"45\n"], [b"a\n123", b"45"]])
def test_a_line_over_the_limit_is_an_error_before_memory_ends(blocks: list[bytes]) -> None:
    splitter = LineSplitter(4)
    *before, last = blocks
    for block in before:
        splitter.feed(block)
    with pytest.raises(BodyTooLargeError, match="5 bytes is over the limit of 4"):
        splitter.feed(last)


def test_a_line_of_the_limit_is_taken() -> None:
    splitter = LineSplitter(4)
    assert splitter.feed(b"12") + splitter.feed(b"34\n") == [b"1234"]
