"""A slow classifier that notes each image it was asked about, in a file that outlives it."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import numpy as np

from deployments.messages import Call, ClassifyRequest, ClassifyResult, EncodedImage, ModelInfo, Scores
from serve.config.models import CustomModel

# Where the notes go.
VARIABLE = "ARGUS_TEST_NOTES"
_SECONDS = 0.5
_AT_ONCE = 2


class Noted:
    """Its logits are the first bytes of an image's digest."""

    def __init__(self, name: str, config: CustomModel) -> None:
        self._notes = Path(os.environ[VARIABLE])
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def info(self) -> ModelInfo:
        return ModelInfo("cpu", 0.0)

    async def check_health(self) -> None: ...

    async def classify(self, request: ClassifyRequest, call: Call) -> ClassifyResult:
        (image,) = request.images
        assert isinstance(image, EncodedImage)
        digest = hashlib.sha256(image.data)
        async with self._places:
            with self._notes.open("a", encoding="ascii") as notes:
                notes.write(f"{digest.hexdigest()}\n")
            await asyncio.sleep(_SECONDS)
        logits = np.frombuffer(digest.digest()[: len(request.labels)], np.uint8).astype(np.float32)
        return ClassifyResult((Scores(logits / logits.sum(), logits),), 1.0)
