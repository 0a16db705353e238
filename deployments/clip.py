"""The CLIP deployment: zero-shot classification and embeddings over `ClipAdapter`'s features.

torch is imported when a replica starts, not with this module: whoever only deploys the model needs none.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deployments import heap
from deployments.base import Pipeline
from deployments.gpu_memory import GpuMemory
from deployments.label_cache import LabelCache
from deployments.live import Rebatched, batch_limits
from deployments.messages import (
    Call,
    ClassifyRequest,
    ClassifyResult,
    EmbedRequest,
    EmbedResult,
    Float32,
    Image,
    ModelInfo,
    Scores,
)
from deployments.replica import ReplicaMetrics
from deployments.templates import ANYTHING, prompts, resolve
from serve.config.models import ClipModel
from serve.errors import ConfigError, InvalidRequest
from serve.media.image import ImageLimits

# Seconds for work that several callers share, so that the first one's short deadline does not fail the others.
_SHARED_WORK_S = 60.0


class ClipReplica(Rebatched):
    """A `deployments.base.Replica` for CLIP and SigLIP checkpoints."""

    def __init__(self, name: str, config: ClipModel, limits: ImageLimits) -> None:
        from deployments.clip_adapter import ClipAdapter

        started = time.monotonic()
        self._adapter = ClipAdapter(config, limits)
        self._metrics = ReplicaMetrics(name)
        self._gpu = GpuMemory(name, config.gpu_memory_gb)
        batching = config.batching
        self._pipeline: Pipeline[Image | str, Any, Float32, Float32] = Pipeline(
            self._adapter,
            batch_limits(batching),
            workers=config.placement.preprocess_workers,
            observer=self._metrics,
            preprocess_took=self._metrics.preprocess_took,
        )
        self._labels: LabelCache[Float32] = LabelCache(config.label_cache)
        self._scale, self._bias = self._adapter.scale_and_bias
        self._temperature = _temperature(config.checkpoint)
        self._max_items = batching.max_items
        self._info: ModelInfo | None = None
        self._started = started
        self._ready = asyncio.Lock()

    async def info(self) -> ModelInfo:
        """Dimension, input size, device, load time; warms the model up on the first call."""
        async with self._ready:
            if self._info is None:
                await self._pipeline.warm_up((1, self._max_items))
                feature = await self._pipeline.run(self._adapter.probe(), float("inf"))
                heap.settle()
                self._info = ModelInfo(
                    self._adapter.device, time.monotonic() - self._started, len(feature), self._adapter.image_size
                )
        return self._info

    async def check_health(self) -> None:
        """Called by Ray Serve; raises when the replica must be replaced. The first check is the warm-up."""
        await self.info()
        await self._pipeline.check(timeout_s=10.0)
        await self._gpu.report()

    async def embed(self, request: EmbedRequest, call: Call) -> EmbedResult:
        """Embeddings, of unit length unless `normalize` is off."""
        results = _finite(await self._pipeline.run_all(request.inputs, time.monotonic() + call.timeout_s))
        vectors = tuple(
            _unit(result) if request.normalize and not isinstance(result, Exception) else result for result in results
        )
        tokens = sum(self._adapter.token_count(text) for text in request.inputs if isinstance(text, str))
        return EmbedResult(vectors, tokens, self._pipeline.standing_wait_s)

    async def classify(self, request: ClassifyRequest, call: Call) -> ClassifyResult:
        """Zero-shot classification.

        Single-label: softmax over logits / temperature. Multi-label: SigLIP's sigmoid (Zhai et al. 2023); for CLIP,
        which knows only comparisons, each label against the same prompts about "something".
        """
        deadline = time.monotonic() + call.timeout_s
        templates = resolve(request.templates)
        labels = (*request.labels, ANYTHING) if request.multi_label else request.labels
        features, images = await asyncio.gather(
            self._label_features(labels, templates), self._pipeline.run_all(request.images, deadline)
        )
        scores = tuple(
            image if isinstance(image, Exception) else self._scores(image, features, request.multi_label)
            for image in _finite(images)
        )
        return ClassifyResult(scores, self._temperature, self._pipeline.standing_wait_s)

    def _scores(self, image: Float32, labels: Float32, multi_label: bool) -> Scores:
        logits = (labels @ _unit(image)) * np.float32(self._scale) + np.float32(self._bias)
        scaled = logits / np.float32(self._temperature)
        if not multi_label:
            return Scores(_softmax(scaled), logits)
        threshold = np.float32(0) if self._adapter.sigmoid else scaled[-1]
        return Scores(_sigmoid(scaled[:-1] - threshold), logits[:-1])

    async def _label_features(self, labels: tuple[str, ...], templates: tuple[str, ...]) -> Float32:
        """(labels, dimension) float32, unit rows: each the normalised mean over templates of normalised features."""

        async def compute() -> Float32:
            texts = prompts(labels, templates)
            results = await self._pipeline.run_all(texts, time.monotonic() + _SHARED_WORK_S)
            for text, result in zip(texts, results, strict=True):
                if isinstance(result, InvalidRequest):
                    raise type(result)(f"{result.message} The text is {text[:80]!r}.", code=result.code, param="labels")
                if isinstance(result, Exception):
                    raise result
            units = _unit(np.stack(results))  # type: ignore[arg-type]
            return _unit(units.reshape(len(labels), len(templates), -1).mean(axis=1))

        # The texts themselves may be megabytes, of which the cache's size says nothing.
        key = hashlib.blake2b(repr((labels, templates)).encode("utf-8", "surrogatepass"), digest_size=32).digest()
        return await self._labels.get(key, len(labels), compute)


def _finite(results: Sequence[Float32 | Exception]) -> list[Float32 | Exception]:
    """The same features; those that are no numbers (pixel values may be any that float32 holds) are an error."""
    message = "The model makes no numbers of this input; its pixel values are too large."
    return [
        result if isinstance(result, Exception) or np.isfinite(result).all() else InvalidRequest(message)
        for result in results
    ]


def _temperature(checkpoint: str) -> float:
    """Temperature of a calibrated checkpoint (`argus.json` beside its weights), else 1."""
    path = Path(checkpoint) / "argus.json"
    if not path.is_file():
        return 1.0
    value = json.loads(path.read_text(encoding="utf-8")).get("calibration", {}).get("temperature", 1.0)
    if not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f"{path}: calibration.temperature is {value!r}; it must be a number above 0.")
    return float(value)


def _unit(vectors: Float32) -> Float32:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), np.float32)


def _softmax(logits: Float32) -> Float32:
    exp = np.exp(logits - logits.max())
    return np.asarray(exp / exp.sum(), np.float32)


def _sigmoid(logits: Float32) -> Float32:
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)
