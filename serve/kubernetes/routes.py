"""The way in from outside: a Gateway that ends TLS, and a route for each protocol (Gateway API v1)."""

from __future__ import annotations

from typing import Any

from serve.kubernetes.settings import NAME, TLS_SECRET, Object, Settings, made

API = "gateway.networking.k8s.io/v1"
HOST = "argus.example.com"

# gRPC services that Argus speaks: the Open Inference Protocol and gRPC's own health checks.
_GRPC_SERVICES = ("inference.GRPCInferenceService", "grpc.health.v1.Health")


def routes(settings: Settings) -> list[Object]:
    """Gateway, HTTPRoute and GRPCRoute; without them in an incremental upgrade, where the operator makes its own."""
    if settings.upgrade == "incremental":
        return []
    return [_gateway(settings), _http(settings), _grpc(settings)]


def _gateway(settings: Settings) -> Object:
    listener = {
        "name": "https",
        "port": 443,
        "protocol": "HTTPS",
        "hostname": HOST,
        "tls": {"mode": "Terminate", "certificateRefs": [{"kind": "Secret", "name": TLS_SECRET}]},
        "allowedRoutes": {"namespaces": {"from": "Same"}},
    }
    spec = {"gatewayClassName": settings.gateway_class, "listeners": [listener]}
    return made("Gateway", NAME, "gateway", spec, api=API)


def _http(settings: Settings) -> Object:
    rule: dict[str, Any] = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "backendRefs": [{"name": NAME, "port": settings.cluster.server.http_port}],
        # Argus ends requests by their own deadlines; the gateway only must not be sooner.
        "timeouts": {"request": f"{settings.drain_s}s", "backendRequest": f"{settings.drain_s}s"},
    }
    return made("HTTPRoute", NAME, "gateway", _route([rule]), api=API)


def _grpc(settings: Settings) -> Object:
    rule = {
        "matches": [{"method": {"service": service}} for service in _GRPC_SERVICES],
        "backendRefs": [{"name": NAME, "port": settings.cluster.server.grpc_port}],
    }
    return made("GRPCRoute", NAME, "gateway", _route([rule]), api=API)


def _route(rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {"parentRefs": [{"name": NAME}], "hostnames": [HOST], "rules": rules}
