"""Every alert fires when it must and keeps quiet when it must not, as Prometheus' own tester evaluates the rules."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from grafana.inventory import by_series
from grafana.objectives import BURNS
from grafana.promql import RAYS
from grafana.rule import RUNBOOK
from grafana.rules import render, text
from serve.config.cluster import ClusterFile
from serve.config.load import PROFILES, load_profile, parse
from tests.unit.promtool import ALL, BAD, check, evaluate, promtool, selector

REPOSITORY = Path(__file__).parents[2]
PROMETHEUS = REPOSITORY / "grafana" / "prometheus"

WAIT = 'ray_argus_queue_wait_seconds_bucket{model="clip",le="%s"}'
PLACE = 'ray_argus_call_wait_seconds_bucket{target="llava",le="%s"}'
HEALTHY = 'ray_serve_deployment_replica_healthy{application="argus",deployment="clip",replica="%s"}'
WANTED = 'ray_serve_autoscaling_target_replicas{application="argus",deployment="clip"}'
GPU = 'ray_argus_gpu_memory_%s_bytes{model="llava",WorkerId="%s"}'
LEFT = 'ray_argus_budget_left_usd{tenant="*",counted="%s",WorkerId="%s"}'
WHOLE = 'ray_argus_budget_usd{tenant="*",counted="%s",WorkerId="%s"}'
REDIS = 'ray_argus_shared_store_questions_total{answered="%s"}'


@functools.cache
def everything() -> ClusterFile:
    """The production profile with what it leaves out: every alert fits it."""
    data = load_profile("cluster", calibrations=False).model_dump(mode="json", exclude_unset=True)
    data["resilience"] = {"usd_per_day": 10.0, "redis": {"url": "redis://localhost:6379"}}
    data["objectives"] |= {"slos": {"all": {"kind": "availability", "target": 0.99}}}
    return parse(data)


@dataclass(frozen=True)
class Case:
    """Series under which an alert fires at a time, and others under which it does not.

    Attributes:
        fires: series by name, in promtool's notation.
        labels: of the alert beside `alertname`, `severity` and `cluster`.
        window: tells alerts of one name apart.
    """

    alert: str
    severity: str
    fires: Mapping[str, str]
    quiet: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    at: str = "30m"
    window: str = ""

    @property
    def name(self) -> str:
        return self.alert + self.window

    @property
    def every(self) -> str:
        return "10m" if self.window else "1m"


def burn(window: str, severity: str, at: str, bad: float, still_fine: float) -> Case:
    """Out of 101 requests a minute so many bad ones."""

    def share(failed: float) -> dict[str, str]:
        return {ALL: "0+101x6000", BAD: f"0+{failed:g}x6000"}

    name = "ArgusErrorBudgetBurnsFast" if severity == "page" else "ArgusErrorBudgetBurns"
    labels = {"slo": "all", "kind": "availability", "window": window}
    return Case(name, severity, share(bad), share(still_fine), labels, at, window)


CASES = [
    burn("1h", "page", "90m", bad=16, still_fine=13),
    burn("6h", "page", "7h", bad=7, still_fine=5),
    burn("1d", "ticket", "25h", bad=4, still_fine=2.5),
    burn("3d", "ticket", "74h", bad=1.5, still_fine=0.8),
    Case(
        "ArgusTargetDown",
        "page",
        {'up{job="argus-ray",instance="a:1"}': "1x10 0x30"},
        {'up{job="argus-ray",instance="a:1"}': "1x40", 'up{job="another",instance="b:1"}': "0x40"},
        {"job": "argus-ray", "instance": "a:1"},
    ),
    Case(
        "ArgusRouterDown",
        "page",
        {WANTED.replace("clip", "router"): "2x40", (HEALTHY % "a").replace("clip", "router"): "1x20 0x20"},
        {
            WANTED.replace("clip", "router"): "2x40",
            (HEALTHY % "a").replace("clip", "router"): "1x20 0x20",
            (HEALTHY % "b").replace("clip", "router"): "1x40",
        },
        {},
    ),
    Case(
        "ArgusControllerSilent",
        "page",
        {
            'up{job="argus-ray",instance="a:1"}': "1x40",
            'up{job="argus-ingress",instance="b:1"}': "0x40",
            WANTED: "1x40",
            WANTED.replace("clip", "router"): "2x10 _x30",
        },
        {'up{job="argus-ray",instance="a:1"}': "1x40", WANTED.replace("clip", "router"): "2x21 _x4 2x40"},
        {},
    ),
    Case(
        "ArgusControllerSilent",
        "page",
        {'up{job="argus-ray",instance="a:1"}': "1x40"},
        {'up{job="argus-ray",instance="a:1"}': "1x40", 'up{job="argus-ray",instance="b:1"}': "1x10 0x30"},
        {},
    ),
    Case(
        "ArgusReplicasMissing",
        "ticket",
        {WANTED: "3x40", HEALTHY % "a": "1x40", HEALTHY % "b": "1x5 0x40"},
        {WANTED: "2x10 3x40", HEALTHY % "a": "1x40", HEALTHY % "b": "1x40", HEALTHY % "c": "_x12 1x40"},
        {"deployment": "clip"},
    ),
    Case(
        "ArgusQueueWaitHigh",
        "ticket",
        {WAIT % "1.0": "0+90x40", WAIT % "2.0": "0+100x40", WAIT % "+Inf": "0+100x40"},
        {WAIT % "1.0": "0+96x40", WAIT % "2.0": "0+100x40", WAIT % "+Inf": "0+100x40"},
        {"model": "clip"},
    ),
    Case(
        "ArgusEngineDied",
        "ticket",
        {'ray_argus_engine_deaths_total{model="llava"}': "_x25 1x40"},
        {'ray_argus_engine_deaths_total{model="llava"}': "1x60"},
        {"model": "llava"},
    ),
    Case(
        "ArgusBreakerOpen",
        "ticket",
        {'ray_argus_breaker_state{target="gemini",WorkerId="1"}': "0x10 2x40"},
        {'ray_argus_breaker_state{target="gemini",WorkerId="1"}': "0x10 2x1 1x40"},
        {"target": "gemini"},
    ),
    Case(
        "ArgusGpuMemoryOverBudget",
        "ticket",
        {GPU % ("used", 1): "25e9x40", GPU % ("budget", 1): "24e9x40"},
        # Two replicas of which each keeps to its budget.
        {GPU % (kind, i): f"{size}x40" for i in (1, 2) for kind, size in (("used", "23e9"), ("budget", "24e9"))},
        {"model": "llava"},
    ),
    Case(
        "ArgusCascadeDrift",
        "ticket",
        {'ray_argus_cascade_drift_alarm{cascade="moderation",step="screen"}': "1x40"},
        {'ray_argus_cascade_drift_alarm{cascade="moderation",step="screen"}': "0x40"},
        {"cascade": "moderation", "step": "screen"},
    ),
    Case(
        "ArgusCascadeUncalibrated",
        "info",
        {'ray_argus_cascade_uncalibrated{cascade="vqa"}': "1x100"},
        {'ray_argus_cascade_uncalibrated{cascade="vqa"}': "0x100"},
        {"cascade": "vqa"},
        at="70m",
    ),
    Case(
        "ArgusJobQueueOld",
        "ticket",
        {"ray_argus_job_queue_age_seconds": "0+60x40"},
        {"ray_argus_job_queue_age_seconds": "0+60x9 0+60x9 0+60x9 0+60x9"},
    ),
    Case(
        "ArgusBudgetNearlySpent",
        "ticket",
        {LEFT % ("shared", 1): "0.9x40", LEFT % ("shared", 2): "1.1x40"}
        | {WHOLE % ("shared", i): "10x40" for i in (1, 2)},
        # Of ten dollars each of two replicas counts its five; one has spent its part.
        {LEFT % ("replica", 1): "0x40", LEFT % ("replica", 2): "1.1x40"}
        | {WHOLE % ("replica", i): "5x40" for i in (1, 2)},
        {"tenant": "*"},
    ),
    Case(
        "ArgusSharedStoreAway",
        "ticket",
        {REDIS % "yes": "0+40x40", REDIS % "no": "0+60x40"},
        {REDIS % "yes": "0+60x40", REDIS % "no": "0+40x40"},
    ),
]


def firing(case: Case, expected: bool) -> dict[str, Any]:
    asked = {"alertname": case.alert, "alertstate": "firing"} | ({"window": case.window} if case.window else {})
    found = {
        "alertname": case.alert,
        "alertstate": "firing",
        "severity": case.severity,
        "cluster": "cluster",
        **case.labels,
    }
    samples = [{"labels": selector("ALERTS", found), "value": 1}] if expected else []
    return {"expr": selector("ALERTS", asked), "eval_time": case.at, "exp_samples": samples}


@promtool
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_alert_fires_when_it_must(case: Case, tmp_path: Path) -> None:
    evaluate(
        tmp_path, everything(), [{"series": dict(case.fires), "promql_expr_test": [firing(case, True)]}], case.every
    )


@promtool
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_alert_keeps_quiet_when_it_must(case: Case, tmp_path: Path) -> None:
    evaluate(
        tmp_path, everything(), [{"series": dict(case.quiet), "promql_expr_test": [firing(case, False)]}], case.every
    )


def test_every_alert_has_its_cases() -> None:
    rules = [rule for group in render(everything())["groups"] for rule in group["rules"] if "alert" in rule]
    assert {rule["alert"] + rule["labels"].get("window", "") for rule in rules} == {case.name for case in CASES}
    for profile in PROFILES:
        names = {
            rule["alert"]
            for group in render(load_profile(profile))["groups"]
            for rule in group["rules"]
            if "alert" in rule
        }
        assert names <= {case.alert for case in CASES}


@promtool
@pytest.mark.parametrize(
    ("series", "why"),
    [
        ({ALL: "0+100x120", BAD: "0+16x60 960+0x60"}, "it is over: the short window is clean"),
        ({ALL: "0x60 0+2x60", BAD: "0x60 0+1x60"}, "ten requests in five minutes say nothing"),
        ({ALL: "0+100x120", BAD: "0x120"}, "nothing is bad"),
        ({ALL: "0+100x120", BAD.replace("all", "other"): "0+100x120"}, "another objective's"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nobody_is_woken_for_what_is_no_burning_budget(series: dict[str, str], why: str, tmp_path: Path) -> None:
    asked = 'ALERTS{alertname="ArgusErrorBudgetBurnsFast",window="1h",alertstate="firing"}'
    test = {"series": series, "promql_expr_test": [{"expr": asked, "eval_time": "115m", "exp_samples": []}]}
    evaluate(tmp_path, everything(), [test])


@promtool
def test_many_failures_among_few_minutes_wake_somebody_without_a_sample_before_them(tmp_path: Path) -> None:
    """The series of failures begins in the middle of an outage, as that of a new router replica may."""
    case = CASES[0]
    series = {ALL: "0+100x120", BAD: "_x60 100+100x60"}
    evaluate(tmp_path, everything(), [{"series": series, "promql_expr_test": [firing(case, True)]}])


@promtool
def test_calls_that_wait_for_a_place_count_as_waiting_for_their_model(tmp_path: Path) -> None:
    series = {PLACE % "1.0": "0+90x40", PLACE % "2.0": "0+100x40", PLACE % "+Inf": "0+100x40"}
    labels = {"alertname": "ArgusQueueWaitHigh", "alertstate": "firing", "severity": "ticket", "cluster": "cluster"}
    sample = {"labels": selector("ALERTS", labels | {"model": "llava"}), "value": 1}
    asked = {"expr": 'ALERTS{alertname="ArgusQueueWaitHigh"}', "eval_time": "30m", "exp_samples": [sample]}
    evaluate(tmp_path, everything(), [{"series": series, "promql_expr_test": [asked]}])


@promtool
def test_a_deployment_without_any_replica_and_a_cluster_without_any_target_are_told(tmp_path: Path) -> None:
    missing = 'ALERTS{alertname="ArgusReplicasMissing",alertstate="firing"}'
    down = 'ALERTS{alertname="ArgusTargetDown",alertstate="firing"}'
    tests = [
        {
            "series": {WANTED: "2x40"},
            "promql_expr_test": [
                {"expr": f"count({asked})", "eval_time": "30m", "exp_samples": [{"labels": "{}", "value": 1}]}
                for asked in (missing, down)
            ],
        }
    ]
    evaluate(tmp_path, everything(), tests)


@promtool
def test_another_cluster_of_the_same_prometheus_raises_nothing_here(tmp_path: Path) -> None:
    other = {name.replace("{", '{cluster="other",', 1): values for name, values in CASES[0].fires.items()}
    own = {name.replace("{", '{cluster="cluster",', 1): values for name, values in CASES[0].quiet.items()}
    evaluate(tmp_path, everything(), [{"series": {**other, **own}, "promql_expr_test": [firing(CASES[0], False)]}])
    labelled = {name.replace("{", '{cluster="cluster",', 1): values for name, values in CASES[0].fires.items()}
    evaluate(tmp_path, everything(), [{"series": labelled, "promql_expr_test": [firing(CASES[0], True)]}])


@promtool
@pytest.mark.parametrize(("label", "fires"), [("prod.eu-1", True), ("prod-eu-1", False)])
def test_a_dot_in_a_clusters_name_is_a_dot(label: str, fires: bool, tmp_path: Path) -> None:
    data = everything().model_dump(mode="json", exclude_unset=True) | {"name": "prod.eu-1"}
    series = {name.replace("{", f'{{cluster="{label}",', 1): values for name, values in CASES[0].fires.items()}
    asked = 'count(ALERTS{alertname="ArgusErrorBudgetBurnsFast",window="1h",cluster="prod.eu-1"})'
    samples = [{"labels": "{}", "value": 1}] if fires else []
    test = {"series": series, "promql_expr_test": [{"expr": asked, "eval_time": "90m", "exp_samples": samples}]}
    evaluate(tmp_path, parse(data, calibrations=False), [test])


@promtool
@pytest.mark.parametrize(("failed", "fires"), [(95, True), (85, False)])
def test_an_outage_wakes_somebody_however_large_the_budget(failed: int, fires: bool, tmp_path: Path) -> None:
    """A target of 0.9: 14.4 times what is allowed is more than all requests."""
    data = load_profile("cluster", calibrations=False).model_dump(mode="json", exclude_unset=True)
    data["objectives"] = {"slos": {"all": {"kind": "availability", "target": 0.9}}}
    series = {ALL: "0+100x120", BAD: f"0+{failed}x120"}
    evaluate(tmp_path, parse(data), [{"series": series, "promql_expr_test": [firing(CASES[0], fires)]}])


@promtool
@pytest.mark.parametrize(("bad", "fires"), [(95, True), (85, False)])
def test_what_no_objective_allows_makes_a_ticket_however_large_the_budget(
    bad: int, fires: bool, tmp_path: Path
) -> None:
    """A target of 0.6 over 90 days: three times what is allowed is more than all requests."""
    data = load_profile("cluster", calibrations=False).model_dump(mode="json", exclude_unset=True)
    slo = {"kind": "escalation", "target": 0.6, "cascade": "moderation"}
    data["objectives"] = {"window_days": 90, "slos": {"esc": slo}}
    of = 'ray_argus_slo_%s_total{slo="esc"}'
    series = {of % "events": "0+100x5800", of % "errors": f"0+{bad}x5800"}
    asked = 'count(ALERTS{alertname="ArgusErrorBudgetBurns",window="3d",alertstate="firing"})'
    samples = [{"labels": "{}", "value": 1}] if fires else []
    test = {"series": series, "promql_expr_test": [{"expr": asked, "eval_time": "95h", "exp_samples": samples}]}
    evaluate(tmp_path, parse(data), [test])


@promtool
def test_an_ingress_is_missed_only_where_there_was_one(tmp_path: Path) -> None:
    """Every node is asked for one."""
    up = 'up{job="argus-ingress",instance="%s:9101"}'
    series = {'up{job="argus-nodes",instance="a:1"}': "1x90", up % "a": "1x30 0x60", up % "b": "0x90"}
    asked = 'sum by (instance) (ALERTS{alertname="ArgusTargetDown",alertstate="firing"})'
    samples = [{"labels": selector("", {"instance": "a:9101"}), "value": 1}]
    test = {"series": series, "promql_expr_test": [{"expr": asked, "eval_time": "60m", "exp_samples": samples}]}
    evaluate(tmp_path, everything(), [test])


UP = 'up{job="argus-ingress",instance="%s:9101"}'
STATUS = 'ray_serve_proxy_status{node_id="%s",node_ip_address="%s"}'


def missed(at: str, *instances: str) -> dict[str, Any]:
    """The ingresses whose absence has woken somebody by then."""
    asked = 'sum by (instance) (ALERTS{alertname="ArgusTargetDown",alertstate="firing"})'
    samples = [{"labels": selector("", {"instance": f"{one}:9101"}), "value": 1} for one in instances]
    return {"expr": asked, "eval_time": at, "exp_samples": samples}


@promtool
@pytest.mark.parametrize("cluster", ["", ',cluster="cluster"'])
def test_an_ingress_is_missed_for_as_long_as_it_is_away(cluster: str, tmp_path: Path) -> None:
    """Two days and more; one of a node that is gone is missed no longer, and one that is back neither."""
    head = 'up{job="argus-nodes",instance="a:1"}'
    series = {
        head: "1x4400",
        (UP % "a").replace("}", f"{cluster}}}"): "1x60 0x4340",
        (UP % "gone").replace("}", f"{cluster}}}"): "1x60 0x3000",
        (UP % "back").replace("}", f"{cluster}}}"): "1x60 0x3000 1x1340",
    }
    asked = [missed("2h", "a", "back", "gone"), missed("50h", "a", "back", "gone"), missed("70h", "a")]
    evaluate(tmp_path, everything(), [{"series": series, "promql_expr_test": asked}], every="10m")


@promtool
def test_an_ingress_that_left_with_its_nodes_last_replica_is_not_missed_until_it_is_there_again(tmp_path: Path) -> None:
    series = {
        'up{job="argus-nodes",instance="a:1"}': "1x2000",
        UP % "10.0.0.1": "1x60 0x600 1x60 0x600",
        STATUS % ("n1", "10.0.0.1"): "2x58 4x2 5x600 2x1300",
        # Its fellow is away while Ray wants it there.
        UP % "10.0.0.2": "1x60 0x2000",
        STATUS % ("n2", "10.0.0.2"): "2x60 3x2000",
    }
    asked = [missed("64m", "10.0.0.2"), missed("10h", "10.0.0.2"), missed("20h", "10.0.0.1", "10.0.0.2")]
    evaluate(tmp_path, everything(), [{"series": series, "promql_expr_test": asked}])


@promtool
def test_an_ingress_that_ray_began_again_is_missed_although_its_predecessor_was_drained(tmp_path: Path) -> None:
    """The controller goes on telling of the old one."""
    series = {
        'up{job="argus-nodes",instance="a:1"}': "1x200",
        UP % "10.0.0.1": "1x60 0x140",
        STATUS % ("old", "10.0.0.1"): "5x200",
        STATUS % ("new", "10.0.0.1"): "2x200",
    }
    evaluate(tmp_path, everything(), [{"series": series, "promql_expr_test": [missed("2h", "10.0.0.1")]}])


@promtool
def test_what_is_expected_outlives_a_pause_of_prometheus(tmp_path: Path) -> None:
    series = {
        'up{job="argus-nodes",instance="a:1"}': "1x60 _x30 1x60",
        UP % "a": "1x50 0x10 _x30 0x60",
    }
    test = {"series": series, "promql_expr_test": [missed("2h", "a")]}
    evaluate(tmp_path, everything(), [test])


@promtool
@pytest.mark.parametrize(("left", "fires"), [(0.45, True), (0.55, False)])
def test_parts_of_a_budget_are_added_where_no_redis_counts(left: float, fires: bool, tmp_path: Path) -> None:
    """Of ten dollars, five in each of two replicas."""
    series = {LEFT % ("replica", i): f"{left}x40" for i in (1, 2)} | {WHOLE % ("replica", i): "5x40" for i in (1, 2)}
    case = next(case for case in CASES if case.alert == "ArgusBudgetNearlySpent")
    evaluate(tmp_path, everything(), [{"series": series, "promql_expr_test": [firing(case, fires)]}])


@promtool
def test_what_is_written_for_people_has_the_figures_in_it(tmp_path: Path) -> None:
    expected = {
        "exp_labels": {"severity": "ticket", "cluster": "cluster", "tenant": "*"},
        "exp_annotations": {
            "summary": "The day's money of tenant * is nearly spent",
            "description": "9% of today's money (UTC) are left; when they are gone, calls of providers are refused "
            "with `budget_exceeded`. `*` stands for all tenants together (`service_budget_exceeded`).",
            "runbook": "docs/operations.md#argusbudgetnearlyspent",
        },
    }
    case = next(case for case in CASES if case.alert == "ArgusBudgetNearlySpent")
    test = {"eval_time": "30m", "alertname": "ArgusBudgetNearlySpent", "exp_alerts": [expected]}
    evaluate(tmp_path, everything(), [{"series": dict(case.fires), "alert_rule_test": [test]}])


@promtool
@pytest.mark.parametrize("profile", PROFILES)
def test_prometheus_takes_the_rules_of_a_profile(profile: str) -> None:
    check(PROMETHEUS / f"{profile}.rules.yaml")


@pytest.mark.parametrize("profile", PROFILES)
def test_committed_rules_are_those_of_the_profile(profile: str) -> None:
    command = f"argus observability rules --profile {profile}"
    path = PROMETHEUS / f"{profile}.rules.yaml"
    assert path.read_text() == text(load_profile(profile), command), f"{command} --out grafana/prometheus makes it anew"


def test_each_alert_has_its_heading_in_the_runbook_and_the_reverse() -> None:
    page = (REPOSITORY / RUNBOOK).read_text()
    headings = set(re.findall(r"^### (Argus\w+)$", page, re.MULTILINE))
    rules = [rule for group in render(everything())["groups"] for rule in group["rules"] if "alert" in rule]
    assert headings == {rule["alert"] for rule in rules}
    for rule in rules:
        file, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (file, anchor) == (RUNBOOK, rule["alert"].lower())


def test_rules_read_only_what_is_exported_with_the_labels_that_it_has() -> None:
    known = set(by_series()) | set(RAYS) | {"up"}
    recorded = {
        rule["record"] for group in render(everything())["groups"] for rule in group["rules"] if "record" in rule
    }
    for group in render(everything())["groups"]:
        for rule in group["rules"]:
            for name, matchers in re.findall(r"([a-z_][\w:]*)\{([^}]*)\}", rule["expr"]):
                assert name in known | recorded, name
                labels = set(re.findall(r"(\w+)(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', "", matchers))) - {"cluster"}
                if name in by_series():
                    assert labels <= {*by_series()[name].labels, "le"}, rule["expr"]


@pytest.mark.parametrize(("days", "factors"), [(30, [14.4, 6, 3, 1]), (90, [43.2, 18, 9, 3]), (7, [3.36, 1.4, 1, 1])])
def test_burn_rates_follow_the_window_and_never_fall_below_what_lasts(days: int, factors: list[float]) -> None:
    assert [burn.factor(days) for burn in BURNS] == factors
