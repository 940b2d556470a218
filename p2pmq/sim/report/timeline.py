"""The timeline: a lane for each node, what it owned, what was broken, and when all was well again.

Above the lanes are the faults of the network; while it is split, each side's
lanes bear a colour of their own, so that the eye sees who was with whom.

Invariant: every band, span and moment of the outcome is drawn, and lies within the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pmq.sim.report.figure import (
    BAD,
    GOOD,
    GRID,
    MUTED,
    PALETTE,
    WARN,
    Figure,
    Trace,
    axis,
    base_layout,
    shown,
)
from p2pmq.sim.report.numbers import cut_short, duration, moment, unit_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from p2pmq.sim.outcome import Band, Outcome, Ownership

NETWORK = ("cut", "flap", "link")
"""Kinds that are drawn above the lanes; all others are marks on a node's lane."""
ON_LANES = ("down", "pause")
"""Kinds whose length the lane itself shows: of these only the begin is marked."""
MARKS = {
    "down": ("x", BAD),
    "pause": ("hourglass", WARN),
    "leave": ("triangle-left", MUTED),
    "join": ("triangle-right", GOOD),
    "clock": ("circle", "#7a5fc0"),
}
DISK_MARK = ("diamond", "#b8862b")
STATES = {"up": "rgba(128,138,150,0.20)", "down": "#d3929c", "paused": "#e0b768"}
SIDES = (
    "rgba(59,125,216,0.42)", "rgba(224,130,60,0.42)", "rgba(122,95,192,0.42)",
    "rgba(42,157,143,0.42)",
)  # fmt: skip
CUT_OFF = "rgba(209,73,91,0.30)"
LANE_PX = ((12, 38), (30, 24), (10_000, 15))
"""Up to so many nodes a lane is so high."""
TRACK_PX = 26
LETTER = 0.0085
"""Of the chart's width: to keep the texts of two bands in one track apart."""
TRACKS_MAX = 8
ROWS_MAX = 4
"""So many queues are drawn beside each other in a lane; further ones share these rows."""
NAMED_MAX = 12
"""Up to so many queues are named in the legend."""


class _Bars:
    """Horizontal bars of one kind, gathered into one trace."""

    def __init__(self, name: str, color: str, unit_s: float, *, legend: bool = True) -> None:
        self._unit_s = unit_s
        self.trace: Trace = {
            "type": "bar",
            "orientation": "h",
            "name": shown(name),
            "showlegend": legend,
            "marker": {"color": color, "line": {"width": 0}},
            "hovertemplate": "%{hovertext}<extra></extra>",
            **{column: [] for column in ("base", "x", "y", "width", "text", "hovertext")},
            "textposition": "inside",
            "insidetextanchor": "start",
            "textangle": 0,
            "constraintext": "none",
            "textfont": {"size": 11, "color": "#ffffff"},
        }

    def add(
        self, y: float, height: float, span: tuple[float, float], told: str, text: str = ""
    ) -> None:
        """One bar, centred at y; `span` in seconds."""
        from_s, to_s = span
        trace = self.trace
        trace["base"].append(from_s / self._unit_s)
        trace["x"].append((to_s - from_s) / self._unit_s)
        trace["y"].append(y)
        trace["width"].append(height)
        trace["text"].append(shown(text))
        trace["hovertext"].append(f"{shown(cut_short(told))}<br>{_span(from_s, to_s)}")


def timeline(outcome: Outcome) -> Figure:
    """The chart."""
    unit = unit_of(outcome.virtual_s)
    lanes = {name: lane for lane, name in enumerate(outcome.nodes)}
    tracks = _tracks(outcome)
    top = -0.9 - len(tracks) * 0.72
    data = _presence(outcome, lanes, unit.seconds, ("up",))
    data += _sides(outcome, lanes, unit.seconds)
    data += _presence(outcome, lanes, unit.seconds, ("down", "paused"))
    data += _ownership(outcome, lanes, unit.seconds)
    data += _marks(outcome, lanes, unit.seconds)
    data += _network(tracks, unit.seconds)
    data += _moments(outcome, top + 0.3, unit.seconds)
    lane_px = next(px for most, px in LANE_PX if len(lanes) <= most)
    height_px = 110 + lane_px * len(lanes) + TRACK_PX * (len(tracks) + 1)
    layout = base_layout(height_px)
    layout["barmode"] = "overlay"
    layout["hovermode"] = "closest"
    end = outcome.virtual_s / unit.seconds
    layout["xaxis"] = axis(f"virtual time, {unit.name}", range=[0, end], rangemode="tozero")
    network_at = [top + 0.5 + 0.36 * len(tracks)] if tracks else []
    layout["yaxis"] = axis(
        range=[len(lanes) - 0.5, top],
        tickvals=[*network_at, *lanes.values()],
        ticktext=[*(["<i>network</i>"] if tracks else []), *map(shown, lanes)],
        showgrid=False,
        fixedrange=True,
    )
    layout["shapes"] = _lines(outcome, (top, len(lanes) - 0.5), unit.seconds)
    layout["annotations"] = _labels(tracks, unit.seconds)
    return Figure(data, layout, height_px)


