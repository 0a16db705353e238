"""A model that dies where it is told to: at each stage of a request, once, by its own SIGKILL.

A process that kills another cannot know at which stage its requests are. This one runs the pipeline of every model of
ours over an adapter that looks, at each stage, for a file: whoever removes it ends its process there and then, with
whatever else is in progress. `kill -9` from outside is the same signal.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np

from deployments.base import Adapter, Pipeline
from deployments.batching import BatchLimits
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
from serve.errors import ArgusError, Unsupported

FOLDER: Final = "ARGUS_CHAOS_FOLDER"
"""Environment variable: where the files are."""

Stage = Literal["queued", "preprocess", "forward", "write-back"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
# Of a forward pass, in seconds, and of its batches.
_PASS_S: Final = 0.15
_MOST_ITEMS: Final = 4
_PROBE: Final = b"probe"
_CHECK_S: Final = 20.0


def arm(folder: Path, stage: Stage) -> Path:
    """From now on the first replica that comes to `stage` dies there; the file is gone when one did."""
    path = folder / stage
    path.touch()
    return path


def asked_again(folder: Path) -> int:
    """Images that reached a replica for a request for which they had reached one before."""
    notes = folder / "asked"
    counts = Counter(notes.read_text(encoding="utf-8").splitlines()) if notes.exists() else Counter[str]()
    return counts.total() - len(counts)


class Staged:
    """A `deployments.base.Replica` that classifies: every label is equally likely."""

    def __init__(self, name: str, config: CustomModel) -> None:
        self._folder = Path(os.environ[FOLDER])
        limits = BatchLimits(max_items=_MOST_ITEMS, max_queue=config.batching.max_queue)
        self._pipeline: Pipeline[Image, bytes, int, int] = Pipeline(_Adapter(self._folder), limits)

    async def info(self) -> ModelInfo:
        """Always ready."""
        return ModelInfo("cpu", 0.0)

    async def check_health(self) -> None:
        """The pipeline's own check."""
        await self._pipeline.check(_CHECK_S)

    async def classify(self, request: ClassifyRequest, call: Call) -> ClassifyResult:
        """Through the pipeline, unless this is where it dies."""
        with (self._folder / "asked").open("a", encoding="utf-8") as notes:
            notes.writelines(f"{call.request_id} {_digest(image)}\n" for image in request.images)
        if self._pipeline.waiting:
            _die_if_armed(self._folder, "queued")
        found = await self._pipeline.run_all(request.images, time.monotonic() + call.timeout_s)
        _die_if_armed(self._folder, "write-back")
        even = np.full(len(request.labels), 1 / len(request.labels), np.float32)
        scores = Scores(even, np.zeros(len(request.labels), np.float32))
        images = tuple(one if isinstance(one, ArgusError) else scores for one in found)
        return ClassifyResult(images, 1.0, self._pipeline.standing_wait_s)

    async def embed(self, request: EmbedRequest, call: Call) -> EmbedResult:
        """Not offered."""
        raise Unsupported("This model only classifies.")


class _Adapter(Adapter[Image, bytes, int, int]):
    """Its work is a wait. Health probes pass unharmed: it is a client's request that is to be hit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def preprocess(self, item: Image) -> bytes:
        data = item.data if isinstance(item, EncodedImage) else repr(item).encode()
        if data != _PROBE:
            _die_if_armed(self._folder, "preprocess")
        return data

    def forward(self, batch: Sequence[bytes]) -> Sequence[int | BaseException]:
        time.sleep(_PASS_S / 2)
        if any(data != _PROBE for data in batch):
            _die_if_armed(self._folder, "forward")
        time.sleep(_PASS_S / 2)
        return [len(data) for data in batch]

    def probe(self) -> Image:
        return EncodedImage(_PROBE)


def _digest(image: Image) -> str:
    return hashlib.sha256(image.data if isinstance(image, EncodedImage) else repr(image).encode()).hexdigest()


def _die_if_armed(folder: Path, stage: Stage) -> None:
    try:
        (folder / stage).unlink()  # one process only succeeds
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
