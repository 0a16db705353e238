"""What panels say of series that are known, as Prometheus' own tester evaluates their queries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from grafana.catalogue import DASHBOARDS
from grafana.queries import filled
from serve.config.load import load_profile
from tests.unit.promtool import evaluate, promtool, selector

ATTEMPTS = 'ray_argus_call_attempts_total{target="%s",outcome="%s",WorkerId="1"}'
STEPS = 'ray_argus_cascade_steps_total{cascade="moderation",step="screen",model="clip",result="%s"}'
CACHE = 'ray_argus_cache_results_total{target="hosted",result="%s"}'
LEFT = 'ray_argus_budget_left_usd{tenant="%s",counted="%s",WorkerId="%s"}'
WHOLE = LEFT.replace("left_usd", "usd")
BUSY = 'ray_argus_forward_busy_seconds_total{model="clip",WorkerId="%s"}'
BREAKER = 'ray_argus_breaker_state{target="%s",WorkerId="%s"}'
PLANNED = 'argus_plan:capacity:qps{cluster="demo",flow="%s",entry="%s"}'
BUDGETS = {
    # Redis counts that of all; each of two replicas has its part of a tenant's.
    LEFT % ("*", "shared", 1): "2.5x40",
    LEFT % ("*", "shared", 2): "2x40",
    WHOLE % ("*", "shared", 1): "10x40",
    WHOLE % ("*", "shared", 2): "10x40",
    LEFT % ("a", "replica", 1): "0x40",
    LEFT % ("a", "replica", 2): "3x40",
    WHOLE % ("a", "replica", 1): "5x40",
    WHOLE % ("a", "replica", 2): "5x40",
}


def query(title: str) -> str:
    """The first one of the panel of that title."""
    [found] = [(one, panel) for one in DASHBOARDS for panel in one.panels if panel.title == title]
    dashboard, panel = found
    return filled(panel.queries[0].expr, dashboard, rate_interval="5m", shown="1h")


def a_second(rates: Mapping[str, float]) -> dict[str, str]:
    """Counters that grow so much a second, scraped once a minute."""
    return {name: f"0+{60 * rate:g}x40" for name, rate in rates.items()}


@promtool
@pytest.mark.parametrize(
    ("title", "series", "label", "expected"),
    [
        pytest.param(
            "Failed attempts",
            a_second(
                {
                    ATTEMPTS % ("broken", "unavailable"): 2,
                    ATTEMPTS % ("well", "ok"): 3,
                    ATTEMPTS % ("mixed", "ok"): 6,
                    ATTEMPTS % ("mixed", "cancelled"): 2,
                    ATTEMPTS % ("mixed", "timeout"): 2,
                }
            ),
            "target",
            {"broken": 1, "well": 0, "mixed": 0.2},
            id="also of a target that never succeeded, and of one that never failed",
        ),
        pytest.param(
            "Answers from the cache",
            a_second({CACHE % "miss": 2, CACHE % "hit": 1, CACHE % "shared_hit": 1, CACHE % "store_failed": 2}),
            "target",
            {"hosted": 0.5},
            id="an answer that could not be kept is no question",
        ),
        pytest.param("Budget left today", BUDGETS, "tenant", {"*": 2, "a": 3}, id="what is left of budgets"),
        pytest.param("Share of the budget left", BUDGETS, "tenant", {"*": 0.2, "a": 0.3}, id="their shares"),
        pytest.param(
            "Busiest replica", a_second({BUSY % 1: 0.25, BUSY % 2: 0.5}), "model", {"clip": 0.5}, id="not their sum"
        ),
        pytest.param(
            "Breakers",
            {BREAKER % ("a", 1): "3x40", BREAKER % ("a", 2): "2x40", BREAKER % ("b", 1): "3x40"},
            "target",
            {"a": 2, "b": 3},
            id="an open one is worse than one that rests",
        ),
        pytest.param(
            "Used of the plan",
            a_second(
                {
                    ATTEMPTS % ("clip", "ok"): 30,
                    ATTEMPTS % ("clip", "timeout"): 2,
                    'ray_argus_call_retries_total{target="clip"}': 2,
                    'ray_argus_call_hedges_total{target="clip",won="yes"}': 1,
                    STEPS % "accepted": 15,
                    STEPS % "went_on": 5,
                    STEPS % "skipped": 100,
                    ATTEMPTS % ("llava", "ok"): 4,
                    'ray_argus_cascade_requests_total{cascade="moderation",result="ok"}': 20,
                }
            )
            | {PLANNED % ("classify", "clip"): "18x40", PLANNED % ("moderate", "moderation"): "25x40"},
            "entry",
            {"clip": 0.5, "moderation": 0.8},
            id="without retries, hedges, and what cascades ask",
        ),
    ],
)
def test_a_panel_says(
    title: str, series: dict[str, str], label: str, expected: dict[str, float], tmp_path: Path
) -> None:
    samples = [{"labels": selector("", {label: of}), "value": value} for of, value in expected.items()]
    asked = {"expr": f"round({query(title)}, 0.001)", "eval_time": "30m", "exp_samples": samples}
    evaluate(tmp_path, load_profile("demo"), [{"series": dict(series), "promql_expr_test": [asked]}])
