"""Who may talk to whom. Everything else is refused, in both directions."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from serve.config.cluster import ClusterFile
from serve.kubernetes.redis import PORT as REDIS_PORT
from serve.kubernetes.settings import (
    AGENT_PORT,
    AUTOSCALER_METRICS_PORT,
    CLIENT_LABEL,
    COMPONENT,
    DASHBOARD_METRICS_PORT,
    DASHBOARD_PORT,
    INGRESS_METRICS_PORT,
    METRICS_PORT,
    NAME,
    Object,
    Settings,
    labels,
    made,
)

OPERATOR_NAMESPACE = "kuberay-operator"
MONITORING_NAMESPACE = "monitoring"
GATEWAY_NAMESPACE = "istio-system"

_PRIVATE = ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"]


def policies(settings: Settings) -> list[Object]:
    """NetworkPolicies. Kubelets' probes pass in every implementation that we know."""
    return [
        _policy("default-deny", {}, ingress=[], egress=[]),
        _ray(settings),
        _head(),
        _redis(),
        _jobs(settings.cluster),
    ]


def _ray(settings: Settings) -> Object:
    """Head and workers: all ports among themselves, the service to clients, metrics to Prometheus."""
    server = settings.cluster.server
    serving = _tcp(server.http_port, server.grpc_port)
    metrics = _tcp(METRICS_PORT, INGRESS_METRICS_PORT, AUTOSCALER_METRICS_PORT, DASHBOARD_METRICS_PORT)
    return _policy(
        "ray",
        _ray_pods(),
        ingress=[
            {"from": [_pods(_ray_pods())]},
            {"from": [_namespace(GATEWAY_NAMESPACE), _clients(), _gateway_here()], "ports": serving},
            {"from": [_namespace(MONITORING_NAMESPACE)], "ports": metrics},
        ],
        egress=[
            {"to": [_pods(_ray_pods())]},
            {"to": [_pods({"matchLabels": labels("redis")})], "ports": _tcp(REDIS_PORT)},
            _dns(),
            *_outside(settings),
        ],
    )


def _head() -> Object:
    """The operator configures Serve through the dashboard; the autoscaler asks Kubernetes' API for pods."""
    return _policy(
        "head",
        {"matchLabels": labels("head")},
        ingress=[{"from": [_namespace(OPERATOR_NAMESPACE)], "ports": _tcp(DASHBOARD_PORT, AGENT_PORT)}],
        # The API server is no pod: its address depends on the cluster, its ports are these two.
        egress=[{"ports": _tcp(443, 6443)}],
    )


def _redis() -> Object:
    return _policy(
        "redis",
        {"matchLabels": labels("redis")},
        ingress=[{"from": [_pods(_ray_pods()), _namespace(OPERATOR_NAMESPACE)], "ports": _tcp(REDIS_PORT)}],
        egress=[],
    )


def _jobs(cluster: ClusterFile) -> Object:
    """Weights come from the hub; load goes to the service."""
    server = cluster.server
    return _policy(
        "jobs",
        {"matchExpressions": [{"key": COMPONENT, "operator": "In", "values": ["weights", "load"]}]},
        ingress=[],
        egress=[
            _dns(),
            _internet(443),
            {"to": [_pods(_ray_pods())], "ports": _tcp(server.http_port, server.grpc_port)},
        ],
    )


def _outside(settings: Settings) -> list[dict[str, Any]]:
    """What the cluster file calls beyond the cluster: providers, images by URL, a collector, a Redis of yours."""
    cluster = settings.cluster
    rules = []
    if cluster.providers:
        rules.append(_internet(443))
    if cluster.url_fetch.enabled:
        rules.append(_internet(80, 443))
    inside = {port for address in _addresses(settings) if (port := _port_of(address)) is not None}
    return [*rules, {"ports": _tcp(*sorted(inside))}] if inside else rules


def _addresses(settings: Settings) -> list[str]:
    cluster = settings.cluster
    shared = cluster.resilience.redis
    named = [
        settings.redis,
        cluster.tracing.endpoint,
        None if shared is None else shared.url,
        *(provider.base_url for provider in cluster.providers.values()),
    ]
    return [address for address in named if address is not None]


def _port_of(address: str) -> int | None:
    parts = urlsplit(address)
    return parts.port or {"http": 80, "https": 443, "redis": 6379, "rediss": 6379}.get(parts.scheme)


def _policy(name: str, pods: dict[str, Any], *, ingress: list[Any], egress: list[Any]) -> Object:
    spec: dict[str, Any] = {"podSelector": pods, "policyTypes": ["Ingress", "Egress"]}
    spec |= {key: rules for key, rules in (("ingress", ingress), ("egress", egress)) if rules}
    return made("NetworkPolicy", f"{NAME}-{name}", "network", spec, api="networking.k8s.io/v1")


def _ray_pods() -> dict[str, Any]:
    return {"matchExpressions": [{"key": COMPONENT, "operator": "In", "values": ["head", "worker"]}]}


def _pods(selector: dict[str, Any]) -> dict[str, Any]:
    return {"podSelector": selector}


def _clients() -> dict[str, Any]:
    """Pods that say so, in namespaces that say so as well."""
    chosen = {"matchLabels": {CLIENT_LABEL: "true"}}
    return {"namespaceSelector": chosen, "podSelector": chosen}


def _gateway_here() -> dict[str, Any]:
    """Pods that an implementation of the Gateway API makes in this namespace (Istio)."""
    return {
        "podSelector": {
            "matchExpressions": [{"key": "gateway.networking.k8s.io/gateway-name", "operator": "Exists"}],
        }
    }


def _namespace(name: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _internet(*ports: int) -> dict[str, Any]:
    """Without private networks, nor the addresses under which clouds give out credentials."""
    return {
        "to": [
            {"ipBlock": {"cidr": "0.0.0.0/0", "except": _PRIVATE}},
            {"ipBlock": {"cidr": "::/0", "except": ["fc00::/7", "fe80::/10"]}},
        ],
        "ports": _tcp(*ports),
    }


def _dns() -> dict[str, Any]:
    dns = [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    return {"to": [_namespace("kube-system")], "ports": dns}


def _tcp(*ports: int) -> list[dict[str, Any]]:
    return [{"port": port, "protocol": "TCP"} for port in ports]
