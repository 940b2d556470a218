"""The report's page: what it tells, what it must not run, and that a browser draws it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from p2pmq.sim.outcome import (
    Band,
    Latencies,
    Outcome,
    Ownership,
    Presence,
    Sample,
    Totals,
    Verdict,
)
from p2pmq.sim.report import ReportDependencyError, write_report
from p2pmq.sim.report.charts import delays, traffic
from p2pmq.sim.report.numbers import duration, moment, percentile, unit_of
from p2pmq.sim.report.timeline import timeline

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NAMES = ("shop", "bank", "depot")
SPLIT = Band("cut", NAMES, 60.0, 200.0, "partition shop | bank,depot", (("shop",), NAMES[1:]))
STORY = Outcome(
    scenario="split in halves",
    seed=7,
    replay="p2pmq simulate simulations/split_in_halves.toml --seed 7 --report 'out.html'",
    trace_hash="0123456789abcdef",
    events=1_000,
    virtual_s=300.0,
    wall_s=0.5,
    nodes=NAMES,
    bands=(
        SPLIT,
        Band("flap", ("shop", "bank"), 210.0, 220.0, "flapping every 5 s"),
        Band("down", ("depot",), 100.0, 130.0, "depot crashed"),
        Band("slow disk", ("bank",), 220.0, 240.0, "bank syncs slowly"),
        Band("clock", ("shop",), 250.0, 250.0, "clock of shop jumped"),
    ),
    ownership=(
        Ownership("orders", "shop", 1.0, 300.0),
        Ownership("orders", "bank", 66.0, 201.0),
    ),
    presence=(
        Presence("shop", "up", 0.0, 300.0),
        Presence("bank", "paused", 0.0, 300.0),
        Presence("depot", "up", 0.0, 100.0),
        Presence("depot", "down", 100.0, 130.0),
        Presence("depot", "up", 130.0, 300.0),
    ),
    convergence_s=(204.2,),
    verdicts=(Verdict("committed_is_kept", ok=True), Verdict("order_is_kept", ok=True)),
    totals=Totals(attempted=1_234, committed=1_200, delivered=1_200),
    latencies=Latencies(heal=(4_200.0,), delivery=(0.0, 1.5, 2.5, 140_000.0)),
    traffic=tuple(
        Sample(name, at_s, 10.0, 5.0, 700.0) for at_s in (10.0, 20.0, 30.0) for name in NAMES
    ),
)
EVIL = "</script><script>document.title='run'</script><img src=x onerror=document.title='run'>"


def written(outcome: Outcome, folder: Path) -> str:
    path = folder / "out.html"
    write_report(outcome, path)
    return path.read_text(encoding="utf-8")


def without_library(page: str) -> str:
    """The page, its longest script left out."""
    library = max(re.findall(r"<script>.*?</script>", page, re.DOTALL), key=len)
    return page.replace(library, "")


@pytest.fixture(scope="module", autouse=True)
def _plotly() -> None:
    pytest.importorskip("plotly", reason="the extra [report] is not installed")


def test_the_page_says_what_was_run_what_came_of_it_and_how_to_run_it_again(
    tmp_path: Path,
) -> None:
    page = without_library(written(STORY, tmp_path))
    for told in (
        "split in halves", "<code>7</code>", "0123456789abcdef", "1,234", "2 checks passed",
        "committed is kept", "4.2 s", "partition shop | bank,depot", "plotly ",
    ):  # fmt: skip
        assert told in page
    assert "--seed 7 --report &#x27;out.html&#x27;</code>" in page


def test_a_broken_promise_comes_first_with_its_details(tmp_path: Path) -> None:
    breaches = tuple(f"message {n} is nowhere" for n in range(150))
    broken = Verdict("stored_is_kept", ok=False, violations=breaches)
    page = written(replace(STORY, verdicts=(*STORY.verdicts, broken)), tmp_path)
    assert "1 of 3 checks failed" in page
    assert page.index("stored is kept") < page.index("committed is kept")
    assert "message 99 is nowhere\nand 50 more" in page


def test_an_aborted_run_says_what_ended_it(tmp_path: Path) -> None:
    page = written(replace(STORY, error="the mesh did not settle"), tmp_path)
    assert "ended before its time" in page
    assert "the mesh did not settle" in page


def test_a_run_in_which_nothing_happened_has_a_page(tmp_path: Path) -> None:
    quiet = Outcome("quiet", 0, "again", "00", 0, 0.0, 0.0, ())
    assert "Nothing was measured" in written(quiet, tmp_path)


def test_the_library_stands_in_the_page_once_and_nothing_is_fetched(tmp_path: Path) -> None:
    page = written(STORY, tmp_path)
    assert page.count("plotly.js v") == 1
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)\s*=", without_library(page).split("<body>")[1])


def test_texts_of_a_scenario_are_shown_and_not_run(tmp_path: Path) -> None:
    band = Band("cut", (EVIL,), 1.0, 2.0, EVIL)
    outcome = replace(
        STORY, scenario=EVIL, replay=EVIL, error=EVIL, nodes=(EVIL,), bands=(band,),
        presence=(Presence(EVIL, "up", 0.0, 9.0),), ownership=(Ownership(EVIL, EVIL, 1.0, 2.0),),
        traffic=(Sample(EVIL, 1.0, 1.0, 1.0, 1.0),),
        verdicts=(Verdict(EVIL, ok=False, violations=(EVIL,)),),
    )  # fmt: skip
    page = without_library(written(outcome, tmp_path))
    assert "<img" not in page
    assert page.count("<script>") == 2  # the page's own


def test_without_plotly_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ReportDependencyError, match=r"pip install 'p2pmq\[report\]'"):
        write_report(STORY, tmp_path / "out.html")


def test_the_charts_hold_only_what_plotly_knows() -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    many = tuple(Sample(f"n{n}", at, 1.0, 1.0, n) for n in range(30) for at in (1.0, 2.0))
    for figure in (
        timeline(STORY),
        delays(STORY),
        traffic(STORY),
        traffic(replace(STORY, traffic=many)),
    ):
        assert figure is not None
        graph_objects.Figure({"data": figure.data, "layout": figure.layout})


def test_each_side_of_a_split_has_a_colour_of_its_own_and_the_unnamed_are_one_more() -> None:
    split = replace(SPLIT, sides=(("shop",), ("bank",)))
    data = timeline(replace(STORY, bands=(split,))).data
    sides = {bar["name"]: bar["y"] for bar in data if "side" in bar["name"]}
    assert sides == {"side 1 of a split": [0], "side 2 of a split": [1], "side 3 of a split": [2]}


def test_bands_at_the_same_time_lie_above_each_other() -> None:
    both = (SPLIT, replace(SPLIT, what="link", text="loss"), replace(SPLIT, from_s=250, to_s=260))
    heights = {bar["name"]: bar["y"] for bar in timeline(replace(STORY, bands=both)).data}
    assert heights["network cut"][0] != heights["bad links"][0]
    assert heights["network cut"][0] == heights["network cut"][1]


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50.0), (0.9, 90.0), (0.99, 99.0), (1.0, 100.0)]
)
def test_a_percentile_is_one_of_the_samples(share: float, expected: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], share) == expected
    assert percentile([3.0], share) == 3.0


def test_times_are_told_in_units_that_fit() -> None:
    assert [unit_of(s).name for s in (30, 600, 86_400, 604_800)] == ["s", "min", "h", "days"]
    assert [duration(s) for s in (0, 0.0042, 31, 130, 90_000)] == [
        "0 ms", "4.2 ms", "31 s", "2.17 min", "25 h",
    ]  # fmt: skip
    assert [moment(s) for s in (12.5, 11_250, 187_200)] == ["0:12.5", "3:07:30", "2 d 4:00:00"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: Debian's package chromium")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_draws_the_charts_without_errors_and_without_the_network(
    tmp_path: Path, theme: str
) -> None:
    assert CHROMIUM is not None
    write_report(STORY, tmp_path / "out.html")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
        "--virtual-time-budget=20000", "--window-size=1240,1800", "--dump-dom",
        f"--blink-settings=preferredColorScheme={0 if theme == 'dark' else 1}",
        (tmp_path / "out.html").as_uri(),
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(tmp_path)}
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=True, env=environment
    )
    assert run.stdout.count('data-drawn="yes"') == 3
    assert "data-script-errors" not in run.stdout
    assert "CONSOLE" not in run.stderr
    assert run.stdout.count('<g class="trace bars"') >= 8  # lanes, sides, owners, cuts
    assert run.stdout.count('<g class="trace scatter') >= 8  # marks, delays, traffic
    assert "partition shop | bank,depot" in run.stdout
