"""A model whose answers say who gave them: which code, by which settings, in which process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from deployments.messages import Call, ClassifyRequest, ClassifyResult, EmbedRequest, EmbedResult, ModelInfo, Scores
from serve.config.models import CustomModel
from serve.errors import Unsupported

LABELS = ("code", "max_items", "process")
"""What the scores of an answer are, in this order; further labels score nothing."""

_WORK_S = 0.01


class Telling:
    """The base of the model; a file beside the cluster file states `code`, so that a change of that file is a change of
    code. A first label `SECONDS s` makes an answer take so long."""

    code: ClassVar[int]

    def __init__(self, name: str, config: CustomModel) -> None:
        self._max_items = config.batching.max_items

    async def reconfigure(self, live: Mapping[str, Any]) -> None:
        """See `serve.rollout.live_settings`."""
        self._max_items = live["batching"]["max_items"]

    async def info(self) -> ModelInfo:
        """Always ready."""
        return ModelInfo("cpu", 0.0, 1, 1)

    async def check_health(self) -> None:
        """Always healthy."""

    async def classify(self, request: ClassifyRequest, call: Call) -> ClassifyResult:
        """Who answers, as scores."""
        asked, _, unit = request.labels[0].partition(" ")
        await asyncio.sleep(float(asked) if unit == "s" else _WORK_S)
        told = np.zeros(max(len(request.labels), len(LABELS)), np.float32)
        told[: len(LABELS)] = self.code, self._max_items, os.getpid()
        values = told[: len(request.labels)]
        return ClassifyResult((Scores(values, values),) * len(request.images), 1.0)

    async def embed(self, request: EmbedRequest, call: Call) -> EmbedResult:
        """Not offered."""
        raise Unsupported("This model only classifies.")
