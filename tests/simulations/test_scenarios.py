"""Every scenario that is shipped holds what it promises; long ones are played at a smaller size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from p2pmq.sim.runner import Label, play
from p2pmq.sim.scenario_file import loaded

FOLDER = Path(__file__).parents[2] / "simulations"
FILES = sorted(FOLDER.rglob("*.toml"))
COPIES = sorted((FOLDER / "copies").glob("*.toml"))
"""One for each kind of fault, with three copies of each queue."""
SMALLER = {
    "churn_of_100_nodes": ("nodes.count=15", "duration=40s", "faults.0.times=25"),
    "edge_site_offline_for_a_week": (
        "duration=3h",
        "faults.0.for=90m",
        "expect.committed_min=8",
    ),
}


def test_there_are_stories_enough() -> None:
    assert len(FILES) >= 15
    for file in FILES:
        assert file.read_text(encoding="utf-8").startswith("# "), f"{file.name} tells no story"
        assert loaded(file).about, f"{file.name} has no line about it"


def test_each_kind_of_fault_is_told_with_three_copies_and_a_bound_that_has_a_reason() -> None:
    assert len(COPIES) >= 25
    for file in COPIES:
        scenario = loaded(file)
        expect = scenario.expect
        assert scenario.nodes.replicas == 3, file.name
        assert scenario.faults or scenario.links, file.name
        assert (expect.lost, expect.unexpected, expect.stuck) == (0, 0, 0), file.name
        assert re.search(r"^duplicates_max = \d+  # \w", file.read_text("utf-8"), re.MULTILINE), (
            file.name
        )


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(FOLDER).with_suffix("")))
def test_the_scenario_holds(file: Path) -> None:
    scenario = loaded(file, SMALLER.get(file.stem, ()))
    outcome = play(scenario, scenario.seed, Label(file.stem), observes=True)
    broken = [verdict for verdict in outcome.verdicts if not verdict.ok]
    assert outcome.ok, (outcome.error, broken)
    assert outcome.totals.delivered
