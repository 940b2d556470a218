"""The smaller charts: how long things took, and what the nodes sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.sim.report.figure import BAD, MUTED, PALETTE, Figure, Trace, axis, base_layout, shown
from p2pmq.sim.report.numbers import percentile, spread, unit_of

if TYPE_CHECKING:
    from p2pmq.sim.outcome import Latencies, Outcome, Sample

LINES_MAX = 10
"""With more nodes the chart shows the median, the 90th percentile and the largest."""
KINDS = ("detection", "convergence", "failover", "heal", "delivery")
STEPS = (("p50", "circle", 11), ("p90", "diamond", 10), ("p99", "triangle-up", 10), ("max", "x", 9))


def samples_of(latencies: Latencies, kind: str) -> tuple[float, ...]:
    """The samples of one kind, in ms."""
    found: tuple[float, ...] = getattr(latencies, kind)
    return found


def delays(outcome: Outcome) -> Figure | None:
    """For each kind of delay its percentiles, on one scale; None if nothing was measured."""
    spreads = {kind: spread(samples_of(outcome.latencies, kind)) for kind in KINDS}
    found = {kind: s for kind, s in spreads.items() if s is not None}
    if not found:
        return None
    kinds = list(found)
    ranges: Trace = {
        "type": "scatter", "mode": "lines", "showlegend": False, "hoverinfo": "skip",
        "line": {"color": "rgba(128,138,150,0.45)", "width": 5}, "x": [], "y": [],
    }  # fmt: skip
    for kind, s in found.items():
        ranges["x"] += [_ms(s.p50) / 1000, _ms(s.max) / 1000, None]
        ranges["y"] += [kind, kind, None]
    data = [ranges]
    for number, (step, symbol, size) in enumerate(STEPS):
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": step, "y": kinds,
                "x": [_ms(getattr(found[kind], step)) / 1000 for kind in kinds],
                "marker": {"symbol": symbol, "size": size, "color": (*PALETTE[:3], BAD)[number]},
                "hovertemplate": f"%{{y}}, {step}: %{{x:.3~s}}s<extra></extra>",
            }
        )  # fmt: skip
    height_px = 110 + 40 * len(kinds)
    layout = base_layout(height_px)
    layout["xaxis"] = axis(
        type="log", ticksuffix="s", tickformat="~s", dtick="D1", minor={"showgrid": False}
    )
    layout["xaxis"]["dtick"] = 1  # each power of ten
    layout["yaxis"] = axis(autorange="reversed", fixedrange=True)
    return Figure(data, layout, height_px)


def _ms(value: float) -> float:
    """A value that a logarithmic scale can show: what took no time is drawn at 0.1 ms."""
    return max(value, 0.1)


def traffic(outcome: Outcome) -> Figure | None:
    """Bytes a second of each node over the run; None if nothing was measured."""
    if not outcome.traffic:
        return None
    unit = unit_of(outcome.virtual_s)
    lines = _lines(outcome)
    data: list[Trace] = []
    for number, (name, points) in enumerate(lines.items()):
        data.append(
            {
                "type": "scatter", "mode": "lines", "name": shown(name),
                "x": [at_s / unit.seconds for at_s, _ in points],
                "y": [bytes_per_s for _, bytes_per_s in points],
                "line": {"color": PALETTE[number % len(PALETTE)], "width": 1.6, "shape": "vh"},
                "hovertemplate": "%{fullData.name}: %{y:.3~s}B/s<extra></extra>",
            }
        )  # fmt: skip
    layout = base_layout(300)
    layout["hovermode"] = "x unified"
    end = outcome.virtual_s / unit.seconds
    layout["xaxis"] = axis(f"virtual time, {unit.name}", range=[0, end])
    layout["yaxis"] = axis("sent, bytes/s", rangemode="tozero", tickformat="~s", fixedrange=True)
    layout["shapes"] = [
        {
            "type": "rect", "yref": "paper", "y0": 0, "y1": 1, "layer": "below",
            "x0": band.from_s / unit.seconds, "x1": band.to_s / unit.seconds,
            "fillcolor": "rgba(209,73,91,0.10)", "line": {"width": 0},
        }
        for band in outcome.bands
        if band.what == "cut"
    ]  # fmt: skip
    layout["font"]["color"] = MUTED
    return Figure(data, layout, 300)


def _lines(outcome: Outcome) -> dict[str, list[tuple[float, float]]]:
    by_node: dict[str, list[Sample]] = {}
    for sample in outcome.traffic:
        by_node.setdefault(sample.node, []).append(sample)
    if len(by_node) <= LINES_MAX:
        return {
            node: [(s.at_s, s.bytes_per_s) for s in samples] for node, samples in by_node.items()
        }
    at: dict[float, list[float]] = {}
    for sample in outcome.traffic:
        at.setdefault(sample.at_s, []).append(sample.bytes_per_s)
    shares = {"median of the nodes": 0.5, "90th percentile": 0.9, "largest": 1.0}
    return {
        name: [(at_s, percentile(values, share)) for at_s, values in at.items()]
        for name, share in shares.items()
    }
