"""Images as providers are sent them: no larger than needed, since every pixel is paid for."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image as Pillow

from deployments.generation.messages import ImagePart
from deployments.messages import EncodedImage, Image, RawImage
from serve.config.providers import ImagePreparation
from serve.errors import InvalidRequest
from serve.media.image import ImageLimits, decode_image, inspect_image

# What all of them read; other formats are encoded again, and so are animations, of which providers take frames or none.
_PASSED_ON = frozenset({"image/jpeg", "image/png", "image/webp"})
# The edge has applied the cluster's limits; these only keep `inspect_image` from refusing what it let pass.
_LIMITS = ImageLimits(max_bytes=2**40, max_pixels=150_000_000, max_side=65_535, min_side=1)


@dataclass(frozen=True, slots=True)
class SentImage:
    """An image ready to be sent.

    Attributes:
        media_type: such as `image/jpeg`.
        size: (width, height) in pixels, as sent.
        original: (width, height) in pixels, as the client sent it, upright.
    """

    data: bytes
    media_type: str
    size: tuple[int, int]
    original: tuple[int, int]
    detail: Literal["low", "high", "auto"] = "auto"

    @property
    def base64(self) -> str:
        """The file in base64."""
        return base64.b64encode(self.data).decode("ascii")


def size_of(image: Image) -> tuple[int, int]:
    """(width, height) in pixels, upright, from the header.

    Raises:
        InvalidRequest: `unsupported_content`: values that a model's own preprocessing made are no image to others.
    """
    if isinstance(image, EncodedImage):
        info = inspect_image(image.data, _LIMITS)
        return info.width, info.height
    if isinstance(image, RawImage):
        return image.pixels.shape[1], image.pixels.shape[0]
    raise InvalidRequest(
        "This model is hosted by a provider, which takes images and not preprocessed values.",
        code="unsupported_content",
    )


def detail_of(part: ImagePart, settings: ImagePreparation) -> Literal["low", "high", "auto"]:
    """The detail that is asked for: the request's, unless it leaves it open."""
    return settings.detail if part.detail == "auto" else part.detail


def sent_size(
    size: tuple[int, int], detail: Literal["low", "high", "auto"], settings: ImagePreparation
) -> tuple[int, int]:
    """(width, height) in pixels that an image of `size` is sent with: within the longest side, never enlarged."""
    side = min(settings.low_max_side, settings.max_side) if detail == "low" else settings.max_side
    width, height = size
    longest = max(width, height)
    if longest <= side:
        return size
    return max(1, round(width * side / longest)), max(1, round(height * side / longest))


async def prepare(parts: Sequence[ImagePart], settings: ImagePreparation) -> list[SentImage]:
    """Every image as it will be sent, in order. One at a time: a pool's worth of large photos would fill the memory.

    Raises:
        InvalidMedia: an image that cannot be decoded.
        InvalidRequest: see `size_of`.
    """
    return [await asyncio.to_thread(prepare_one, part, settings) for part in parts]


def prepare_one(part: ImagePart, settings: ImagePreparation) -> SentImage:
    """See `prepare`; takes milliseconds, so it is for a thread."""
    image, detail = part.image, detail_of(part, settings)
    size = size_of(image)
    wanted = sent_size(size, detail, settings)
    if isinstance(image, EncodedImage):
        info = inspect_image(image.data, _LIMITS)
        if wanted == size and info.media_type in _PASSED_ON and not info.animated:
            return SentImage(image.data, info.media_type, size, size, detail)
        pixels = decode_image(image.data, _LIMITS, at_least=wanted)
    else:
        assert isinstance(image, RawImage), "size_of refused everything else"
        pixels = Pillow.fromarray(image.pixels, "RGB")
    if pixels.size != wanted:
        pixels = pixels.resize(wanted, Pillow.Resampling.LANCZOS, reducing_gap=3.0)
    file = io.BytesIO()
    pixels.save(file, "JPEG", quality=settings.jpeg_quality)
    return SentImage(file.getvalue(), "image/jpeg", wanted, size, detail)
