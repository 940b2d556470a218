"""The report gives medians and ranges, and compares with Redis of the same size."""

import json

import pytest
from rich.console import Console

from p2pmq.bench.plan import Mode
from p2pmq.bench.report import P2PMQ, REDIS, Report, Run, Series


def run_of(rate: float, p50_us: float | None = None) -> Run:
    return Run(rate, 1.0, 2.0, 3.0, 4.0, duplicates=0, p50_us=p50_us, p99_us=p50_us, max_us=p50_us)


@pytest.fixture
def report() -> Report:
    return Report(
        {"cpus": 2},
        [
            Series(P2PMQ, Mode.BATCH, 128, [run_of(rate) for rate in (300.0, 90.0, 100.0)]),
            Series(REDIS, Mode.BATCH, 128, [run_of(50.0)]),
            Series(P2PMQ, Mode.BATCH, 1024, [run_of(70.0)]),
            Series(P2PMQ, Mode.LATENCY, 128, [run_of(1_000.0, p50_us=444.0)]),
        ],
    )


def shown(report: Report) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        for table in report.tables():
            console.print(table)
    return capture.get()


def test_a_series_is_shown_by_its_median_and_its_range(report: Report) -> None:
    assert "100 (90 to 300)" in shown(report)


def test_a_series_is_compared_with_redis_of_the_same_size(report: Report) -> None:
    lines = shown(report).splitlines()
    assert any("100 (90 to 300)" in line and "2.00" in line for line in lines)
    assert report.redis_rate(1024) is None


def test_latency_has_a_table_of_its_own(report: Report) -> None:
    assert "444 (444 to 444)" in shown(report)


def test_json_holds_every_run_and_the_medians(report: Report) -> None:
    data = json.loads(json.dumps(report.as_json()))
    first, *_, latency = data["series"]
    assert [run["messages_per_s"] for run in first["runs"]] == [300.0, 90.0, 100.0]
    assert first["median"]["messages_per_s"] == 100.0
    assert "p50_us" not in first["median"]
    assert latency["median"]["p50_us"] == 444.0


def test_the_copies_of_each_system_are_shown(report: Report) -> None:
    report.replicas, report.min_copies = 3, 2
    lines = shown(report).splitlines()
    assert [P2PMQ in line for line in lines if "2 of 3" in line] == [True, True, True]
    assert [REDIS in line for line in lines if "1 of 1" in line] == [True]
    assert report.as_json()["copies"] == {"replicas": 3, "min_copies": 2}


def test_the_cpu_time_of_each_process_is_shown(report: Report) -> None:
    shown_times = [
        [cell.strip() for cell in line.split("│")[4:8]]
        for line in shown(report).splitlines()
        if "4.0" in line
    ]
    assert shown_times == [["1.0", "2.0", "4.0", "3.0"]] * 3