# ---------------------------------------------------------------------------------------- lanes


def _presence(
    outcome: Outcome, lanes: dict[str, int], unit_s: float, states: tuple[str, ...]
) -> list[Trace]:
    bars = {state: _Bars(state, STATES[state], unit_s) for state in states}
    for span in outcome.presence:
        if span.state in bars:
            told = f"{span.node}: {span.state}"
            bars[span.state].add(lanes[span.node], 0.84, (span.from_s, span.to_s), told)
    return [b.trace for b in bars.values() if b.trace["y"]]


def _sides(outcome: Outcome, lanes: dict[str, int], unit_s: float) -> list[Trace]:
    """While the network is split, a colour for each side on its nodes' lanes."""
    cuts = [band for band in outcome.bands if band.what == "cut"]
    most = max((len(_sides_of(band, outcome.nodes)) for band in cuts), default=0)
    named = [_Bars(f"side {n + 1} of a split", SIDES[n % len(SIDES)], unit_s) for n in range(most)]
    others = _Bars("cut off in part", CUT_OFF, unit_s)
    for band in cuts:
        sides = _sides_of(band, outcome.nodes)
        for bars, side in zip(named, sides, strict=False) if sides else [(others, band.who)]:
            for node in side:
                bars.add(lanes[node], 0.84, (band.from_s, band.to_s), f"{node}: {band.text}")
    return [bars.trace for bars in (*named, others) if bars.trace["y"]]


def _sides_of(band: Band, nodes: Sequence[str]) -> list[tuple[str, ...]]:
    """Who was with whom; nodes that no side names were one more."""
    named = {name for side in band.sides for name in side}
    rest = tuple(name for name in nodes if name not in named)
    return [*band.sides, *([rest] if rest and band.sides else [])]


def _ownership(outcome: Outcome, lanes: dict[str, int], unit_s: float) -> list[Trace]:
    queues = list(dict.fromkeys(span.queue for span in outcome.ownership))
    rows = max(1, min(len(queues), ROWS_MAX))
    height = 0.56 / rows
    traces: list[Trace] = []
    for number, queue in enumerate(queues):
        legend = len(queues) <= NAMED_MAX
        color = PALETTE[number % len(PALETTE)]
        bars = _Bars(f"owns {queue}", color, unit_s, legend=legend)
        offset = (number % rows - (rows - 1) / 2) * height
        for span in (span for span in outcome.ownership if span.queue == queue):
            told = f"{span.node} owned {span.queue}"
            text = queue if rows <= 2 and _is_long(span, outcome) else ""  # noqa: PLR2004  more are too thin
            y = lanes[span.node] + offset
            bars.add(y, height * 0.86, (span.from_s, span.to_s), told, text)
        traces.append(bars.trace)
    return traces


def _is_long(span: Ownership, outcome: Outcome) -> bool:
    return span.to_s - span.from_s > LETTER * (len(span.queue) + 2) * outcome.virtual_s


def _marks(outcome: Outcome, lanes: dict[str, int], unit_s: float) -> list[Trace]:
    """Faults of single nodes: a symbol where each begins, and a line as long as it lasts."""
    marks: dict[str, Trace] = {}
    for band in outcome.bands:
        if band.what in NETWORK:
            continue
        symbol, color = MARKS.get(band.what, DISK_MARK)
        trace = marks.setdefault(band.what, _mark_trace(band.what, symbol, color))
        for node in band.who:
            y = lanes[node]
            lasts = band.to_s > band.from_s and band.what not in ON_LANES
            ends = (band.from_s, band.to_s) if lasts else (band.from_s,)
            trace["x"] += [*(at / unit_s for at in ends), None]
            trace["y"] += [*(y for _ in ends), None]
            trace["hovertext"] += [*(f"{shown(band.text)}<br>{moment(at)}" for at in ends), ""]
    return list(marks.values())


