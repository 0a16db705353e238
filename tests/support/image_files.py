"""Image files of every kind that tests of decoding share."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from serve.errors import ArgusError
from serve.media.image import ImageLimits, decode_image, inspect_image

LIMITS = ImageLimits()
PHOTO = Image.fromarray(skimage.data.astronaut()).resize((200, 120))


def encode(kind: str, image: Image.Image = PHOTO, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {kind: encode(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")}
KINDS = sorted(FILES)


def code_of(data: bytes, limits: ImageLimits = LIMITS, **options: Any) -> str:
    """The code with which both functions refuse `data`."""
    with pytest.raises(ArgusError) as inspected:
        inspect_image(data, limits, **options)
    if not options:
        with pytest.raises(ArgusError) as decoded:
            decode_image(data, limits)
        assert decoded.value.code == inspected.value.code
    return inspected.value.code


def pixels(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(image)


def exif(orientation: int) -> bytes:
    made = Image.Exif()
    made[0x010F], made[0x0112], made[0x0132] = "Maker", orientation, "2026:01:01 00:00:00"
    return made.tobytes()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
