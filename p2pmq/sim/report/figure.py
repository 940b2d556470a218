"""What all charts share: colours, fonts, axes, and text that plotly shows as it is.

A figure is the plain data that plotly.js takes. Colours are of middling
lightness, for the page is light or dark as its reader's system is; its style
sheet colours the text.

Invariant: text that comes from a run goes through `shown`.
"""

from __future__ import annotations

import html
from typing import Any, NamedTuple

Trace = dict[str, Any]
Layout = dict[str, Any]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
GRID = "rgba(128,138,150,0.22)"
MUTED = "rgba(128,138,150,0.9)"
GOOD = "#2e9e6b"
BAD = "#d1495b"
WARN = "#e0a030"
PALETTE = (
    "#3b7dd8", "#c9622f", "#7a5fc0", "#2a9d8f", "#b8862b", "#c2497e", "#5b8c3a", "#4f6d8f",
)  # fmt: skip


class Figure(NamedTuple):
    """A chart: traces, layout, and the height in pixels."""

    data: list[Trace]
    layout: Layout
    height_px: int


def shown(text: str) -> str:
    """Text as plotly shows it: it would take `<b>` for markup."""
    return html.escape(text, quote=False)


def base_layout(height_px: int) -> Layout:
    """A quiet chart without a frame."""
    return {
        "height": height_px,
        "margin": {"l": 8, "r": 16, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 13, "color": MUTED},
        "hoverlabel": {"font": {"family": FONT, "size": 12}},
        "dragmode": "zoom",
        "legend": {"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom", "x": 0},
    }


def axis(title: str = "", **more: object) -> Layout:
    """An axis with fine grid lines."""
    return {
        "title": {"text": title, "standoff": 8, "font": {"size": 13}},
        "gridcolor": GRID,
        "zeroline": False,
        "automargin": True,
    } | more