def _mark_trace(name: str, symbol: str, color: str) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "showlegend": name not in ON_LANES,
        "marker": {
            "symbol": symbol,
            "size": 11,
            "color": color,
            "line": {"width": 1, "color": "#ffffff"},
        },
        "line": {"color": color, "width": 3},
        "hovertemplate": "%{hovertext}<extra></extra>",
        "x": [],
        "y": [],
        "hovertext": [],
    }


# -------------------------------------------------------------------------------------- network


def _tracks(outcome: Outcome) -> list[list[Band]]:
    """Faults of the network, laid into as few rows as keep them and their texts apart."""
    tracks: list[list[Band]] = []
    free_from: list[float] = []
    for band in sorted((b for b in outcome.bands if b.what in NETWORK), key=lambda b: b.from_s):
        text_s = LETTER * len(cut_short(band.text)) * outcome.virtual_s
        end_s = max(band.to_s, band.from_s + text_s)
        row = next((n for n, free in enumerate(free_from) if free <= band.from_s), len(tracks))
        row = min(row, TRACKS_MAX - 1)
        if row == len(tracks):
            tracks.append([])
            free_from.append(0.0)
        tracks[row].append(band)
        free_from[row] = end_s
    return tracks


def _track_y(row: int) -> float:
    return -0.9 - row * 0.72


def _network(tracks: list[list[Band]], unit_s: float) -> list[Trace]:
    bars = {
        "cut": _Bars("network cut", BAD, unit_s, legend=False),
        "flap": _Bars("flapping", WARN, unit_s, legend=False),
        "link": _Bars("bad links", "#8a94a3", unit_s, legend=False),
    }
    for row, track in enumerate(tracks):
        for band in track:
            bars[band.what].add(_track_y(row), 0.12, (band.from_s, band.to_s), band.text)
    return [b.trace for b in bars.values() if b.trace["y"]]


def _labels(tracks: list[list[Band]], unit_s: float) -> list[dict[str, object]]:
    return [
        {
            "x": band.from_s / unit_s,
            "y": _track_y(row) - 0.12,
            "text": shown(cut_short(band.text)),
            "showarrow": False,
            "xanchor": "left",
            "yanchor": "bottom",
            "borderpad": 0,
            "xshift": 2,
            "font": {"size": 12},
        }
        for row, track in enumerate(tracks)
        for band in track
    ]


def _moments(outcome: Outcome, y: float, unit_s: float) -> list[Trace]:
    """When all views were equal again."""
    if not outcome.convergence_s:
        return []
    trace = _mark_trace("all views equal again", "star-triangle-down", GOOD)
    trace["mode"] = "markers"
    trace["x"] = [at / unit_s for at in outcome.convergence_s]
    trace["y"] = [y for _ in outcome.convergence_s]
    trace["hovertext"] = [f"all views equal again<br>{moment(at)}" for at in outcome.convergence_s]
    return [trace]


def _lines(
    outcome: Outcome, between: tuple[float, float], unit_s: float
) -> list[dict[str, object]]:
    """Lines down through the lanes: where a cut begins and ends, and where all was well again."""
    cuts = [at for b in outcome.bands if b.what == "cut" for at in (b.from_s, b.to_s)]
    marked: Iterable[tuple[float, str, str]] = [
        *((at, "rgba(209,73,91,0.55)", "solid") for at in dict.fromkeys(cuts)),
        *((at, GOOD, "dot") for at in outcome.convergence_s),
    ]
    lines: list[dict[str, object]] = [
        {
            "type": "line", "x0": at / unit_s, "x1": at / unit_s, "y0": between[0],
            "y1": between[1], "line": {"color": color, "width": 1, "dash": dash},
        }
        for at, color, dash in marked
    ]  # fmt: skip
    floor: dict[str, object] = {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": -0.5, "y1": -0.5,
        "line": {"color": GRID, "width": 1},
    }  # fmt: skip
    return [*lines, floor]


def _span(from_s: float, to_s: float) -> str:
    return f"{moment(from_s)} – {moment(to_s)} ({duration(to_s - from_s)})"
