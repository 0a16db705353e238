"""A still picture of a dashboard: its panels in its grid, drawn from a Prometheus' answers, where there is no Grafana.

    python -m grafana.picture --prometheus http://127.0.0.1:9095 --minutes 5 --out docs/observability/overview.png

It shows what Grafana would be given, in the same places, with the same units and thresholds; its looks are
matplotlib's.
"""

from __future__ import annotations

import argparse
import datetime
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import matplotlib.dates
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grafana.catalogue import DASHBOARDS
from grafana.panels import COLUMNS, Dashboard, Panel, Place, Row, layout
from grafana.queries import filled

_DASHBOARDS: Final = {one.uid: one for one in DASHBOARDS}
_POINTS: Final = 120
_RATE_INTERVAL: Final = "1m"
_MOST_LETTERS: Final = 30
_DAY_S: Final = 86_400
_SHORT_DAYS: Final = 10 / 1440
_CELL_W, _CELL_H = 0.82, 0.36  # inches
_PAPER, _CARD, _INK, _FAINT = "#111217", "#181b1f", "#d8d9da", "#6e7179"
_SHADES: Final = {"green": "#73bf69", "yellow": "#fade2a", "orange": "#ff9830", "red": "#f2495c", "blue": "#5794f2"}
_LINES: Final = (
    "#73bf69",
    "#f2cc0c",
    "#5794f2",
    "#ff9830",
    "#f2495c",
    "#b877d9",
    "#8ab8ff",
    "#96d98d",
    "#ffb357",
    "#ff7383",
)


@dataclass(frozen=True, slots=True)
class Series:
    """One line: times in seconds since the epoch, values, and its name."""

    name: str
    times: np.ndarray[Any, np.dtype[np.float64]]
    values: np.ndarray[Any, np.dtype[np.float64]]


Ask = Callable[[str], list[dict[str, Any]]]


def draw(dashboard: Dashboard, ask: Ask, *, minutes: float, until_s: float, source: str) -> Figure:
    """The whole dashboard.

    Args:
        ask: the matrix that a Prometheus answers to a range query.
        minutes, until_s: the range: how long it is, and its end in seconds since the epoch.
        source: said at the foot.
    """
    placed = layout(dashboard.rows)
    height = max(place.y + place.height for _, place in placed)
    figure = Figure(figsize=(COLUMNS * _CELL_W, (height + 2) * _CELL_H), facecolor=_PAPER)
    figure.text(0.006, 1 - 0.6 / (height + 2), dashboard.title, color=_INK, fontsize=15, va="center", weight="bold")
    figure.text(0.994, 1 - 0.6 / (height + 2), source, color=_FAINT, fontsize=9, va="center", ha="right")
    for what, place in placed:
        axes = figure.add_axes(_box(place, height))
        if isinstance(what, Row):
            axes.axis("off")
            axes.text(0.003, 0.5, what.title, color=_INK, fontsize=12, va="center", weight="bold")
        else:
            _panel(axes, what, _series(what, dashboard, ask, minutes), (until_s - 60 * minutes, until_s))
    return figure


def _box(place: Place, height: int) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of a panel's plot, as shares of the picture; its title and names lie around it."""
    left, right, head, foot = (0.8, 0.12, 0.9, 1.35) if place.height > 1 else (0.1, 0.1, 0.0, 0.0)
    total = height + 2
    return (
        (place.x + left) / COLUMNS,
        1 - (place.y + 1.2 + place.height - foot) / total,
        (place.width - left - right) / COLUMNS,
        (place.height - head - foot) / total,
    )


def _series(panel: Panel, dashboard: Dashboard, ask: Ask, minutes: float) -> list[Series]:
    found = []
    for query in panel.queries:
        expression = filled(query.expr, dashboard, rate_interval=_RATE_INTERVAL, shown=f"{math.ceil(minutes)}m")
        for one in ask(expression):
            times, values = np.array(one["values"], np.float64).T
            found.append(Series(_named(query.legend, one["metric"]), times, values))
    return found


def _named(legend: str, labels: Mapping[str, str]) -> str:
    for label, value in labels.items():
        legend = legend.replace(f"{{{{{label}}}}}", value)
    return legend


