"""VideoMAE and TimeSformer as an adapter: the frames of a clip in, class probabilities and features out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForVideoClassification
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

from deployments.base import Adapter
from deployments.clip_preprocess import FastPath, fast_path
from deployments.gpu import cap_allocator
from deployments.messages import Float32
from serve.config.models import VideoClassifierModel
from serve.errors import ConfigError, InvalidRequest

_SERVED_TYPES = ("videomae", "timesformer")

Frame = npt.NDArray[np.uint8]
"""(height, width, 3) uint8 RGB."""
ShapedFrame = npt.NDArray[Any]
"""What the model takes: (height, width, 3) uint8, or (3, height, width) float32 where only the checkpoint's own
processor knows how."""


@dataclass(frozen=True, slots=True)
class ShapedClip:
    """Frames that have been through `VideoClassifierAdapter.shape`, stacked: frames of windows that overlap are shaped
    once."""

    frames: ShapedFrame


Clip = npt.NDArray[np.uint8] | ShapedClip
"""(frames, height, width, 3) uint8 RGB, or the same shaped."""


@dataclass(frozen=True, slots=True)
class ClipOutput:
    """`probabilities` (classes,) and `features` (hidden,), both float32."""

    probabilities: Float32
    features: Float32


class VideoClassifierAdapter(Adapter[Clip, ShapedClip, ClipOutput, ClipOutput]):
    """Classes and features of clips.

    Args:
        config: checkpoint and dtype.

    Raises:
        ConfigError: the checkpoint is neither a VideoMAE nor a TimeSformer, or has no classes.
    """

    def __init__(self, config: VideoClassifierModel) -> None:
        torch.set_num_threads(config.placement.threads)
        self._device = torch.device("cuda" if config.gpu_memory_gb and torch.cuda.is_available() else "cpu")
        if self._device.type == "cuda":
            cap_allocator(config.gpu_memory_gb)
        # Half precision is for the GPU; on a CPU it is slower and less exact than float32.
        self._dtype = getattr(torch, config.dtype) if self._device.type == "cuda" else torch.float32
        options: dict[str, Any] = {"revision": config.revision, "trust_remote_code": False}
        settings = AutoConfig.from_pretrained(config.checkpoint, **options)
        if settings.model_type not in _SERVED_TYPES:
            raise ConfigError(
                f"{config.checkpoint} is a {settings.model_type!r} checkpoint; kind video_classifier serves "
                f"{', '.join(_SERVED_TYPES)}."
            )
        model = AutoModelForVideoClassification.from_pretrained(
            config.checkpoint, dtype=torch.float32, use_safetensors=True, **options
        )
        self._model = model.to(self._device, self._dtype).eval()
        self._processor: Any = _PictureProcessor(
            VideoMAEImageProcessorPil.from_pretrained(config.checkpoint, **options)
        )
        self._fast: FastPath | None = fast_path(self._processor)
        if self._fast is not None:
            self._mean = torch.tensor(self._fast.mean, device=self._device).view(1, 1, 3, 1, 1)
            self._std = torch.tensor(self._fast.std, device=self._device).view(1, 1, 3, 1, 1)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the probabilities."""
        names: dict[int, str] = self._model.config.id2label
        return tuple(names[number] for number in range(len(names)))

    @property
    def frame_count(self) -> int:
        """Frames of a clip."""
        return int(self._model.config.num_frames)

    @property
    def image_size(self) -> int:
        """Side of the model's input, in pixels."""
        return int(self._model.config.image_size)

    @property
    def dimension(self) -> int:
        """Length of the features."""
        return int(self._model.config.hidden_size)

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return self._device.type

    def shape(self, frame: Frame) -> ShapedFrame:
        """One frame as the model takes it."""
        if self._fast is not None:
            return self._fast.pixels(Image.fromarray(frame))
        return np.asarray(self._processor(images=frame, return_tensors="np")["pixel_values"][0], np.float32)

    def preprocess(self, item: Clip) -> ShapedClip:
        """Shapes every frame that is not yet.

        Raises:
            InvalidRequest: another number of frames than the model's.
        """
        clip = item if isinstance(item, ShapedClip) else ShapedClip(np.stack([self.shape(frame) for frame in item]))
        if len(clip.frames) != self.frame_count:
            raise InvalidRequest(f"The clip has {len(clip.frames)} frames; this model takes {self.frame_count}.")
        return clip

    def forward(self, batch: Sequence[ShapedClip]) -> list[ClipOutput]:
        """One pass over clips of one size."""
        with torch.inference_mode(), self._autocast():
            features = self._features(self._pixel_values(batch))
            logits = self._model.classifier(features)
        probabilities = logits.float().softmax(-1).cpu().numpy()
        return [ClipOutput(*rows) for rows in zip(probabilities, features.float().cpu().numpy(), strict=True)]

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(clips, hidden): what transformers' classifiers put through their last layer."""
        model = self._model
        if model.config.model_type == "timesformer":
            tokens: torch.Tensor = model.timesformer(pixels).last_hidden_state
            return tokens[:, 0]
        tokens = model.videomae(pixels).last_hidden_state
        if model.fc_norm is None:
            return tokens[:, 0]
        pooled: torch.Tensor = model.fc_norm(tokens.mean(1))
        return pooled

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._dtype == torch.float32 else torch.autocast(self._device.type, self._dtype)

    def _pixel_values(self, batch: Sequence[ShapedClip]) -> torch.Tensor:
        pixels = torch.from_numpy(np.stack([clip.frames for clip in batch])).to(self._device)
        if self._fast is None:
            return pixels
        scaled = pixels.permute(0, 1, 4, 2, 3).float().mul_(self._fast.scale)
        return scaled.sub_(self._mean).div_(self._std).contiguous()

    def probe(self) -> Clip:
        size = self.image_size
        return np.full((self.frame_count, size, size, 3), 127, np.uint8)


class _PictureProcessor:
    """A video processor as one of single pictures, which is how it treats frames anyway."""

    def __init__(self, videos: Any) -> None:
        self._videos = videos

    def __getattr__(self, name: str) -> Any:
        return getattr(self._videos, name)

    def __call__(self, images: Any, return_tensors: str) -> dict[str, Any]:
        """`pixel_values` (1, 3, height, width) of one picture."""
        return {"pixel_values": self._videos([images], return_tensors=return_tensors)["pixel_values"][0]}
