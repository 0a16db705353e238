"""Images: checked at the edge from their headers, decoded in a replica's pool.

`inspect_image` runs in the router on every request, so it reads headers only and takes tens of microseconds.
`decode_image` applies the same checks again (it may run in another process) and gives the pixels a model sees: RGB,
first frame, turned upright. Neither touches Pillow's global state, so both may run in any thread.

Pillow's plugin classes are called directly, not through `Image.open`: the format is known from the first bytes, the
global plugin registry (to which any library may add a format) is out of the path, and an MPO file is read as the JPEG
it starts with, without parsing its index of further pictures.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from serve.errors import ArgusError, InvalidMedia, PayloadTooLarge, UnsupportedMedia
from serve.media.headers import (
    BoundedReader,
    ImageFormat,
    check_scans,
    check_structure,
    ends_early,
    exif_orientation,
    is_animated_gif,
    sniff_format,
)
from serve.media.jpeg import read_frame

# Pillow warns about damaged metadata with texts that carry numbers from the file. Python remembers every text that it
# has shown, so a stream of hostile files would grow that memory without bound. Set once: filters are process-wide.
warnings.filterwarnings("ignore", module=r"PIL\.")


class _JpegImageFile(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Nothing: Pillow would parse the whole EXIF directory for the dpi, half the time of opening a photo."""


_READERS: dict[ImageFormat, type[ImageFile.ImageFile]] = {
    "JPEG": _JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "AVIF": AvifImageFile,
}

# Other names under which clients send a format (all lower case); the canonical one is "image/" + the format.
_ALIASES = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/mpo": "image/jpeg",
    "image/apng": "image/png",
    "image/vnd.mozilla.apng": "image/png",
    "image/x-png": "image/png",
    "image/x-ms-bmp": "image/bmp",
    "image/x-bmp": "image/bmp",
    "image/tif": "image/tiff",
}
# Claims that say nothing about the format. binary/octet-stream is what S3 answers for an object without a type.
_VAGUE_TYPES = frozenset({"", "image/*", "*/*", "application/octet-stream", "binary/octet-stream"})

# EXIF 2.32, tag 0x0112: what brings the stored picture upright. 5 to 8 exchange width and height.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What an image may be. Sides are in pixels, as displayed."""

    max_bytes: int = 20 * 1024 * 1024
    """Size of the encoded file."""
    max_pixels: int = 50_000_000
    """Width x height of the first frame: 150 MB as RGB. Beyond 178 million, Pillow's own limit holds as well."""
    max_side: int = 16_384
    """Longest side."""
    min_side: int = 4
    """Shortest side; tracking pixels and placeholders are below it."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What the headers of an accepted image say."""

    format: ImageFormat
    media_type: str
    """Canonical media type of `format`, whatever the client called it."""
    width: int
    """Pixels, as displayed: after the EXIF orientation."""
    height: int
    """Pixels, as displayed."""
    animated: bool
    """More than one frame or page. The first is what is decoded; a document's reader takes a TIFF apart (`tiff`)."""


def inspect_image(data: bytes, limits: ImageLimits, *, declared_type: str | None = None) -> ImageInfo:
    """Describe an image from its headers, without decoding a pixel.

    Args:
        data: the encoded file.
        limits: what is accepted.
        declared_type: the media type its sender claims; parameters and case are ignored, and `image/*`,
            `application/octet-stream` and None claim nothing.

    Raises:
        InvalidMedia: `empty_image`, `not_an_image`, `image_type_mismatch`, `image_too_large` (pixels or side),
            `image_too_small`, `truncated_image` or `invalid_image`.
        UnsupportedMedia: `unsupported_image_format`.
        PayloadTooLarge: more bytes than `limits.max_bytes`.
    """
    _check_bytes(data, limits)
    kind = sniff_format(data)
    _check_declared(kind, declared_type)
    if kind == "JPEG" and (frame := read_frame(data)) is not None:
        width, height = _displayed((frame.width, frame.height), exif_orientation(frame.exif, frame.xmp))
        _check_size(width, height, limits)
        return ImageInfo(kind, _media_type(kind), width, height, False)
    with _pillow_errors(kind, data):
        image, orientation = _open(kind, data)
        width, height = _displayed(image.size, orientation)
        _check_size(width, height, limits)
        animated = is_animated_gif(data) if kind == "GIF" else bool(getattr(image, "is_animated", False))
    return ImageInfo(kind, _media_type(kind), width, height, animated)


