"""Models whose passes and whose start are waits, and which tell where they run."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.scripted import first_share, scores
from deployments.batching import Batcher, BatchLimits
from deployments.messages import Call, ClassifyRequest, ClassifyResult, EmbedRequest, EmbedResult, Image, ModelInfo
from serve.config.models import CustomModel
from serve.errors import Unsupported

FOLDER: Final = "ARGUS_SCALING_FOLDER"
"""Variable with the folder in which replicas note where they run; one file each, named after the process."""

# Seconds of a pass, and most items in one; so chosen that two cores carry the requests of several replicas.
SCREEN_PASS_S, SCREEN_ITEMS = 0.02, 16
ANALYSE_PASS_S, ANALYSE_ITEMS = 0.8, 4
ANALYSE_PER_S: Final = ANALYSE_ITEMS / ANALYSE_PASS_S
ANALYSE_START_S: Final = 8.0
"""In the place of the loading of weights."""
LEAST: Final = 0.5
"""The screen's confidence is even over [LEAST, 1)."""


class Placed:
    """Does next to nothing, somewhere."""

    start_s = 0.0
    pass_s, items = 0.0, 64

    def __init__(self, name: str, config: CustomModel) -> None:
        time.sleep(self.start_s)
        _note(name)
        limits = BatchLimits(max_items=self.items, max_wait_s=0.0, max_queue=config.batching.max_queue)
        self._batcher: Batcher[Image, float] = Batcher(self._pass, limits)

    async def info(self) -> ModelInfo:
        """Always ready."""
        return ModelInfo("cpu", 0.0)

    async def check_health(self) -> None:
        """Always healthy."""

    async def _pass(self, images: list[Image]) -> Sequence[float]:
        await asyncio.sleep(self.pass_s)
        return [self._confidence(image) for image in images]

    def _confidence(self, image: Image) -> float:
        return 1 - 1e-3

    async def classify(self, request: ClassifyRequest, call: Call) -> ClassifyResult:
        """The first label, after a place in a pass."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + call.timeout_s if math.isfinite(call.timeout_s) else math.inf
        found = await asyncio.gather(*(self._batcher.submit(image, deadline=deadline) for image in request.images))
        answers = tuple(scores(first, len(request.labels)) for first in found)
        return ClassifyResult(answers, 1.0, self._batcher.standing_wait_s)

    async def embed(self, request: EmbedRequest, call: Call) -> EmbedResult:
        """Not offered."""
        raise Unsupported("This model only classifies.")


class Screen(Placed):
    """In CLIP's place: fast, and of all images unsure about the same share."""

    pass_s, items = SCREEN_PASS_S, SCREEN_ITEMS

    def _confidence(self, image: Image) -> float:
        return LEAST + (1 - LEAST) * first_share(image)


class Analyse(Placed):
    """In LLaVA's place: `ANALYSE_PER_S` requests a second at most, and slow to start."""

    start_s = ANALYSE_START_S
    pass_s, items = ANALYSE_PASS_S, ANALYSE_ITEMS


def _note(name: str) -> None:
    folder = os.environ.get(FOLDER)
    if folder is None:
        return
    import ray

    context = ray.get_runtime_context()
    gpus = [int(one) for one in context.get_accelerator_ids().get("GPU", [])]
    place = {"model": name, "node": context.get_node_id(), "gpus": gpus}
    (Path(folder) / f"{os.getpid()}.json").write_text(json.dumps(place), encoding="utf-8")
