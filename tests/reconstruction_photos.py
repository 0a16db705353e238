"""Photos for the tests of reconstruction: few and small, so that a whole run takes seconds of a core."""

from __future__ import annotations

import io
from functools import cache

from PIL import Image

from demo.scenes3d.views import Photo, photos
from deployments.reconstruction.messages import Spec

#: What comes of it is a blur, but its run has every stage.
STEPS = 80
SPEC = Spec(quality="preview", max_side=400, side=80, steps=STEPS, count=1200)


@cache
def taken(count: int = 10) -> tuple[Photo, ...]:
    """Photos of the studio with their true cameras."""
    return tuple(photos(count, 320, 240, elevations=(30.0, 38.0)))


@cache
def files(count: int = 10) -> tuple[bytes, ...]:
    """The same as PNG files."""
    return tuple(_png(photo) for photo in taken(count))


def _png(photo: Photo) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo.pixels).save(buffer, "PNG")
    return buffer.getvalue()
