"""What was measured, as data, as JSON and as tables.

Figures of several runs are given as their median and their range: a mean of a
shared machine's runs says nothing.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.table import Table

from p2pmq.bench.plan import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable

REDIS = "redis"
P2PMQ = "p2pmq"
ROLES = ("publisher", "server", "replicas", "consumer")
TITLES = {
    Mode.BATCH: "publish_many",
    Mode.SINGLE: "publish",
    Mode.LATENCY: "1,000 a second",
}


@dataclass(frozen=True, slots=True)
class Run:
    """One phase. The CPU times are in microseconds for each message, all threads counted."""

    messages_per_s: float
    publisher_cpu_us: float
    server_cpu_us: float
    consumer_cpu_us: float
    replicas_cpu_us: float
    """All of them together; 0 where there is one copy."""
    duplicates: int
    p50_us: float | None = None
    p99_us: float | None = None
    max_us: float | None = None


@dataclass(slots=True)
class Series:
    """The runs of one system with one size in one mode. `note` says how it was run."""

    system: str
    mode: Mode
    size: int
    runs: list[Run] = field(default_factory=list)
    note: str = ""

    def values(self, name: str) -> list[float]:
        """One figure of each run, in order."""
        found = [getattr(run, name) for run in self.runs]
        return [value for value in found if value is not None]

    def median(self, name: str) -> float:
        """The median of one figure; NaN where there is none."""
        values = self.values(name)
        return statistics.median(values) if values else float("nan")


@dataclass(slots=True)
class Report:
    """All series of one run of the benchmark, the machine they ran on, and what was left out."""

    machine: dict[str, Any]
    series: list[Series] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    replicas: int = 1
    """How many copies p2pmq kept of each message …"""
    min_copies: int = 1
    """… and how many of them were fsynced before the confirm."""

    def redis_rate(self, size: int) -> float | None:
        """What Redis made with that size, to compare with."""
        for series in self.series:
            if (series.system, series.size, series.mode) == (REDIS, size, Mode.BATCH):
                return series.median("messages_per_s")
        return None

    def as_json(self) -> dict[str, Any]:
        """The whole report, with the medians beside the runs."""
        return {
            "machine": self.machine,
            "copies": {"replicas": self.replicas, "min_copies": self.min_copies},
            "remarks": self.remarks,
            "series": [
                {
                    **asdict(series),
                    "median": {
                        name: series.median(name)
                        for name in Run.__slots__
                        if series.values(name) and name != "duplicates"
                    },
                }
                for series in self.series
            ],
        }

    def tables(self) -> Iterable[Table]:
        """The report for a person."""
        throughput = [s for s in self.series if s.mode is not Mode.LATENCY]
        if throughput:
            yield self._throughput_table(throughput)
            yield self._cpu_table(throughput)
        latency = [s for s in self.series if s.mode is Mode.LATENCY]
        if latency:
            yield self._latency_table(latency)

    def copies(self, series: Series) -> str:
        """How many copies were fsynced before a confirm, of how many that were kept."""
        if series.system == REDIS:
            return "1 of 1"
        return f"{self.min_copies} of {self.replicas}"

    def _throughput_table(self, all_series: list[Series]) -> Table:
        table = Table(title="First publish to last ack confirmed; median (range)")
        table.add_column("bytes", justify="right")
        table.add_column("system")
        table.add_column("how")
        table.add_column("copies", justify="right")
        table.add_column("messages/s", justify="right")
        table.add_column("× Redis", justify="right")
        for series in all_series:
            redis = self.redis_rate(series.size)
            rate = series.median("messages_per_s")
            table.add_row(
                str(series.size),
                series.system,
                series.note or TITLES[series.mode],
                self.copies(series),
                _median_and_range(series, "messages_per_s"),
                f"{rate / redis:.2f}" if redis else "",
            )
        return table

    def _cpu_table(self, all_series: list[Series]) -> Table:
        table = Table(title="CPU time for each message, µs, all threads of a process; median")
        table.add_column("bytes", justify="right")
        table.add_column("system")
        table.add_column("how")
        for who in ROLES:
            table.add_column(who, justify="right")
        for series in all_series:
            cpu = [f"{series.median(f'{who}_cpu_us'):.1f}" for who in ROLES]
            how = series.note or TITLES[series.mode]
            table.add_row(str(series.size), series.system, how, *cpu)
        return table

    def _latency_table(self, all_series: list[Series]) -> Table:
        table = Table(title="Publish call to handler at 1,000 a second, µs; median (range)")
        table.add_column("bytes", justify="right")
        table.add_column("system")
        table.add_column("copies", justify="right")
        for title in ("p50", "p99", "max"):
            table.add_column(title, justify="right")
        for series in all_series:
            figures = [_median_and_range(series, name) for name in ("p50_us", "p99_us", "max_us")]
            table.add_row(str(series.size), series.system, self.copies(series), *figures)
        return table


def _median_and_range(series: Series, name: str) -> str:
    values = series.values(name)
    if not values:
        return "-"
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"
