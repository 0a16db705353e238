"""The classifying model of a step in this process, for calibration without a running cluster."""

from __future__ import annotations

import time

from deployments.generation.messages import ChatRequest, ChatResult
from deployments.messages import ClassifyRequest, ClassifyResult
from serve.calls import Called, Usage
from serve.config.cluster import ClusterFile
from serve.config.models import ClipModel
from serve.context import RequestContext
from serve.errors import ConfigError
from serve.services import image_limits


class OfflineCalls:
    """`serve.calls.Questions` to one CLIP or SigLIP, loaded here.

    Raises:
        ConfigError: the model is of another kind.
    """

    def __init__(self, cluster: ClusterFile, name: str) -> None:
        config = cluster.models.get(name)
        if not isinstance(config, ClipModel):
            raise ConfigError(f"{name} is no model of kind clip; calibrate with a running cluster, without --offline")
        from deployments.clip import ClipReplica

        self._replica = ClipReplica(name, config, image_limits(cluster))

    async def classify(
        self, name: str, request: ClassifyRequest, context: RequestContext, *, fallback: bool = False
    ) -> Called[ClassifyResult]:
        """As the replica does."""
        started = time.monotonic()
        result = await self._replica.classify(request, context.call())
        return Called(result, Usage(), time.monotonic() - started)

    async def chat(
        self,
        name: str,
        request: ChatRequest,
        context: RequestContext,
        *,
        affinity: str | None = None,
        fallback: bool = False,
    ) -> Called[ChatResult]:
        """Needs a cluster.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{name} is asked for answers, which needs a running cluster: leave --offline out")
