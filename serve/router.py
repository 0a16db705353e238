"""The router: the ingress deployment, which speaks every protocol and calls the models."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments import heap
from serve import tracing
from serve.autoscaling.demand import CountedGuardMetrics, Demand
from serve.cascade.metrics import CascadeMetrics
from serve.config.cluster import Auth, ClusterFile
from serve.dataplane import probe_of
from serve.handles import ModelHandle, ServeHandle
from serve.media.fetch import FetchPolicy, MediaFetcher
from serve.metrics import RouterMetrics
from serve.objectives import ObjectiveMetrics
from serve.protocol import grpc_server, http
from serve.protocol.edge import App
from serve.protocol.oip import InferenceService
from serve.protocol.oip_grpc import GrpcSkin
from serve.providers.build import build_providers
from serve.request_log import RequestLog
from serve.resilience.admission import build_admission
from serve.resilience.build import build_guard
from serve.resilience.cache_key import CacheKeys, identities_of, kept
from serve.resilience.overload_metrics import OverloadMetrics
from serve.routed_calls import RoutedCalls
from serve.services import build_services
from serve.waking import WakingHandle


class Router(GrpcSkin):
    """Built by Ray Serve in each router replica.

    Args:
        cluster: the cluster file.
        handles: Ray's handle of each served model.
    """

    def __init__(self, cluster: ClusterFile, handles: Mapping[str, DeploymentHandle[Any]]) -> None:
        tracing.set_up(cluster.tracing, cluster.name, "router")
        # Plain pickle is enough for our messages, and a third of cloudpickle's cost.
        models: dict[str, ModelHandle] = {
            name: _handle(
                cluster, name, handle.options(request_serialization="pickle", response_serialization="pickle")
            )
            for name, handle in handles.items()
        }
        objectives = ObjectiveMetrics(cluster.objectives.slos)
        recorder = RouterMetrics(RequestLog(cluster.log_level), cluster.name, version("argus-serve"), objectives)
        overload = OverloadMetrics()
        admission = build_admission(cluster, recorder.in_flight, overload)
        overload.follow(admission.lanes)
        self._demand = demand = Demand(handles, admission.weight)
        self._guard = guard = build_guard(cluster, CountedGuardMetrics(demand), admission.waited, demand.called)
        providers = build_providers(cluster.providers, cluster.tracing.propagate_to)
        calls = RoutedCalls(
            models, providers, guard, CacheKeys(identities_of(cluster)), kept(cluster), admission.waited
        )
        self._services = build_services(
            cluster,
            models,
            calls,
            _fetcher(cluster),
            admission,
            guard.tenants,
            recorder,
            version("argus-serve"),
            CascadeMetrics(objectives),
            demand.entered,
        )
        self._inference = InferenceService(
            self._services.plane,
            self._services.chat,
            self._services.cascades,
            self._services.vision,
            self._services.scenes,
        )
        self.set_up_grpc(self._services, self._inference)
        grpc_server.bound_messages(cluster.limits.max_body_bytes)

    async def reconfigure(self, live: Mapping[str, Any]) -> None:
        """Called by Ray Serve with `serve.rollout.router_live_settings`: at the start, and when they have changed."""
        self._services.authenticator.replace(Auth.model_validate(live["auth"]))
        self._guard.bound(live["concurrency"])

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Ray Serve every few seconds: what the autoscaler decides on (`serve.autoscaling.evidence`)."""
        return self._demand.totals()

    def __serve_build_asgi_app__(self) -> App:
        """Called by Ray Serve; it then hands HTTP requests to this app on its own event loop."""
        app = http.build(self._services, self._inference, self._guard.start)
        heap.settle()
        return app


def _handle(cluster: ClusterFile, name: str, handle: DeploymentHandle[Any]) -> ModelHandle:
    """A model's handle; one that may have no replicas is woken by its first call."""
    served = ServeHandle(name, handle)
    model = cluster.models[name]
    rule = model.autoscaling
    if rule.min_replicas > 0:
        return served
    start_s = cluster.autoscaling.start_s if rule.start_s is None else rule.start_s
    return WakingHandle(
        name,
        served,
        start_s=start_s,
        keep_s=rule.downscale_delay_s,
        most_waiting=rule.cold_queue,
        probe=probe_of(model),
    )


def _fetcher(cluster: ClusterFile) -> MediaFetcher:
    fetch = cluster.url_fetch
    return MediaFetcher(
        FetchPolicy(
            enabled=fetch.enabled,
            max_bytes=cluster.limits.max_body_bytes,
            timeout_s=fetch.timeout_s,
            max_redirects=fetch.max_redirects,
            allow_hosts=fetch.allow_hosts,
        )
    )
