"""What the Prometheus operator and Grafana's sidecar are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grafana.rules import render as rules
from serve.kubernetes.settings import NAME, Object, Settings, labels, made

API = "monitoring.coreos.com/v1"
DASHBOARDS = Path(__file__).parents[2] / "grafana" / "dashboards"

# By this label the Prometheus of the Helm chart kube-prometheus-stack chooses: the name of its release.
_RELEASE = {"release": "prometheus"}
_HEAD_PORTS = ("metrics", "as-metrics", "dash-metrics")


def objects(settings: Settings) -> list[Object]:
    """PodMonitors of head and workers, and the PrometheusRule of the cluster file's objectives."""
    name = settings.cluster.name
    ingress = [_endpoint("ingress-metrics", name, "argus-ingress")] if settings.cluster.server.tuned_ingress else []
    head = [_endpoint(port, name, "argus-nodes") for port in _HEAD_PORTS]
    worker = [_endpoint("metrics", name, "argus-nodes"), *ingress]
    found = [_monitor("head", head), _monitor("worker", worker)]
    rule = made("PrometheusRule", NAME, "monitoring", rules(settings.cluster), api=API)
    found.append(rule)
    for one in found:
        one["metadata"]["labels"] |= _RELEASE
    return found


def dashboards() -> list[Object]:
    """A ConfigMap for each of Grafana's dashboards, as its sidecar looks for them."""
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{path.stem}-dashboard", "labels": labels("dashboard") | {"grafana_dashboard": "1"}},
            "data": {path.name: path.read_text(encoding="utf-8")},
        }
        for path in sorted(DASHBOARDS.glob("*.json"))
    ]


def _monitor(component: str, endpoints: list[dict[str, Any]]) -> Object:
    spec = {"selector": {"matchLabels": labels(component)}, "podMetricsEndpoints": endpoints}
    return made("PodMonitor", f"{NAME}-{component}", "monitoring", spec, api=API)


def _endpoint(port: str, cluster: str, job: str) -> dict[str, Any]:
    """Alerts know the cluster and `argus.*` jobs by these labels (grafana/prometheus/prometheus.yml)."""
    return {
        "port": port,
        "interval": "10s",
        "honorLabels": True,
        "relabelings": [
            {"targetLabel": "cluster", "replacement": cluster},
            {"targetLabel": "job", "replacement": job},
        ],
    }
