"""A rendered conversation's media, decoded beside the model: what an engine's `Prompt` holds."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from PIL.Image import Image as PilImage

from deployments.base import CpuPool
from deployments.generation.engine import Frames, Prompt
from deployments.generation.frames import sample_frames
from deployments.generation.messages import ImagePart, VideoPart
from deployments.generation.prompts import Rendered
from deployments.messages import EncodedImage, PixelValues
from serve.errors import ArgusError, InvalidRequest
from serve.media.image import ImageLimits, decode_image
from serve.media.video import VideoLimits

# OpenAI's vision guide: with `detail: low` the model receives a version of 512 x 512 pixels.
_LOW_DETAIL_SIDE = 512


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Bounds of decoding.

    Attributes:
        frames: sampled from each video.
    """

    image: ImageLimits = field(default_factory=ImageLimits)
    video: VideoLimits = field(default_factory=VideoLimits)
    frames: int = 8


async def load_prompt(rendered: Rendered, pool: CpuPool, limits: MediaLimits, deadline: float) -> Prompt:
    """Decodes all media in the pool, each as a job of its own.

    Args:
        deadline: on `time.monotonic()`.

    Raises:
        ArgusError: the first error met, `param` naming the medium; see `load_image` and `load_video`.
    """
    images, videos = await asyncio.gather(
        asyncio.gather(*(pool.run(_image_at, where, part, limits) for where, part in rendered.images)),
        asyncio.gather(*(pool.run(_video_at, where, part, limits, deadline) for where, part in rendered.videos)),
    )
    return Prompt(
        rendered.text,
        tuple(image for image, _ in images),
        tuple(digest for _, digest in images),
        tuple(frames for frames, _ in videos),
        tuple(digest for _, digest in videos),
    )


def load_image(part: ImagePart, limits: MediaLimits) -> tuple[PilImage, str]:
    """An RGB image, upright, and its digest.

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
    if isinstance(source, EncodedImage):
        image, digest = decode_image(source.data, limits.image), _digest(source.data)
    else:
        pixels = np.ascontiguousarray(source.pixels)
        image, digest = Image.fromarray(pixels), _digest(str(pixels.shape).encode(), pixels.data)
    if part.detail == "low" and max(image.size) > _LOW_DETAIL_SIDE:
        image.thumbnail((_LOW_DETAIL_SIDE, _LOW_DETAIL_SIDE), Image.Resampling.BICUBIC)
        digest += "-low"
    return image, digest


def load_video(part: VideoPart, limits: MediaLimits, deadline: float) -> tuple[Frames, str]:
    """(frames, height, width, 3) uint8 RGB and the digest of file and sampling; see `frames.sample_frames`."""
    frames = sample_frames(part.data, limits.frames, limits.video, deadline=deadline)
    return frames, f"{_digest(part.data)}-{limits.frames}x{limits.video.frame_side}"


def _digest(*pieces: bytes | memoryview) -> str:
    state = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        state.update(piece)
    return state.hexdigest()


def _image_at(where: str, part: ImagePart, limits: MediaLimits) -> tuple[PilImage, str]:
    try:
        return load_image(part, limits)
    except ArgusError as error:
        raise error.at(where) from error.__cause__


def _video_at(where: str, part: VideoPart, limits: MediaLimits, deadline: float) -> tuple[Frames, str]:
    try:
        return load_video(part, limits, deadline)
    except ArgusError as error:
        raise error.at(where) from error.__cause__
