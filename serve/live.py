"""A cluster in figures, out of two scrapes of its metrics: what `argus top` shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from serve.scrape import Delta, Key, sum_of

# Beginnings of the names that are read.
WANTED: Final = (
    "argus_",
    "serve_autoscaling_target_replicas",
    "serve_deployment_replica_healthy",
    "serve_replica_processing",
)

# From good to bad, with what the gauge says; `resting` is what a 429 asked for.
_BREAKERS: Final = {0: "closed", 3: "resting", 1: "half open", 2: "open"}
_HITS: Final = ("hit", "shared_hit", "negative_hit")


@dataclass(frozen=True, slots=True)
class Route:
    """One route or gRPC method; times in seconds, None where nothing ended.

    Attributes:
        errors_per_s: ends other than `ok`, whosever fault.
    """

    protocol: str
    route: str
    per_s: float
    errors_per_s: float
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None


@dataclass(frozen=True, slots=True)
class CascadeUse:
    """One cascade.

    Attributes:
        escalated, degraded: shares of its requests.
        gear: 0 is the normal one; None before it has been reported.
        calibrated: None before it has been reported.
        saved_usd_per_h: what its last step would have cost for answers given before it.
    """

    name: str
    per_s: float
    escalated: float | None
    degraded: float | None
    gear: int | None
    p95_s: float | None
    calibrated: bool | None
    drifting: bool
    saved_usd_per_h: float


@dataclass(frozen=True, slots=True)
class ModelUse:
    """One deployment.

    Attributes:
        items_per_s: items that left its queue for a forward pass.
        batch: mean items of a forward pass.
        in_flight: requests that its replicas work on.
        replicas, wanted: that run, and that the autoscaler wants.
        gpu_memory: share of its budget that the fullest replica holds; None without a GPU.
    """

    name: str
    items_per_s: float
    queue_wait_p95_s: float | None
    batch: float | None
    forward_p95_s: float | None
    tokens_per_s: float
    first_token_p95_s: float | None
    in_flight: int
    replicas: int
    wanted: int
    gpu_memory: float | None


@dataclass(frozen=True, slots=True)
class TargetUse:
    """Calls of the router to one model or provider.

    Attributes:
        failed: share of attempts that failed; cancelled ones are none.
        breaker: `closed`, `resting`, `half open` or `open`: the worst of all router replicas.
        limit: calls that may be in progress, over all router replicas; None before it has been reported.
    """

    name: str
    attempts_per_s: float
    failed: float | None
    p95_s: float | None
    retries_per_s: float
    hedges_per_s: float
    breaker: str
    in_flight: int
    limit: int | None
    usd_per_h: float
    cached: float | None


@dataclass(frozen=True, slots=True)
class Live:
    """The whole cluster.

    Attributes:
        seconds: that rates and quantiles are over.
        failed: share of requests that failed through our fault.
        budget_left_usd: by tenant, `*` for all together.
        jobs: in the store, by state.
    """

    seconds: float
    requests_per_s: float
    failed: float | None
    in_flight: int
    shed_per_s: float
    routes: tuple[Route, ...]
    cascades: tuple[CascadeUse, ...]
    models: tuple[ModelUse, ...]
    targets: tuple[TargetUse, ...]
    budget_left_usd: Mapping[str, float]
    jobs: Mapping[str, int]


def live(delta: Delta) -> Live:
    """All figures of a cluster; the busiest routes, cascades, models and targets come first."""
    requests = _whole(delta.rates("argus_requests_total"))
    failed = _whole(delta.rates("argus_requests_total", fault="server"))
    return Live(
        seconds=round(delta.seconds, 1),
        requests_per_s=requests,
        failed=_share(failed, requests),
        in_flight=round(_whole(delta.levels("argus_requests_in_flight", merge=sum_of))),
        shed_per_s=_whole(delta.rates("argus_shed_requests_total")),
        routes=_routes(delta),
        cascades=_cascades(delta),
        models=_models(delta),
        targets=_targets(delta),
        budget_left_usd={tenant: usd for (tenant,), usd in sorted(_budgets(delta).items())},
        jobs={state: round(count) for (state,), count in sorted(delta.levels("argus_jobs", "state").items())},
    )


def _budgets(delta: Delta) -> dict[Key, float]:
    """Each replica tells the whole where Redis counts, else only its own part."""
    parts = delta.levels("argus_budget_left_usd", "tenant", merge=sum_of, counted="replica")
    return parts | delta.levels("argus_budget_left_usd", "tenant", merge=min, counted="shared")


def _routes(delta: Delta) -> tuple[Route, ...]:
    by = ("protocol", "route")
    rates = delta.rates("argus_requests_total", *by)
    well = delta.rates("argus_requests_total", *by, outcome="ok")
    p50, p95, p99 = (delta.quantiles(share, "argus_request_seconds", *by) for share in (0.5, 0.95, 0.99))
    found = (
        Route(key[0], key[1], rate, rate - well.get(key, 0.0), p50.get(key), p95.get(key), p99.get(key))
        for key, rate in rates.items()
        if rate > 0
    )
    return tuple(sorted(found, key=lambda one: (-one.per_s, one.route)))


def _cascades(delta: Delta) -> tuple[CascadeUse, ...]:
    by = "cascade"
    rates = delta.rates("argus_cascade_requests_total", by)
    degraded = delta.rates("argus_cascade_requests_total", by, result="degraded")
    escalated = delta.rates("argus_cascade_escalations_total", by)
    p95 = delta.quantiles(0.95, "argus_cascade_seconds", by)
    saved = delta.rates("argus_cascade_saved_usd_total", by)
    gears = delta.levels("argus_cascade_gear", by)
    uncalibrated = delta.levels("argus_cascade_uncalibrated", by)
    drift = delta.levels("argus_cascade_drift_alarm", by)
    found = (
        CascadeUse(
            name=key[0],
            per_s=rates.get(key, 0.0),
            escalated=_share(escalated.get(key, 0.0), rates.get(key, 0.0)),
            degraded=_share(degraded.get(key, 0.0), rates.get(key, 0.0)),
            gear=round(gears[key]) if key in gears else None,
            p95_s=p95.get(key),
            calibrated=not uncalibrated[key] if key in uncalibrated else None,
            drifting=bool(drift.get(key, 0.0)),
            saved_usd_per_h=3600 * saved.get(key, 0.0),
        )
        for key in _keys(rates, gears, uncalibrated)
    )
    return tuple(sorted(found, key=lambda one: (-one.per_s, one.name)))


def _models(delta: Delta) -> tuple[ModelUse, ...]:
    by = "model"
    items = delta.rates("argus_queue_wait_seconds_count", by)
    waits = delta.quantiles(0.95, "argus_queue_wait_seconds", by)
    batches = delta.rates("argus_batch_items_count", by)
    passes = delta.quantiles(0.95, "argus_forward_seconds", by)
    tokens = delta.rates("argus_generated_tokens_total", by)
    first = delta.quantiles(0.95, "argus_time_to_first_token_seconds", by)
    working = delta.levels("serve_replica_processing_queries", "deployment", merge=sum_of)
    running = delta.levels("serve_deployment_replica_healthy", "deployment", merge=sum_of)
    wanted = delta.levels("serve_autoscaling_target_replicas", "deployment")
    used, budget = (delta.levels(f"argus_gpu_memory_{which}_bytes", by) for which in ("used", "budget"))
    found = (
        ModelUse(
            name=key[0],
            items_per_s=items.get(key, 0.0),
            queue_wait_p95_s=waits.get(key),
            batch=_share(items.get(key, 0.0), batches.get(key, 0.0)),
            forward_p95_s=passes.get(key),
            tokens_per_s=tokens.get(key, 0.0),
            first_token_p95_s=first.get(key),
            in_flight=round(working.get(key, 0.0)),
            replicas=round(running.get(key, 0.0)),
            wanted=round(wanted.get(key, 0.0)),
            gpu_memory=_share(used.get(key, 0.0), budget.get(key, 0.0)),
        )
        for key in _keys(items, running, wanted)
    )
    return tuple(sorted(found, key=lambda one: (-one.items_per_s, -one.in_flight, one.name)))


def _targets(delta: Delta) -> tuple[TargetUse, ...]:
    by = "target"
    attempts = delta.rates("argus_call_attempts_total", by)
    unhurt = [delta.rates("argus_call_attempts_total", by, outcome=outcome) for outcome in ("ok", "cancelled")]
    p95 = delta.quantiles(0.95, "argus_call_attempt_seconds", by)
    retries, hedges = delta.rates("argus_call_retries_total", by), delta.rates("argus_call_hedges_total", by)
    spent = delta.rates("argus_provider_spent_usd_total", by)
    states = delta.levels("argus_breaker_state", by, merge=_worse)
    limits = delta.levels("argus_call_concurrency_limit", by, merge=sum_of)
    working = delta.levels("argus_calls_in_flight", by, merge=sum_of)
    missed = delta.rates("argus_cache_results_total", by, result="miss")
    hits = [delta.rates("argus_cache_results_total", by, result=result) for result in _HITS]

    def failed(key: Key) -> float:
        return max(0.0, attempts.get(key, 0.0) - sum(rates.get(key, 0.0) for rates in unhurt))

    def hit(key: Key) -> float:
        return sum(rates.get(key, 0.0) for rates in hits)

    found = (
        TargetUse(
            name=key[0],
            attempts_per_s=attempts.get(key, 0.0),
            failed=_share(failed(key), attempts.get(key, 0.0)),
            p95_s=p95.get(key),
            retries_per_s=retries.get(key, 0.0),
            hedges_per_s=hedges.get(key, 0.0),
            breaker=_BREAKERS[round(states.get(key, 0.0))],
            in_flight=round(working.get(key, 0.0)),
            limit=round(limits[key]) if key in limits else None,
            usd_per_h=3600 * spent.get(key, 0.0),
            cached=_share(hit(key), hit(key) + missed.get(key, 0.0)),
        )
        for key in _keys(attempts, states, missed, *hits)
    )
    return tuple(sorted(found, key=lambda one: (-one.attempts_per_s, one.name)))


def _worse(one: float, other: float) -> float:
    """Of two states of a breaker."""
    return max(one, other, key=lambda state: list(_BREAKERS).index(round(state)))


def _keys(*figures: Mapping[Key, float]) -> Iterable[Key]:
    return dict.fromkeys(key for one in figures for key in one)


def _whole(figures: Mapping[Key, float]) -> float:
    return sum(figures.values())


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
