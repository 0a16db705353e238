"""What a dashboard is made of: panels that say what they show, rows of them, and the usual queries.

This is data: `grafana.render` turns it into Grafana's JSON, `grafana.picture` draws it, and the tests ask a real
Prometheus every query of it. Grafana's own schema stays in `grafana.render`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["timeseries", "stat", "heatmap"]
Colour = Literal["green", "yellow", "orange", "red", "blue"]

COLUMNS: Final = 24
"""Width of Grafana's grid."""

_CLUSTER: Final = 'cluster=~"$cluster"'

WINDOW: Final = "$__rate_interval"
"""At least four scrapes, and never less than a step of the graph (Grafana's own variable)."""


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression of a panel.

    Attributes:
        legend: name of its series; `{{label}}` stands for a label's value.
    """

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        description: what it shows, and what to do when it looks wrong.
        unit: Grafana's name of a unit (`s`, `bytes`, `reqps`, `percentunit`, `currencyUSD`, `short`).
        thresholds: values from which a colour holds, rising; below the first it is green.
        width, height: in cells of a grid of 24 columns.
        words: what stands in place of a value, such as `open` for 2.
        no_value: what is shown when the query has no answer.
        runbook: file and heading that say more, such as `docs/operations.md#cascades`.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    thresholds: tuple[tuple[float, Colour], ...] = ()
    width: int = 8
    height: int = 8
    decimals: int | None = None
    least: float | None = 0
    most: float | None = None
    stacked: bool = False
    words: Mapping[float, str] | None = None
    no_value: str | None = None
    runbook: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels below one heading, from left to right, broken where 24 columns are full."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the head of a dashboard: the values of a label.

    Attributes:
        series: that are asked for the label's values; see `selector`.
    """

    name: str
    label: str
    series: str


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard; `uid` is also the name of its file."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in reading order."""
        return tuple(panel for row in self.rows for panel in row.panels)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a panel or a row's heading stands, in cells from the upper left corner."""

    x: int
    y: int
    width: int
    height: int


def layout(rows: Sequence[Row]) -> list[tuple[Row | Panel, Place]]:
    """Rows and panels with their places: each heading one cell high, panels side by side as long as there is room."""
    placed: list[tuple[Row | Panel, Place]] = []
    y = 0
    for row in rows:
        placed.append((row, Place(0, y, COLUMNS, 1)))
        x, y, below = 0, y + 1, y + 1
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y = 0, below
            placed.append((panel, Place(x, y, panel.width, panel.height)))
            x, below = x + panel.width, max(below, y + panel.height)
        y = below
    return placed


def selector(metric: str, *matchers: str) -> str:
    """`metric{...}` of the chosen cluster. A series without the label `cluster` matches the choice `All`."""
    return f"{metric}{{{', '.join((_CLUSTER, *matchers))}}}"


def rate(metric: str, *matchers: str, by: str = "") -> str:
    """How much a counter grows a second, summed by labels."""
    return f"sum{_by(by)} (rate({selector(metric, *matchers)}[{WINDOW}]))"


def increase(metric: str, *matchers: str, by: str = "", window: str = WINDOW) -> str:
    """How much a counter grew in a window, summed by labels."""
    return f"sum{_by(by)} (increase({selector(metric, *matchers)}[{window}]))"


def total(metric: str, *matchers: str, by: str = "") -> str:
    """A gauge summed by labels, over replicas above all."""
    return f"sum{_by(by)} ({selector(metric, *matchers)})"


def largest(metric: str, *matchers: str, by: str = "") -> str:
    """The largest of a gauge by labels: of states that every router replica reports for itself."""
    return f"max{_by(by)} ({selector(metric, *matchers)})"


def quantile(share: float, histogram: str, *matchers: str, by: str = "") -> str:
    """A quantile of a histogram of ours, to the width of its buckets.

    Counts in buckets are exact. A histogram's `_sum` is not: Ray's agent (2.60) rebuilds it from the middles of buckets
    (`record_histogram_aggregated_batch`, ray issue 64852), so no panel reads it for a mean.
    """
    labels = f"le, {by}" if by else "le"
    buckets = selector(f"{histogram}_bucket", *matchers)
    return f"histogram_quantile({share:g}, sum by ({labels}) (rate({buckets}[{WINDOW}])))"


def buckets(histogram: str, *matchers: str) -> str:
    """For a heatmap: how many fell into each bucket."""
    return f"sum by (le) (increase({selector(f'{histogram}_bucket', *matchers)}[{WINDOW}]))"


def quantiles(histogram: str, *matchers: str, by: str = "", legend: str = "") -> tuple[Query, ...]:
    """P50, P95 and P99."""
    shown = f"{legend} " if legend else ""
    return tuple(
        Query(quantile(share, histogram, *matchers, by=by), f"{shown}p{share * 100:g}") for share in (0.5, 0.95, 0.99)
    )


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""
