"""A rendered conversation's media, decoded beside the model: what an engine's `Prompt` holds."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from cachetools import LRUCache, cached
from PIL import Image
from PIL.Image import Image as PilImage

from deployments.base import CpuPool
from deployments.generation.engine import Frames, Prompt
from deployments.generation.frames import sample_frames
from deployments.generation.messages import Detail, ImagePart, VideoPart
from deployments.generation.prompts import Rendered
from deployments.messages import EncodedImage, PixelValues
from serve.errors import ArgusError, InvalidRequest
from serve.media.image import ImageLimits, decode_image
from serve.media.video import VideoLimits

# OpenAI's vision guide: with `detail: low` the model receives a version of 512 x 512 pixels, else one whose shorter
# side has at most 768. None of the models reads more: LLaVA-NeXT's largest square of tiles has 672.
_LOW_DETAIL_SIDE, _SHORTER_SIDE = 512, 768
# Decoded media kept: some four hundred pictures of 224 pixels, or thirty as large as `auto` leaves them.
_KEPT_BYTES = 64 * 1024 * 1024

Decoded = TypeVar("Decoded", bound="tuple[PilImage | Frames, str]")


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Bounds of decoding.

    Attributes:
        frames: sampled from each video.
        low_side: longest side of an image of `detail: low`; see `low_detail_side`.
    """

    image: ImageLimits = field(default_factory=ImageLimits)
    video: VideoLimits = field(default_factory=VideoLimits)
    frames: int = 8
    low_side: int = _LOW_DETAIL_SIDE


def low_detail_side(checkpoint: str, revision: str | None = None) -> int:
    """Longest side, in pixels, of an image of `detail: low`.

    A checkpoint that cuts images into tiles (LLaVA-NeXT) makes the fewest, and the fewest tokens, of one that is no
    larger than what its vision tower reads at once; of 512 x 512 it would make all. Others read one size.
    """
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(checkpoint, revision=revision, trust_remote_code=False)
    return int(config.vision_config.image_size) if hasattr(config, "image_grid_pinpoints") else _LOW_DETAIL_SIDE


class DecodedMedia:
    """The media of the last requests, decoded; may be used from several threads.

    A picture comes again with every turn of a conversation about it, and the engine has its features by then.

    Args:
        max_bytes: of pixels.
    """

    def __init__(self, max_bytes: int = _KEPT_BYTES) -> None:
        self._get: Any = cached(LRUCache(max_bytes, getsizeof=_pixel_bytes), key=lambda key, make: key, lock=Lock())(
            lambda key, make: make()
        )

    def get(self, key: Hashable, make: Callable[[], Decoded]) -> Decoded:
        """What `make` made for this key; what is larger than the whole cache is made each time."""
        made: Decoded = self._get(key, make)
        return made


async def load_prompt(
    rendered: Rendered, pool: CpuPool, limits: MediaLimits, deadline: float, kept: DecodedMedia | None = None
) -> Prompt:
    """Decodes all media in the pool, each as a job of its own.

    Args:
        deadline: on `time.monotonic()`.
        kept: media of earlier requests with the same `limits`.

    Raises:
        ArgusError: the first error met, `param` naming the medium; see `load_image` and `load_video`.
    """
    images, videos = await asyncio.gather(
        asyncio.gather(*(pool.run(_image_at, where, part, limits, kept) for where, part in rendered.images)),
        asyncio.gather(*(pool.run(_video_at, where, part, limits, kept, deadline) for where, part in rendered.videos)),
    )
    return Prompt(
        rendered.text,
        tuple(image for image, _ in images),
        tuple(digest for _, digest in images),
        tuple(frames for frames, _ in videos),
        tuple(digest for _, digest in videos),
    )


def load_image(part: ImagePart, limits: MediaLimits, kept: DecodedMedia | None = None) -> tuple[PilImage, str]:
    """An RGB image, upright, in the size that its `detail` asks for, and the digest of what was decoded.

    Raises:
        InvalidRequest: `unsupported_content`: pixel values, which are made for one model's vision tower.
        InvalidMedia, UnsupportedMedia, PayloadTooLarge: as `serve.media.image.decode_image`.
    """
    source = part.image
    if isinstance(source, PixelValues):
        raise InvalidRequest(
            "This model takes images, not preprocessed pixel values: send a file or raw pixels.",
            code="unsupported_content",
        )
    if not isinstance(source, EncodedImage):
        pixels = np.ascontiguousarray(source.pixels)
        return _sized(Image.fromarray(pixels), _digest(str(pixels.shape).encode(), pixels.data), part.detail, limits)
    data, digest = source.data, _digest(source.data)
    side = {"low": limits.low_side, "auto": _SHORTER_SIDE}.get(part.detail)

    def decoded() -> tuple[PilImage, str]:
        image = decode_image(data, limits.image, at_least=None if side is None else (side, side))
        return _sized(image, digest, part.detail, limits)

    return decoded() if kept is None else kept.get((digest, part.detail), decoded)


def _sized(image: PilImage, digest: str, detail: Detail, limits: MediaLimits) -> tuple[PilImage, str]:
    if detail == "high":
        return image, digest
    scale = limits.low_side / max(image.size) if detail == "low" else _SHORTER_SIDE / min(image.size)
    width, height = (max(1, round(min(scale, 1.0) * side)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    # A JPEG may have been decoded at a fraction of its size.
    return image, f"{digest}@{width}x{height}"


def load_video(
    part: VideoPart, limits: MediaLimits, deadline: float, kept: DecodedMedia | None = None
) -> tuple[Frames, str]:
    """(frames, height, width, 3) uint8 RGB and the digest of file and sampling; see `frames.sample_frames`."""
    identity = f"{_digest(part.data)}-{limits.frames}x{limits.video.frame_side}"

    def decoded() -> tuple[Frames, str]:
        return sample_frames(part.data, limits.frames, limits.video, deadline=deadline), identity

    return decoded() if kept is None else kept.get(identity, decoded)


def _pixel_bytes(decoded: tuple[PilImage | Frames, str]) -> int:
    medium = decoded[0]
    return medium.nbytes if isinstance(medium, np.ndarray) else 3 * medium.width * medium.height


def _digest(*pieces: bytes | memoryview) -> str:
    state = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        state.update(piece)
    return state.hexdigest()


def _image_at(where: str, part: ImagePart, limits: MediaLimits, kept: DecodedMedia | None) -> tuple[PilImage, str]:
    try:
        return load_image(part, limits, kept)
    except ArgusError as error:
        raise error.at(where) from error.__cause__


def _video_at(
    where: str, part: VideoPart, limits: MediaLimits, kept: DecodedMedia | None, deadline: float
) -> tuple[Frames, str]:
    try:
        return load_video(part, limits, deadline, kept)
    except ArgusError as error:
        raise error.at(where) from error.__cause__
