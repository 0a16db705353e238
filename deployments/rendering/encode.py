"""Rendered views as files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from deployments.rendering.messages import Encoding, Float32, Output, Rendered, UInt8, ViewFiles
from serve.errors import InvalidRequest

MEDIA_TYPES: Final[Mapping[Encoding, str]] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "exr": "image/x-exr",
    "npy": "application/x-npy",
    "raw": "application/octet-stream",
}
# What the formats themselves allow.
_LONGEST_SIDE: Final[Mapping[Encoding, int]] = {"jpeg": 65_500, "webp": 16_383}
_LOSSY: Final = ("jpeg", "webp")
_DEPTH_STEPS: Final = 1000
# A picture is looked at once and thrown away: quick beats small.
_PNG: Final = {"compress_level": 1}
_WEBP_METHOD: Final = 0


def check_outputs(outputs: Sequence[Output], encoding: Encoding) -> None:
    """Whether these can be had in this encoding.

    Raises:
        InvalidRequest: `invalid_field`: none is named, one twice, or depth as JPEG or WebP, which have 8 bits.
    """
    if not outputs or len(set(outputs)) != len(outputs):
        raise InvalidRequest("Name at least one output, and none twice.", code="invalid_field", param="outputs")
    if "depth" in outputs and encoding in _LOSSY:
        raise InvalidRequest(
            f"Depth has no place in 8 bits a pixel, so not in {encoding}; use png (16 bits), exr, npy or raw.",
            code="invalid_field",
            param="encoding",
        )


def check_size(width: int, height: int, encoding: Encoding) -> None:
    """Whether a picture of so many pixels can be had in this encoding.

    Raises:
        InvalidRequest: `invalid_field`.
    """
    longest = _LONGEST_SIDE.get(encoding)
    if longest is not None and max(width, height) > longest:
        raise InvalidRequest(
            f"A side of {max(width, height)} pixels is more than {encoding} can hold ({longest}).",
            code="invalid_field",
            param="encoding",
        )


def encode_view(
    rendered: Rendered, outputs: Sequence[Output], encoding: Encoding, quality: int, samples: int = 1
) -> ViewFiles:
    """One view as it was asked for: a file, or an array, for each output.

    PNG, JPEG and WebP hold 8 bits a channel (rgb, alpha) or depth in 16 bits (PNG), as thousandths of the scene's unit.
    The alpha is a picture of its own, since rgb has its background in it already. EXR holds rgb, alpha and depth in 32
    bits and as they were drawn, in the channels R, G, B; A; and Z.
    """
    files: dict[Output, bytes | UInt8 | Float32] = {}
    for output in outputs:
        picture: Float32 = getattr(rendered, output)
        if encoding == "exr":
            files[output] = _exr(picture, output)
        elif encoding == "raw":
            files[output] = _array(picture, output)
        elif encoding == "npy":
            files[output] = _npy(_array(picture, output))
        elif output == "depth":
            files[output] = _picture(thousandths(picture), encoding, quality)
        else:
            files[output] = _picture(eight_bits(picture), encoding, quality)
    return ViewFiles(files, samples)


def eight_bits(picture: Float32) -> UInt8:
    """Values from 0 to 1 as 0 to 255, to the nearest."""
    scaled: Float32 = np.clip(picture, 0.0, 1.0)
    scaled *= 255
    levels: UInt8 = np.rint(scaled, out=scaled).astype(np.uint8)
    return levels


def thousandths(depth: Float32) -> npt.NDArray[np.uint16]:
    """Thousandths of the scene's unit, to the nearest; 65,535 for all that is farther."""
    steps = np.clip(depth.astype(np.float64) * _DEPTH_STEPS, 0, 65_535)
    levels: npt.NDArray[np.uint16] = np.rint(steps).astype(np.uint16)
    return levels


def _array(picture: Float32, output: Output) -> UInt8 | Float32:
    return np.ascontiguousarray(picture) if output == "depth" else eight_bits(picture)


def _npy(array: UInt8 | Float32) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _picture(pixels: UInt8 | npt.NDArray[np.uint16], encoding: Encoding, quality: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if encoding == "png":
        image.save(buffer, "PNG", **_PNG)
    elif encoding == "webp":
        image.save(buffer, "WEBP", quality=quality, method=_WEBP_METHOD)
    else:
        image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _exr(picture: Float32, output: Output) -> bytes:
    import OpenEXR

    names = {"rgb": ("R", "G", "B"), "alpha": ("A",), "depth": ("Z",)}[output]
    planes = picture[..., None] if picture.ndim == 2 else picture
    channels = {name: np.ascontiguousarray(planes[..., place], np.float32) for place, name in enumerate(names)}
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    buffer = io.BytesIO()
    OpenEXR.File(header, channels, num_threads=0).write(buffer)
    return buffer.getvalue()
