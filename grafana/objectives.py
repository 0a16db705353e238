"""Objectives as rules: what is recorded of them, and alerts when their error budgets burn too fast.

What an objective counts, and what of it is bad, the routers say (`serve.objectives`).

Burn rates over two windows each are those of Beyer et al. 2018, "The Site Reliability Workbook", chapter 5: an alert
needs a long window, so that it is about something, and a short one, so that it ends when that does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from grafana.promql import Cluster
from grafana.rule import Alert, Recording, Severity
from serve.config.cluster import ClusterFile
from serve.config.objectives import Objective

# Read from the counters themselves; longer windows are sums over what has been recorded of five minutes.
_COUNTED: Final = ("5m", "30m", "1h", "2h", "6h")
_SUMMED: Final = ("1d", "3d")
# A share of bad requests that alerts however large the budget is: many times a large one is more than all.
_OUTAGE: Final = 0.9
_UNIT_S: Final[Mapping[str, int]] = {"m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Burn:
    """A pair of windows in which an error budget may burn too fast.

    Attributes:
        budget_share: of the whole budget, spent within the long window.
    """

    severity: Severity
    budget_share: float
    long: str
    short: str

    def factor(self, window_days: int) -> float:
        """Multiple of the rate at which the budget lasts exactly its window; never below that rate."""
        return max(1.0, round(self.budget_share * window_days * _UNIT_S["d"] / seconds(self.long), 2))


BURNS: Final = (
    Burn("page", 0.02, "1h", "5m"),
    Burn("page", 0.05, "6h", "30m"),
    Burn("ticket", 0.10, "1d", "2h"),
    Burn("ticket", 0.10, "3d", "6h"),
)
"""What the workbook recommends: over 30 days 14.4, 6, 3 and 1 times the rate at which the budget just lasts."""


def seconds(window: str) -> int:
    """Of a window in PromQL, such as `5m`."""
    return int(window[:-1]) * _UNIT_S[window[-1]]


def recordings(cluster: ClusterFile, slo: str, objective: Objective) -> Iterator[Recording]:
    """Always present, also before the first request: what has no traffic has no errors."""
    of = Cluster(cluster.name)
    labels = {"cluster": cluster.name, "slo": slo, "kind": objective.kind}

    def mine(recorded: str) -> str:
        return of.recorded(f"argus_slo:{recorded}", f'slo="{slo}"')

    def long_ratio(window: str) -> str:
        errors, events = mine("errors:rate5m"), mine("events:rate5m")
        return _ratio(f"sum_over_time({errors}[{window}])", f"sum_over_time({events}[{window}])")

    yield Recording("argus_slo:objective:ratio", f"vector({objective.target!r})", labels)
    for window in _COUNTED:
        for what in ("events", "errors"):
            counted = of.raw(f"ray_argus_slo_{what}_total", f'slo="{slo}"')
            rate = f"sum(rate({counted}[{window}])) or vector(0)"
            yield Recording(f"argus_slo:{what}:rate{window}", rate, labels)
        ratio = _ratio(mine(f"errors:rate{window}"), mine(f"events:rate{window}"))
        yield Recording(f"argus_slo:error_ratio:rate{window}", ratio, labels)
    for window in _SUMMED:
        yield Recording(f"argus_slo:error_ratio:rate{window}", long_ratio(window), labels)
    left = f"1 - {long_ratio(f'{cluster.objectives.window_days}d')} / {1 - objective.target:.6g}"
    yield Recording("argus_slo:error_budget:remaining_ratio", left, labels)


def burn_alerts(cluster: ClusterFile) -> Iterator[Alert]:
    """One for each pair of windows and severity, over all objectives: the labels say whose budget burns.

    How a cascade decides wakes nobody: objectives of kinds `escalation` and `agreement` only make tickets.
    """
    of = Cluster(cluster.name)
    objectives = cluster.objectives
    for burn in BURNS:
        factor = burn.factor(objectives.window_days)
        kinds = ('kind=~"availability|latency"',) if burn.severity == "page" else ()
        most = f"clamp_max({factor:g} * (1 - {of.recorded('argus_slo:objective:ratio', *kinds)}), {_OUTAGE:g})"
        enough = f"{of.recorded(f'argus_slo:events:rate{burn.short}', *kinds)} * {seconds(burn.short)}"
        yield Alert(
            "ArgusErrorBudgetBurnsFast" if burn.severity == "page" else "ArgusErrorBudgetBurns",
            f"{of.recorded(f'argus_slo:error_ratio:rate{burn.long}', *kinds)} > {most}"
            f" and {of.recorded(f'argus_slo:error_ratio:rate{burn.short}', *kinds)} > {most}"
            f" and {enough} >= {objectives.min_requests}",
            burn.severity,
            "Objective {{ $labels.slo }} burns its error budget " + f"{factor:g} times too fast",
            "{{ $value | humanizePercentage }} of the requests that {{ $labels.slo }} ({{ $labels.kind }}) counts were "
            f"bad within {burn.long}, and too many within {burn.short}.",
            labels={"window": burn.long},
        )


def _ratio(errors: str, events: str) -> str:
    """Without events 0 rather than no number."""
    return f"{errors} / clamp_min({events}, 1e-9)"
