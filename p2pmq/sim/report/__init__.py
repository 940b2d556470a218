"""The report: one HTML page that tells the story of a run, and opens anywhere, offline.

The charts are drawn by plotly.js, which the page holds once; its own policy
forbids it to fetch anything.

Invariant: whatever a scenario's texts hold, they are shown and never run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.sim.refuse import SimulationError
from p2pmq.sim.report.page import page

if TYPE_CHECKING:
    from pathlib import Path

    from p2pmq.sim.outcome import Outcome

__all__ = ["ReportDependencyError", "write_report"]


class ReportDependencyError(SimulationError):
    """The library that draws the charts is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "the report needs plotly, which is not installed: pip install 'p2pmq[report]', or "
            "run the scenario without a report"
        )


def write_report(outcome: Outcome, path: Path) -> None:
    """Write the page on a run to a file, in UTF-8; one that is there is replaced.

    Raises ReportDependencyError without plotly, and OSError if the file cannot be written.
    """
    try:
        from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]  # noqa: PLC0415  optional, and it ships no types
    except ImportError as error:
        raise ReportDependencyError from error
    path.write_text(page(outcome, get_plotlyjs()), encoding="utf-8")
