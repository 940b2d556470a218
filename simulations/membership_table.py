"""Print the table of docs/membership.md, "Measured": how membership fares as meshes grow.

    python simulations/membership_table.py [members ...] [--loss 0.1] [--trials 1] [--short]

The membership machines are the real ones, without the rest of a node: see
p2pmq/sim/field.py. All follows from fixed seeds, so the same code prints the
same table. Ten and 30 members take a minute, 100 some five, 1,000 an hour and more.
`--short` leaves out slow members and splits of a day, for very large meshes.
"""

from __future__ import annotations

import argparse
import gc
import math
import random
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from functools import partial

from p2pmq.config import LAN
from p2pmq.sim.field import Field, Machine, formed

SIZES = (10, 30, 100, 300, 1_000)
LOSSES = (0.0, 0.1)
TRIALS = 5
QUIET_MS = 30_000  # the rumours of a change are through by then
STEADY_MS = 60_000
SLOW_MS = 5_000  # every packet comes so late to slow members
SLOW_SHARE = 0.05
SLOW_FOR_MS = 120_000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_UP_TO = 100  # members of meshes that are split for a day: larger ones take too long
RARE_PROBES_MS = MINUTE_MS  # while such a split lasts, probes only cost time


@dataclass
class Row:
    """What was measured of one size and loss. Times in seconds."""

    members: int
    loss: float
    form_s: float = 0.0
    first_s: list[float] = field(default_factory=list)
    all_s: list[float] = field(default_factory=list)
    join_s: list[float] = field(default_factory=list)
    packets: float = 0.0
    bytes: float = 0.0
    false_deaths: int = 0
    slow: list[str] = field(default_factory=list)
    heal_s: str = ""
    heal_after_a_day_s: str = "–"


def measure(members: int, loss: float, *, count: int = TRIALS, short: bool = False) -> Row:
    """Run all experiments of one size and loss."""
    row = Row(members, loss)
    mesh, form_ms = formed(members, seed=members, loss=loss)
    row.form_s = form_ms / 1000
    mesh.run(QUIET_MS)
    steady(mesh, row)
    trials(mesh, row, count)
    del mesh  # the largest take gigabytes
    for lifeguard in (True, False):
        row.slow.append("–" if short else slow_members(members, loss, lifeguard=lifeguard))
    row.heal_s = split(members, loss, 10 * MINUTE_MS, LAN.probe_interval_ms)
    if members <= DAY_UP_TO and not short:
        row.heal_after_a_day_s = split(members, loss, 24 * HOUR_MS, RARE_PROBES_MS)
    return row


def steady(mesh: Field, row: Row) -> None:
    """Count what a mesh sends in which nothing happens, and whom it takes for dead wrongly."""
    mesh.deaths.clear()
    mesh.counting = True
    mesh.run(STEADY_MS)
    mesh.counting = False
    seconds = STEADY_MS / 1000 * row.members
    row.packets, row.bytes = mesh.sent.packets / seconds, mesh.sent.bytes / seconds
    row.false_deaths = len(mesh.deaths)


def trials(mesh: Field, row: Row, count: int) -> None:
    """By turns crash a member, and let a new one join, so many times."""
    chance = random.Random("trials")
    for _ in range(count):
        victim = chance.choice(mesh.up[1:])
        began = mesh.now
        mesh.crash(victim)
        took_ms = mesh.run_until(partial(mesh.none_knows, victim), 600_000)
        assert took_ms is not None, "a dead member was never noticed"
        row.first_s.append((mesh.deaths[victim.own.node_id][0] - began) / 1000)
        row.all_s.append(took_ms / 1000)
        mesh.run(chance.randrange(QUIET_MS // 2, QUIET_MS))
        newcomer = mesh.add((mesh.up[0],))
        took_ms = mesh.run_until(partial(mesh.all_know, newcomer), 600_000)
        assert took_ms is not None, "a newcomer was never known to all"
        row.join_s.append(took_ms / 1000)
        mesh.run(chance.randrange(QUIET_MS // 2, QUIET_MS))


def slow_members(members: int, loss: float, *, lifeguard: bool) -> str:
    """`a / b`: healthy members, and all verdicts on them, while some others are slow."""
    mesh, _ = formed(members, members, replace(LAN, lifeguard=lifeguard), loss)
    mesh.run(QUIET_MS)
    mesh.deaths.clear()
    slow = random.Random("slow").sample(mesh.machines, max(1, int(members * SLOW_SHARE)))
    for machine in slow:
        machine.slow_ms = SLOW_MS
    mesh.run(SLOW_FOR_MS)
    ids = {machine.own.node_id for machine in slow}
    healthy = [times for node_id, times in mesh.deaths.items() if node_id not in ids]
    return f"{len(healthy)} / {sum(map(len, healthy))}"


def split(members: int, loss: float, lasts_ms: int, probe_interval_ms: int) -> str:
    """Part a mesh into halves for so long, and time in seconds how long it takes to heal."""
    config = replace(LAN, probe_interval_ms=probe_interval_ms)
    mesh, _ = formed(members, members, config, loss, within_ms=HOUR_MS)
    sides: tuple[list[Machine], list[Machine]] = (mesh.machines[::2], mesh.machines[1::2])
    mesh.split(*sides)
    mesh.run(lasts_ms)
    for side in sides:
        assert all(m.swim.alive_count <= len(side) for m in side), "the split was not noticed"
    mesh.heal()
    took_ms = mesh.run_until(mesh.agree, HOUR_MS)
    return "never" if took_ms is None else f"{took_ms / 1000:.1f}"


def suspicion_s(members: int) -> tuple[float, float]:
    """The suspicion timeout by memberlist: with all awaited confirmations, and with none."""
    least = LAN.suspicion_mult * max(1.0, math.log10(members)) * LAN.probe_interval_ms / 1000
    return least, least * LAN.suspicion_max_timeout_mult


def shown(row: Row) -> str:
    """The row in Markdown."""
    least, most = suspicion_s(row.members)
    cells = (
        f"{row.members:,}",
        f"{row.loss:.0%}",
        f"{row.form_s:.1f}",
        f"{statistics.median(row.first_s):.1f}",
        f"{statistics.median(row.all_s):.1f} / {max(row.all_s):.1f}",
        f"{least:.1f} … {most:.0f}",
        f"{statistics.median(row.join_s):.2f} / {max(row.join_s):.2f}",
        f"{row.packets:.1f}",
        f"{row.bytes:,.0f}",
        f"{row.false_deaths}",
        *row.slow,
        row.heal_s,
        row.heal_after_a_day_s,
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table, a row at a time."""
    parser = argparse.ArgumentParser(description="Print the table of docs/membership.md.")
    parser.add_argument("members", type=int, nargs="*", default=SIZES)
    parser.add_argument("--loss", type=float, nargs="*", default=LOSSES)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--short", action="store_true")
    asked = parser.parse_args()
    gc.disable()  # nothing here is cyclic, and each collection walks millions of objects
    head = (
        "members", "loss", "forms, s", "first, s", "all, s", "suspicion by formula, s",
        "join known to all, s", "packets", "bytes", "false", "false, slow members",
        "… without Lifeguard", "heals in, s", "… after a day",
    )  # fmt: skip
    print(f"| {' | '.join(head)} |\n|{' ---: |' * len(head)}")
    for members in asked.members:
        for loss in asked.loss:
            began = time.monotonic()
            print(shown(measure(members, loss, count=asked.trials, short=asked.short)), flush=True)
            print(f"{members}, {loss}: {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
