"""The page: an outcome's facts, tables and charts, put into `page.html`.

Invariant: every text that comes from the outcome is escaped where it is put in.
"""

from __future__ import annotations

import json
import platform
from html import escape
from importlib import metadata, resources
from string import Template
from typing import TYPE_CHECKING

from p2pmq._version import __version__
from p2pmq.sim.report.charts import KINDS, delays, samples_of, traffic
from p2pmq.sim.report.numbers import SECONDS, cut_short, duration, moment, short, spread
from p2pmq.sim.report.timeline import timeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from p2pmq.sim.outcome import Band, Outcome, Sample, Verdict
    from p2pmq.sim.report.figure import Figure

EVENTS_MAX = 500
SENTENCES_MAX = 3
VIOLATIONS_MAX = 100
"""Of one check; the page says how many more there were."""
BAD_IF_ANY = ("lost", "unexpected")
MEANINGS = {
    "detection": "from the end or pause of a process to the first node that takes it for dead",
    "convergence": "from a fault's begin until all views are equal, as far as connected",
    "failover": "from the end of an owner to another's first delivery from its queue",
    "heal": "from the end of the last fault until all views are equal",
    "delivery": "from a message's publication to its first delivery",
}


def page(outcome: Outcome, plotlyjs: str) -> str:
    """The whole page."""
    found = {"timeline": timeline(outcome), "delays": delays(outcome), "traffic": traffic(outcome)}
    figures = {f"chart-{name}": f for name, f in found.items() if f is not None}
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(outcome.scenario),
        facts=_facts(outcome),
        verdict=_verdict(outcome),
        error=f'<p class="error">{escape(outcome.error)}</p>' if outcome.error else "",
        cards=_cards(outcome),
        story=_story(outcome),
        timeline=_place("timeline", found["timeline"]),
        events=_events(outcome),
        checks=_checks(outcome.verdicts),
        delays=_delays(outcome, found["delays"]),
        traffic=_traffic(outcome, found["traffic"]),
        replay=escape(outcome.replay),
        versions=_versions(outcome),
        plotlyjs=plotlyjs,
        figures=_as_script(figures),
    )


def _as_script(figures: dict[str, Figure]) -> str:
    """JSON that ends no script element, whatever texts it holds."""
    drawn = {name: {"data": f.data, "layout": f.layout} for name, f in figures.items()}
    return json.dumps(drawn).replace("<", "\\u003c")


def _place(name: str, figure: Figure | None) -> str:
    if figure is None:
        return '<p class="none">Nothing was measured.</p>'
    return (
        f'<div class="wide"><div id="chart-{name}" style="height:{figure.height_px}px"></div></div>'
    )


# ---------------------------------------------------------------------------------- at the top


def _facts(outcome: Outcome) -> str:
    speed = outcome.virtual_s / outcome.wall_s if outcome.wall_s else 0.0
    facts = (
        f"{len(outcome.nodes)} nodes",
        f"{duration(outcome.virtual_s)} of virtual time",
        f"in {duration(outcome.wall_s)} ({short(speed)} times as fast)",
        f"seed <code>{outcome.seed}</code>",
        f"trace <code>{escape(outcome.trace_hash)}</code>",
    )
    return " · ".join(facts)


def _verdict(outcome: Outcome) -> str:
    broken = [verdict for verdict in outcome.verdicts if not verdict.ok]
    if outcome.error:
        kind, text = "bad", "The run ended before its time"
    elif broken:
        kind, text = "bad", f"{len(broken)} of {len(outcome.verdicts)} checks failed"
    else:
        kind, text = "ok", f"All {len(outcome.verdicts)} checks passed"
    return f'<p class="verdict {kind}">{text}</p>'


def _cards(outcome: Outcome) -> str:
    totals = outcome.totals
    counts = {
        "published": totals.attempted,
        "promised to be kept": totals.committed,
        "delivered": totals.delivered,
        "lost": totals.lost,
        "delivered again": totals.duplicated,
        "unexpected": totals.unexpected,
        "recovered": totals.recovered,
        "stuck": totals.stuck,
    }
    return "".join(
        f'<div class="card{" bad" if count and name in BAD_IF_ANY else ""}">'
        f"<b>{count:,}</b><span>{name}</span></div>"
        for name, count in counts.items()
    )


def _story(outcome: Outcome) -> str:
    """The run's cuts in sentences: what was cut, for how long, and when all was well again."""
    cuts = [band for band in outcome.bands if band.what == "cut"]
    sentences = [_sentence(band, outcome) for band in cuts[:SENTENCES_MAX]]
    if len(cuts) > SENTENCES_MAX:
        sentences.append(f"{len(cuts) - SENTENCES_MAX:,} more such faults followed.")
    return f'<p class="story">{"<br>".join(sentences)}</p>' if sentences else ""


