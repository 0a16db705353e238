"""Checks that providers make of the media in a request."""

from __future__ import annotations

import base64
import binascii
import io
import re

from PIL import Image, UnidentifiedImageError

_DATA_URI = re.compile(r"data:(image/(?:png|jpeg|webp|gif));base64,(.+)", re.DOTALL)


def check_data_uri(uri: str) -> tuple[int, int]:
    """Size of the image in a data URI.

    Raises:
        ValueError: it is none that OpenAI takes.
    """
    found = _DATA_URI.fullmatch(uri)
    if found is None:
        raise ValueError("You uploaded an unsupported image. Please make sure your image is valid.")
    return check_image(found[1], found[2])


def check_image(media_type: str, data: str) -> tuple[int, int]:
    """Size of a base64 image whose format is the one it is said to have.

    Raises:
        ValueError: bad base64, no image, or one of another format.
    """
    try:
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
            image.load()
            said = (image.format or "").lower()
            size = image.size
    except (binascii.Error, UnidentifiedImageError, OSError):
        raise ValueError("Could not process image.") from None
    if f"image/{said}" != media_type:
        raise ValueError(f"The image was specified using the {media_type} media type, but is image/{said}.")
    return size
