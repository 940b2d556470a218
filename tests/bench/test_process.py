"""The parent ends what it started, and says what went wrong with it."""

from pathlib import Path

import pytest

from p2pmq.bench.plan import BenchmarkError
from p2pmq.bench.process import RedisServer, Worker


async def owner(folder: Path) -> Worker:
    options = {
        "mesh": "test",
        "uvloop": False,
        "folder": str(folder),
        "seeds": [],
        "replicas": 1,
        "min_copies": 1,
    }
    return await Worker.start("owner", options, folder)


async def test_a_worker_that_fails_is_reported_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"(?s)nonsense ended early.*KeyError"):
        await Worker.start("nonsense", {}, tmp_path)


async def test_a_redis_that_cannot_start_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="try --no-redis"):
        await RedisServer.start("false", tmp_path)


async def test_a_worker_ends_at_the_end_of_its_input(tmp_path: Path) -> None:
    worker = await owner(tmp_path)
    assert ":" in worker.hello["address"]
    assert await worker.cpu_s() > 0
    await worker.stop()
    with pytest.raises(BenchmarkError, match="the owner ended early"):
        await worker.ask("usage")


async def test_an_unknown_command_is_reported(tmp_path: Path) -> None:
    worker = await owner(tmp_path)
    try:
        with pytest.raises(BenchmarkError, match="knows no command 'dance'"):
            await worker.ask("dance")
    finally:
        await worker.stop()
