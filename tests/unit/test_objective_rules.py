"""What is recorded of objectives, as Prometheus' own tester evaluates it: shares of bad requests, and budgets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from serve.config.cluster import ClusterFile
from serve.config.load import load_profile, parse
from tests.unit.promtool import FAILED, OK, evaluate, promtool, selector

SECONDS = 'ray_argus_request_seconds_%s{protocol="http",route="/v1/classify",fault="none"%s}'
GONE = SECONDS.replace('"none"', '"gone"')
CASCADE = 'ray_argus_cascade_requests_total{cascade="moderation",result="%s",outcome="none",fault="%s"}'
ESCALATED = 'ray_argus_cascade_escalations_total{cascade="moderation"}'
SHADOW = 'ray_argus_cascade_shadow_total{cascade="moderation",step="screen",result="%s"}'

SLOS: dict[str, dict[str, Any]] = {
    "fast": {"kind": "latency", "route": "/v1/classify", "under_s": 0.2, "target": 0.9},
    "slow": {"kind": "latency", "route": "/v1/classify", "under_s": 5, "target": 0.9},
    "answers": {"kind": "availability", "cascade": "moderation", "target": 0.9},
    "first": {"kind": "escalation", "cascade": "moderation", "target": 0.8},
    "right": {"kind": "agreement", "cascade": "moderation", "target": 0.95},
    "asked": {"kind": "availability", "route": "/v1/vqa", "target": 0.9},
}
COUNTS = {
    SECONDS % ("count", ""): "0+100x120",
    SECONDS % ("bucket", ',le="0.2"'): "0+70x120",
    SECONDS % ("bucket", ',le="5.0"'): "0+90x120",
    CASCADE % ("ok", "none"): "0+80x120",
    CASCADE % ("unavailable", "server"): "0+15x120",
    CASCADE % ("invalid_image", "client"): "0+5x120",
    ESCALATED: "0+25x120",
    SHADOW % "agreed": "0+19x120",
    SHADOW % "disagreed": "0+1x120",
    SHADOW % "dropped": "0+50x120",
}


def demo(slos: Mapping[str, Any]) -> ClusterFile:
    """The demo with objectives of its own."""
    data = load_profile("demo", calibrations=False).model_dump(mode="json", exclude_unset=True)
    data["objectives"] = {"slos": slos}
    return parse(data)


@promtool
@pytest.mark.parametrize("window", ["5m", "1h"])
def test_the_share_of_bad_requests_is_what_the_objective_says(window: str, tmp_path: Path) -> None:
    shares = {"fast": 0.3, "slow": 0.1, "answers": 0.15, "first": 0.25, "right": 0.05, "asked": 0.0}
    tests = [
        {
            "series": dict(COUNTS),
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
    ("counts", "share"),
    [
        pytest.param({SECONDS % ("count", ""): 100, SECONDS % ("bucket", ',le="0.2"'): 70}, 0.3, id="nobody left"),
        pytest.param(
            {
                SECONDS % ("count", ""): 100,
                SECONDS % ("bucket", ',le="0.2"'): 70,
                GONE % ("count", ""): 50,
                GONE % ("bucket", ',le="0.2"'): 40,
            },
            40 / 110,
            id="ten of those who left had waited too long, forty do not count",
        ),
        pytest.param(
            {SECONDS % ("count", ""): 0, GONE % ("count", ""): 50, GONE % ("bucket", ',le="0.2"'): 0},
            1,
            id="it hangs until every client leaves",
        ),
        pytest.param(
            {GONE % ("count", ""): 50, GONE % ("bucket", ',le="0.2"'): 50}, 0, id="all left before it was promised"
        ),
    ],
)
def test_who_leaves_a_slow_service_counts_against_its_latency(
    counts: dict[str, float], share: float, tmp_path: Path
) -> None:
    labels = selector("", {"cluster": "demo", "slo": "fast", "kind": "latency"})
    test = {
        "series": {name: f"0+{count}x60" for name, count in counts.items()},
        "promql_expr_test": [
            {
                "expr": "round(argus_slo:error_ratio:rate1h, 0.0001)",
                "eval_time": "50m",
                "exp_samples": [{"labels": labels, "value": round(share, 4)}],
            }
        ],
    }
    evaluate(tmp_path, demo({"fast": SLOS["fast"]}), [test])


@promtool
def test_the_error_budget_that_remains_counts_requests_and_not_minutes(tmp_path: Path) -> None:
    """Half an hour of 10 requests a minute that all fail, within hours of 1000 that do not: 300 of 100 000 or so."""
    series = {OK: "0+1000x99 99000x50", FAILED: "0x99 0+10x30 300x20"}
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