def decode_image(data: bytes, limits: ImageLimits, *, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Decode the first frame to an upright RGB image without metadata.

    Alpha is dropped and palettes are expanded as `Image.convert("RGB")` does (and so transformers); 16-bit grey is
    scaled to 8 bits, 32-bit and floating-point grey, which have no nominal white, are stretched from their darkest to
    their brightest pixel. Colour profiles are not applied.

    Args:
        data: the encoded file.
        limits: what is accepted; checked as `inspect_image` does.
        at_least: (width, height) in displayed pixels that the caller will shrink to. A JPEG may then be decoded at
            1/2, 1/4 or 1/8 of its size (ITU-T T.81 blocks of 8, a smaller inverse DCT), never below either side.

    Raises:
        InvalidMedia, UnsupportedMedia, PayloadTooLarge: as `inspect_image`; also `truncated_image` when the pixels end
            early and `invalid_image` when they cannot be decoded.
    """
    _check_bytes(data, limits)
    kind = sniff_format(data)
    if kind == "JPEG":
        check_scans(data)
    with _pillow_errors(kind, data):
        image, orientation = _open(kind, data)
        _check_size(*_displayed(image.size, orientation), limits)
        if at_least is not None:
            width, height = _displayed(at_least, orientation)
            image.draft(None, (max(1, width), max(1, height)))
        if isinstance(image.fp, BoundedReader):
            image.fp.lift_bound()
        upright = _to_rgb(image)
        if orientation in _UPRIGHT:
            upright = upright.transpose(_UPRIGHT[orientation])
    # An orientation left in the metadata would make the next library that reads it turn the picture again.
    upright.info.clear()
    return upright


def _open(kind: ImageFormat, data: bytes) -> tuple[ImageFile.ImageFile, int]:
    """The lazily opened file and the orientation (1 to 8) that remains to be applied to it."""
    late_exif = check_structure(kind, data)
    image = _READERS[kind](BoundedReader(data), "")
    if kind == "BMP" and any(tile.codec_name == "bmp_rle" for tile in image.tile):
        # Pillow decodes these in Python, run by run: seconds with the interpreter lock held for a file of 20 MiB.
        raise UnsupportedMedia("run-length encoded BMP is not read; send PNG", code="unsupported_image_format")
    if kind == "TIFF":
        # Pillow turns TIFF while it decodes, and already reports the displayed size.
        return image, 1
    info = image.info
    return image, exif_orientation(info.get("exif") or late_exif, info.get("xmp") or info.get("XML:com.adobe.xmp"))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # 65535 / 255 = 257. Pillow's own conversion clips at 255, which turns most 16-bit pictures white.
        return image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L").convert("RGB")
    if image.mode in ("I", "F"):
        grey = image.convert("F")
        low, high = cast("tuple[float, float]", grey.getextrema())
        scale = 255 / (high - low) if high > low else 0.0
        return grey.point(lambda value: value * scale - low * scale).convert("L").convert("RGB")
    return image.convert("RGB")


def _displayed(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Stored size to displayed size, and back: the exchange of sides is its own inverse."""
    return (size[1], size[0]) if orientation >= 5 else size


def _media_type(kind: ImageFormat) -> str:
    return f"image/{kind.lower()}"


def _check_bytes(data: bytes, limits: ImageLimits) -> None:
    if not data:
        raise InvalidMedia("the image is empty", code="empty_image")
    if len(data) > limits.max_bytes:
        raise PayloadTooLarge(f"the image has {len(data):,} bytes; the limit is {limits.max_bytes:,} bytes")


def _check_declared(kind: ImageFormat, declared_type: str | None) -> None:
    declared = (declared_type or "").partition(";")[0].strip().lower()
    if declared in _VAGUE_TYPES or _ALIASES.get(declared, declared) == _media_type(kind):
        return
    raise InvalidMedia(
        f"declared as {declared[:64]!r}, but the bytes are {_media_type(kind)}", code="image_type_mismatch"
    )


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    found = f"the image is {width} x {height}"
    if max(width, height) > limits.max_side:
        raise InvalidMedia(f"{found} pixels; the limit for a side is {limits.max_side}", code="image_too_large")
    if width * height > limits.max_pixels:
        raise InvalidMedia(
            f"{found} = {width * height:,} pixels; the limit is {limits.max_pixels:,}", code="image_too_large"
        )
    if min(width, height) < limits.min_side:
        raise InvalidMedia(f"{found} pixels; a side needs at least {limits.min_side}", code="image_too_small")


@contextmanager
def _pillow_errors(kind: ImageFormat, data: bytes) -> Iterator[None]:
    """Whatever Pillow raises, as ours. It raises nearly every built-in type on damaged files, so all are caught."""
    try:
        yield
    except ArgusError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError):
        raise InvalidMedia(f"the {kind} claims more pixels than can be decoded", code="image_too_large") from None
    except Exception as error:
        if "truncated" in str(error).lower() or ends_early(kind, data):
            raise InvalidMedia(f"the {kind} ends after {len(data):,} bytes, early", code="truncated_image") from error
        raise InvalidMedia(f"the {kind} cannot be read: {str(error)[:200] or type(error).__name__}") from error
