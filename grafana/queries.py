"""Queries of panels as Prometheus takes them: what Grafana puts in the place of its variables."""

from __future__ import annotations

from grafana.panels import Dashboard


def filled(expression: str, dashboard: Dashboard, *, rate_interval: str, shown: str) -> str:
    """An expression with `All` chosen everywhere.

    Args:
        rate_interval: for `$__rate_interval`, such as `1m`.
        shown: for `$__range`: the time that the dashboard shows.
    """
    chosen = {"__rate_interval": rate_interval, "__range": shown, "cluster": ".*"}
    chosen |= {variable.name: ".*" for variable in dashboard.variables}
    for name in sorted(chosen, key=len, reverse=True):
        expression = expression.replace(f"${name}", chosen[name])
    return expression
