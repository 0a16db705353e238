"""The model that every system serves: Argus' own adapter, so that systems differ in how they serve and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deployments.clip_adapter import ClipAdapter
from deployments.messages import EncodedImage
from serve.config.models import ClipModel
from serve.media.image import ImageLimits

MAX_BATCH = 32
WAIT_S = 0.01
# Threads that decode beside the model, where a system has a place for them.
DECODERS = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """Which model: a checkpoint folder, and how JPEG is decoded (`exact` or `scaled`)."""

    checkpoint: str
    decode: str


class Encoder:
    """JPEG files in, unit vectors out, in the two stages that a server may overlap."""

    def __init__(self, settings: Settings) -> None:
        config = ClipModel.model_validate(
            {"kind": "clip", "checkpoint": settings.checkpoint, "image_decode": settings.decode}
        )
        self._adapter = ClipAdapter(config, ImageLimits())
        self.forward([self.preprocess_probe()] * MAX_BATCH)

    def preprocess(self, data: bytes) -> Any:
        """Decodes, resizes and crops one file; may run in several threads at once."""
        return self._adapter.preprocess(EncodedImage(data))

    def preprocess_probe(self) -> Any:
        """A prepared grey image, to warm up with."""
        return self._adapter.preprocess(self._adapter.probe())

    def forward(self, batch: Sequence[Any]) -> list[npt.NDArray[np.float32]]:
        """Embeddings of prepared images."""
        return [feature / np.linalg.norm(feature) for feature in self._adapter.forward(batch)]
