"""Cascades: how often they go on, what that costs and saves, and whether their thresholds still hold."""

from __future__ import annotations

from typing import Final

from grafana.panels import (
    Dashboard,
    Panel,
    Query,
    Row,
    Variable,
    buckets,
    increase,
    largest,
    quantile,
    quantiles,
    rate,
    selector,
)

_OF: Final = 'cascade=~"$cascade"'
_RUNBOOK: Final = "docs/operations.md#cascades"


def _share(part: str, *matchers: str, of: str = "ray_argus_cascade_requests_total") -> str:
    """A share of cascades by name; 0 where nothing of the part has happened yet."""
    whole = rate(of, _OF, by="cascade")
    return f"({rate(part, _OF, *matchers, by='cascade')} or 0 * {whole}) / {whole}"


def _checked(results: str) -> str:
    """Shadow checks of the last hour with one of some results."""
    metric = "ray_argus_cascade_shadow_total"
    return increase(metric, _OF, f'result=~"{results}"', by="cascade, step", window="1h")


_ANSWERS = Row(
    "Answers",
    (
        Panel(
            "Cascades a second by result",
            "`ok` is an accepted answer, `unsure` the last step's without its acceptance, `degraded` one that was "
            "given because a later step failed; others are error codes.",
            "reqps",
            (Query(rate("ray_argus_cascade_requests_total", _OF, by="cascade, result"), "{{cascade}}: {{result}}"),),
            stacked=True,
            runbook=_RUNBOOK,
        ),
        Panel(
            "Outcomes a second",
            "What the policy said: allow, block or review. Sudden changes are the traffic's or a drifting model's.",
            "reqps",
            (Query(rate("ray_argus_cascade_requests_total", _OF, by="cascade, outcome"), "{{cascade}}: {{outcome}}"),),
            stacked=True,
            runbook=_RUNBOOK,
        ),
        Panel(
            "Degraded answers",
            "Share of answers that were given although a later step failed. Look at that step's model or provider: "
            "its breaker, its errors.",
            "percentunit",
            (Query(_share("ray_argus_cascade_requests_total", 'result="degraded"'), "{{cascade}}"),),
            thresholds=((0.01, "yellow"), (0.1, "red")),
            most=1,
            runbook=_RUNBOOK,
        ),
        Panel(
            "Escalation",
            "Share of cascades that called more than their first step. Capacity is planned for the share of the "
            "calibration; one point more is one point more load on the expensive step.",
            "percentunit",
            (Query(_share("ray_argus_cascade_escalations_total"), "{{cascade}}"),),
            most=1,
            runbook=_RUNBOOK,
        ),
        Panel(
            "Steps a second by what became of them",
            "Accepted, went on, failed or skipped. `failed` with no error of the cascade means that a fallback works.",
            "reqps",
            (
                Query(
                    rate("ray_argus_cascade_steps_total", _OF, by="cascade, step, model, result"),
                    "{{cascade}}: {{step}} ({{model}}) {{result}}",
                ),
            ),
            runbook=_RUNBOOK,
        ),
        Panel(
            "Gear",
            "0 is the file as it is; higher gears lower thresholds while the load is high. A gear that never goes back "
            "says that the cluster is too small.",
            "short",
            (Query(largest("ray_argus_cascade_gear", _OF, by="cascade"), "{{cascade}}"),),
            thresholds=((1, "yellow"),),
            decimals=0,
            no_value="normal",
            runbook=_RUNBOOK,
        ),
    ),
)

_LATENCY = Row(
    "Latency",
    (
        Panel(
            "Latency",
            "All steps of the chosen cascades together.",
            "s",
            quantiles("ray_argus_cascade_seconds", _OF),
        ),
        Panel(
            "P50 by step",
            "One step's call, in the middle.",
            "s",
            (
                Query(
                    quantile(0.5, "ray_argus_cascade_step_seconds", _OF, by="cascade, step"),
                    "{{cascade}}: {{step}}",
                ),
            ),
        ),
        Panel(
            "P99 by step",
            "One step's call, in the tail. A step has `deadline_share` of the time left; what is slower fails.",
            "s",
            (
                Query(
                    quantile(0.99, "ray_argus_cascade_step_seconds", _OF, by="cascade, step"),
                    "{{cascade}}: {{step}}",
                ),
            ),
        ),
    ),
)

