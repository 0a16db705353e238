"""A model that does nothing: what is left of a request's time is the router's and Ray's."""

from __future__ import annotations

import numpy as np

from deployments.messages import (
    Call,
    ClassifyRequest,
    ClassifyResult,
    EmbedRequest,
    EmbedResult,
    ModelInfo,
    Scores,
)
from serve.config.models import CustomModel

_DIMENSION = 8


class NoopModel:
    """A `deployments.base.Replica` that answers at once: even probabilities, constant vectors."""

    def __init__(self, name: str, config: CustomModel) -> None:
        self._vector = np.full(_DIMENSION, _DIMENSION**-0.5, np.float32)

    async def info(self) -> ModelInfo:
        """Always ready."""
        return ModelInfo("cpu", 0.0, _DIMENSION, 1)

    async def check_health(self) -> None:
        """Always healthy."""

    async def classify(self, request: ClassifyRequest, call: Call) -> ClassifyResult:
        """Every label is equally likely."""
        labels = len(request.labels)
        even = np.full(labels, 1 / labels, np.float32)
        scores = Scores(even, np.zeros(labels, np.float32))
        return ClassifyResult((scores,) * len(request.images), 1.0)

    async def embed(self, request: EmbedRequest, call: Call) -> EmbedResult:
        """Every input is the same vector."""
        return EmbedResult((self._vector,) * len(request.inputs), 0)