def _sentence(band: Band, outcome: Outcome) -> str:
    if band.to_s >= outcome.virtual_s:
        then = "until the end of the run"
    else:
        again = next((at_s for at_s in outcome.convergence_s if at_s >= band.to_s), None)
        then = f"for <b>{duration(band.to_s - band.from_s)}</b>"
        if again is not None:
            after = duration(again - band.to_s)
            then += f"; <b>{after}</b> after its end all nodes saw the same mesh again"
    return f"At {moment(band.from_s)} <b>{escape(cut_short(band.text))}</b>, {then}."


# -------------------------------------------------------------------------------------- tables


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int = 99) -> str:
    """A table; cells are HTML. Columns from `numbers_from` on hold numbers."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if at >= numbers_from else ''}>{cell}</{tag}>"
            for at, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{cells("th", head)}</tr>{body}</table></div>'


def _events(outcome: Outcome) -> str:
    happened: list[tuple[float, str]] = []
    for band in outcome.bands:
        happened.append((band.from_s, escape(band.text)))
        if band.to_s > band.from_s:
            lasted = duration(band.to_s - band.from_s)
            happened.append((band.to_s, f"over after {lasted}: {escape(band.text)}"))
    happened += [(at_s, "all views are equal again") for at_s in outcome.convergence_s]
    for span in outcome.ownership:
        owner = f"<b>{escape(span.node)}</b> takes <b>{escape(span.queue)}</b>"
        happened.append((span.from_s, owner))
    happened.sort(key=lambda event: event[0])
    rows = [(moment(at_s), text) for at_s, text in happened[:EVENTS_MAX]]
    if len(happened) > EVENTS_MAX:
        rows.append(("", f"and {len(happened) - EVENTS_MAX:,} more"))
    return _table(("at", "what"), rows) if rows else '<p class="none">Nothing was broken.</p>'


def _checks(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return '<p class="none">Nothing was checked.</p>'
    failed_first = sorted(verdicts, key=lambda verdict: verdict.ok)
    rows = [(_mark(v), escape(v.name.replace("_", " ")), _breaches(v)) for v in failed_first]
    return _table(("", "check", "breaches"), rows)


def _mark(verdict: Verdict) -> str:
    if verdict.ok:
        return '<span class="pill good">✓ ok</span>'
    return '<span class="pill fail">✗ failed</span>'


def _breaches(verdict: Verdict) -> str:
    texts = [escape(text) for text in verdict.violations[:VIOLATIONS_MAX]]
    more = len(verdict.violations) - len(texts)
    texts += [f"and {more:,} more"] if more else []
    if not texts:
        return '<span class="none">none</span>'
    if len(texts) == 1:
        return f'<div class="breach">{texts[0]}</div>'
    listed = "\n".join(texts)
    count = len(verdict.violations)
    return f"<details><summary>{count:,} breaches</summary><pre>{listed}</pre></details>"


def _delays(outcome: Outcome, figure: Figure | None) -> str:
    if figure is None:
        return _place("delays", None)
    rows: list[tuple[str, ...]] = []
    for kind in KINDS:
        found = spread(samples_of(outcome.latencies, kind))
        if found is not None:
            name = f'<span title="{MEANINGS[kind]}">{kind}</span>'
            steps = (duration(ms / 1000) for ms in found[1:])
            rows.append((name, f"{found.samples:,}", *steps))
    table = _table(("", "samples", "p50", "p90", "p99", "max"), rows, numbers_from=1)
    legend = "".join(
        f"<br><b>{kind}</b>: {text}"
        for kind, text in MEANINGS.items()
        if samples_of(outcome.latencies, kind)
    )
    note = f'<p class="facts"><small>Virtual time.{legend}</small></p>'
    return f'<div class="row">{_place("delays", figure)}<div>{table}</div></div>{note}'


def _traffic(outcome: Outcome, figure: Figure | None) -> str:
    if figure is None:
        return _place("traffic", None)
    by_node: dict[str, list[Sample]] = {}
    for sample in outcome.traffic:
        by_node.setdefault(sample.node, []).append(sample)
    rows = [
        (
            escape(node),
            short(_mean([(s.bytes_per_s, s.interval_s) for s in samples])),
            short(max(s.bytes_per_s for s in samples)),
            short(_mean([(s.packets_per_s, s.interval_s) for s in samples])),
        )
        for node, samples in by_node.items()
    ]
    head = ("node", "bytes/s, mean", "bytes/s, peak", "packets/s, mean")
    table = _table(head, rows, numbers_from=1)
    listed = f"<details><summary>Node by node</summary>{table}</details>"
    return _place("traffic", figure) + listed


def _mean(values: Sequence[tuple[float, float]]) -> float:
    """The mean of values, each weighted by the second number."""
    weight = sum(seconds for _, seconds in values)
    return sum(value * seconds for value, seconds in values) / weight if weight else 0.0


def _versions(outcome: Outcome) -> str:
    names = (f"p2pmq {__version__}", f"Python {platform.python_version()}", _plotly())
    counted = f"{outcome.events:,} events in {short(outcome.wall_s)} {SECONDS.name}"
    return f'<p class="facts"><small>{" · ".join((*names, counted))}</small></p>'


def _plotly() -> str:
    return f"plotly {metadata.version('plotly')}"
