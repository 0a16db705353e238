"""What clients and other deployments hand to the scene store, checked before anything else is done with it."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from typing import Final, TypeVar

from deployments.rendering.messages import SceneKind
from deployments.scenes.types import Label, NewScene, Vector
from deployments.splat.formats.names import EXPORTS, EXTENSIONS, FORMATS, MEDIA_TYPES, ExportName, FormatName
from serve.errors import InvalidRequest, Unsupported

Format = TypeVar("Format", bound=str)

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
# In the header of such a file; its own module imports torch, which the store does not.
_FIELD: Final = b"argus.nerf."
_MOST_HEADER: Final = 1 << 20
_MOST_ATTRIBUTION: Final = 2000
_FILENAME: Final = re.compile(r"[^A-Za-z0-9._ -]+")
_MOST_FILENAME: Final = 120
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9.+-]{1,60}/[a-z0-9.+-]{1,60}")


def is_field(data: bytes) -> bool:
    """Whether a file says that it is a radiance field's; reading it shows whether it is."""
    if data[8:9] != b"{":
        return False
    (length,) = struct.unpack_from("<Q", data)
    return _FIELD in data[8 : 8 + min(length, _MOST_HEADER)]


def new_scene(name: str, up: Vector, attribution: str) -> NewScene:
    """What an uploader says of a scene; `up` comes back as a unit vector.

    Raises:
        InvalidRequest: `invalid_scene_name`, `invalid_up`, `attribution_too_long`.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            "A scene's name has 1 to 63 characters: small letters, digits, '_', '.' and '-', and begins with a letter "
            "or a digit.",
            code="invalid_scene_name",
            param="name",
        )
    x, y, z = up
    length = math.hypot(x, y, z)
    if not (math.isfinite(length) and length > 0):
        raise InvalidRequest("`up` must be a finite vector that is not zero.", code="invalid_up", param="up")
    if len(attribution) > _MOST_ATTRIBUTION:
        raise InvalidRequest(
            f"An attribution has at most {_MOST_ATTRIBUTION} characters.",
            code="attribution_too_long",
            param="attribution",
        )
    return NewScene(name, (x / length, y / length, z / length), attribution)


def scene_format(format: str) -> FormatName:
    """The format of a scene's file by its name.

    Raises:
        InvalidRequest: `unknown_scene_format`.
    """
    return _named(format, FORMATS)


def export_format(format: str) -> ExportName:
    """The form of an export by its name.

    Raises:
        InvalidRequest: `unknown_scene_format`.
    """
    return _named(format, EXPORTS)


def _named(format: str, known: Sequence[Format]) -> Format:
    found = next((one for one in known if one == format), None)
    if found is None:
        message = f"The format must be one of {', '.join(known)}."
        raise InvalidRequest(message, code="unknown_scene_format", param="format")
    return found


def export_label(scene: str, number: int, format: ExportName, kind: SceneKind) -> Label:
    """Of an export.

    Raises:
        Unsupported: `unsupported_export`; a radiance field has no other form than ours.
    """
    if kind == "nerf" and format != "argus":
        raise Unsupported(
            "A radiance field is exported in the format argus only; it has no Gaussians.",
            code="unsupported_export",
            param="format",
        )
    return Label(scene, f"{scene}-v{number}{EXTENSIONS[format]}", MEDIA_TYPES[format])


def artifact_label(scene: str, filename: str, media_type: str) -> Label:
    """With a file name that is harmless in a header and on every disk.

    Raises:
        InvalidRequest: `invalid_media_type`.
    """
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise InvalidRequest("The media type must look like video/mp4.", code="invalid_media_type", param="media_type")
    name = _FILENAME.sub("_", re.split(r"[/\\]", filename)[-1])[-_MOST_FILENAME:].strip(" .")
    return Label(scene, name or "file", media_type)
