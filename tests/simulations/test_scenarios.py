"""Every scenario that is shipped holds what it promises; long ones are played at a smaller size."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pmq.sim.runner import Label, play
from p2pmq.sim.scenario_file import loaded

FOLDER = Path(__file__).parents[2] / "simulations"
FILES = sorted(FOLDER.glob("*.toml"))
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


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_scenario_holds(file: Path) -> None:
    scenario = loaded(file, SMALLER.get(file.stem, ()))
    outcome = play(scenario, scenario.seed, Label(file.stem), observes=True)
    broken = [verdict for verdict in outcome.verdicts if not verdict.ok]
    assert outcome.ok, (outcome.error, broken)
    assert outcome.totals.delivered
