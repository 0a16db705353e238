"""Models whose work is a wait: their capacity is known, and costs the machine that measures them nothing.

A pass of `Slow` takes as long whatever is in it, like a GPU's below saturation. Both read their answer out of the
image's digest, so that equal images get equal answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Sequence

import numpy as np

from deployments.batching import Batcher, BatchLimits
from deployments.messages import (
    Call,
    ClassifyRequest,
    ClassifyResult,
    EmbedRequest,
    EmbedResult,
    EncodedImage,
    Image,
    ModelInfo,
    Scores,
)
from serve.config.models import CustomModel
from serve.errors import Unsupported

SLOTS, PASS_S = 4, 0.5
CAPACITY_PER_S = SLOTS / PASS_S
# `Sure`'s probability of its first label is even over [LEAST, 1).
LEAST = 0.75


def first_share(image: Image) -> float:
    """A number in [0, 1) that follows from the image."""
    data = image.data if isinstance(image, EncodedImage) else repr(image).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest()) / 2**32


def scores(first: float, labels: int) -> Scores:
    """The first label with probability `first`, the others with the rest."""
    rest = max(1e-6, (1 - first) / max(1, labels - 1))
    probabilities = np.array([first] + [rest] * (labels - 1), np.float32)
    return Scores(probabilities, np.log(probabilities))


class Sure:
    """Answers at once, more or less surely."""

    def __init__(self, name: str, config: CustomModel) -> None:
        pass

    async def info(self) -> ModelInfo:
        """Always ready."""
        return ModelInfo("cpu", 0.0)

    async def check_health(self) -> None:
        """Always healthy."""

    async def classify(self, request: ClassifyRequest, call: Call) -> ClassifyResult:
        """The first label, with a confidence that follows from the image."""
        found = (LEAST + (1 - LEAST) * first_share(image) for image in request.images)
        return ClassifyResult(tuple(scores(first, len(request.labels)) for first in found), 1.0)

    async def embed(self, request: EmbedRequest, call: Call) -> EmbedResult:
        """Not offered."""
        raise Unsupported("This model only classifies.")


class Slow(Sure):
    """Answers `SLOTS` items at a time, each pass in `PASS_S`, through the batcher that models have."""

    def __init__(self, name: str, config: CustomModel) -> None:
        super().__init__(name, config)
        self._batcher: Batcher[Image, float] = Batcher(
            self._pass, BatchLimits(max_items=SLOTS, max_wait_s=0.0, max_queue=config.batching.max_queue)
        )

    async def _pass(self, images: list[Image]) -> Sequence[float]:
        await asyncio.sleep(PASS_S)
        return [1 - 1e-3] * len(images)

    async def classify(self, request: ClassifyRequest, call: Call) -> ClassifyResult:
        """The first label, almost surely, after a place in a pass."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + call.timeout_s if math.isfinite(call.timeout_s) else math.inf
        found = await asyncio.gather(*(self._batcher.submit(image, deadline=deadline) for image in request.images))
        answers = tuple(scores(first, len(request.labels)) for first in found)
        return ClassifyResult(answers, 1.0, self._batcher.standing_wait_s)
