"""The router: the ingress deployment, which speaks every protocol and calls the models."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from ray.serve.handle import DeploymentHandle

from serve.auth import Authenticator
from serve.config.cluster import ClusterFile
from serve.dataplane import DataPlane
from serve.handles import ModelHandle, ServeHandle
from serve.indexes import IndexService
from serve.media.admit import ImageDoor
from serve.media.fetch import FetchPolicy, MediaFetcher
from serve.media.image import ImageLimits
from serve.metrics import RouterMetrics
from serve.protocol import http
from serve.protocol.edge import App
from serve.protocol.oip import InferenceService
from serve.protocol.oip_grpc import GrpcSkin
from serve.request_log import RequestLog
from serve.resilience.admission import Admission


class Router(GrpcSkin):
    """Built by Ray Serve in each router replica.

    Args:
        cluster: the cluster file.
        handles: Ray's handle of each served model.
    """

    def __init__(self, cluster: ClusterFile, handles: Mapping[str, DeploymentHandle[Any]]) -> None:
        # Plain pickle is enough for our messages, and a third of cloudpickle's cost.
        models: dict[str, ModelHandle] = {
            name: ServeHandle(name, handle.options(request_serialization="pickle", response_serialization="pickle"))
            for name, handle in handles.items()
        }
        self._plane = DataPlane(cluster, models, ImageDoor(image_limits(cluster), _fetcher(cluster)))
        store = next((name for name in models if cluster.models[name].kind == "vector_index"), None)
        self._search = IndexService(self._plane, models[store] if store is not None else None)
        self._inference = InferenceService(self._plane)
        self._recorder = RouterMetrics(RequestLog(cluster.log_level))
        self._admission = Admission(cluster.router.max_ongoing_requests, self._recorder.in_flight)
        self._authenticator = Authenticator(cluster.auth)
        self._version = version("argus-serve")
        self.set_up_grpc(
            self._inference, self._authenticator, cluster.limits, self._admission, self._recorder, self._version
        )

    def __serve_build_asgi_app__(self) -> App:
        """Called by Ray Serve; it then hands HTTP requests to this app on its own event loop."""
        return http.build(
            self._plane,
            self._search,
            self._inference,
            self._authenticator,
            self._admission,
            self._recorder,
            self._version,
        )


def image_limits(cluster: ClusterFile) -> ImageLimits:
    """Bounds of one image."""
    limits = cluster.limits
    return ImageLimits(limits.max_body_bytes, limits.max_image_pixels, limits.max_image_side, limits.min_image_side)


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
