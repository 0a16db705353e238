"""Variables of the pods that serve: Ray's settings, caches in writable places, and keys by reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve.config.cluster import ClusterFile
from serve.kubernetes.settings import (
    FALLBACK_PORTS,
    INGRESS,
    INGRESS_METRICS_PORT,
    PROVIDERS_SECRET,
    STATS_PORT,
    WEIGHTS,
    Settings,
)
from serve.placement import controller_environment
from serve.runtime import ingress


def variables(settings: Settings) -> list[dict[str, Any]]:
    """`env` of Ray's containers, head and workers alike, since Ray reads them in every process."""
    plain = (
        ingress.common()
        | controller_environment(settings.cluster)
        | caches()
        | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    )
    if settings.cluster.server.tuned_ingress:
        plain |= ingress.haproxy(Path(INGRESS), (STATS_PORT, INGRESS_METRICS_PORT, *FALLBACK_PORTS))
        plain["RAY_SERVE_HAPROXY_NBTHREAD"] = "4"
        plain["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] = str(settings.drain_s)
    return [*as_list(plain), *(secret(name) for name in secret_names(settings.cluster))]


def caches() -> dict[str, str]:
    """Everything that is written at run time is on a volume: the root file system is read-only."""
    return {
        "HOME": "/home/argus",
        "HF_HOME": str(WEIGHTS / "hub"),
        "XDG_CACHE_HOME": "/home/argus/.cache",
        "NUMBA_CACHE_DIR": "/home/argus/.cache/numba",
        "MPLCONFIGDIR": "/home/argus/.cache/matplotlib",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def as_list(plain: Mapping[str, str]) -> list[dict[str, Any]]:
    """As a container's `env`."""
    return [{"name": name, "value": value} for name, value in plain.items()]


def secret(name: str) -> dict[str, Any]:
    """A variable from the Secret of providers. One that is not there is missed when it is needed, not before."""
    reference = {"name": PROVIDERS_SECRET, "key": name, "optional": True}
    return {"name": name, "valueFrom": {"secretKeyRef": reference}}


def secret_names(cluster: ClusterFile) -> list[str]:
    """Variables that the cluster file names and does not hold, each once."""
    redis = cluster.resilience.redis
    named = [
        *(provider.api_key_env for provider in cluster.providers.values()),
        None if redis is None else redis.password_env,
        *cluster.tracing.headers_env.values(),
    ]
    return list(dict.fromkeys(name for name in named if name is not None))
