"""docs/metrics.md: every metric of Argus, and the panels on which it is seen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from grafana.catalogue import DASHBOARDS
from grafana.inventory import Metric, by_series, inventory

_NAME: Final = re.compile(r"\bray_argus_\w+")
_HEAD: Final = """# Metrics

Made by `argus observability metrics`. Do not edit: metrics are declared in `serve` and `deployments`, their panels in
`grafana`.

Every metric of Argus, under the name that Prometheus has it. Ray adds labels of the process to each (`WorkerId`,
`NodeAddress`, `SessionName` and so on), and to a histogram's name `_bucket`, `_count` and `_sum`; what else to know of
Ray's metrics stands in [observability.md](observability.md#what-to-know-of-rays-metrics-260).

| metric | kind | labels | meaning | shown as |
|---|---|---|---|---|
"""


def text() -> str:
    """The page."""
    shown = panels()
    return _HEAD + "".join(_line(metric, shown.get(metric.name, ())) for metric in inventory().values())


def panels() -> Mapping[str, tuple[str, ...]]:
    """By each metric's name without prefix: `dashboard: panel` of all that show it."""
    series = by_series()
    found: dict[str, dict[str, None]] = {}
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            place = f"{dashboard.uid.removeprefix('argus-')}: {panel.title}"
            for query in panel.queries:
                for name in _NAME.findall(query.expr):
                    found.setdefault(series[name].name, {})[place] = None
    return {name: tuple(places) for name, places in found.items()}


def _line(metric: Metric, places: tuple[str, ...]) -> str:
    cells = (
        f"`{metric.exported}`",
        metric.kind,
        ", ".join(metric.labels),
        metric.description,
        "; ".join(places),
    )
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"
