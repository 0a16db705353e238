"""Scene files of others: which format one is in, reading and writing.

Reading is for strangers' files: counts are checked before anything is allocated for them, and whatever the bytes are,
the answer is a scene or an error. What a library in C++ reads (see `forge`) belongs in a process that can be killed.

Each format is a module of its name, imported when it is wanted: a router knows the names alone.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from types import ModuleType

from deployments.splat.formats.names import EXTENSIONS, FORMATS, MEDIA_TYPES, FormatName
from deployments.splat.gaussians import Gaussians
from serve.errors import UnsupportedMedia

__all__ = ["EXTENSIONS", "FORMATS", "MEDIA_TYPES", "FormatName", "detect", "read", "write"]


def detect(data: bytes, filename: str | None = None) -> FormatName:
    """The format, by content; only a .splat file, which has nothing to be known by, is helped by its name.

    Raises:
        UnsupportedMedia: `unknown_scene_format`.
    """
    if data.startswith((b"ply\n", b"ply\r\n")):
        return "compressed_ply" if b"\nelement chunk " in data[: data.find(b"end_header", 0, 65_536)] else "ply"
    plausible: Callable[[bytes], bool] = _module("splat").plausible
    # All gzip files go on with 8, for deflate; what does not may be a number of a .splat file.
    packed = data.startswith(b"\x1f\x8b") and (data[2:3] == b"\x08" or not plausible(data))
    if packed or data.startswith(b"NGSP"):
        return "spz"
    if data.startswith(b"PK\x03\x04"):
        return "sog"
    if data[8:9] == b"{" and 2 <= struct.unpack_from("<Q", data)[0] <= len(data) - 8:
        return "argus"
    if (filename is not None and filename.lower().endswith(".splat")) or plausible(data):
        return "splat"
    extensions = ", ".join(EXTENSIONS[name] for name in FORMATS)
    raise UnsupportedMedia(f"The file is in none of the formats of scenes: {extensions}.", code="unknown_scene_format")


def read(data: bytes, format: FormatName | None = None, *, max_gaussians: int) -> Gaussians:
    """The scene in a file; quaternions are of length 1, all values are finite.

    Args:
        format: found by `detect` when None.

    Raises:
        UnsupportedMedia: `unknown_scene_format`.
        InvalidMedia: `invalid_scene`; the message says what is wrong, and where.
        PayloadTooLarge: `too_many_gaussians`.
    """
    reader: Callable[[bytes, int], Gaussians] = _module(format or detect(data)).read
    return reader(data, max_gaussians)


def write(gaussians: Gaussians, format: FormatName) -> bytes:
    """A file of the scene; what moves stands as it does at time 0, except in our own format, which keeps motions.

    Raises:
        Unsupported: `scene_too_wide`: its places cannot be told apart in this format, or its Gaussians are too large
            for it; `scene_too_small`: they are too small (SPZ).
    """
    writer: Callable[[Gaussians], bytes] = _module(format).write
    return writer(gaussians if format == "argus" else replace(gaussians, motion=None))


def _module(format: FormatName) -> ModuleType:
    return import_module(f"{__name__}.{format}")
