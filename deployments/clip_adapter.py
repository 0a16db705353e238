"""CLIP and SigLIP as an adapter: images and texts in, features out."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PilImage
from transformers import AutoModel, AutoProcessor

from deployments.base import Adapter
from deployments.clip_preprocess import FastPath, fast_path
from deployments.gpu import cap_allocator
from deployments.messages import (
    EncodedImage,
    Float32,
    Image,
    PixelValues,
    RawImage,
)
from serve.config.models import ClipModel
from serve.errors import ConfigError, InvalidRequest
from serve.media.image import ImageLimits, decode_image

_SERVED_TYPES = ("clip", "siglip")


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenised text: (length,) int64, not padded."""

    ids: npt.NDArray[np.int64]


Prepared = npt.NDArray[np.uint8] | PixelValues | Tokens


class ClipAdapter(Adapter[Image | str, Prepared, Float32, Float32]):
    """The features of images and texts, as the checkpoint's projections give them, not normalised.

    Args:
        config: checkpoint, dtype and how to decode.
        limits: bounds under which an image is decoded.

    Raises:
        ConfigError: the checkpoint is neither CLIP nor SigLIP.
    """

    def __init__(self, config: ClipModel, limits: ImageLimits) -> None:
        torch.set_num_threads(config.placement.threads)
        self._device = torch.device("cuda" if config.gpu_memory_gb and torch.cuda.is_available() else "cpu")
        if self._device.type == "cuda":
            cap_allocator(config.gpu_memory_gb)
        # Half precision is for the GPU; on a CPU it is slower and less exact than float32.
        self._dtype = getattr(torch, config.dtype) if self._device.type == "cuda" else torch.float32
        options = {"revision": config.revision, "trust_remote_code": False}
        model = AutoModel.from_pretrained(config.checkpoint, dtype=torch.float32, use_safetensors=True, **options)
        if model.config.model_type not in _SERVED_TYPES:
            raise ConfigError(
                f"{config.checkpoint} is a {model.config.model_type!r} checkpoint; kind clip serves "
                f"{', '.join(_SERVED_TYPES)}."
            )
        self._siglip = model.config.model_type != "clip"
        # Read before the weights are rounded: at 16 bits exp(logit_scale) is off by a fifth of a percent.
        self._scale = float(model.logit_scale.exp().item())
        self._bias = float(model.logit_bias.item()) if self._siglip else 0.0
        self._model = model.to(self._device, self._dtype).eval()
        processor: Any = AutoProcessor.from_pretrained(config.checkpoint, backend="pil", **options)
        self._image_processor, self._tokenizer = processor.image_processor, processor.tokenizer
        # A fast tokenizer keeps its padding in itself: counting without any would unpad what another thread encodes.
        self._counter = copy.deepcopy(self._tokenizer)
        self._fast: FastPath | None = fast_path(self._image_processor)
        self._limits, self._scaled = limits, config.image_decode == "scaled"
        self._max_tokens: int = model.config.text_config.max_position_embeddings
        if self._fast is not None:
            self._mean = torch.tensor(self._fast.mean, device=self._device).view(1, 3, 1, 1)
            self._std = torch.tensor(self._fast.std, device=self._device).view(1, 3, 1, 1)

    @property
    def image_size(self) -> int:
        """Side of the model's input, in pixels."""
        return int(self._model.config.vision_config.image_size)

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return self._device.type

    @property
    def sigmoid(self) -> bool:
        """Whether the checkpoint scores each label by itself (SigLIP) rather than against the others."""
        return bool(self._siglip)

    @property
    def scale_and_bias(self) -> tuple[float, float]:
        """logit = scale * cosine + bias."""
        return self._scale, self._bias

    def preprocess(self, item: Image | str) -> Prepared:
        """Image -> (height, width, 3) uint8 or `PixelValues`; text -> `Tokens`.

        Raises:
            InvalidMedia: the image does not decode.
            InvalidRequest: pixel values of a wrong shape; a text longer than the model reads.
        """
        if isinstance(item, str):
            return self._tokens(item)
        if isinstance(item, PixelValues):
            expected = (3, self.image_size, self.image_size)
            if item.values.shape != expected:
                raise InvalidRequest(f"Pixel values have shape {item.values.shape}; this model takes {expected}.")
            return item
        return self._pixels(item)

    def _pixels(self, item: EncodedImage | RawImage) -> Prepared:
        if isinstance(item, RawImage):
            image = PilImage.fromarray(item.pixels)
        else:
            height, width = self._fast.input_size if self._fast and self._scaled else (0, 0)
            image = decode_image(item.data, self._limits, at_least=(width, height) if height else None)
        if self._fast is not None:
            return self._fast.pixels(image)
        values = self._image_processor(images=image, return_tensors="np")["pixel_values"][0]
        return PixelValues(np.asarray(values, np.float32))

    def _tokens(self, text: str) -> Tokens:
        padding = "max_length" if self._siglip else False  # SigLIP was trained on padded texts only
        ids = self._tokenizer(text, padding=padding, max_length=self._max_tokens if padding else None)["input_ids"]
        if len(ids) > self._max_tokens:
            raise InvalidRequest(
                f"The text has {len(ids)} tokens; this model reads at most {self._max_tokens}.", code="text_too_long"
            )
        return Tokens(np.asarray(ids, np.int64))

    def lane(self, prepared: Prepared) -> Hashable:
        return type(prepared).__name__

    def forward(self, batch: Sequence[Prepared]) -> list[Float32]:
        """(dimension,) float32 features of each item; all of one type, see `lane`."""
        with torch.inference_mode(), self._autocast():
            if isinstance(batch[0], Tokens):
                features = self._text_features([item.ids for item in batch if isinstance(item, Tokens)])
            else:
                features = self._model.get_image_features(pixel_values=self._pixel_values(batch)).pooler_output
            return list(features.float().cpu().numpy())

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._dtype == torch.float32 else torch.autocast(self._device.type, self._dtype)

    def _pixel_values(self, batch: Sequence[Prepared]) -> torch.Tensor:
        if isinstance(batch[0], PixelValues):
            stacked = np.stack([item.values for item in batch if isinstance(item, PixelValues)])
            return torch.from_numpy(stacked).to(self._device)
        assert self._fast is not None
        pixels = torch.from_numpy(np.stack([item for item in batch if isinstance(item, np.ndarray)])).to(self._device)
        scaled = pixels.permute(0, 3, 1, 2).float().mul_(self._fast.scale)
        return scaled.sub_(self._mean).div_(self._std).contiguous()

    def _text_features(self, texts: list[npt.NDArray[np.int64]]) -> torch.Tensor:
        longest = max(len(ids) for ids in texts)
        ids = np.full((len(texts), longest), self._tokenizer.pad_token_id, np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)], mask[row, : len(text)] = text, 1
        inputs: dict[str, torch.Tensor] = {"input_ids": torch.from_numpy(ids).to(self._device)}
        if not self._siglip:  # SigLIP attends to its padding
            inputs["attention_mask"] = torch.from_numpy(mask).to(self._device)
        features: torch.Tensor = self._model.get_text_features(**inputs).pooler_output
        return features

    def token_count(self, text: str) -> int:
        """Tokens of a text, for usage figures."""
        return len(self._counter(text)["input_ids"])

    def probe(self) -> Image:
        size = self.image_size
        return RawImage(np.full((size, size, 3), 127, np.uint8))
