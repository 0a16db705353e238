"""Models that the test clusters serve as `kind: custom`."""

from __future__ import annotations

import asyncio
import os

import numpy as np

from deployments.messages import Call, ClassifyRequest, ClassifyResult, EmbedRequest, EmbedResult, ModelInfo, Scores
from serve.config.models import CustomModel
from serve.errors import DeadlineExceeded, Overloaded, Unavailable


class Scripted:
    """Does what the first label says: the statuses, delays and deaths that a real model has at bad times only."""

    def __init__(self, name: str, config: CustomModel) -> None:
        self._cancelled = 0
        self._asleep = 0

    async def info(self) -> ModelInfo:
        return ModelInfo("cpu", 0.0, 4, 1)

    async def check_health(self) -> None: ...

    async def classify(self, request: ClassifyRequest, call: Call) -> ClassifyResult:
        command, _, argument = request.labels[0].partition(" ")
        if command == "overloaded":
            raise Overloaded("scripted", retry_after_s=float(argument))
        if command == "unavailable":
            raise Unavailable("scripted")
        if command == "late":
            raise DeadlineExceeded("scripted")
        if command == "bug":
            raise ZeroDivisionError("scripted secret")
        if command == "die":
            os._exit(1)
        if command == "sleep":
            await self._sleep(float(argument))
        told = [self._cancelled, call.timeout_s, self._asleep]
        values = np.zeros(len(request.labels), np.float32)
        values[: len(told)] = told[: len(values)]
        scores = Scores(values, values)
        return ClassifyResult((scores,) * len(request.images), 1.0)

    async def embed(self, request: EmbedRequest, call: Call) -> EmbedResult:
        size = float(sum(len(i.data) if hasattr(i, "data") else 0 for i in request.inputs))
        return EmbedResult((np.asarray([size, 0, 0, 0], np.float32),) * len(request.inputs), 0)

    async def _sleep(self, seconds: float) -> None:
        self._asleep += 1
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self._cancelled += 1
            raise
        finally:
            self._asleep -= 1
