"""The report of a run: one HTML file that needs nothing beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from benchmarks.loadtest.drift import Slope
from benchmarks.loadtest.plots import plots
from benchmarks.loadtest.record import LoadRecord
from benchmarks.loadtest.verdict import Row

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
td, th { padding: 0.2rem 1rem 0.2rem 0; text-align: left; }
th { border-bottom: 1px solid #999; } .met { color: #167316; } .missed { color: #b00020; font-weight: 600; }
.fault { background: #fdecea; border-left: 4px solid #b00020; padding: 0.5rem 1rem; }
svg { max-width: 100%; height: auto; }
pre { background: #f5f5f5; padding: 0.8rem; overflow-x: auto; } .dim { color: #666; }
"""


def write_html(path: Path, record: LoadRecord, rows: Sequence[Row], slopes: Sequence[Slope], title: str) -> None:
    """Writes the report.

    Args:
        rows: of `verdict.rows`.
        slopes: of `drift`; may be empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(record, rows, slopes, title), encoding="utf-8")


def render(record: LoadRecord, rows: Sequence[Row], slopes: Sequence[Slope], title: str) -> str:
    """The report as text; see `write_html`."""
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="dim">{escape(record.date)} · {escape(_traffic(record))}</p>',
        _faults(record),
        _verdict(rows),
        *(f"<h2>{escape(name)}</h2>\n{svg}" for name, svg in plots(record).items()),
        _drift(slopes),
        _errors(record),
        _generator(record),
        f"<h2>Settings</h2><pre>{escape(json.dumps(record.settings.model_dump(mode='json'), indent=1))}</pre>",
        f"<h2>Machine of the generator</h2><pre>{escape(json.dumps(record.machine, indent=1))}</pre>",
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _traffic(record: LoadRecord) -> str:
    settings = record.settings
    rate = settings.arrivals.mean_rate(settings.seconds)
    return f"{settings.arrivals.process} arrivals, {rate:g} requests a second for {settings.seconds:g} s, open loop"


def _faults(record: LoadRecord) -> str:
    if record.generator.valid:
        return ""
    lines = "".join(f"<li>{escape(fault)}</li>" for fault in record.generator.faults)
    return f'<div class="fault"><strong>This run is no measurement of the server:</strong><ul>{lines}</ul></div>'


def _verdict(rows: Sequence[Row]) -> str:
    words = {True: '<span class="met">met</span>', False: '<span class="missed">missed</span>', None: ""}
    body = [(escape(row.name), escape(row.target), escape(row.result), words[row.met]) for row in rows]
    return "<h2>Result</h2>" + _table(("figure", "target", "result", ""), body)


def _drift(slopes: Sequence[Slope]) -> str:
    if not slopes:
        return ""
    body = [
        (
            escape(one.name),
            f"{one.level:.1f}",
            f"{one.per_hour:+.2f}",
            f"{one.low:+.2f} to {one.high:+.2f}",
            "flat" if one.flat else "changes",
        )
        for one in slopes
    ]
    head = ("of", "median", "slope an hour", "95 % interval", "")
    note = (
        "Theil-Sen slopes over the means of eight parts of the measured window. By chance, one in twenty steady rows "
        "has an interval without 0."
    )
    return "<h2>Drift</h2>" + _table(head, body) + f'<p class="dim">{note}</p>'


def _errors(record: LoadRecord) -> str:
    if not record.errors:
        return ""
    body = [(escape(code), str(one.count), escape(one.example)) for code, one in record.errors.items()]
    return "<h2>Failures</h2>" + _table(("code", "requests", "first message"), body)


def _generator(record: LoadRecord) -> str:
    one = record.generator
    body = [
        ("processes that sent", str(one.workers)),
        ("requests scheduled, recorded", f"{one.scheduled}, {one.recorded}"),
        ("sent late by, P50, P99, greatest", " ".join(_ms(v) for v in (one.lag_p50_s, one.lag_p99_s, one.lag_max_s))),
        ("of its core, the busiest", f"{one.cpu_share:.0%}"),
    ]
    return "<h2>The load generator</h2>" + _table(("", ""), body)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.2f} ms"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body)
    return f"<table><thead><tr>{top}</tr></thead><tbody>\n{lines}\n</tbody></table>"
