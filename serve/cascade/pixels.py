"""Smaller images for a gear that saves image tokens."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image as PillowImage

from deployments.messages import EncodedImage, Image, PixelValues, RawImage
from serve.media.image import ImageLimits, decode_image, inspect_image

_QUALITY = 90


def shrunk(image: Image, side: int, limits: ImageLimits) -> Image:
    """The image with its longer side at most `side` pixels, as JPEG; one that is small enough as it is.

    Raises:
        ArgusError: pixels that cannot be decoded.
    """
    if isinstance(image, PixelValues):  # already the size of a model's input
        return image
    if isinstance(image, RawImage):
        if max(image.pixels.shape[:2]) <= side:
            return image
        return RawImage(np.asarray(_smaller(PillowImage.fromarray(image.pixels), side)))
    info = inspect_image(image.data, limits)
    if max(info.width, info.height) <= side:
        return image
    scale = side / max(info.width, info.height)
    at_least = (max(1, round(info.width * scale)), max(1, round(info.height * scale)))
    buffer = io.BytesIO()
    _smaller(decode_image(image.data, limits, at_least=at_least), side).save(buffer, "JPEG", quality=_QUALITY)
    return EncodedImage(buffer.getvalue())


def _smaller(picture: PillowImage.Image, side: int) -> PillowImage.Image:
    picture.thumbnail((side, side), PillowImage.Resampling.BICUBIC)
    return picture
