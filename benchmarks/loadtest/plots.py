"""The report's plots: each takes a record and gives one SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.loadtest.columns import Columns
from benchmarks.loadtest.record import LoadRecord
from benchmarks.loadtest.settings import Settings
from benchmarks.traffic.traces import Float64

_SIZE = (9.0, 3.4)
# Parts of the run that lines are drawn through: few enough for a quantile to mean something in each.
_LEAST_PARTS, _MOST_PARTS, _IN_A_PART = 10, 120, 40
# Dots of single requests beyond which they would be a blot, and the file large.
_MOST_DOTS = 2000
_MOST_PATHS = 8
_QUANTILES = ((0.5, "P50"), (0.95, "P95"), (0.99, "P99"))
# SVG ids are hashes of this, so that the same record gives the same file.
_STYLE: Any = {"svg.hashsalt": "argus", "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}


def plots(record: LoadRecord) -> Mapping[str, str]:
    """Title and SVG of each plot; those that would be empty are left out."""
    columns = record.columns()
    drawn = {title: _drawn(draw, columns, record) for title, draw in _PLOTS.items()}
    return {title: svg for title, svg in drawn.items() if svg is not None}


Draw = Callable[[Axes, Columns, LoadRecord], bool]


def _drawn(draw: Draw, columns: Columns, record: LoadRecord) -> str | None:
    with rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        if not len(columns) or not draw(axes, columns, record):
            return None
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def _latency(axes: Axes, columns: Columns, record: LoadRecord) -> bool:
    ok = columns.ok
    due, latency = columns.due_s[ok], 1000 * columns.latency_s[ok]
    if not len(due):
        return False
    chosen = slice(None, None, max(1, len(due) // _MOST_DOTS))
    axes.plot(due[chosen], latency[chosen], ".", ms=2, alpha=0.25, color="grey", label="one request")
    middles, bins = _binned(due, record.settings, _parts(columns))
    for q, name in _QUANTILES:
        axes.plot(middles, _quantiles(latency, bins, len(middles), q), lw=1.4, label=name)
    axes.set_yscale("log")
    _finish(axes, record.settings, "latency from the intended time, ms")
    return True


def _cdf(axes: Axes, columns: Columns, record: LoadRecord) -> bool:
    measured = _measured(columns, record.settings) & columns.ok
    paths = np.bincount(columns.path[measured] + 1, minlength=len(columns.paths) + 1)
    for index in np.argsort(-paths)[:_MOST_PATHS]:
        latencies = np.sort(1000 * columns.latency_s[measured & (columns.path == index - 1)])
        if not len(latencies):
            continue
        name = columns.paths[index - 1] if index else "no path"
        step = slice(None, None, max(1, len(latencies) // _MOST_DOTS))
        share = np.arange(1, len(latencies) + 1) / len(latencies)
        axes.plot(latencies[step], share[step], lw=1.4, label=f"{name} ({len(latencies)})")
    if not measured.any():
        return False
    axes.set_xscale("log")
    axes.set_ylim(0, 1.01)
    axes.set_xlabel("latency from the intended time, ms")
    axes.set_ylabel("share of right answers")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    return True


def _throughput(axes: Axes, columns: Columns, record: LoadRecord) -> bool:
    settings = record.settings
    middles, due = _binned(columns.due_s, settings, _parts(columns))
    width = settings.end_s / len(middles)
    ended = columns.ended_s[columns.ok]
    _, done = _binned(ended[ended < settings.end_s], settings, _parts(columns))
    _, lost = _binned(columns.due_s[~columns.ok], settings, _parts(columns))
    for bins, name, style in ((due, "offered", "-"), (done, "answered", "-"), (lost, "failed", ":")):
        axes.plot(middles, np.bincount(bins, minlength=len(middles)) / width, style, lw=1.4, label=name)
    measured = middles >= settings.warm_up_s
    expected = settings.arrivals.rate_at(middles[measured] - settings.warm_up_s, settings.seconds)
    axes.plot(middles[measured], expected, "--", lw=1, color="black", label="rate of the process")
    axes.set_ylim(bottom=0)
    _finish(axes, settings, "requests a second")
    return True


def _escalation(axes: Axes, columns: Columns, record: LoadRecord) -> bool:
    if not columns.escalated.any():
        return False
    ok = columns.ok
    middles, bins = _binned(columns.due_s[ok], record.settings, _parts(columns))
    axes.plot(middles, 100 * _means(columns.escalated[ok], bins, len(middles)), lw=1.4, label="escalated")
    axes.set_ylim(bottom=0)
    _finish(axes, record.settings, "right answers, %")
    return True


def _cost(axes: Axes, columns: Columns, record: LoadRecord) -> bool:
    if not columns.usd.any():
        return False
    order = np.argsort(columns.ended_s, kind="stable")
    ended, spent = columns.ended_s[order], np.cumsum(columns.usd[order])
    step = slice(None, None, max(1, len(ended) // _MOST_DOTS))
    axes.plot(ended[step], spent[step], lw=1.4, label="paid to providers so far")
    _finish(axes, record.settings, "US dollars")
    return True


def _lag(axes: Axes, columns: Columns, record: LoadRecord) -> bool:
    sent = ~np.isnan(columns.sent_s)
    if not sent.any():
        return False
    middles, bins = _binned(columns.due_s[sent], record.settings, _parts(columns))
    lag = 1000 * columns.lag_s[sent]
    for q, name in ((0.5, "P50"), (0.99, "P99"), (1.0, "greatest")):
        axes.plot(middles, _quantiles(lag, bins, len(middles), q), lw=1.4, label=name)
    axes.set_ylim(bottom=0)
    _finish(axes, record.settings, "sent late by, ms")
    return True


def _memory(axes: Axes, columns: Columns, record: LoadRecord) -> bool:
    memory: Mapping[str, Any] = record.extra.get("memory", {})
    times, series = memory.get("times_s", ()), memory.get("bytes", {})
    if not len(times):
        return False
    largest = sorted(series, key=lambda name: -max(series[name]))[:_MOST_PATHS]
    for name in largest:
        axes.plot(times, np.array(series[name]) / 2**20, lw=1.4, label=name)
    axes.set_ylim(bottom=0)
    _finish(axes, record.settings, "memory, MiB")
    return True


_PLOTS: Mapping[str, Draw] = {
    "Latency over time": _latency,
    "Latency by what answered": _cdf,
    "Throughput": _throughput,
    "Escalation": _escalation,
    "Cost": _cost,
    "Lag of the load generator": _lag,
    "Memory of the cluster's processes": _memory,
}


def _finish(axes: Axes, settings: Settings, quantity: str) -> None:
    if settings.warm_up_s:
        axes.axvspan(0, settings.warm_up_s, color="grey", alpha=0.12, lw=0, label="warm-up")
    axes.set_xlim(0, settings.end_s)
    axes.set_xlabel("intended time, s")
    axes.set_ylabel(quantity)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)


def _measured(columns: Columns, settings: Settings) -> npt.NDArray[np.bool_]:
    inside: npt.NDArray[np.bool_] = (columns.due_s >= settings.warm_up_s) & (columns.due_s < settings.end_s)
    return inside


def _parts(columns: Columns) -> int:
    return min(_MOST_PARTS, max(_LEAST_PARTS, len(columns) // _IN_A_PART))


def _binned(times: Float64, settings: Settings, count: int) -> tuple[Float64, npt.NDArray[np.int64]]:
    """Middles of `count` equal parts of the run, and the part of each of `times`."""
    middles = (np.arange(count) + 0.5) * settings.end_s / count
    return middles, np.clip((times * count / settings.end_s).astype(np.int64), 0, count - 1)


def _quantiles(values: Float64, bins: npt.NDArray[np.int64], count: int, q: float) -> Float64:
    """A quantile in each part; NaN where there is nothing."""
    order = np.argsort(bins, kind="stable")
    edges = np.searchsorted(bins[order], np.arange(count + 1))
    parts = [values[order][low:high] for low, high in pairwise(edges)]
    return np.array([np.quantile(part, q, method="inverted_cdf") if len(part) else np.nan for part in parts])


def _means(values: npt.NDArray[np.bool_], bins: npt.NDArray[np.int64], count: int) -> Float64:
    total = np.bincount(bins, minlength=count)
    with np.errstate(invalid="ignore"):
        shares: Float64 = np.bincount(bins, weights=values.astype(np.float64), minlength=count) / total
    return shares
