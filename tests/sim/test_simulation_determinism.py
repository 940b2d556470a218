"""One seed, one trace: in every process, whatever its hash seed, and however often."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 10
SCRIPT = f"""
import logging
from p2pmq.sim import simulate
from p2pmq.sim.story import Plan, random_story

logging.disable(logging.CRITICAL)
litter = [object() for _ in range(int.from_bytes(__import__("os").urandom(2)))]  # other addresses
for seed in range({SEEDS}):
    with simulate(seed) as sim:
        try:
            sim.run(lambda mesh: random_story(mesh, Plan(seconds=6, settle_s=20)))
            ended = "well"
        except Exception as error:
            ended = type(error).__name__
        print(seed, ended, sim.mesh.now, sim.loop.events, sim.mesh.trace.digest)
"""


def start(hash_seed: int) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_ten_seeds_give_the_same_traces_in_processes_with_different_hash_seeds() -> None:
    processes = [start(1), start(2)]
    first, second = (process.communicate(timeout=110)[0].splitlines() for process in processes)
    assert len(first) == SEEDS
    assert len({line.split()[-1] for line in first}) == SEEDS
    assert first == second
