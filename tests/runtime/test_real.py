"""The real world gives what the settings ask for, and a simulation needs none of it."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from p2pmq.config import NodeSettings
from p2pmq.discovery.combined import CombinedDiscovery
from p2pmq.net.transport import ZmqTransport
from p2pmq.runtime.real import RealWorld, data_dir_of
from p2pmq.runtime.world import real_world
from p2pmq.store.lmdb_store import LmdbStore
from p2pmq.store.memory import MemoryStore


def test_a_node_keeps_its_data_on_disk_unless_told_otherwise(tmp_path: Path) -> None:
    world = RealWorld()
    on_disk = world.store(NodeSettings("n", data_dir=str(tmp_path)))
    assert isinstance(on_disk, LmdbStore)
    assert isinstance(world.store(NodeSettings("n", store="memory")), MemoryStore)


def test_the_directory_is_the_one_given_or_one_of_mesh_and_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data_dir_of(NodeSettings("n", data_dir="~/d")) == tmp_path / "home" / "d"
    assert data_dir_of(NodeSettings("n", mesh="m")) == tmp_path / "p2pmq" / "m" / "n"


def test_ids_and_chance_are_new_each_time() -> None:
    world = RealWorld()
    assert len({world.random_bytes(8) for _ in range(100)}) == 100
    assert world._random().random() != world._random().random()


async def test_time_and_loop_are_this_machines() -> None:
    world = real_world()
    assert world.loop() is asyncio.get_running_loop()
    assert abs(world.wall_clock() - time.time()) < 60


def test_transport_and_discovery_are_the_real_ones() -> None:
    world, settings = RealWorld(), NodeSettings("n", seeds=("127.0.0.1:1",), mdns=True)
    assert isinstance(
        world.transport(settings, b"n" * 8, 1, lambda _name, _count: None), ZmqTransport
    )
    assert isinstance(world.discovery(settings), CombinedDiscovery)


def test_a_node_in_a_world_of_its_own_needs_no_disk_or_multicast_library() -> None:
    code = (
        "import sys, p2pmq.node.node, p2pmq.runtime.driver\n"
        "print([name for name in ('lmdb', 'zeroconf') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
