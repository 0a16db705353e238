"""What is recorded of objectives, as Prometheus' own tester evaluates it: shares of bad requests, and budgets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from serve.config.cluster import ClusterFile
from serve.config.load import load_profile, parse
from tests.unit.promtool import ALL, BAD, evaluate, promtool, selector

SLOS: dict[str, dict[str, Any]] = {
    "fast": {"kind": "latency", "route": "/v1/classify", "under_s": 0.2, "target": 0.9},
    "slow": {"kind": "latency", "route": "/v1/classify", "under_s": 5, "target": 0.9},
    "answers": {"kind": "availability", "cascade": "moderation", "target": 0.9},
    "first": {"kind": "escalation", "cascade": "moderation", "target": 0.8},
    "right": {"kind": "agreement", "cascade": "moderation", "target": 0.95},
    "asked": {"kind": "availability", "route": "/v1/vqa", "target": 0.9},
}
# Requests a minute, and the bad ones among them; nobody asks the last.
COUNTS = {"fast": (100, 30), "slow": (100, 10), "answers": (100, 15), "first": (100, 25), "right": (20, 1)}


def counted(slo: str, events: str, errors: str) -> dict[str, str]:
    """The two counters of an objective, in promtool's notation."""
    return {series.replace("all", slo): values for series, values in ((ALL, events), (BAD, errors))}


def demo(slos: Mapping[str, Any]) -> ClusterFile:
    """The demo with objectives of its own."""
    data = load_profile("demo", calibrations=False).model_dump(mode="json", exclude_unset=True)
    data["objectives"] = {"slos": slos}
    return parse(data)


@promtool
@pytest.mark.parametrize("window", ["5m", "1h"])
def test_the_share_of_bad_requests_is_what_the_objective_says(window: str, tmp_path: Path) -> None:
    shares = {slo: errors / events for slo, (events, errors) in COUNTS.items()} | {"asked": 0.0}
    series: dict[str, str] = {}
    for slo, (events, errors) in COUNTS.items():
        series |= counted(slo, f"0+{events}x120", f"0+{errors}x120")
    tests = [
        {
            "series": series,
            "promql_expr_test": [
                {
                    "expr": f'round(argus_slo:error_ratio:rate{window}{{slo="{slo}"}}, 0.0001)',
                    "eval_time": "100m",
                    "exp_samples": [
                        {
                            "labels": selector("", {"cluster": "demo", "slo": slo, "kind": SLOS[slo]["kind"]}),
                            "value": share,
                        }
                    ],
                }
                for slo, share in shares.items()
            ],
        }
    ]
    evaluate(tmp_path, demo(SLOS), tests)


@promtool
@pytest.mark.parametrize(
    ("before", "share"),
    [pytest.param("0x30", 1, id="it began at 0"), pytest.param("_x30", 0, id="it appears with its first event")],
)
def test_the_first_bad_request_is_seen_because_its_counter_was_there(before: str, share: float, tmp_path: Path) -> None:
    """One request in half an hour, and it fails: why routers begin these counters at 0."""
    test = {
        "series": counted("fast", f"{before} 1x20", f"{before} 1x20"),
        "promql_expr_test": [
            {
                "expr": f"round(argus_slo:error_ratio:rate1h, 0.0001) == {share}",
                "eval_time": "40m",
                "exp_samples": [
                    {"labels": selector("", {"cluster": "demo", "slo": "fast", "kind": "latency"}), "value": share}
                ],
            }
        ],
    }
    evaluate(tmp_path, demo({"fast": SLOS["fast"]}), [test])


@promtool
def test_the_error_budget_that_remains_counts_requests_and_not_minutes(tmp_path: Path) -> None:
    """Half an hour of 10 requests a minute that all fail, within hours of 1000 that do not: 300 of 100 000 or so."""
    series = {ALL: "0+1000x99 99000+10x30 99300x20", BAD: "0x99 0+10x30 300x20"}
    left = 'round(argus_slo:error_budget:remaining_ratio{slo="all"}, 0.01)'
    labels = selector("", {"cluster": "demo", "slo": "all", "kind": "availability"})
    test = {
        "series": series,
        "promql_expr_test": [
            {"expr": left, "eval_time": "145m", "exp_samples": [{"labels": labels, "value": 0.7}]},
            {"expr": left, "eval_time": "0m", "exp_samples": [{"labels": labels, "value": 1}]},
        ],
    }
    evaluate(tmp_path, demo({"all": {"kind": "availability", "target": 0.99}}), [test])
