"""Calls to models and providers: what they cost, whether they answer, and what guards them."""

from __future__ import annotations

from typing import Final

from grafana import budgets
from grafana.panels import (
    Dashboard,
    Panel,
    Query,
    Row,
    Variable,
    increase,
    quantile,
    quantiles,
    rate,
    selector,
    total,
)

_OF: Final = 'target=~"$target"'
_FAILED: Final = 'outcome!~"ok|cancelled"'
_HIT: Final = 'result=~".*hit"'
_ASKED: Final = 'result!="store_failed"'  # not an answer of the cache: the call was counted as a miss before
_RUNBOOK: Final = "docs/operations.md#providers-money-and-the-cache"
_BREAKER: Final = selector("ray_argus_breaker_state", _OF)
_ATTEMPTS: Final = rate("ray_argus_call_attempts_total", _OF, by="target")
_OVERLOAD: Final = "docs/operations.md#deadlines-and-overload"

_MONEY = Row(
    "Money",
    (
        Panel(
            "Budget left today",
            "What may still be spent until midnight UTC, by tenant; `*` stands for all together. At 0 calls are "
            "refused with `budget_exceeded`.",
            "currencyUSD",
            (Query(budgets.left(selector), "{{tenant}}"),),
            kind="stat",
            thresholds=((-1e9, "red"), (0.01, "green")),
            decimals=2,
            least=None,
            no_value="no budget",
            width=6,
            runbook=_RUNBOOK,
        ),
        Panel(
            "Share of the budget left",
            "The same as a share of the day's budget. An alert is raised below `objectives.alerts.budget_left_share`.",
            "percentunit",
            (Query(budgets.share_left(selector), "{{tenant}}"),),
            thresholds=((-1e9, "red"), (0.1, "orange"), (0.25, "green")),
            width=6,
            most=1,
            no_value="no budget",
            runbook=_RUNBOOK,
        ),
        Panel(
            "Spending an hour",
            "At the present rate, by provider. Compare with the budget left and the hours of the day.",
            "currencyUSD",
            (Query(f"3600 * {rate('ray_argus_provider_spent_usd_total', _OF, by='target')}", "{{target}}"),),
            stacked=True,
            decimals=4,
            width=6,
            runbook=_RUNBOOK,
        ),
        Panel(
            "Spent in the time shown",
            "What each provider has cost over the time chosen above.",
            "currencyUSD",
            (Query(increase("ray_argus_provider_spent_usd_total", _OF, by="target", window="$__range"), "{{target}}"),),
            kind="stat",
            decimals=4,
            width=6,
            runbook=_RUNBOOK,
        ),
    ),
)

_HEALTH = Row(
    "Whether they answer",
    (
        Panel(
            "Breakers",
            "The worst of all router replicas. An open breaker leaves a target alone until probes succeed: look at its "
            "errors, and at the provider's own status page. One that rests does as a 429 asked.",
            "short",
            (Query(f"max by (target) ({_BREAKER} == 2) or max by (target) ({_BREAKER})", "{{target}}"),),
            kind="stat",
            thresholds=((1, "orange"), (2, "red"), (3, "orange")),
            words={0: "closed", 1: "half open", 2: "open", 3: "resting"},
            no_value="closed",
            runbook=_RUNBOOK,
        ),
        Panel(
            "Attempts a second by outcome",
            "`ok`, a class of failure, or cancelled: a hedge that lost, or a client that went away.",
            "reqps",
            (Query(rate("ray_argus_call_attempts_total", _OF, by="target, outcome"), "{{target}}: {{outcome}}"),),
            stacked=True,
            runbook=_RUNBOOK,
        ),
        Panel(
            "Failed attempts",
            "Share of attempts that failed; cancelled ones are none.",
            "percentunit",
            (
                Query(
                    f"({rate('ray_argus_call_attempts_total', _OF, _FAILED, by='target')} or 0 * {_ATTEMPTS}) / "
                    f"{_ATTEMPTS}",
                    "{{target}}",
                ),
            ),
            thresholds=((0.05, "yellow"), (0.5, "red")),
            most=1,
            runbook=_RUNBOOK,
        ),
        Panel(
            "Time of attempts",
            "P95 by target. A provider that became slower for good is believed in the end; see `patience`.",
            "s",
            (Query(quantile(0.95, "ray_argus_call_attempt_seconds", _OF, by="target"), "{{target}} p95"),),
        ),
        Panel(
            "Time of attempts of the chosen targets",
            "In the middle and in the tail.",
            "s",
            quantiles("ray_argus_call_attempt_seconds", _OF),
        ),
        Panel(
            "Calls refused before an attempt",
            "By the stage that refused: budget, rate, places, breaker, deadline. Refusals are cheap; that they last is "
            "a reason to look.",
            "reqps",
            (Query(rate("ray_argus_calls_refused_total", _OF, by="target, stage"), "{{target}}: {{stage}}"),),
            stacked=True,
            runbook=_RUNBOOK,
        ),
    ),
)

