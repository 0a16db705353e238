"""CLIP's image preprocessing: resize, centre crop, uint8 out; scaling and normalisation happen on the model's device.

transformers' own processors do the same in float32 on the CPU, at several times the cost. `fast_path` reads a
processor's settings and `agrees` compares both on a probe, so that a checkpoint with unusual settings falls back to
its own processor instead of being served wrong pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

# Above this ratio of the sides only the middle is resized; what the centre crop keeps is the same up to its border.
_MAX_ASPECT = 16


@dataclass(frozen=True, slots=True)
class FastPath:
    """Settings of a resize-and-crop processor.

    Attributes:
        shortest_edge: the shorter side becomes this long, the aspect ratio stays; or None:
        size: (height, width) to which the image is stretched.
        crop: (height, width) cut from the centre, or None.
        resample: Pillow's filter.
        scale, mean, std: pixel value x becomes (x * scale - mean) / std.
    """

    shortest_edge: int | None
    size: tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: Image.Resampling
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of what comes out."""
        edge = self.shortest_edge or 0
        return self.crop or self.size or (edge, edge)

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after the resize; truncated, not rounded, as transformers does."""
        if self.size is not None:
            return self.size[1], self.size[0]
        assert self.shortest_edge is not None
        short, long = min(width, height), max(width, height)
        longer = int(self.shortest_edge * long / short)
        return (self.shortest_edge, longer) if width <= height else (longer, self.shortest_edge)

    def pixels(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """(height, width, 3) uint8 from an RGB image of any size."""
        image = self._tamed(image)
        target = self.resized(image.width, image.height)
        resized = image.resize(target, self.resample)
        if self.crop is not None:
            height, width = self.crop
            left, top = (target[0] - width) // 2, (target[1] - height) // 2
            resized = resized.crop((left, top, left + width, top + height))
        return np.asarray(resized)

    def _tamed(self, image: Image.Image) -> Image.Image:
        """Cuts a thin strip to its middle before the resize: 16,384 x 4 pixels would become 900,000 x 224 first."""
        longest = _MAX_ASPECT * min(image.size)
        if self.shortest_edge is None or max(image.size) <= longest:
            return image
        width, height = min(image.width, longest), min(image.height, longest)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))

    def normalized(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(3, height, width) float32: what the processor returns as `pixel_values`."""
        scaled = pixels.astype(np.float32) * np.float32(self.scale)
        standard = (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(standard.transpose(2, 0, 1), dtype=np.float32)


def fast_path(processor: Any) -> FastPath | None:
    """The settings of a CLIP or SigLIP image processor; None when it does something that `FastPath` cannot."""
    size: Any = processor.size
    crop: Any = getattr(processor, "crop_size", None)
    if not (processor.do_resize and processor.do_rescale and processor.do_normalize):
        return None
    cropped = bool(getattr(processor, "do_center_crop", False)) and crop is not None
    edge = size.get("shortest_edge")
    if edge is not None and (not cropped or edge < max(crop["height"], crop["width"])):
        return None  # sizes that vary, or a crop larger than the image: left to the processor
    path = FastPath(
        edge,
        None if edge is not None else (size["height"], size["width"]),
        (crop["height"], crop["width"]) if cropped else None,
        Image.Resampling(processor.resample),
        float(processor.rescale_factor),
        tuple(processor.image_mean),
        tuple(processor.image_std),
    )
    return path if agrees(path, processor) else None


def agrees(path: FastPath, processor: Any) -> bool:
    """Whether both give the same tensor for a landscape and a portrait probe of odd sizes."""
    noise = np.random.default_rng(0)
    for shape in ((211, 317, 3), (307, 199, 3)):
        image = Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8))
        expected = np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0])
        actual = path.normalized(path.pixels(image))
        if actual.shape != expected.shape or not np.allclose(actual, expected, atol=1e-5):
            return False
    return True