_TRUST = Row(
    "Whether thresholds hold",
    (
        Panel(
            "Confidence of answers",
            "How sure steps are. Choose one cascade. Mass that moves down is traffic unlike that of the calibration: "
            "escalation follows.",
            "percentunit",
            (Query(buckets("ray_argus_cascade_confidence", _OF), "{{le}}"),),
            kind="heatmap",
            runbook=_RUNBOOK,
        ),
        Panel(
            "Median confidence by step",
            "The middle of the same, over time.",
            "percentunit",
            (
                Query(
                    quantile(0.5, "ray_argus_cascade_confidence", _OF, by="cascade, step"),
                    "{{cascade}}: {{step}}",
                ),
            ),
            most=1,
            runbook=_RUNBOOK,
        ),
        Panel(
            "Shadow disagreement",
            "Share of checked answers with which the next step disagreed, over an hour. Above `shadow.alarm_error` the "
            "drift alarm follows: calibrate anew on recent data.",
            "percentunit",
            (
                Query(
                    f"({_checked('disagreed')} or 0 * {_checked('agreed|disagreed')}) / {_checked('agreed|disagreed')}",
                    "{{cascade}}: {{step}}",
                ),
            ),
            most=1,
            runbook=_RUNBOOK,
        ),
        Panel(
            "Evidence of drift",
            "How many times better the shadow checks fit a drift than none (an e-process). The alarm is raised at 100; "
            "a false one ever has a probability of at most 1 in 100.",
            "short",
            (
                Query(
                    largest("ray_argus_cascade_drift_evidence", _OF, by="cascade, step"),
                    "{{cascade}}: {{step}}",
                ),
            ),
            thresholds=((10, "yellow"), (100, "red")),
            runbook=_RUNBOOK,
        ),
        Panel(
            "Drift alarm",
            "1: more accepted answers are wrong than the file allows. Calibrate anew and restart.",
            "short",
            (Query(largest("ray_argus_cascade_drift_alarm", _OF, by="cascade, step"), "{{cascade}}: {{step}}"),),
            kind="stat",
            thresholds=((1, "red"),),
            words={0: "holds", 1: "drift"},
            width=4,
            runbook=_RUNBOOK,
        ),
        Panel(
            "Calibration",
            "A threshold that was typed in says nothing of how often it is wrong; run `argus calibrate`.",
            "short",
            (Query(largest("ray_argus_cascade_uncalibrated", _OF, by="cascade"), "{{cascade}}"),),
            kind="stat",
            thresholds=((1, "orange"),),
            words={0: "certified", 1: "typed in"},
            width=4,
            runbook=_RUNBOOK,
        ),
        Panel(
            "Shadow checks a second",
            "By what the next step said. `dropped` is more than `shadow.max_in_flight` at once.",
            "reqps",
            (Query(rate("ray_argus_cascade_shadow_total", _OF, by="cascade, result"), "{{cascade}}: {{result}}"),),
            runbook=_RUNBOOK,
        ),
    ),
)

_MONEY = Row(
    "Money",
    (
        Panel(
            "Saved by accepting early, an hour",
            "What the last step would usually have cost for answers that an earlier step gave, at the present rate.",
            "currencyUSD",
            (Query(f"3600 * {rate('ray_argus_cascade_saved_usd_total', _OF, by='cascade')}", "{{cascade}}"),),
            decimals=4,
            width=12,
            no_value="no paid step",
        ),
        Panel(
            "Saved in the time shown",
            "The same, added up over the time chosen above.",
            "currencyUSD",
            (
                Query(
                    increase("ray_argus_cascade_saved_usd_total", _OF, by="cascade", window="$__range"), "{{cascade}}"
                ),
            ),
            kind="stat",
            decimals=4,
            width=12,
            no_value="no paid step",
        ),
    ),
)

CASCADE = Dashboard(
    "argus-cascade",
    "Argus: cascades",
    "How often cascades go on, what that costs and saves, and whether their thresholds still hold.",
    (_ANSWERS, _LATENCY, _TRUST, _MONEY),
    (Variable("cascade", "Cascade", selector("ray_argus_cascade_requests_total")),),
)