def _panel(axes: Axes, panel: Panel, series: Sequence[Series], span_s: tuple[float, float]) -> None:
    axes.set_facecolor(_CARD)
    axes.set_title(panel.title, color=_INK, fontsize=9, loc="left", pad=4)
    for side in axes.spines.values():
        side.set_color("#2c3235")
    if not series:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, panel.no_value or "No data", color=_FAINT, ha="center", va="center", fontsize=11)
    elif panel.kind == "stat":
        _stat(axes, panel, series)
    elif panel.kind == "heatmap":
        _heatmap(axes, panel, series)
        _time_axis(axes, span_s)
    else:
        _lines(axes, panel, series)
        _time_axis(axes, span_s)


def _lines(axes: Axes, panel: Panel, series: Sequence[Series]) -> None:
    largest = sorted(series, key=lambda one: -float(np.nanmax(np.nan_to_num(one.values))))
    grid = np.unique(np.concatenate([one.times for one in series]))
    base = np.zeros(len(grid))
    for one, colour in zip(largest, _cycle(len(largest)), strict=True):
        values = np.full(len(grid), 0.0 if panel.stacked else np.nan)
        values[np.searchsorted(grid, one.times)] = one.values
        if panel.stacked:
            shown = base + values
            axes.fill_between(_clock(grid), base, shown, color=colour, alpha=0.25)
            base, values = shown, np.where(values > 0, shown, np.nan)  # nothing lies on top of what is below it
        axes.plot(_clock(grid), values, color=colour, linewidth=1)
    for value, colour in panel.thresholds:
        low, high = axes.get_ylim()
        if low < value <= high:
            axes.axhline(value, color=_SHADES[colour], linewidth=0.8, linestyle="--")
    low, high = axes.get_ylim()
    axes.set_ylim(panel.least if panel.least is not None else low, panel.most if panel.most is not None else high)
    _axes(axes, panel)
    most = panel.width // 3 * 2 - 1
    names = [one.name if len(one.name) <= _MOST_LETTERS else f"{one.name[:_MOST_LETTERS]}..." for one in largest[:most]]
    names += ["..."] * (len(largest) > most)
    _foot(axes, names, columns=max(1, panel.width // 3))


def _heatmap(axes: Axes, panel: Panel, series: Sequence[Series]) -> None:
    ordered = sorted(series, key=lambda one: float(one.name))
    grid = np.unique(np.concatenate([one.times for one in ordered]))
    counts = np.zeros((len(ordered), len(grid)))
    for row, one in enumerate(ordered):
        counts[row, np.searchsorted(grid, one.times)] = np.nan_to_num(one.values)
    axes.pcolormesh(
        _clock(grid), np.arange(len(ordered)), np.diff(counts, axis=0, prepend=0.0), cmap="inferno", shading="nearest"
    )
    axes.set_yticks(
        range(len(ordered)), ["" if row % 2 else _shown(float(one.name), panel.unit) for row, one in enumerate(ordered)]
    )


def _stat(axes: Axes, panel: Panel, series: Sequence[Series]) -> None:
    """Side by side where there is room for it, else below each other."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_ylim(0, 1)
    axes.set_xlim(0, 1)
    below = len(series) * 2 > panel.width
    for position, one in enumerate(sorted(series, key=lambda one: one.name)):
        value = float(one.values[-1])
        word = (panel.words or {}).get(value) or _shown(value, panel.unit, panel.decimals)
        middle = (position + 0.5) / len(series)
        number, name = ((0.35, 1 - middle), (0.6, 1 - middle)) if below else ((middle, 0.58), (middle, 0.2))
        size = min(15.0, 36 / len(series)) if below else 15.0
        side = "left" if below else "center"
        axes.text(*number, word, color=_colour(panel, value), fontsize=size, ha="right" if below else side, va="center")
        axes.text(*name, one.name, color=_FAINT, fontsize=7.5, ha=side, va="center")


def _colour(panel: Panel, value: float) -> str:
    held = [colour for bound, colour in panel.thresholds if value >= bound]
    return _SHADES[held[-1]] if held else _SHADES["green"] if panel.thresholds else _INK


def _axes(axes: Axes, panel: Panel) -> None:
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    axes.yaxis.set_major_formatter(lambda value, _: _shown(value, panel.unit))
    axes.grid(color="#2c3235", linewidth=0.5)


def _time_axis(axes: Axes, span_s: tuple[float, float]) -> None:
    first, last = (second / _DAY_S for second in span_s)
    axes.set_xlim(first, last)
    shape = "%H:%M:%S" if last - first < _SHORT_DAYS else "%H:%M"
    axes.xaxis.set_major_formatter(matplotlib.dates.DateFormatter(shape, tz=datetime.UTC))  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(matplotlib.dates.AutoDateLocator(maxticks=5, tz=datetime.UTC))  # type: ignore[no-untyped-call]
    axes.tick_params(colors=_FAINT, labelsize=7, length=2)


def _foot(axes: Axes, names: Sequence[str], columns: int) -> None:
    handles = axes.get_lines()[: len(names)]
    axes.legend(
        handles,
        names[: len(handles)],
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.1),
        ncol=columns,
        fontsize=6.5,
        frameon=False,
        labelcolor=_FAINT,
        handlelength=1,
        columnspacing=1,
        borderpad=0,
    )


def _cycle(count: int) -> list[str]:
    return [_LINES[number % len(_LINES)] for number in range(count)]


def _clock(times: np.ndarray[Any, np.dtype[np.float64]]) -> Any:
    """Days since the epoch, in which matplotlib counts."""
    return times / _DAY_S


def _shown(value: float, unit: str, decimals: int | None = None) -> str:
    """A value as Grafana writes it with its unit."""
    if math.isinf(value):
        return "+Inf"
    if unit == "percentunit":
        return f"{value * 100:.{decimals if decimals is not None else 0 if abs(value) >= 0.095 else 1}f}%"
    if unit == "s":
        return f"{value:.3g} s" if abs(value) >= 1 or value == 0 else f"{value * 1000:.3g} ms"
    if unit == "bytes":
        power = max(0, min(4, int(math.log(abs(value), 1024)))) if value else 0
        return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
    if unit == "currencyUSD":
        return f"${value:.{2 if decimals is None else decimals}f}"
    suffix = {"reqps": " req/s", "cps": " c/s"}.get(unit, "")
    return f"{value:.3g}{suffix}" if decimals is None else f"{value:.{decimals}f}{suffix}"


def asking(address: str, minutes: float, until_s: float) -> Ask:
    """Range queries of a Prometheus over the last minutes."""
    start = until_s - 60 * minutes
    step = max(1.0, 60 * minutes / _POINTS)
    client = httpx.Client(timeout=30, trust_env=False)

    def ask(expression: str) -> list[dict[str, Any]]:
        given = {"query": expression, "start": f"{start}", "end": f"{until_s}", "step": f"{step}"}
        answer = client.post(f"{address.rstrip('/')}/api/v1/query_range", data=given).raise_for_status().json()
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    return ask


def save(dashboard: Dashboard, address: str, minutes: float, path: Path, until_s: float | None = None) -> None:
    """Draws a dashboard from a Prometheus' answers as a PNG: the last minutes, or those before a moment."""
    until_s = time.time() if until_s is None else until_s
    when = datetime.datetime.fromtimestamp(until_s, datetime.UTC)
    source = f"drawn by grafana/picture.py from Prometheus, {minutes:g} min until {when:%Y-%m-%d %H:%M} UTC"
    figure = draw(dashboard, asking(address, minutes, until_s), minutes=minutes, until_s=until_s, source=source)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80, facecolor=_PAPER)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9095", help="its address")
    parser.add_argument("--dashboard", default="argus-overview", choices=sorted(_DASHBOARDS), help="which one")
    parser.add_argument("--minutes", type=float, default=15.0, help="that the picture spans")
    parser.add_argument("--until", type=datetime.datetime.fromisoformat, help="its end, such as 2026-01-31T12:00:00Z")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    given = parser.parse_args()
    until_s = None if given.until is None else given.until.timestamp()
    save(_DASHBOARDS[given.dashboard], given.prometheus, given.minutes, given.out, until_s)


if __name__ == "__main__":
    main()
