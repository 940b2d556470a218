"""Blocking calls beside the loop."""

import asyncio
import os
from pathlib import Path

import pytest

from p2pmq.cli.offloop import OffLoop, write_whole


async def test_the_loop_goes_on_while_a_read_blocks() -> None:
    read_end, write_end = os.pipe()
    reading = asyncio.create_task(OffLoop().call(lambda: os.read(read_end, 10)))
    await asyncio.sleep(0)
    assert not reading.done()
    os.write(write_end, b"here")
    assert await reading == b"here"
    os.close(read_end)
    os.close(write_end)


async def test_calls_run_in_order() -> None:
    done: list[int] = []
    off_loop = OffLoop()
    await asyncio.gather(*(off_loop.call(lambda n=n: done.append(n)) for n in range(100)))  # type: ignore[misc]  # defaults of a lambda have no type
    assert done == list(range(100))


async def test_an_error_is_raised_where_the_call_was_made() -> None:
    with pytest.raises(ZeroDivisionError):
        await OffLoop().call(lambda: 1 // 0)


async def test_a_cancelled_call_does_no_harm_to_the_next() -> None:
    read_end, write_end = os.pipe()
    off_loop = OffLoop()
    blocked = asyncio.create_task(off_loop.call(lambda: os.read(read_end, 10)))
    await asyncio.sleep(0)
    blocked.cancel()
    following = asyncio.create_task(off_loop.call(lambda: "next"))
    os.write(write_end, b"x")
    assert await following == "next"
    assert blocked.cancelled()
    os.close(read_end)
    os.close(write_end)


def test_all_of_a_large_write_is_written(tmp_path: Path) -> None:
    data = bytes(range(256)) * 40_000
    descriptor = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    write_whole(descriptor, data)
    os.close(descriptor)
    assert (tmp_path / "out").read_bytes() == data
