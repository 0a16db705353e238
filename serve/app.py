"""From a cluster file to a Ray Serve application: one deployment a model, and the router in front."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from deployments.tracing import traced
from serve import rollout
from serve.cascade.entry import functions
from serve.config.budget import problems
from serve.config.cluster import ClusterFile
from serve.config.load import ConfigErrors
from serve.config.models import (
    ClipModel,
    CustomModel,
    Florence2Model,
    GenerativeModel,
    JobStoreModel,
    KnowledgeStoreModel,
    Model,
    OcrModel,
    SessionStoreModel,
    VectorIndexModel,
    VideoClassifierModel,
    VideoReaderModel,
)
from serve.config.mounted import read
from serve.config.scene_models import NerfModel, ReconstructionModel, RendererModel, SceneStoreModel, SplatModel
from serve.placement import ROUTER, actor_options, deployment_policy_options, replica_options
from serve.router import Router
from serve.services import image_limits

_AFFINITY: Any = "serve.affinity.BoundedLoadRouter"


def build(cluster: ClusterFile) -> serve.Application:
    """The application.

    Raises:
        ConfigErrors: the models do not fit onto the nodes; the sums are in the message.
    """
    if found := problems(cluster):
        raise ConfigErrors(f"{cluster.name}: " + "; ".join(found), tuple(found))
    for name, cascade in cluster.cascades.items():
        functions(name, cascade)  # what cannot be imported is said now, not by a router that dies
    handles = {name: _deployment(cluster, name, model) for name, model in cluster.models.items()}
    router = serve.deployment(
        name=ROUTER,
        **_number(cluster, ROUTER),
        # The router's own admission answers before Ray's limit is met, with our error and for every protocol.
        max_ongoing_requests=2 * cluster.router.max_ongoing_requests,
        max_surge_percent=rollout.surge_percent(None),
        graceful_shutdown_timeout_s=rollout.drain_s(cluster),
        ray_actor_options=actor_options(cluster, ROUTER),
        user_config=rollout.router_live_settings(cluster),
    )(serve.ingress()(Router))
    return _versioned(router, rollout.router_version(cluster, Router)).bind(cluster, handles)


def from_file(arguments: Mapping[str, Any]) -> serve.Application:
    """The application of a cluster file on disk: the `import_path` of a Serve configuration (KubeRay), with its `args`.

    Args:
        arguments: see `serve.config.mounted.Mounted`.

    Raises:
        ConfigErrors: the arguments or the file are wrong, or the file did not appear in time.
    """
    return build(read(arguments))


def marks(cluster: ClusterFile) -> dict[str, rollout.Mark]:
    """What Ray Serve compares of each deployment with what runs, by name."""

    def mark(name: str, model: Model) -> rollout.Mark:
        factory, arguments = _implementation(cluster, name, model)
        return rollout.Mark(
            version=rollout.version(cluster, name, factory, arguments),
            actors=actor_options(cluster, name),
            live=rollout.live_settings(model, factory),
            scaling=_scaling(cluster, name),
        )

    router = rollout.Mark(
        version=rollout.router_version(cluster, Router),
        actors=actor_options(cluster, ROUTER),
        live=rollout.router_live_settings(cluster),
        scaling=_scaling(cluster, ROUTER),
    )
    return {ROUTER: router, **{name: mark(name, model) for name, model in cluster.models.items()}}


def logging_config(cluster: ClusterFile) -> LoggingConfig:
    """JSON lines; our own request line takes the place of Ray Serve's access log.

    Ray Serve makes its access records before it drops them, so at INFO its own logger is set to WARNING.
    """
    level = "WARNING" if cluster.log_level == "INFO" else cluster.log_level
    return LoggingConfig(encoding="JSON", log_level=level, enable_access_log=False)


def _deployment(cluster: ClusterFile, name: str, model: Model) -> serve.Application:
    factory, arguments = _implementation(cluster, name, model)
    routing: dict[str, Any] = {}
    in_flight = model.batching.max_queue + 2 * model.batching.max_items
    # Both keep what the last requests were about: media, scenes.
    if isinstance(model, GenerativeModel | RendererModel) and model.autoscaling.max_replicas > 1:
        routing["request_router_config"] = RequestRouterConfig(request_router_class=_AFFINITY)
    deployment = serve.deployment(
        name=name,
        **_number(cluster, name),
        max_ongoing_requests=in_flight,
        max_queued_requests=model.batching.max_queue,
        # A checkpoint that does not load the third time will not the twentieth.
        max_constructor_retry_count=3,
        health_check_period_s=10,
        health_check_timeout_s=30,
        max_surge_percent=rollout.surge_percent(model),
        graceful_shutdown_timeout_s=rollout.drain_s(cluster),
        ray_actor_options=actor_options(cluster, name),
        user_config=rollout.live_settings(model, factory),
        **routing,
    )(traced(factory, cluster.tracing, cluster.name, name))
    return _versioned(deployment, rollout.version(cluster, name, factory, arguments)).bind(*arguments)


def _versioned(deployment: serve.Deployment, version: str) -> serve.Deployment:
    """With a version of ours: Ray Serve's own is another with each call, and would replace every replica.

    Ray Serve 2.60 takes one from its own callers only. Where it reads a configuration file, it makes the versions.
    """
    options: Any = deployment.options
    versioned: serve.Deployment = options(version=version, _internal=True)
    return versioned


def _number(cluster: ClusterFile, name: str) -> dict[str, Any]:
    """How many replicas a deployment has, as `serve.deployment` takes it."""
    options = _scaling(cluster, name)
    scaling = options.get("autoscaling_config")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the interval, see there
        config = None if scaling is None else AutoscalingConfig(**scaling)
    return {"num_replicas": options.get("num_replicas"), "autoscaling_config": config}


def _scaling(cluster: ClusterFile, name: str) -> dict[str, Any]:
    options = replica_options(cluster, name)
    if "autoscaling_config" in options:
        options["autoscaling_config"] |= deployment_policy_options(cluster)
    return options


def _implementation(cluster: ClusterFile, name: str, model: Model) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The class of a model's replicas and its arguments. Imported here: the driver needs no torch for the others."""
    if isinstance(model, ClipModel):
        from deployments.clip import ClipReplica

        return ClipReplica, (name, model, image_limits(cluster))
    if isinstance(model, VectorIndexModel):
        from deployments.vector_index import VectorIndex

        return VectorIndex, (model.path, model.max_bytes, model.max_indexes)
    if isinstance(model, SessionStoreModel):
        from deployments.session_store import SessionStoreReplica

        return SessionStoreReplica, (model,)
    if isinstance(model, KnowledgeStoreModel):
        from deployments.knowledge_store import KnowledgeStoreReplica

        return KnowledgeStoreReplica, (model,)
    if isinstance(model, JobStoreModel):
        from deployments.jobs.replica import JobStoreReplica

        return JobStoreReplica, (model,)
    if isinstance(model, GenerativeModel):
        from deployments.generation.replica import GenerativeReplica

        return GenerativeReplica, (name, model, image_limits(cluster))
    if isinstance(model, Florence2Model):
        from deployments.florence2.replica import Florence2Replica

        return Florence2Replica, (name, model, image_limits(cluster))
    if isinstance(model, VideoClassifierModel):
        from deployments.video_classifier.replica import VideoClassifierReplica

        return VideoClassifierReplica, (name, model, cluster.limits.max_body_bytes)
    if isinstance(model, VideoReaderModel):
        from deployments.video.reader import VideoReader

        return VideoReader, (model, cluster.limits.max_body_bytes)
    if isinstance(model, OcrModel):
        from deployments.documents.replica import DocumentReader

        return DocumentReader, (model, image_limits(cluster))
    if isinstance(model, SceneStoreModel):
        from deployments.scenes.replica import SceneStoreReplica

        return SceneStoreReplica, (model,)
    if isinstance(model, SplatModel):
        from deployments.splat.replica import SplatReplica

        return SplatReplica, (name, model, _scene_store(cluster, model))
    if isinstance(model, NerfModel):
        from deployments.nerf.replica import NerfReplica

        return NerfReplica, (name, model, _scene_store(cluster, model))
    if isinstance(model, ReconstructionModel):
        from deployments.reconstruction.replica import ReconstructionReplica

        return ReconstructionReplica, (name, model)
    assert isinstance(model, CustomModel)
    return _import(model.implementation, f"models.{name}.implementation"), (name, model)


def _scene_store(cluster: ClusterFile, model: RendererModel) -> SceneStoreModel:
    store = cluster.models[model.scenes]
    assert isinstance(store, SceneStoreModel), "the cluster file was checked"
    return store


def _import(path: str, key: str) -> Callable[..., Any]:
    module, _, attribute = path.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        problem = f"{key}: got {path!r}, which cannot be imported: {error}"
        raise ConfigErrors(problem, (problem,)) from None
    return found
