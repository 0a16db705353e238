"""The guard of a cluster file."""

from __future__ import annotations

from collections.abc import Callable

from serve.config.cluster import ClusterFile
from serve.resilience.answers import Answers
from serve.resilience.budget import Budget
from serve.resilience.cache import ResponseCache
from serve.resilience.guard import Guard
from serve.resilience.rates import Rates
from serve.resilience.recorder import Recorder
from serve.resilience.settings import all_settings
from serve.resilience.shared import connect
from serve.resilience.target import Target
from serve.resilience.tenants import TenantRates


def build_guard(
    cluster: ClusterFile,
    recorder: Recorder,
    on_wait: Callable[[float, float], None],
    on_call: Callable[[str], None] = lambda target: None,
) -> Guard:
    """The guard with every stage that `resilience` and `tenants` ask for.

    Args:
        on_wait: told the seconds that each call of a model of ours waited for a place, and those that its calls usually
            take; how long others make us wait says nothing of this cluster's load.
        on_call: see `Guard`.
    """
    rules = cluster.resilience
    replicas = cluster.router.replicas
    shared = connect(rules.redis, cluster.name, recorder) if rules.redis is not None else None
    rates = Rates(shared, replicas)
    budgets = {name: tenant.usd_per_day for name, tenant in cluster.tenants.items()}
    return Guard(
        {
            name: Target(settings, rates, recorder, on_wait if settings.ours else _unheard)
            for name, settings in all_settings(cluster).items()
        },
        Answers(ResponseCache(rules.cache, shared, recorder), recorder) if rules.cache.enabled else None,
        Budget(rules.usd_per_day, budgets, shared.patient() if shared else None, replicas, recorder),
        TenantRates(cluster.tenants, rates),
        recorder,
        shared,
        on_call=on_call,
    )


def _unheard(seconds: float, usual_s: float) -> None:
    """Of waits for what others host."""