_GUARD = Row(
    "Retries, hedges, places",
    (
        Panel(
            "Retries",
            "Attempts that followed a failed one, as a share of all. The retry budget keeps it below `retries.budget`.",
            "percentunit",
            (
                Query(
                    f"{rate('ray_argus_call_retries_total', _OF, by='target')} / {_ATTEMPTS}",
                    "{{target}}",
                ),
            ),
            thresholds=((0.1, "yellow"),),
            no_value="none",
        ),
        Panel(
            "Hedges a second",
            "Second attempts beside late ones, by whether they came first. Hedges that never win are money lost: raise "
            "`hedge.quantile`.",
            "reqps",
            (Query(rate("ray_argus_call_hedges_total", _OF, by="target, won"), "{{target}} won: {{won}}"),),
            no_value="none",
        ),
        Panel(
            "Wait for a place, P95",
            "How long calls wait in the router for one of the limited places.",
            "s",
            (Query(quantile(0.95, "ray_argus_call_wait_seconds", _OF, by="target"), "{{target}}"),),
            runbook=_OVERLOAD,
        ),
        Panel(
            "Places and calls",
            "The concurrency limit as it has been found, and the calls in progress, over all router replicas.",
            "short",
            (
                Query(total("ray_argus_call_concurrency_limit", _OF, by="target"), "{{target}} limit"),
                Query(total("ray_argus_calls_in_flight", _OF, by="target"), "{{target}} in progress"),
            ),
            width=12,
        ),
        Panel(
            "Calls that wait",
            "Calls without a place, over all router replicas; at `concurrency.max_waiting` the least important is "
            "refused.",
            "short",
            (Query(total("ray_argus_calls_waiting", _OF, by="target"), "{{target}}"),),
            width=12,
            runbook=_OVERLOAD,
        ),
    ),
)

_CACHE = Row(
    "Cache",
    (
        Panel(
            "Answers from the cache",
            "Share of cacheable calls that needed no attempt.",
            "percentunit",
            (
                Query(
                    f"{rate('ray_argus_cache_results_total', _OF, _HIT, by='target')} / "
                    f"{rate('ray_argus_cache_results_total', _OF, _ASKED, by='target')}",
                    "{{target}}",
                ),
            ),
            width=6,
            most=1,
            no_value="none",
        ),
        Panel(
            "What the cache had",
            "`hit` in memory, `shared_hit` in Redis, `negative_hit` a remembered failure; `store_failed` means that an "
            "answer could not be kept.",
            "reqps",
            (Query(rate("ray_argus_cache_results_total", _OF, by="result"), "{{result}}"),),
            width=6,
            stacked=True,
            runbook=_RUNBOOK,
        ),
        Panel(
            "Calls that shared another one",
            "Calls for the same question as one in progress.",
            "reqps",
            (Query(rate("ray_argus_single_flight_joined_total", _OF, by="target"), "{{target}}"),),
            width=6,
            no_value="none",
        ),
        Panel(
            "Redis",
            "Questions to Redis by whether it answered in time. Without answers every router replica goes on by "
            "itself, with its part of budgets and rates.",
            "reqps",
            (Query(rate("ray_argus_shared_store_questions_total", by="answered"), "answered: {{answered}}"),),
            width=6,
            no_value="no Redis",
            runbook=_RUNBOOK,
        ),
    ),
)

PROVIDERS = Dashboard(
    "argus-providers",
    "Argus: calls and providers",
    "What calls to models and providers cost, whether they answer, and what guards them.",
    (_MONEY, _HEALTH, _GUARD, _CACHE),
    (Variable("target", "Model or provider", selector("ray_argus_call_attempts_total")),),
)
