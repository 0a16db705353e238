"""Alerts beside those of objectives: causes that somebody should see to before, or while, users feel them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from grafana import budgets
from grafana.promql import Cluster
from grafana.rule import Alert, Recording
from serve.config.cluster import ClusterFile
from serve.config.models import JobStoreModel

_INGRESS: Final = 'job="argus-ingress"'
_ROUTER: Final = 'deployment="router"'
_EXPECTED: Final = "argus:ingress:expected"


def alerts(cluster: ClusterFile) -> Iterator[Alert]:
    """All that fit the cluster: what a file does not have raises no alert."""
    of = Cluster(cluster.name)
    bounds = cluster.objectives.alerts
    yield _target_down(of)
    yield _router_down(of)
    yield _controller_silent(of)
    yield _replicas_missing(of)
    yield _queue_wait_high(of, bounds.queue_wait_s)
    yield _engine_died(of)
    yield _breaker_open(of)
    if any(model.gpu_memory_gb for model in cluster.models.values()):
        yield _gpu_memory_over_budget(of)
    if cluster.cascades:
        yield _drift(of)
        yield _uncalibrated(of)
    if any(isinstance(model, JobStoreModel) for model in cluster.models.values()):
        yield _job_queue_old(of, bounds.job_queue_age_s)
    if cluster.resilience.usd_per_day or any(tenant.usd_per_day for tenant in cluster.tenants.values()):
        yield _budget_nearly_spent(of, bounds.budget_left_share)
    if cluster.resilience.redis:
        yield _shared_store_away(of)


def recordings(cluster: ClusterFile) -> Iterator[Recording]:
    """What alerts remember: an alert that forgot what was there would end while it is away.

    Every node of several is asked for an ingress, and those without one never answer. One is expected once it has
    answered, for as long as discovery lists it, unless Ray is taking it away with the last replica of its node (of
    `ProxyStatus` in ray/serve/schema.py, 4 is draining and 5 drained). An hour of Prometheus' own absence is bridged.
    """
    of = Cluster(cluster.name)
    ingress, status = of.raw("up", _INGRESS), of.raw("ray_serve_proxy_status")
    before = f"last_over_time({of.recorded(_EXPECTED)}[1h]) and on (job, instance) {ingress}"
    seen = f'label_replace({ingress} == 1 or {before}, "node_ip_address", "$1", "instance", "(.+):[0-9]+")'
    leaving = f"({status} >= 4 unless on (node_ip_address) {status} < 4)"
    expected = f"max by (job, instance) ({seen} unless on (node_ip_address) {leaving})"
    yield Recording(_EXPECTED, expected, {"cluster": cluster.name})


def _target_down(of: Cluster) -> Alert:
    up, ingress = of.raw("up", 'job=~"argus.*"'), of.raw("up", _INGRESS)
    no_ingress = f"({ingress} unless on (job, instance) {of.recorded(_EXPECTED)})"
    return Alert(
        "ArgusTargetDown",
        f"{up} == 0 unless on (job, instance) {no_ingress} or absent({up})",
        "page",
        "Prometheus cannot scrape {{ $labels.instance }} of job {{ $labels.job }}",
        "The target has not answered for two minutes, or there is none: every other alert is blind to it.",
        lasts="2m",
    )


def _router_down(of: Cluster) -> Alert:
    """Objectives count what routers answer; where there is none the ingress refuses everything, and nobody counts."""
    wanted, healthy = _wanted(of), f"sum({of.raw('ray_serve_deployment_replica_healthy', _ROUTER)})"
    return Alert(
        "ArgusRouterDown",
        f"({healthy} or 0 * {wanted}) == 0",
        "page",
        "No router is healthy",
        "For two minutes no router has been healthy: every request is refused with 503.",
        lasts="2m",
    )


def _wanted(of: Cluster) -> str:
    return f"max({of.raw('ray_serve_autoscaling_target_replicas', _ROUTER)})"


def _controller_silent(of: Cluster) -> Alert:
    """Ray Serve's controller tells how many replicas there are and should be: without it the alerts on them are blind.

    A cluster always wants routers, so nothing needs to be remembered of the time before. Where a target does not answer
    it may be the controller's, and ArgusTargetDown speaks of it.
    """
    up = of.raw("up", 'job=~"argus.*",job!="argus-ingress"')
    return Alert(
        "ArgusControllerSilent",
        f"min({up}) == 1 unless on () {_wanted(of)}",
        "page",
        "Ray Serve's controller reports nothing",
        "For five minutes every target has answered, and none told how many routers there should be: nothing replaces "
        "a replica that ends, and ArgusRouterDown and ArgusReplicasMissing are blind.",
        lasts="5m",
    )


def _replicas_missing(of: Cluster) -> Alert:
    wanted = f"max by (deployment) ({of.raw('ray_serve_autoscaling_target_replicas')})"
    healthy = f"sum by (deployment) ({of.raw('ray_serve_deployment_replica_healthy')})"
    return Alert(
        "ArgusReplicasMissing",
        f"{wanted} - ({healthy} or 0 * {wanted}) > 0",
        "ticket",
        "{{ $labels.deployment }} lacks {{ $value }} of its replicas",
        "For ten minutes {{ $value }} fewer replicas of {{ $labels.deployment }} have been healthy than are wanted.",
        lasts="10m",
    )


def _queue_wait_high(of: Cluster, most_s: float) -> Alert:
    def p95(buckets: str) -> str:
        return f"histogram_quantile(0.95, sum by (model, le) ({buckets})) > {most_s:g}"

    batches = f"rate({of.raw('ray_argus_queue_wait_seconds_bucket')}[5m])"
    places = f"rate({of.raw('ray_argus_call_wait_seconds_bucket')}[5m])"
    places = f'label_replace({places}, "model", "$1", "target", "(.+)")'
    return Alert(
        "ArgusQueueWaitHigh",
        f"{p95(batches)} or {p95(places)}",
        "ticket",
        "Calls of {{ $labels.model }} wait long",
        "One call in twenty waits for {{ $labels.model }} longer than {{ $value | humanizeDuration }}, in its batcher "
        f"or for a place in the router; {most_s:g} s are set as too long.",
        lasts="10m",
    )


def _engine_died(of: Cluster) -> Alert:
    # A counter appears with its first death, which `increase` does not see.
    deaths = f"sum by (model) ({of.raw('ray_argus_engine_deaths_total')})"
    before = f"sum by (model) ({of.raw('ray_argus_engine_deaths_total')} offset 15m)"
    return Alert(
        "ArgusEngineDied",
        f"{deaths} - ({before} or 0 * {deaths}) > 0",
        "ticket",
        "The engine of {{ $labels.model }} died",
        "{{ $value }} engine processes of {{ $labels.model }} have died within 15 minutes; each is started again in "
        "place.",
    )


def _breaker_open(of: Cluster) -> Alert:
    return Alert(
        "ArgusBreakerOpen",
        f"max by (target) ({of.raw('ray_argus_breaker_state')} == 2)",
        "ticket",
        "The breaker of {{ $labels.target }} is open",
        "For two minutes {{ $labels.target }} has failed too often to be asked, as some router replica sees it.",
        lasts="2m",
    )


def _gpu_memory_over_budget(of: Cluster) -> Alert:
    used, budget = of.raw("ray_argus_gpu_memory_used_bytes"), of.raw("ray_argus_gpu_memory_budget_bytes")
    return Alert(
        "ArgusGpuMemoryOverBudget",
        f"max by (model) ({used} - {budget}) > 0",
        "ticket",
        "{{ $labels.model }} holds more GPU memory than its budget",
        "A replica of {{ $labels.model }} is {{ $value | humanize1024 }}B above gpu_memory_gb; its neighbours on the "
        "GPU may run out.",
        lasts="5m",
    )


def _drift(of: Cluster) -> Alert:
    return Alert(
        "ArgusCascadeDrift",
        f"max by (cascade, step) ({of.raw('ray_argus_cascade_drift_alarm')}) == 1",
        "ticket",
        "Accepted answers of {{ $labels.cascade }}/{{ $labels.step }} have become worse than promised",
        "Shadow checks of step {{ $labels.step }} disagree more often than shadow.alarm_error of {{ $labels.cascade }} "
        "allows; the chance of a false alarm is at most 1 %.",
    )


def _uncalibrated(of: Cluster) -> Alert:
    return Alert(
        "ArgusCascadeUncalibrated",
        f"max by (cascade) ({of.raw('ray_argus_cascade_uncalibrated')}) == 1",
        "info",
        "Cascade {{ $labels.cascade }} runs on a threshold that was typed in",
        "Nothing is known of how often the accepted answers of {{ $labels.cascade }} are wrong.",
        lasts="1h",
    )


def _job_queue_old(of: Cluster, most_s: float) -> Alert:
    return Alert(
        "ArgusJobQueueOld",
        f"max({of.raw('ray_argus_job_queue_age_seconds')}) > {most_s:g}",
        "ticket",
        "Jobs wait long for a worker",
        "The oldest waiting job has waited for {{ $value | humanizeDuration }}; "
        + f"{most_s:g} s are set as too long.",
        lasts="5m",
    )


def _budget_nearly_spent(of: Cluster, share: float) -> Alert:
    return Alert(
        "ArgusBudgetNearlySpent",
        f"({budgets.share_left(of.raw)}) < {share:g}",
        "ticket",
        "The day's money of tenant {{ $labels.tenant }} is nearly spent",
        "{{ $value | humanizePercentage }} of today's money (UTC) are left; when they are gone, calls of providers are "
        "refused with `budget_exceeded`. `*` stands for all tenants together (`service_budget_exceeded`).",
    )


def _shared_store_away(of: Cluster) -> Alert:
    asked = of.raw("ray_argus_shared_store_questions_total")
    missed = of.raw("ray_argus_shared_store_questions_total", 'answered="no"')
    return Alert(
        "ArgusSharedStoreAway",
        f"sum(rate({missed}[5m])) / sum(rate({asked}[5m])) > 0.5",
        "ticket",
        "Redis does not answer in time",
        "{{ $value | humanizePercentage }} of the questions to Redis got no answer in time: each router replica goes "
        "on with its own cache and its part of rates and budgets.",
        lasts="5m",
    )
