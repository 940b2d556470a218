"""A write is called durable only after the kernel was told to put it on the disk.

A process that is killed loses nothing that the kernel has, so that no kill shows a missing
sync; the system calls do.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from p2pmq.store.lmdb_store import LmdbStore

ROOT = Path(__file__).parents[2]
STRACE = shutil.which("strace")
WRITES = 5
TIMEOUT_S = 60
WRITER = f"""
import asyncio, os, pathlib, sys
from p2pmq.store.lmdb_store import LmdbStore
from tests.store.scene import give, stored

async def main():
    store = LmdbStore(pathlib.Path(sys.argv[1]))
    await store.open()
    for number in range(1, {WRITES + 1}):
        os.write(2, b"<begin %d>" % number)
        assert await give(store, stored(number, number, 1)) is None
        os.write(2, b"<durable %d>" % number)
    await store.close()

asyncio.run(main())
"""


def traced(directory: Path) -> str:
    """Run a writer; its writes and syncs in order, of all its threads."""
    assert STRACE is not None
    trace = directory / "trace"
    calls = "trace=fdatasync,fsync,msync,write,pwrite64,pwritev"
    command = [STRACE, "-f", "-e", calls, "-o", str(trace), sys.executable, "-c", WRITER]
    done = subprocess.run(
        [*command, str(directory / "store")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if "ptrace" in done.stderr:
        pytest.skip(f"no process can be traced here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return trace.read_text()


@pytest.mark.skipif(STRACE is None, reason="needs Debian's package strace")
def test_no_write_is_called_durable_before_the_disk_was_told_to_sync(tmp_path: Path) -> None:
    text = traced(tmp_path)
    for number in range(1, WRITES + 1):
        between = re.search(rf"<begin {number}>(.*?)<durable {number}>", text, re.DOTALL)
        assert between is not None
        calls = between[1]
        assert "pwrite" in calls, "nothing was written"
        assert re.search(r"f(data)?sync(\(\d+\)| resumed>\)) *= 0", calls), calls


async def test_the_environment_is_opened_without_a_flag_that_loosens_durability(
    tmp_path: Path,
) -> None:
    store = LmdbStore(tmp_path)
    await store.open()
    flags = store._file._env.flags()
    await store.close()
    assert flags["sync"]
    assert flags["metasync"]
    assert not flags["writemap"]
    assert not flags["map_async"]
