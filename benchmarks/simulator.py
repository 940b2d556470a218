# ruff: noqa: INP001, T201 - a script to be run, no package, which prints its tables
"""Measure the simulator: python benchmarks/simulator.py [workload] [hundred] [thousand] [profile].

Prints the tables of docs/simulator.md, "Speed", as Markdown; without arguments
all but the profile. Each measurement runs in a process of its own, on one core,
and counts the CPU time of that process, which neighbours on the machine lengthen
less than they lengthen the wall clock's.
"""

from __future__ import annotations

import cProfile
import logging
import multiprocessing
import platform
import pstats
import resource
import statistics
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from p2pmq.errors import P2PMQError
from p2pmq.sim import simulate
from p2pmq.sim.field import formed

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from p2pmq.node.node import Node
    from p2pmq.sim.mesh import Mesh

SEEDS = 20
RUN_S = 30.0
PUBLISH_EVERY_S = 1.0
PROFILED_SEEDS = 10
SHOWN = 25


class Cost(NamedTuple):
    """What a measurement took."""

    virtual_s: float
    cpu_s: float
    events: int
    packets: int
    rss_mib: float


def started(cpu_s: float, virtual_s: float, events: int, packets: int) -> Cost:
    """The cost since a process began to measure; its memory is its largest."""
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Cost(virtual_s, time.process_time() - cpu_s, events, packets, peak_kib / 1024)


# ------------------------------------------------------------------------------ five busy nodes


async def five_nodes(mesh: Mesh) -> None:
    """Five nodes publish and consume for 30 s: one is cut off, one crashes, and all comes back."""
    names = [f"n{number}" for number in range(5)]
    await mesh.start(*names)
    ended = mesh.now + RUN_S

    async def publish(node: Node) -> None:
        number = 0
        while mesh.now < ended - 10:
            await mesh.run_for(seconds=mesh.random.expovariate(1 / PUBLISH_EVERY_S))
            number += 1
            try:
                await node.publish(f"q{number % 2}", b"%d" % number, confirm="stored")
            except P2PMQError:
                continue

    async def consume(node: Node) -> None:
        async for message in node.consume("q0", prefetch=10):
            message.ack()

    tasks: list[asyncio.Task[None]] = [mesh.run(name, publish(mesh.node(name))) for name in names]
    tasks += [mesh.run(name, consume(mesh.node(name))) for name in names[:2]]
    await mesh.run_for(seconds=3)
    mesh.partition({mesh.random.choice(names)})
    await mesh.run_for(seconds=7)
    mesh.heal()
    crashed = mesh.random.choice(names)
    mesh.crash(crashed)
    await mesh.run_for(seconds=2)
    await mesh.restart(crashed)
    await mesh.run_for(seconds=ended - mesh.now)
    mesh.check()


def workload(first: int = 0) -> Cost:
    """Run SEEDS seeds, from the first."""
    cpu_s, virtual_s, events, packets = time.process_time(), 0.0, 0, 0
    for seed in range(first, first + SEEDS):
        with simulate(seed) as sim:
            sim.run(five_nodes)
        virtual_s += sim.mesh.now
        events += sim.loop.events
        packets += sum(sent.packets for sent in sim.mesh.network.traffic.values())
    return started(cpu_s, virtual_s, events, packets)


# ------------------------------------------------------------------------------- large meshes


def hundred() -> Cost:
    """100 nodes that know each other, for a minute of virtual time."""
    with simulate(1) as sim:
        mesh = sim.mesh

        async def start(mesh: Mesh) -> None:
            await mesh.start(*(f"n{number}" for number in range(100)))
            await mesh.run_for(seconds=10)

        sim.run(start)
        events, now_s = sim.loop.events, mesh.now
        packets = sum(sent.packets for sent in mesh.network.traffic.values())
        cpu_s = time.process_time()
        sim.run(lambda mesh: mesh.run_for(minutes=1))
        sent = sum(sent.packets for sent in mesh.network.traffic.values()) - packets
        return started(cpu_s, mesh.now - now_s, sim.loop.events - events, sent)


def thousand() -> Cost:
    """The membership machines of 1,000 nodes, which know each other, for a minute."""
    field, _ = formed(1_000, seed=1)
    field.run(10_000)
    field.counting = True
    events, cpu_s = field.events, time.process_time()
    field.run(60_000)
    return started(cpu_s, 60.0, field.events - events, field.sent.packets)


# ------------------------------------------------------------------------------------- tables


def alone(measure: Callable[[], Cost]) -> Cost:
    """Run a measurement in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1, initializer=_quiet) as pool:
        return pool.apply(measure)


def _quiet() -> None:
    logging.disable(logging.CRITICAL)


def show_workload() -> None:
    """Seeds a second, thrice, and the median."""
    costs = [alone(workload) for _ in range(3)]
    rates = [SEEDS / cost.cpu_s for cost in costs]
    cost = costs[0]
    print("| 5 nodes, 30 s | seeds a second and core | (spread) | events a seed | packets | µs |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    print(
        f"| publishing, consuming, a cut, a crash | {statistics.median(rates):.1f} | "
        f"{min(rates):.1f} … {max(rates):.1f} | {cost.events / SEEDS:,.0f} | "
        f"{cost.packets / SEEDS:,.0f} | {1e6 * cost.cpu_s / cost.events:.1f} |\n"
    )


def show_large(name: str, measure: Callable[[], Cost]) -> None:
    """How many times as fast as real time, and how much memory."""
    cost = alone(measure)
    print("| mesh at rest | × real time | events/s | packets/s | µs an event | peak RSS, MiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    print(
        f"| {name} | {cost.virtual_s / cost.cpu_s:.1f} | {cost.events / cost.virtual_s:,.0f} | "
        f"{cost.packets / cost.virtual_s:,.0f} | {1e6 * cost.cpu_s / cost.events:.1f} | "
        f"{cost.rss_mib:,.0f} |\n"
    )


def show_profile() -> None:
    """Where the time goes in the runs with five nodes, by the functions' own time."""
    _quiet()
    profile = cProfile.Profile()
    profile.enable()
    for seed in range(PROFILED_SEEDS):
        with simulate(seed) as sim:
            sim.run(five_nodes)
    profile.disable()
    pstats.Stats(profile).sort_stats("tottime").print_stats(SHOWN)


def main() -> None:
    """Print what was asked for."""
    asked = sys.argv[1:] or ["workload", "hundred", "thousand"]
    print(f"Python {platform.python_version()}, {platform.machine()}\n")
    for what in asked:
        if what == "workload":
            show_workload()
        elif what == "hundred":
            show_large("100 nodes", hundred)
        elif what == "thousand":
            show_large("1,000 nodes, membership alone", thousand)
        elif what == "profile":
            show_profile()
        else:
            sys.exit(f"{what}: give workload, hundred, thousand or profile")


if __name__ == "__main__":
    main()
